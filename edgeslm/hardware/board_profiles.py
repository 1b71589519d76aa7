"""Board profiles: cores, memory, bandwidth and compute of known boards, with the source of each figure.

The profiles are the files ``firmware-config/boards/*.yaml``, installed as ``edgeslm/boards``. The machine on
which edgeslm runs needs no profile, since ``edgeslm.bundle.performance`` measures the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeslm.errors import BoardError

THIS = "this"
"""Board name that stands for the machine on which edgeslm runs, which is measured instead of read from a
profile."""


@dataclass(frozen=True, slots=True)
class Board:
    """``read_gbs``: bandwidth of memory reads by all cores together, in GB/s. ``int4_gflops`` and
    ``int8_gflops``: speed of matrix products of int8 activations with weights of 4 or 8 bits, in GFLOP/s. A
    multiply-add counts as two operations."""

    name: str
    title: str
    cores: int
    memory_bytes: int
    read_gbs: float
    int4_gflops: float
    int8_gflops: float
    estimated: tuple[str, ...] = ()
    """Names of the fields whose values are estimates."""
    busy: bool = False
    """Whether other processes used the CPU during the measurement, so that the figures are too low."""


class _Figure(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float = Field(gt=0, allow_inf_nan=False)
    source: str = Field(min_length=1)
    estimated: bool = False


class NodeAdvice(BaseModel):
    """Recommended ``power`` and ``threads`` of a node on this board, and the memory for models."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...]
    """Prefixes of board or processor names that the kernel reports; empty in a generic profile."""
    power: Literal["performance", "balanced", "idle"]
    threads: Literal["auto"] | Annotated[int, Field(gt=0)]
    models_gb: float = Field(gt=0, allow_inf_nan=False)
    """Memory for all models in total, in GB. At least half a gigabyte is left to the system and to other
    services."""


class Profile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    cores: int = Field(gt=0)
    memory_gb: float = Field(gt=0, allow_inf_nan=False)
    read_gbs: _Figure
    int4_gflops: _Figure
    int8_gflops: _Figure
    node: NodeAdvice


_FIGURES = ("read_gbs", "int4_gflops", "int8_gflops")


def boards_folder() -> Path:
    """The folder of the profiles: inside the installed package, or next to the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "boards"
    return installed if installed.is_dir() else package.parent / "firmware-config" / "boards"


def board_names() -> list[str]:
    return sorted(file.stem for file in boards_folder().glob("*.yaml"))


def load_board(name: str) -> Board:
    """:raises BoardError: no profile has this name (the text lists the known names), or the profile is
    invalid."""
    names = board_names()
    if name not in names:
        known = ", ".join([*names, THIS])
        raise BoardError(f"There is no board {name!r}; choose one of {known} (the machine at hand).")
    profile = read_profile(boards_folder() / f"{name}.yaml")
    return Board(
        name=name,
        title=profile.title,
        cores=profile.cores,
        memory_bytes=int(profile.memory_gb * 1e9),
        read_gbs=profile.read_gbs.value,
        int4_gflops=profile.int4_gflops.value,
        int8_gflops=profile.int8_gflops.value,
        estimated=tuple(figure for figure in _FIGURES if getattr(profile, figure).estimated),
    )


def load_sources(name: str) -> dict[str, str]:
    """Name of a figure -> source of its value."""
    profile = read_profile(boards_folder() / f"{name}.yaml")
    return {figure: getattr(profile, figure).source for figure in _FIGURES}


def load_advice(name: str) -> NodeAdvice:
    """:raises BoardError: as :func:`load_board`."""
    load_board(name)
    return read_profile(boards_folder() / f"{name}.yaml").node


def recognise(names: Sequence[str], family: str, memory_bytes: int) -> str | None:
    """The name of the board's profile; None if there is none. A profile matches by the board's names, and
    only if the board has the profile's memory (with a tolerance of 20%); of several matching profiles, the
    one with the most memory is chosen.

    :param names: names of the board and its processor, as the kernel reports them.
    :param family: family of the CPU, ``x86`` or ``arm``; a PC that no profile matches gets ``generic-x86``.
    """
    found = [
        board
        for board in map(load_board, board_names())
        if any(name.startswith(known) for name in names for known in load_advice(board.name).names)
        and memory_bytes > 0.8 * board.memory_bytes
    ]
    if found:
        return max(found, key=lambda board: board.memory_bytes).name
    general = load_board("generic-x86")
    return general.name if family == "x86" and memory_bytes > 0.8 * general.memory_bytes else None


def read_profile(file: Path) -> Profile:
    """:raises BoardError: the file can't be read, or isn't a profile."""
    try:
        return Profile.model_validate(yaml.safe_load(file.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BoardError(f"{file} can't be read as YAML: {' '.join(str(error).split())}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BoardError(f"{file}: {key}: {first['msg']}.") from None
