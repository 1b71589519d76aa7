"""Journal: results and failed attempts of requests, kept across restarts.

The journal deduplicates requests and stops poison messages, which crash the node or its engine each time.
Unanswered requests stay in the broker's session, which is the source of truth for them. If a power cut loses
the last entries, the broker delivers their requests again.
"""

from __future__ import annotations

import hashlib
import logging
import math
import sqlite3
import time
from array import array
from bisect import bisect_left
from contextlib import suppress
from dataclasses import dataclass

from edgeslm.errors import JournalError
from edgeslm.protocol.delivery import Delivery
from edgeslm.storage.database import Database
from edgeslm.storage.running_marks import RunningMarks
from edgeslm.storage.schema import PAGE_BYTES, place_of

log = logging.getLogger("edgeslm.storage")

PRUNE_EVERY = 1024
"""Number of rows written between two prunings, which remove old rows."""
PRUNE_ROWS = 4096
"""Maximum number of rows that one pruning removes, so that it takes little time."""
ROW_BYTES = 60
"""Size of a row without its result, in bytes."""
TIDY_S = 30.0, 600.0
"""Minimum and maximum interval between cleanups (:meth:`Journal.tidy`); between these limits, the interval is
a tenth of the window ``window_s``."""
TRIES_S = 3600.0
"""Failed attempts are kept at least this long, so that a poison message can't crash the node for ever."""
LOST_NODE = 2
"""Crash points that a request gets if the node crashes or the engine hangs while the request runs
(``JournalEntry.lost``)."""
MOST_UNSAVED = 1024
"""Maximum number of entries kept in memory while the disk fails; above this number, the oldest are
dropped."""
KEPT = 0.9
"""If the journal is larger than ``limit_bytes``, it is pruned to this fraction of ``limit_bytes``."""
_READ_EPOCH = "SELECT max(epoch) FROM session WHERE typeof(epoch) = 'integer' AND epoch BETWEEN 0 AND 1 << 53"
"""The result is NULL if the number is damaged or missing."""
_WRITE_EPOCH = "INSERT OR REPLACE INTO session (rowid, epoch) VALUES ((SELECT min(rowid) FROM session), ?)"


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """A started request. ``lost``: number of crash points. A request gets crash points for each crash while
    it runs; a request with too many crash points isn't run again. ``result``: the encoded result; None if
    unanswered."""

    lost: int
    result: bytes | None


def request_key(reply_to: str, name: bytes, task: str, payload: bytes) -> bytes:
    """Deduplication key of a request; ``name`` is the request's Correlation Data or ``id``."""
    return _digest(b"request", reply_to.encode(), name, task.encode(), hashlib.sha256(payload).digest())


def delivery_key(epoch: int, delivery: Delivery) -> bytes:
    """Deduplication key of a message without id; ``epoch`` is the number of the broker's session.

    A packet identifier is reused once its message is acknowledged (MQTT 5 section 2.2.1), so an equal key
    means a duplicate only if DUP is set.
    """
    return _digest(
        b"delivery",
        b"%d %d" % (epoch, delivery.mid),
        delivery.topic.encode(),
        (delivery.response_topic or "").encode(),
        hashlib.sha256(delivery.payload).digest(),
    )


def reader_key(key: bytes, reader: str) -> bytes:
    """Deduplication key of the work that one reader of a message, such as a route, does with this message.
    ``key`` identifies the message, and ``reader`` the reader."""
    return _digest(b"reader", key, reader.encode())


