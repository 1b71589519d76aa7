"""Log lines: what a sender puts into an id makes no line of its own."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.telemetry.log_lines import FULL, LineFormatter, LineHandler, one_line

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"


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


def said_by(program: str, form: str = "FULL") -> list[str]:
    """The lines on standard error of a process that has set up logging."""
    program = f"from edgeslm.telemetry.log_lines import *\nset_up_logging('INFO', {form})\n{program}"
    return subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    ).stderr.splitlines()


def test_every_handler_has_it() -> None:
    assert said_by("logging.info('a\\nb')")[0].endswith(r"a\nb")


UNCAUGHT = {
    "of the main thread": "1 / 0",
    "of another thread": "threading.Thread(target=lambda: 1 / 0).start()",
    "of a destructor": "type('A', (), {'__del__': lambda self: 1 / 0})()",
}


@pytest.mark.parametrize("program", UNCAUGHT.values(), ids=UNCAUGHT)
def test_uncaught_exceptions_have_a_time(program: str) -> None:
    first, *_, last = said_by(program)
    assert re.fullmatch(rf"{TIME} ERROR edgeslm: uncaught exception", first)
    assert last == "ZeroDivisionError: division by zero"


WITHOUT_MEMORY = {
    "the main thread": "raise MemoryError",
    "another thread": "threading.Thread(target=fail).start(); time.sleep(60)",
    "a callback of the loop": "asyncio.run(loop(fail))",
}


@pytest.mark.parametrize("program", WITHOUT_MEMORY.values(), ids=WITHOUT_MEMORY)
def test_a_process_without_memory_ends_with_a_sentence(program: str) -> None:
    """A node whose loop had no memory for a signal's byte called the same callback for ever."""
    functions = """
import asyncio, threading, time
def fail():
    raise MemoryError
async def loop(callback):
    asyncio.get_running_loop().set_exception_handler(handle_loop_exception)
    asyncio.get_running_loop().call_soon(callback)
    await asyncio.sleep(60)
"""
    (line,) = said_by(f"{functions}{program}")
    assert line.startswith("edgeslm: There is too little memory to go on: ")


def test_a_process_without_memory_ends_where_nobody_reads_its_sentence() -> None:
    program = "import os\nfrom edgeslm.telemetry.log_lines import *\nos.close(2)\nend_without_memory()"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 1


def test_other_exceptions_of_a_loop_are_logged() -> None:
    program = """
import asyncio
async def work():
    asyncio.get_running_loop().set_exception_handler(handle_loop_exception)
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await asyncio.sleep(0.1)
asyncio.run(work())
"""
    first, *_, last = said_by(program)
    assert re.match(rf"{TIME} ERROR asyncio: Exception in callback", first)
    assert last == "ZeroDivisionError: division by zero"


def test_warnings_are_lines_of_the_log() -> None:
    program = "warnings.warn('old\\nway', UserWarning)"
    (line,) = said_by(program)
    assert re.fullmatch(rf"{TIME} WARNING warnings: <string>:3: UserWarning: old\\nway", line)
    assert said_by(program, "COMMAND") == [r"edgeslm: <string>:3: UserWarning: old\nway"]


def test_the_last_sentence_of_a_service_has_a_time() -> None:
    program = "from edgeslm.cli.screen import print_error\nprint_error('no\\nroom')"
    (line,) = said_by(program)
    assert re.fullmatch(rf"{TIME} ERROR edgeslm: no\\nroom", line)
    assert said_by(program, "COMMAND") == ["edgeslm: no", "room"]


def test_a_message_that_no_memory_is_left_for_is_written_alone() -> None:
    class NoMemory(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            raise MemoryError

    stream = io.StringIO()
    handler = LineHandler(stream)
    handler.setFormatter(NoMemory())
    handler.handle(logging.LogRecord("edgeslm", logging.ERROR, "", 0, "%s", ("Too little memory.",), None))
    assert stream.getvalue() == "edgeslm: Too little memory.\n"
