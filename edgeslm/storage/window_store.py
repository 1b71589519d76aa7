"""Window store: messages that routes collect on disk until their digest is published.

A message is acknowledged once it is stored, because a broker holds few unacknowledged messages and a window
may take hours. The caller decides when a window is complete.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from edgeslm.errors import JournalError
from edgeslm.storage.database import Database
from edgeslm.storage.journal import reader_key
from edgeslm.storage.schema import place_of

log = logging.getLogger("edgeslm.storage")

LOST_ACK_S: Final = 60.0
"""Time within which a broken connection or a crash may lose the acknowledgement of a message."""

WindowName = tuple[str, str]
"""Name of the route, and topic of its digest."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """A message of a window. ``id`` identifies the message in the digest. ``received``: time of arrival in
    wall-clock seconds, for display."""

    window: WindowName
    id: str
    text: str
    received: float
    key: bytes | None = None
    """Deduplication key; None if the broker never redelivers the message. For a redelivery, ``is_again`` is
    true."""
    is_again: bool = False

    @property
    def size(self) -> int:
        """Approximate size in bytes."""
        return len(self.text.encode()) + len(self.id)


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """Summary of a stored window; ``batch`` is 0 while the window is open, else the window's number.

    ``age_s``: time since the window's first message, counted only while the node ran.
    """

    window: WindowName
    batch: int
    count: int
    size: int
    age_s: float


class Windows:
    """The windows in ``database``, which must be open. Only one thread at a time may use them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, messages: Sequence[Gathered]) -> list[bool]:
        """Stores messages in one synced transaction. :return: for each message, whether it is new.

        :raises JournalError: the messages can't be written, so they must not be acknowledged.
        """
        if self._database.is_resting:
            raise JournalError(self._database.problem or "The journal can't be written.")
        with self._database.synced() as db:
            return [self._add(db, message) for message in messages]

    def _add(self, db: sqlite3.Connection, message: Gathered) -> bool:
        if db.execute("SELECT 1 FROM windows WHERE key = ?", (message.key,)).fetchone():  # never for NULL
            if message.is_again:
                return False
            # Another message that reuses the packet identifier.
            db.execute("UPDATE windows SET key = NULL WHERE key = ?", (message.key,))
        route, topic = message.window
        row = {
            "route": route,
            "topic": topic,
            "batch": 0,
            "key": message.key,
            "at": self._database.now,
            "received": float(message.received),
            "name": message.id,
            "text": self._sealed(message),
        }
        self._database.insert("windows", row)
        return True

    def _sealed(self, message: Gathered) -> str | bytes:
        raw = message.text.encode()
        kept = self._database.sealed(raw, place_of("windows", message.window[1]))
        return message.text if kept is raw else kept

    def _text(self, number: int, row: dict[str, Any]) -> str | None:
        """The text of row ``number``; None if the row isn't as it was stored."""
        if not self._database.is_sound("windows", number, row):
            return None
        kept = row["text"]
        if isinstance(kept, str) and not self._database.is_sealed:
            return kept
        try:
            return self._database.unsealed(kept, place_of("windows", row["topic"])).decode()
        except (TypeError, ValueError, AttributeError):
            self._database.note_unsound("windows")
            return None

    def stored(self) -> list[StoredMessage]:
        """All windows whose digest isn't published, oldest first."""
        now = self._database.now
        return [
            StoredMessage((route, topic), batch, count, size or 0, now - (at or 0.0))
            for route, topic, batch, count, size, at in self._database.all_rows(
                "SELECT route, topic, batch, count(*), sum(length(text)), min(CAST(at AS REAL)) FROM windows "
                "WHERE text IS NOT NULL GROUP BY route, topic, batch ORDER BY min(id)"
            )
        ]

    def complete(self, window: WindowName) -> int:
        """Closes a window; later messages belong to the next window.

        :return: batch number of the closed window; 0 if it is empty.
        :raises JournalError: the file can't be written.
        """
        with self._database.synced() as db:
            where = "route = ? AND topic = ? AND batch = 0"
            batch = db.execute(f"SELECT max(id) FROM windows WHERE {where}", window).fetchone()[0] or 0
            db.execute(f"UPDATE windows SET batch = ? WHERE {where}", (batch, *window))
        return int(batch)

    def count(self, window: WindowName, batch: int) -> int:
        """Number of messages in a closed window, also of those that :meth:`read` leaves out."""
        where = "route = ? AND topic = ? AND batch = ? AND text IS NOT NULL"
        row = self._database.read(f"SELECT count(*) FROM windows WHERE {where}", *window, batch)
        return int(row[0]) if row else 0

    def read(self, window: WindowName, batch: int) -> list[Gathered]:
        """The messages of a closed window, in order; without those that aren't as they were stored."""
        rows = self._database.all_rows(
            "SELECT id, name, text, received FROM windows "
            "WHERE route = ? AND topic = ? AND batch = ? AND text IS NOT NULL ORDER BY id",
            *window,
            batch,
        )
        found = []
        for number, name, kept, received in rows:
            row = dict(zip(("route", "topic"), window, strict=True))
            text = self._text(number, {**row, "name": name, "text": kept, "received": received})
            if text is not None:
                found.append(Gathered(window, name, text, received))
        return found

    def forget(self, window: WindowName, batch: int, in_flight: Iterable[bytes] = ()) -> None:
        """Removes the texts of a window whose digest is published, and all earlier published windows.

        The deduplication keys of the window's messages stay until the next window is published, and for
        ``LOST_ACK_S`` after a message came, to recognize messages whose acknowledgement was lost. Keys of
        messages that aren't acknowledged yet, because another route still works on them, stay longer.

        :param in_flight: keys of the messages that aren't acknowledged.
        :raises JournalError: the file can't be written; call it again, or else the next start publishes the
            digest again.
        """
        where, now = "WHERE route = ? AND topic = ? AND", self._database.now
        with self._database.writing() as db:
            select = (
                f"SELECT id, key FROM windows {where} batch < ? AND text IS NULL "
                "AND CAST(at AS REAL) NOT BETWEEN ? AND ?"
            )
            if earlier := db.execute(select, (*window, batch, now - LOST_ACK_S, now)).fetchall():
                spooled = [key for (key,) in db.execute("SELECT key FROM spool WHERE key IS NOT NULL")]
                unfinished = {reader_key(key, window[0]) for key in (*in_flight, *spooled)}
                done = [(id,) for id, key in earlier if key not in unfinished]
                db.executemany("DELETE FROM windows WHERE id = ?", done)
            db.execute(f"UPDATE windows SET text = NULL, name = '' {where} batch = ?", (*window, batch))

    def forget_key(self, key: bytes) -> None:
        """Drops a deduplication key whose packet identifier was reused for another message, so that this one
        isn't taken for a redelivery. :raises JournalError: the file can't be written."""
        if self._database.read("SELECT 1 FROM windows WHERE key = ?", key):
            self._database.write("UPDATE windows SET key = NULL WHERE key = ?", key)

    def forget_route(self, route: str) -> None:
        """Removes all windows of a route. :raises JournalError: the file can't be written."""
        self._database.write("DELETE FROM windows WHERE route = ?", route)
