"""How far long work is: shown on a terminal, and only when it takes long."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

import pytest

from edgeslm.cli.screen import DELAY_S, TICK_S, ProgressLine, print_error
from tests.support.fakes import FakeClock
from tests.support.terminals import on_terminal as on_terminal


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_work_that_is_done_soon_shows_nothing(
    capsys: pytest.CaptureFixture[str], on_terminal: Callable[[TextIO], None], clock: FakeClock
) -> None:
    on_terminal(sys.stderr)
    with ProgressLine() as progress:
        clock.now += DELAY_S - 0.1
        progress.show(1, 2, "a.txt")
    assert capsys.readouterr().err == ""


def test_what_was_shown_last_is_seen_when_it_takes_long(
    capsys: pytest.CaptureFixture[str], on_terminal: Callable[[TextIO], None], clock: FakeClock
) -> None:
    """As of one large file, of which nothing more is told."""
    on_terminal(sys.stderr)
    with ProgressLine() as progress:
        clock.now += DELAY_S - 0.01
        progress.show(0, 2, "a.txt")
        progress.show(1, 2, "large.pdf")
        for _ in range(3000):
            if said := capsys.readouterr().err:
                break
            time.sleep(0.01)
    assert said == "\r\x1b[2K[############............]  50% large.pdf"


def test_long_work_shows_a_bar_that_goes_away(
    capsys: pytest.CaptureFixture[str], on_terminal: Callable[[TextIO], None], clock: FakeClock
) -> None:
    on_terminal(sys.stderr)
    with ProgressLine() as progress:
        clock.now += DELAY_S
        progress.show(1, 4, "a.txt")
        progress.show(2, 4, "too soon")
        clock.now += TICK_S
        progress.show(3, 4, "b.txt")
    said = capsys.readouterr().err
    assert said.split("\r\x1b[2K")[1:] == [
        "[######..................]  25% a.txt",
        "[##################......]  75% b.txt",
        "",
    ]


def test_it_makes_room_for_other_lines_and_fits_the_terminal(
    capsys: pytest.CaptureFixture[str],
    on_terminal: Callable[[TextIO], None],
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_terminal(sys.stderr)
    monkeypatch.setenv("COLUMNS", "40")
    with ProgressLine() as progress:
        clock.now += DELAY_S
        progress.show(0, 0, "x" * 200)
        progress.clear()
        progress.clear()
    said = capsys.readouterr().err
    assert said.count("\x1b[2K") == 2
    assert len(said.split("\x1b[2K")[1].rstrip("\r")) == 39


def test_without_a_terminal_nothing_is_shown(capsys: pytest.CaptureFixture[str], clock: FakeClock) -> None:
    with ProgressLine() as progress:
        clock.now += DELAY_S
        progress.show(1, 2, "a.txt")
    assert capsys.readouterr().err == ""


def test_what_others_said_moves_no_cursor_of_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("the node said: \x1b[2J\rall is well\nand\tmore")
    assert capsys.readouterr().err == "edgeslm: the node said: \\x1b[2J\\rall is well\nand\tmore\n"
