"""Log formatting: every message is one line; control characters in ids or topics are escaped."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import threading
import warnings
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

if TYPE_CHECKING:
    import asyncio

FULL = "%(asctime)s %(levelname)s %(name)s: %(message)s"
"""Lines of services and their child processes."""
COMMAND = "edgeslm: %(message)s"
"""Lines of other commands, as those of errors."""

_NO_MEMORY = (
    b"edgeslm: There is too little memory to go on: free some, or raise the limits of this process: "
    b"MemoryMax= of a service, `ulimit -v` of a shell.\n"
)

# Control characters of ASCII and Latin 1, line and paragraph separators, marks of text direction, and lone
# surrogates, which can't be encoded.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class LineFormatter(logging.Formatter):
    """Escapes control characters as in Python, such as ``\\n`` or ``\\x1b``. Tracebacks keep their line
    breaks."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the library's name
        return one_line(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802
        text = super().formatException(ei)  # type: ignore[arg-type]
        return printable(text)


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes the message alone if there is too little memory for a whole line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not isinstance(sys.exc_info()[1], MemoryError):
            super().handleError(record)
            return
        with contextlib.suppress(MemoryError, OSError, ValueError):
            self.stream.write(f"{record.name}: {record.getMessage()}\n")
            self.flush()


def printable(text: str) -> str:
    """``text`` for a terminal: line breaks and tabs stay, other control characters are escaped."""
    return "\n".join("\t".join(map(one_line, line.split("\t"))) for line in text.split("\n"))


def one_line(text: str) -> str:
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def set_up_logging(level: str, form: str = FULL) -> None:
    """Sends the root logger's lines and Python's warnings to standard error; with the form ``FULL``, also
    uncaught exceptions."""
    handler = LineHandler(sys.stderr)
    handler.setFormatter(LineFormatter(form))
    logging.basicConfig(level=level, handlers=[handler])
    warnings.showwarning = _log_warning
    if form == FULL:
        _log_uncaught_exceptions()


def handle_loop_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Exception handler of a service's event loop. Ends the process if its callbacks lack memory: the loop
    would call them again and again, and hear no signal."""
    if isinstance(context.get("exception"), MemoryError):
        end_without_memory()
    loop.default_exception_handler(context)


def end_without_memory() -> NoReturn:
    """Ends the process with a sentence, without allocating memory. What it holds is as after a crash."""
    try:
        os.write(2, _NO_MEMORY)
    finally:  # also if nobody reads it
        os._exit(1)


def log_error(sentence: str) -> bool:
    """Logs why a service ends. :return: False if this process doesn't log as a service."""
    handlers = logging.getLogger().handlers
    is_service = any(isinstance(form := one.formatter, LineFormatter) and form.usesTime() for one in handlers)
    if is_service:
        logging.getLogger("edgeslm").error("%s", sentence)
    return is_service


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    logging.getLogger("warnings").warning("%s:%d: %s: %s", filename, lineno, category.__name__, message)


def _log_uncaught_exceptions() -> None:
    """Hooks that somebody else has set stay. A lack of memory in the main thread or another ends the
    process."""

    def log(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and not isinstance(error, KeyboardInterrupt | SystemExit):
            logging.getLogger("edgeslm").error("uncaught exception", exc_info=(kind, error, trace))

    def end(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, MemoryError):
            end_without_memory()
        log(kind, error, trace)

    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = end
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = lambda ended: end(ended.exc_type, ended.exc_value, ended.exc_traceback)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = lambda end: log(end.exc_type, end.exc_value, end.exc_traceback)
