"""What commands show: lines of output, errors, and how far long work has come."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType

DELAY_S = 2.0
"""Work that is done before needs no bar."""
TICK_S = 0.1
_BAR = 24


def print_error(sentence: str) -> None:
    print(f"edgeslm: {sentence}", file=sys.stderr)  # noqa: T201


def say(text: str) -> None:
    """A line of a command's output; flushed, since a pipe's reader waits for it."""
    print(text, flush=True)  # noqa: T201


class Progress:
    """A bar on standard error, on a terminal alone and once work takes longer than two seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shows = sys.stderr.isatty()
        self._next = clock() + DELAY_S
        self._drawn = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.clear()

    def show(self, done: int, total: int, what: str) -> None:
        if not self._shows or self._clock() < self._next:
            return
        self._next = self._clock() + TICK_S
        share = done / max(1, total)
        bar = ("#" * round(share * _BAR)).ljust(_BAR, ".")
        line = f"[{bar}] {share:4.0%} {what}"
        sys.stderr.write("\r\x1b[2K" + line[: shutil.get_terminal_size().columns - 1])
        sys.stderr.flush()
        self._drawn = True

    def clear(self) -> None:
        """Before anything else is printed."""
        if self._drawn:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
            self._drawn = False
