"""What a node remembers of its requests over a restart: seen before, tried how often, answered with what.

The broker's session remains the source of truth for requests that are not answered yet; the journal keeps a
repeat from being run twice and a poisonous request from being run for ever. Should a power cut take its last
entries, their requests are delivered and run once more. Knows no JSON and no connection.
"""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import suppress
from dataclasses import dataclass

from edgeslm.bus.database import Database
from edgeslm.bus.handover import Delivery
from edgeslm.errors import JournalError

PRUNE_EVERY = 256
"""Writes between two looks at the size."""
PRUNE_ROWS = 2000
"""Most rows that one look removes, so that it never takes long."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A request that was begun: ``attempts`` times, and ``result`` is what was answered, if it was."""

    attempts: int
    result: bytes | None


def request_key(reply_to: str, name: bytes, task: str, payload: bytes) -> bytes:
    """Two requests with equal keys are the same; ``name`` is the Correlation Data or the ``id``."""
    return _digest(b"request", reply_to.encode(), name, task.encode(), hashlib.sha256(payload).digest())


def delivery_key(epoch: int, delivery: Delivery) -> bytes:
    """Names a message that has no name of its own within the broker's session ``epoch``.

    The packet identifier names it until it is acknowledged (MQTT 5 section 2.2.1), so this says "the same"
    only of a delivery with DUP set.
    """
    return _digest(
        b"delivery",
        b"%d %d" % (epoch, delivery.mid),
        delivery.topic.encode(),
        (delivery.response_topic or "").encode(),
        hashlib.sha256(delivery.payload).digest(),
    )


def reader_key(key: bytes, reader: str) -> bytes:
    """Tells the routes apart that read the message ``key``."""
    return _digest(b"reader", key, reader.encode())


def _digest(*parts: bytes) -> bytes:
    """128 bits of SHA-256 over the parts with their lengths."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.digest()[:16]


class Journal:
    """The requests in ``database``, which is opened and closed elsewhere.

    ``window_s`` is how long an answered request is remembered, ``limit_bytes`` how large the file may grow:
    the oldest entries make room. A disk that is full or broken is told of by :class:`JournalError` where a
    request would be begun; results that can't be written are kept in memory until they can be.
    """

    def __init__(self, database: Database, *, window_s: float, limit_bytes: int) -> None:
        self._database = database
        self._window_s = window_s
        self._limit_bytes = limit_bytes
        self._unsaved: dict[bytes, Entry] = {}
        self._epoch: int | None = None

    def find(self, key: bytes) -> Entry | None:
        """What is known of a request; nothing if it is older than the window."""
        if (unsaved := self._unsaved.get(key)) is not None:
            return unsaved
        row = self._database.read(
            "SELECT attempts, result FROM requests WHERE key = ? AND at > ?", key, self._oldest
        )
        return Entry(row[0], row[1]) if row else None

    def begin(self, key: bytes, attempts: int) -> None:
        """Writes down that a request is being run for the ``attempts``-th time, before it is.

        :raises JournalError: it can't be written, so it must not be run.
        """
        if self._database.problem is not None:
            self._retry()
        self._write(key, Entry(attempts, None))
        self._unsaved.pop(key, None)

    def finish(self, key: bytes, attempts: int, result: bytes | None) -> None:
        """Writes down what a request came to; without ``result`` only how often it was tried.

        Never fails: what the disk doesn't take is kept in memory.
        """
        entry = Entry(attempts, result)
        try:
            self._write(key, entry)
        except JournalError:
            self._unsaved[key] = entry

    def retry(self) -> None:
        """Tries again what the disk refused, if it did and a moment has passed."""
        if self._database.problem is not None:
            with suppress(JournalError):
                self._retry()

    @property
    def epoch(self) -> int:
        """Number of the broker's session; 0 before the first."""
        if self._epoch is None:
            row = self._database.read("SELECT epoch FROM session")
            self._epoch = int(row[0]) if row else 0
        return self._epoch

    def begin_session(self) -> None:
        """The broker has a new session for the node: packet identifiers start anew."""
        self._epoch = self.epoch + 1
        with suppress(JournalError):
            self._database.write("UPDATE session SET epoch = ?", self._epoch)

    @property
    def _oldest(self) -> float:
        return self._database.now - self._window_s

    def _write(self, key: bytes, entry: Entry) -> None:
        if entry == Entry(0, None):
            self._database.write("DELETE FROM requests WHERE key = ?", key)
        else:
            # REPLACE puts a row that is begun anew to the end, since the oldest rows go first.
            self._database.write(
                "INSERT OR REPLACE INTO requests (key, at, attempts, result) VALUES (?, ?, ?, ?)"
                if entry.result is None
                else "INSERT INTO requests (key, at, attempts, result) VALUES (?, ?, ?, ?) ON CONFLICT (key)"
                " DO UPDATE SET attempts = excluded.attempts, result = excluded.result",
                key,
                self._database.now,
                entry.attempts,
                entry.result,
            )
        if self._database.writes % PRUNE_EVERY == 0:
            with suppress(sqlite3.Error):
                self._prune()

    def _retry(self) -> None:
        """:raises JournalError: too soon, or in vain."""
        if self._database.is_resting:
            raise JournalError(self._database.problem or "The journal can't be written.")
        with suppress(sqlite3.Error):
            self._prune()  # what is too old makes room in a file that can't grow
        for key, entry in list(self._unsaved.items()):
            self._write(key, entry)
            del self._unsaved[key]

    def _prune(self) -> None:
        """Removes entries that are older than the window, and the oldest if the file is too large."""
        db = self._database.opened
        rows = db.execute("SELECT id, at FROM requests ORDER BY id LIMIT ?", (PRUNE_ROWS,)).fetchall()
        old = next((number for number, (_, at) in enumerate(rows) if at > self._oldest), len(rows))
        if self._database.used_bytes > self._limit_bytes:
            old = max(old, min(len(rows), 2 * PRUNE_EVERY))
        if old:
            db.execute("DELETE FROM requests WHERE id <= ?", (rows[old - 1][0],))
