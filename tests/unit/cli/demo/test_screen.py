"""The demo's table."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TextIO

import pytest

from edgeslm.cli.demo.screen import Screen
from edgeslm.cli.demo.traffic import DemoAnswer
from tests.support.terminals import on_terminal as on_terminal

RIGHT = DemoAnswer(0, "spam", 0.914, 12.4)


def test_a_row_holds_message_result_expectation_confidence_and_milliseconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    screen = Screen()
    screen.header()
    screen.message("WIN £100 now", RIGHT, "spam")
    screen.message("no confidence", DemoAnswer(1, "192.0.2.1", None, 1500.0), "192.0.2.1")
    header, row, other = capsys.readouterr().out.splitlines()
    assert header.split() == ["message", "result", "true", "label", "sure", "ms"]
    assert row.split() == ["WIN", "£100", "now", "spam", "spam", "0.91", "12"]
    assert other.split() == ["no", "confidence", "192.0.2.1", "192.0.2.1", "1500"]
    assert len(header) == len(row) == len(other)


def test_long_and_unprintable_texts_stay_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().message("a\n\x1b[31mb\tc " + "x" * 500, DemoAnswer(0, "y" * 500, 0.5, 1.0), "z" * 500)
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "\x1b" not in out and "\t" not in out
    assert out.count("…") == 3


def test_no_colours_and_no_progress_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.progress("half way")
    screen.title("Title")
    screen.message("x", RIGHT, "spam")
    screen.summary([("spam", "9 of 10", "note")])
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\r" not in out and "half way" not in out
    assert "Counted in this run\n  spam " in out


def test_on_a_terminal_right_is_green_and_wrong_is_red(
    capsys: pytest.CaptureFixture[str], on_terminal: Callable[[TextIO], None]
) -> None:
    on_terminal(sys.stdout)
    screen = Screen()
    screen.message("x", RIGHT, "spam")
    screen.message("x", RIGHT, "ham")
    right, wrong = capsys.readouterr().out.splitlines()
    assert right.startswith("\x1b[32m") and wrong.startswith("\x1b[31m")


def test_progress_makes_room_for_the_next_line(
    capsys: pytest.CaptureFixture[str], on_terminal: Callable[[TextIO], None]
) -> None:
    on_terminal(sys.stdout)
    screen = Screen()
    screen.progress("1 of 2")
    screen.progress("2 of 2")
    screen.line("done")
    assert capsys.readouterr().out == "  1 of 2\r\x1b[2K  2 of 2\r\x1b[2Kdone\n"


def test_an_answer_has_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.answer(DemoAnswer(0, "Every Friday.", 0.9, 21.0, "compressor.md"), is_right=True)
    screen.answer(DemoAnswer(0, "", None, 21.0), is_right=False)
    right, none = capsys.readouterr().out.splitlines()
    assert right == "    Every Friday. [compressor.md, 21 ms]"
    assert none == "    (no answer) [no source, 21 ms]"
