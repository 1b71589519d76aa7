"""Log formatting: every message is one line; control characters in ids or topics are escaped."""

from __future__ import annotations

import logging
import re
import sys

FULL = "%(asctime)s %(levelname)s %(name)s: %(message)s"

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


def printable(text: str) -> str:
    """``text`` for a terminal: line breaks and tabs stay, other control characters are escaped."""
    return "\n".join("\t".join(map(one_line, line.split("\t"))) for line in text.split("\n"))


def one_line(text: str) -> str:
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def set_up_logging(level: str, form: str = FULL) -> None:
    """Sends the root logger's lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(form))
    logging.basicConfig(level=level, handlers=[handler])
