"""Fair lock: threads of one process write to a collection in the order of their requests.

SQLite waits for another writer by polling for some seconds, so a thread that writes all the time would starve
other threads.
"""

from __future__ import annotations

import threading
from types import TracebackType


class FairLock:
    """A lock that is granted in the order of the requests."""

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
