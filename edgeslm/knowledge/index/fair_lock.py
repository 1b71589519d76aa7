"""Fair lock: whose turn it is to write to a collection, among the threads of one process.

SQLite has a writer wait for another by looking now and then, for some seconds, and then refuses: one that
writes again and again is hardly ever met between two transactions. Here they follow each other as they came.
"""

from __future__ import annotations

import threading
from types import TracebackType


class FairLock:
    """A lock that is had in the order in which it was asked for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._next = 0
        self._now = 0

    def __enter__(self) -> None:
        with self._changed:
            mine, self._next = self._next, self._next + 1
            self._changed.wait_for(lambda: self._now == mine)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        with self._changed:
            self._now += 1
            self._changed.notify_all()
