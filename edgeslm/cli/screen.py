"""Terminal output of commands: lines, errors, progress bars."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from types import TracebackType

from edgeslm.telemetry.log_lines import log_error, printable

DELAY_S = 2.0
"""A progress bar is shown only for work that takes longer than this many seconds."""
TICK_S = 0.1
_BAR = 24


def print_error(sentence: str) -> None:
    """Prints to standard error, with control characters escaped; in a service, as a line of its log."""
    if not log_error(sentence):
        print(f"edgeslm: {printable(sentence)}", file=sys.stderr)  # noqa: T201


def say(text: str) -> None:
    """Prints a line of output and flushes it, so that the reader of a pipe gets it at once."""
    print(text, flush=True)  # noqa: T201


class ProgressLine:
    """A progress bar on standard error, shown on terminals when work takes longer than two seconds.

    A timer draws the bar, since even the first step may take long.
    """

    def __init__(self) -> None:
        self._shows = sys.stderr.isatty()
        self._next = time.monotonic() + DELAY_S
        self._drawn = False
        self._line = ""
        self._late: threading.Timer | None = None
        self._drawing = threading.Lock()

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.clear()

    def show(self, done: int, total: int, what: str) -> None:
        if not self._shows:
            return
        share = done / max(1, total)
        bar = ("#" * round(share * _BAR)).ljust(_BAR, ".")
        line = f"[{bar}] {share:4.0%} {what}"
        with self._drawing:
            self._line = line[: shutil.get_terminal_size().columns - 1]
            left_s = self._next - time.monotonic()
            if left_s <= 0:
                self._draw()
            elif not self._drawn and self._late is None:
                self._late = threading.Timer(left_s, self._draw_late)
                self._late.daemon = True
                self._late.start()

    def clear(self) -> None:
        """Removes the bar; must be called before anything else is printed."""
        with self._drawing:
            if self._late is not None:
                self._late.cancel()
                self._late = None
            if self._drawn:
                sys.stderr.write("\r\x1b[2K")
                sys.stderr.flush()
                self._drawn = False

    def _draw(self) -> None:
        self._next = time.monotonic() + TICK_S
        sys.stderr.write("\r\x1b[2K" + self._line)
        sys.stderr.flush()
        self._drawn = True

    def _draw_late(self) -> None:
        with self._drawing:
            if self._late is not None and not self._drawn:
                self._draw()
