"""Board profiles: every one loads, names its sources, and is in an installation and in the document."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.errors import BoardError
from edgeslm.hardware.board_profiles import (
    board_names,
    load_advice,
    load_board,
    load_sources,
    read_profile,
    recognise,
)
from tests.support.paths import ROOT

FIGURES = ("read_gbs", "int4_gflops", "int8_gflops")


def test_the_boards_there_are() -> None:
    expected = ["generic-x86", "jetson-orin-cpu", "n100", "pi4-4gb", "pi5-4gb", "pi5-8gb", "rk3588"]
    assert board_names() == expected


@pytest.mark.parametrize("name", board_names())
def test_a_profile_is_whole(name: str) -> None:
    board, sources = load_board(name), load_sources(name)
    assert board.name == name
    assert 1 <= board.cores <= 16
    assert 2e9 <= board.memory_bytes <= 64e9
    assert all(len(sources[figure]) > 10 for figure in FIGURES)
    assert not board.busy


@pytest.mark.parametrize("name", board_names())
def test_the_document_says_what_the_profile_says(name: str) -> None:
    text = (ROOT / "docs/operations/boards.md").read_text("utf-8")
    board = load_board(name)
    cells = [f"`{name}`"]
    for figure in FIGURES:
        mark = " (e)" if figure in board.estimated else ""
        cells.append(f"{getattr(board, figure):g}{mark}")
    row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` "))
    found = [cell.strip() for cell in row.strip("|").split("|")]
    assert [found[0], *found[3:6]] == cells


@pytest.mark.parametrize("name", board_names())
def test_half_a_gigabyte_is_left_to_the_system(name: str) -> None:
    assert load_advice(name).models_gb * 1e9 <= load_board(name).memory_bytes - 500_000_000


@pytest.mark.parametrize(
    ("names", "family", "gigabytes", "profile"),
    [
        (["Raspberry Pi 4 Model B Rev 1.4", "Cortex-A72"], "arm", 3.9, "pi4-4gb"),
        (["Raspberry Pi 5 Model B Rev 1.0", "Cortex-A76"], "arm", 4.1, "pi5-4gb"),
        (["Raspberry Pi 5 Model B Rev 1.1", "Cortex-A76"], "arm", 16.5, "pi5-8gb"),
        (["Radxa ROCK 5B", "Cortex-A55 + Cortex-A76"], "arm", 16.0, "rk3588"),
        (["NVIDIA Jetson Orin Nano Developer Kit", "Cortex-A78AE"], "arm", 7.6, "jetson-orin-cpu"),
        (["AZW MINI S", "Intel(R) N100"], "x86", 16.0, "n100"),
        (["AZW MINI S", "Intel(R) N100"], "x86", 8.0, None),
        (["a PC", "AMD Ryzen"], "x86", 32.0, "generic-x86"),
        (["Raspberry Pi 3 Model B", "Cortex-A53"], "arm", 1.0, None),
    ],
)
def test_boards_are_recognised(names: list[str], family: str, gigabytes: float, profile: str | None) -> None:
    assert recognise(names, family, int(gigabytes * 1e9)) == profile


@pytest.mark.parametrize("name", board_names())
def test_the_document_says_what_a_node_is_set_to(name: str) -> None:
    advice = load_advice(name)
    cells = (f"`{name}`", f"`{advice.power}`", f"`{advice.threads}`", f"{advice.models_gb:g} GB")
    row = f"| {' | '.join(cells)} |"
    assert row in (ROOT / "docs/operations/boards.md").read_text("utf-8").splitlines()


def test_an_unknown_board_lists_those_there_are() -> None:
    with pytest.raises(BoardError, match=r"no board 'pi6'; choose one of generic-x86, .*rk3588, this"):
        load_board("pi6")


def test_a_name_is_no_path() -> None:
    with pytest.raises(BoardError, match="There is no board"):
        load_board("../boards/pi5-8gb")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("title: [", "can't be read as YAML"),
        ("title: a board\ncores: 0\n", "cores: Input should be greater than 0"),
        ("- 1\n", "Input should be a valid dictionary"),
    ],
)
def test_a_broken_profile_is_a_sentence(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(BoardError, match=problem):
        read_profile(tmp_path / "mine.yaml")
