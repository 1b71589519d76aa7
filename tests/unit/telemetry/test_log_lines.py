"""Log lines: what a sender puts into an id makes no line of its own."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.telemetry.log_lines import FULL, LineFormatter, one_line


def formatted(message: str, error: BaseException | None = None) -> str:
    record = logging.LogRecord("edgeslm.node", logging.WARNING, "", 0, "request %s", (message,), None)
    if error is not None:
        record.exc_info = (type(error), error, None)
    return LineFormatter(FULL).format(record)


@given(st.text())
def test_any_text_is_one_line(text: str) -> None:
    assert len(formatted(text).splitlines()) == 1


def test_a_forged_line_and_escapes_are_seen_as_what_they_are() -> None:
    forged = "1\n2026-11-28 22:00:00,000 ERROR edgeslm.update: check FAILED\x1b[2J\x9b1m\u202eabc"
    line = formatted(forged)
    assert line.endswith(
        r"request 1\n2026-11-28 22:00:00,000 ERROR edgeslm.update: check FAILED\x1b[2J\x9b1m\u202eabc"
    )


def test_a_traceback_keeps_its_lines() -> None:
    lines = formatted("1", ValueError("bell \x07")).splitlines()
    assert len(lines) == 2
    assert lines[1] == "ValueError: bell \\x07"


@pytest.mark.parametrize("text", ["Spindel 3 läuft heiß", "手順", "path\\name"])
def test_what_people_write_stays(text: str) -> None:
    assert one_line(text) == text


def test_every_handler_has_it() -> None:
    program = """
import logging
from edgeslm.telemetry.log_lines import set_up_logging
set_up_logging("INFO")
logging.info("a\\nb")
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stderr.endswith(r"a\nb" + "\n")
