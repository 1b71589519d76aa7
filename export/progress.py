"""A progress bar on standard error: for work longer than two seconds, and only on a terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Bar:
    """Takes the calls of ``child.OnProgress`` and shows them with tqdm; does nothing without a terminal."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> Bar:
        if sys.stderr.isatty():
            from tqdm import tqdm

            shape = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}"
            self._bar = tqdm(
                file=sys.stderr, leave=False, delay=2.0, bar_format=shape, dynamic_ncols=True, total=1
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int, what: str) -> None:
        if self._bar is not None:
            self._bar.total = total
            self._bar.n = done
            self._bar.set_description(what)

    def say(self, sentence: str) -> None:
        """A line of its own above the bar."""
        if self._bar is not None:
            self._bar.clear()
        sys.stderr.write(sentence + "\n")
        sys.stderr.flush()
