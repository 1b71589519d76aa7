"""The attempt log: marks a request in the journal while it runs, and counts crashes in that time as crash
points of the request. A request that has reached the limit of crash points is a poison message and isn't
retried."""

from __future__ import annotations

from edgeslm.errors import Busy, JournalError, Poisoned
from edgeslm.messages import Result, Turn
from edgeslm.storage.journal import LOST_NODE, Journal, JournalEntry

LOST_ENGINE = 1
"""Number of crash points that a request gets if the engine crashes while the request runs. For a crash of the
node or a hung engine, the request gets ``LOST_NODE`` crash points."""
MOST_LOST = 2 * LOST_NODE
"""A request that has this number of crash points isn't retried. A request reaches the limit, for example,
after two crashes of the node, or after one crash of the node and two crashes of the engine."""
TRANSIENT = frozenset({"busy", "expired", "internal", "model_unavailable", "no_memory"})
"""Error codes that a retry may fix; results with such a code are not stored in the journal."""
FULL_DISK_RETRY_MS = 5000


class AttemptLog(Turn):
    """Records the attempts to answer one request; ``lost`` is the request's number of crash points.

    :param key: the request's journal key; with None, nothing is recorded.
    :param known: the journal entry of the request, if any.
    """

    def __init__(self, journal: Journal, key: bytes | None, known: JournalEntry | None) -> None:
        super().__init__()
        self._journal = journal
        self.key = key
        self._before = self.lost = known.lost if known is not None else 0
        self._is_marked = False

    def compute(self) -> None:
        """Marks the request as running. :raises RequestError: the request has reached the limit of crash
        points, or the journal can't be written."""
        if self._is_marked:
            return
        if self.lost >= MOST_LOST:
            raise Poisoned("the node or its engine ended more than once while it worked on this request")
        if self.key is not None:
            try:
                self._journal.begin(self.key, self.lost)
            except JournalError as error:
                raise Busy(
                    f"the node can't take requests now: {error}", retry_after_ms=FULL_DISK_RETRY_MS
                ) from None
        self._is_marked = True
        super().compute()

    def wait(self) -> None:
        super().wait()
        self._clear()

    def crash(self) -> None:
        self.lost += LOST_ENGINE
        self._clear()

    def hang(self) -> None:
        if self.key is not None:
            self._journal.blame(self.key, LOST_NODE)

    def end(self, result: Result, payload: bytes) -> None:
        code = None if result.error is None else result.error.code
        if self.key is None or (code is not None and code != "poisoned" and not self._has_run):
            self._clear()
        elif code not in TRANSIENT:
            self._journal.finish(self.key, self.lost, payload)
        else:
            self.withdraw()

    def withdraw(self) -> None:
        """Removes the crash points that the request got in this attempt; called if the request was cancelled
        or ended with a transient error."""
        if self.key is not None and self.lost > self._before:
            self._journal.finish(self.key, self._before, None)
        else:
            self._clear()

    def _clear(self) -> None:
        if self._is_marked and self.key is not None:
            self._journal.pause(self.key)
        self._is_marked = False
