"""How often a request was run: marked before each try, written down with its result."""

from __future__ import annotations

from edgeslm.bus.journal import Journal
from edgeslm.errors import Busy, JournalError, Poisoned
from edgeslm.messages import Result

MOST_TRIES = 3
"""A request that ended the engine, or the whole daemon, so often is not run again."""
TRANSIENT = frozenset({"busy", "expired", "internal", "model_unavailable", "no_memory"})
"""Errors that another try may mend: they are not remembered."""
FULL_DISK_RETRY_MS = 5000


class Tries:
    """The tries of one request, of which there were ``before``; without ``key`` nothing is remembered."""

    def __init__(self, journal: Journal, key: bytes | None, before: int) -> None:
        self._journal = journal
        self._key = key
        self._before = before
        self._count = before

    def start(self) -> None:
        """:raises RequestError: it may not be run."""
        if self._count >= MOST_TRIES:
            raise Poisoned(f"the engine ended {MOST_TRIES} times while it ran this request")
        if self._key is not None:
            try:
                self._journal.begin(self._key, self._count + 1)
            except JournalError as error:
                raise Busy(
                    f"the node can't take requests now: {error}", retry_after_ms=FULL_DISK_RETRY_MS
                ) from None
        self._count += 1

    def end(self, result: Result, payload: bytes) -> None:
        if self._key is None or (self._count == 0 and result.error is not None):
            return
        transient = result.error is not None and result.error.code in TRANSIENT
        if not transient:
            self._journal.finish(self._key, self._count, payload)
        elif self._count > self._before:
            self._journal.finish(self._key, self._before, None)

    def withdraw(self) -> None:
        """The run was broken off by the node itself, which is not the request's fault."""
        if self._key is not None and self._count > self._before:
            self._journal.finish(self._key, self._before, None)
