"""Board profiles: what the arithmetic needs to know of a board, as data with the source of each number.

The files are ``firmware-config/boards/*.yaml``; an installation has them as ``edgeslm/boards``. Knows no
models. The machine at hand is measured by ``edgeslm.bundle.performance``.
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
"""The name under which the machine at hand is measured."""


@dataclass(frozen=True, slots=True)
class Board:
    """``read_gbs``: memory that all cores together read, GB/s. ``int4_gflops``, ``int8_gflops``: products of
    many rows with weights of so many bits and int8 activations, multiplications and additions counted."""

    name: str
    title: str
    cores: int
    memory_bytes: int
    read_gbs: float
    int4_gflops: float
    int8_gflops: float
    estimated: tuple[str, ...] = ()
    """Names of the figures that nobody measured."""
    busy: bool = False
    """Others computed while it was measured, so it can do more than this."""


class _Figure(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float = Field(gt=0, allow_inf_nan=False)
    source: str = Field(min_length=1)
    estimated: bool = False


class NodeAdvice(BaseModel):
    """What a node on such a board is set to, ``power`` and ``threads``, and which models fit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...]
    """What the kernel calls such boards or their processors, how the name begins; none: any of its kind."""
    power: Literal["performance", "balanced", "idle"]
    threads: Literal["auto"] | Annotated[int, Field(gt=0)]
    models_gb: float = Field(gt=0, allow_inf_nan=False)
    """For all models together; half a gigabyte goes to the system, more where others work beside the node."""
    models: tuple[str, ...]
    """Those of the plan's examples that fit in four bits, reading 20 tokens/s and writing 5 or more, as
    ``edgeslm.bundle.size_estimate`` predicts it at 2048 tokens."""


class _Profile(BaseModel):
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
    """Where the profiles are: in the package when it is installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "boards"
    return installed if installed.is_dir() else package.parent / "firmware-config" / "boards"


def board_names() -> list[str]:
    return sorted(file.stem for file in boards_folder().glob("*.yaml"))


def load_board(name: str) -> Board:
    """:raises BoardError: no profile of this name (the sentence lists those there are), or a broken one."""
    names = board_names()
    if name not in names:
        known = ", ".join([*names, THIS])
        raise BoardError(f"There is no board {name!r}; choose one of {known} (the machine at hand).")
    profile = _load(boards_folder() / f"{name}.yaml")
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
    """Figure -> where its number comes from."""
    profile = _load(boards_folder() / f"{name}.yaml")
    return {figure: getattr(profile, figure).source for figure in _FIGURES}


def load_advice(name: str) -> NodeAdvice:
    """:raises BoardError: as :func:`load_board`."""
    load_board(name)
    return _load(boards_folder() / f"{name}.yaml").node


def recognise(names: Sequence[str], family: str, memory_bytes: int) -> str | None:
    """The profile of a board that the kernel calls so; with less memory than it says, a smaller one.

    :param names: of the board and of its processor.
    :param family: ``x86`` or ``arm``: of PCs without a profile of their own there is a general one.
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


def _load(file: Path) -> _Profile:
    try:
        return _Profile.model_validate(yaml.safe_load(file.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BoardError(f"{file} can't be read as YAML: {' '.join(str(error).split())}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BoardError(f"{file}: {key}: {first['msg']}.") from None
