"""Log lines: one message is one line, whatever a sender put into an id or a topic."""

from __future__ import annotations

import logging
import re
import sys

FULL = "%(asctime)s %(levelname)s %(name)s: %(message)s"

# Control characters of ASCII and Latin 1, line and paragraph separators, marks that turn the direction of
# text around, and halves of surrogate pairs, which no stream takes.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class LineFormatter(logging.Formatter):
    """Writes control characters as Python does, ``\\n`` or ``\\x1b``. Tracebacks keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the library's name
        return one_line(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802
        text = super().formatException(ei)  # type: ignore[arg-type]
        return printable(text)


def printable(text: str) -> str:
    """What a terminal shows as it stands: lines and tabs are kept, other control characters written out."""
    return "\n".join("\t".join(map(one_line, line.split("\t"))) for line in text.split("\n"))


def one_line(text: str) -> str:
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def set_up_logging(level: str, form: str = FULL) -> None:
    """Has the root logger write lines to standard error, as ``logging.basicConfig`` does."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(form))
    logging.basicConfig(level=level, handlers=[handler])
