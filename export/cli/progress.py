"""Progress on standard error: a bar on a terminal after two seconds, otherwise a line every minute."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any

_DELAY_S = 2.0
_TICK_S = 0.5
LINE_S = 60.0
"""Seconds between progress lines where there is no terminal."""


class Bar:
    """Progress callback (``subprocess_job.OnProgress``) that draws a tqdm bar on a terminal and prints lines
    elsewhere."""

    def __init__(self, line_s: float = LINE_S) -> None:
        """:param line_s: seconds between lines where there is no terminal."""
        self._line_s = line_s
        self._bar: Any = None
        self._said_at = time.monotonic()
        self._ended = threading.Event()
        self._drawing = threading.Lock()

    def __enter__(self) -> Bar:
        if sys.stderr.isatty():
            from tqdm import tqdm

            shape = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}"
            # The delay hides the bar of short steps.
            self._bar = tqdm(file=sys.stderr, leave=False, delay=_DELAY_S, bar_format=shape, total=1)
            threading.Thread(target=self._tick, name="progress", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._ended.set()
        if self._bar is not None:
            with self._drawing:
                self._bar.close()

    def __call__(self, done: int, total: int, what: str) -> None:
        if self._bar is not None:
            self._bar.total, self._bar.n = total, done
            self._bar.set_description_str(what, refresh=False)
        elif time.monotonic() - self._said_at >= self._line_s:
            self.say(f"{what}: {done / max(1, total):.0%}")
            self._said_at = time.monotonic()

    def say(self, sentence: str) -> None:
        """Prints a line above the bar."""
        with self._drawing:
            if self._bar is not None:
                self._bar.clear()
            sys.stderr.write(sentence + "\n")
            sys.stderr.flush()

    def _tick(self) -> None:
        """Redraws twice a second, so that the elapsed time advances during a long step."""
        if self._ended.wait(_DELAY_S):
            return
        while not self._ended.wait(_TICK_S):
            with self._drawing:
                if not self._ended.is_set():
                    self._bar.refresh()