def _digest(*parts: bytes) -> bytes:
    """128 bits of SHA-256 over the length-prefixed parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.digest()[:16]


_SIZE = "coalesce(length(result), 0)"
_AT = "coalesce(CAST(at AS REAL), 0.0)"
"""The time of a row; a number even if the row is damaged."""
_ENTRY = f"CAST(key AS BLOB), {_AT}, coalesce(CAST(attempts AS INTEGER), 0), CAST(result AS BLOB)"


def row_bytes(result: int) -> int:
    """Size in the file of a row whose result has ``result`` bytes, rounded up to whole pages."""
    return PAGE_BYTES * math.ceil((result + ROW_BYTES) / PAGE_BYTES)


class _Index:
    """Maps keys to row numbers, with 16 bytes per entry; a dict would take ten times as much memory.

    The index is only in memory: an index in the file would cost a write to a random page for each request.
    """

    def __init__(self) -> None:
        self._heads = [array("Q") for _ in range(256)]
        self._rows = [array("Q") for _ in range(256)]

    def get(self, key: bytes) -> int | None:
        heads, rows, head, place = self._find(key)
        return rows[place] if place < len(heads) and heads[place] == head else None

    def put(self, key: bytes, row: int) -> None:
        heads, rows, head, place = self._find(key)
        if place < len(heads) and heads[place] == head:
            rows[place] = row
        else:
            heads.insert(place, head)
            rows.insert(place, row)

    def drop(self, key: bytes) -> None:
        heads, rows, head, place = self._find(key)
        if place < len(heads) and heads[place] == head:
            del heads[place], rows[place]

    def drop_up_to(self, last: int) -> None:
        """Removes the entries of all rows up to number ``last``."""
        for bucket, rows in enumerate(self._rows):
            kept = [place for place, row in enumerate(rows) if row > last]
            if len(kept) < len(rows):
                heads = self._heads[bucket]
                self._heads[bucket] = array("Q", (heads[place] for place in kept))
                self._rows[bucket] = array("Q", (rows[place] for place in kept))

    def _find(self, key: bytes) -> tuple[array[int], array[int], int, int]:
        heads, head = self._heads[key[0]], int.from_bytes(key[1:9], "big")
        return heads, self._rows[key[0]], head, bisect_left(heads, head)


class Journal:
    """The requests in ``database``, which the caller opens and closes.

    Answered requests are kept for ``window_s``. Beyond ``limit_bytes`` the oldest entries are removed. If the
    disk is full or broken, :meth:`begin` raises :class:`JournalError`; results stay in memory until they can
    be written.

    New rows are appended, and the oldest rows are removed first. If a key has several rows, the newest row is
    valid. Without ``keeps_results``, the journal stores failed attempts but no results, so a repeated request
    runs again.
    """

    def __init__(
        self, database: Database, *, window_s: float, limit_bytes: int, keeps_results: bool = True
    ) -> None:
        self._database = database
        self._keeps_results = keeps_results
        self._window_s = window_s
        self._limit_bytes = limit_bytes
        self._index = _Index()
        self._marks: RunningMarks | None = None
        self._unsaved: dict[bytes, JournalEntry] = {}
        self._bytes = 0
        self._epoch: int | None = None
        self._tidied_at = -math.inf
        self._changes = -1

    def open(self) -> None:
        """Loads the index. Requests that were running when the last process ended get ``LOST_NODE`` crash
        points.

        :raises JournalError: the file of running marks can't be used.
        """
        if not self._keeps_results:  # results from before the setting was changed
            with suppress(JournalError):
                self._database.write("DELETE FROM requests WHERE result IS NOT NULL")
        every = f"SELECT id, CAST(key AS BLOB), {_SIZE} FROM requests ORDER BY id"
        for row, key, size in self._database.rows(every):
            if key:  # else damaged
                self._index.put(key, row)
            self._bytes += row_bytes(size)
        file = self._database.file.with_suffix(".running")
        try:
            self._marks = RunningMarks(file)
        except OSError as error:
            raise JournalError(
                f"The file {file} can't be used ({error.strerror}); make room for it."
            ) from None
        for key in self._marks.left:
            self.blame(key, LOST_NODE)
            self.pause(key)  # only now: a kill before this must not forget the crash
        self.tidy()

    def close(self) -> None:
        self.retry()
        if self._marks is not None:
            self._marks.close()
            self._marks = None

    def find(self, key: bytes) -> JournalEntry | None:
        """The entry of a request; None if there is none, or if its result is older than ``window_s``."""
        if (unsaved := self._unsaved.get(key)) is not None:
            return unsaved
        if (row := self._index.get(key)) is None:
            return None
        found = self._database.read(f"SELECT {_ENTRY} FROM requests WHERE id = ?", row)
        if not found:
            return None
        stored_key, at, attempts, result = found
        if result is None and not attempts:  # also after _blank() of an earlier version
            return JournalEntry(0, None)
        values = {"key": stored_key, "attempts": attempts, "result": result}
        if not self._database.is_sound("requests", row, values):
            self._index.drop(key)  # the request runs again
            return None
        if stored_key != key:
            return None
        # Failed attempts count however short the window is: they stop poison messages.
        if result is None:
            return JournalEntry(attempts, None)
        if at <= self._oldest:
            return None
        try:
            return JournalEntry(attempts, self._database.unsealed(result, place_of("requests", key)))
        except ValueError:
            self._database.note_unsound("requests")
            self._index.drop(key)
            return None

    def begin(self, key: bytes, lost: int = 0) -> None:
        """Marks a request as running; ``lost`` is the number of its crash points so far.

        :raises JournalError: nothing can be written now, so the request must not run.
        """
        if self._database.problem is not None or self._unsaved:
            self._retry()
        if lost and ((known := self.find(key)) is None or known.lost < lost):
            self._write(key, JournalEntry(lost, None))
            self._unsaved.pop(key, None)
        if self._marks is not None:
            self._marks.set(key)

    def pause(self, key: bytes) -> None:
        """Marks a request as not running."""
        if self._marks is not None:
            self._marks.clear(key)

    def finish(self, key: bytes, lost: int, result: bytes | None) -> None:
        """Stores the result of a request, or only its crash points if ``result`` is None.

        Never fails: entries that can't be written stay in memory.
        """
        self._keep(
            key,
            JournalEntry(lost, result) if self._keeps_results or result is None else JournalEntry(0, None),
        )
        self.pause(key)

    def blame(self, key: bytes, lost: int) -> None:
        """Adds ``lost`` crash points to a request's entry, unless the request was answered. Never fails."""
        known = self.find(key)
        if known is None or known.result is None:
            self._keep(key, JournalEntry(lost + (known.lost if known else 0), None))

    def _keep(self, key: bytes, entry: JournalEntry) -> None:
        if entry == JournalEntry(0, None) and self._index.get(key) is None:
            return
        try:
            self._write(key, entry)
            self._unsaved.pop(key, None)
        except JournalError:
            self._unsaved.pop(key, None)
            self._unsaved[key] = entry
            if len(self._unsaved) > MOST_UNSAVED:
                del self._unsaved[next(iter(self._unsaved))]

    def forget(self, key: bytes) -> None:
        """Drops the entry of a key whose packet identifier was reused for another message."""
        if self.find(key) is not None:
            self.finish(key, 0, None)

    def retry(self) -> None:
        """Retries failed writes, unless the last failure was less than ``RETRY_S`` ago."""
        if self._database.problem is not None or self._unsaved:
            with suppress(JournalError):
                self._retry()

    def tidy(self) -> None:
        """Removes entries older than ``window_s`` from the file, and deleted data from the write-ahead log.

        May be called often: a call does nothing until the interval (``TIDY_S``) has passed."""
        least, most = TIDY_S
        if self._database.now - self._tidied_at < max(least, min(self._window_s / 10, most)):
            return
        self._tidied_at = self._database.now
        with suppress(sqlite3.Error):
            while self._prune():
                pass
            self._blank()
            if (changes := self._database.changes) != self._changes:
                self._changes = changes
                self._database.scrub()

    @property
    def epoch(self) -> int:
        """Number of the broker's session; 0 before the first session."""
        if self._epoch is None:
            row = self._database.read(_READ_EPOCH)
            if row and row[0] is not None:
                self._epoch = int(row[0])
            else:  # damaged; packet identifiers of old sessions must not match new ones
                self._epoch = int(time.time())
                if row:
                    self._database.write_first(_WRITE_EPOCH, self._epoch)
        return self._epoch

    def begin_session(self) -> None:
        """Records that the broker has started a new session, which reuses packet identifiers."""
        self._epoch = self.epoch + 1
        # Stored before any message of this session: else the next session would reuse its keys.
        self._database.write_first(_WRITE_EPOCH, self._epoch)

    @property
    def _oldest(self) -> float:
        return self._database.now - self._window_s

    def _write(self, key: bytes, entry: JournalEntry) -> None:
        result = entry.result
        if result is not None:
            result = self._database.sealed(result, place_of("requests", key))
        columns = {"key": key, "at": self._database.now, "attempts": entry.lost, "result": result}
        row = self._database.insert("requests", columns)
        self._index.put(key, row)
        self._bytes += row_bytes(len(result or b""))
        if row % PRUNE_EVERY == 0 or self._bytes > self._limit_bytes:
            with suppress(sqlite3.Error):
                self._prune()

    def _retry(self) -> None:
        """Writes the unsaved entries. :raises JournalError: the last failure was less than ``RETRY_S`` ago,
        or a write failed again."""
        if self._database.is_resting:
            raise JournalError(self._database.problem or "The journal can't be written.")
        with suppress(sqlite3.Error):
            self._prune()  # makes room in a file that can't grow
        self._database.write(_WRITE_EPOCH, self.epoch)  # tests that the file is writable
        for key, entry in list(self._unsaved.items()):
            self._write(key, entry)
            del self._unsaved[key]

    def _prune(self) -> bool:
        """Removes entries older than ``window_s``, and the oldest entries if the file is too large.

        :return: whether there may be more to remove.
        """
        db = self._database.opened
        excess = self._bytes - KEPT * self._limit_bytes if self._bytes > self._limit_bytes else 0
        freed = last = count = 0
        oldest_try = min(self._oldest, self._database.now - TRIES_S)
        for row, at, size, is_try in db.execute(
            f"SELECT id, {_AT}, {_SIZE}, result IS NULL FROM requests ORDER BY id LIMIT {PRUNE_ROWS}"
        ).fetchall():
            if at > (oldest_try if is_try else self._oldest) and freed >= excess:
                break
            freed += row_bytes(size)
            last = row
            count += 1
        if last:
            db.execute("DELETE FROM requests WHERE id <= ?", (last,))
            self._bytes -= freed
            self._index.drop_up_to(last)
        return count == PRUNE_ROWS

    def _blank(self) -> None:
        """Removes results older than ``window_s`` from rows that :meth:`_prune` can't delete yet.

        ``_prune`` deletes rows from the oldest on, and stops at a failed attempt that must be kept longer."""
        db = self._database.opened
        first = db.execute(f"SELECT {_AT} FROM requests ORDER BY id LIMIT 1").fetchone()
        if first is None or first[0] > self._oldest:
            return
        old = "WHERE result IS NOT NULL AND at <= ?"
        sizes = db.execute(f"SELECT {_SIZE} FROM requests {old}", (self._oldest,)).fetchall()
        db.execute(f"UPDATE requests SET result = NULL, attempts = 0 {old}", (self._oldest,))
        self._bytes -= sum(row_bytes(size) - row_bytes(0) for (size,) in sizes)
