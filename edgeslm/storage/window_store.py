"""The window store: messages that routes gather until their digest is published, on disk.

A message is acknowledged once it is here, since a broker holds few messages back and a window may take hours.
Knows neither when a window is complete nor what becomes of it.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from edgeslm.errors import JournalError
from edgeslm.storage.database import Database
from edgeslm.storage.schema import place_of

log = logging.getLogger("edgeslm.storage")

WindowName = tuple[str, str]
"""The route that gathers, and the topic to which its digest goes."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """A message of a window. ``id`` names it in the digest, ``received`` is wall-clock seconds for people."""

    window: WindowName
    id: str
    text: str
    received: float
    key: bytes | None = None
    """By which a redelivery is known, with ``is_again`` set; None: it has no second delivery."""
    is_again: bool = False

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return len(self.text.encode()) + len(self.id)


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """What there is of a window: of one that is complete, ``batch`` is its number, else 0.

    ``age_s`` is how long ago its first message came, while the node ran.
    """

    window: WindowName
    batch: int
    count: int
    size: int
    age_s: float


class Windows:
    """The windows in ``database``, which must be open. One thread at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, messages: Sequence[Gathered]) -> list[bool]:
        """Keeps messages, synced to the disk in one go. :return: which of them weren't there before.

        :raises JournalError: they can't be written, so they must not be acknowledged.
        """
        if self._database.is_resting:
            raise JournalError(self._database.problem or "The journal can't be written.")
        with self._database.synced() as db:
            return [self._add(db, message) for message in messages]

    def _add(self, db: sqlite3.Connection, message: Gathered) -> bool:
        if db.execute("SELECT 1 FROM windows WHERE key = ?", (message.key,)).fetchone():  # never for NULL
            if message.is_again:
                return False
            # The packet identifier is in use again, and it is another message.
            db.execute("UPDATE windows SET key = NULL WHERE key = ?", (message.key,))
        values = (
            *message.window,
            message.key,
            self._database.now,
            message.received,
            message.id,
            self._sealed(message),
        )
        db.execute(
            "INSERT INTO windows (route, topic, batch, key, at, received, name, text) "
            "VALUES (?, ?, 0, ?, ?, ?, ?, ?)",
            values,
        )
        return True

    def _sealed(self, message: Gathered) -> str | bytes:
        raw = message.text.encode()
        kept = self._database.sealed(raw, place_of("windows", message.window[1]))
        return message.text if kept is raw else kept

    def _unsealed(self, kept: str | bytes, topic: str) -> str | None:
        if isinstance(kept, str):
            return kept
        try:
            return self._database.unsealed(kept, place_of("windows", topic)).decode()
        except ValueError:
            log.error("a message of a window is not as it was written; the digest does without it")
            return None

    def stored(self) -> list[StoredMessage]:
        """All windows whose digest isn't published, the oldest first."""
        now = self._database.now
        return [
            StoredMessage((route, topic), batch, count, size or 0, now - at)
            for route, topic, batch, count, size, at in self._database.all_rows(
                "SELECT route, topic, batch, count(*), sum(length(text)), min(at) FROM windows "
                "WHERE text IS NOT NULL GROUP BY route, topic, batch ORDER BY min(id)"
            )
        ]

    def complete(self, window: WindowName) -> int:
        """Closes a window: what comes from now on belongs to the next. :return: its batch, 0 if it is empty.

        :raises JournalError: that can't be written.
        """
        with self._database.synced() as db:
            where = "route = ? AND topic = ? AND batch = 0"
            batch = db.execute(f"SELECT max(id) FROM windows WHERE {where}", window).fetchone()[0] or 0
            db.execute(f"UPDATE windows SET batch = ? WHERE {where}", (batch, *window))
        return int(batch)

    def read(self, window: WindowName, batch: int) -> list[Gathered]:
        """The messages of a complete window, in their order."""
        rows = self._database.all_rows(
            "SELECT name, text, received FROM windows "
            "WHERE route = ? AND topic = ? AND batch = ? AND text IS NOT NULL ORDER BY id",
            *window,
            batch,
        )
        return [
            Gathered(window, name, text, received)
            for name, kept, received in rows
            if (text := self._unsealed(kept, window[1])) is not None
        ]

    def forget(self, window: WindowName, batch: int) -> None:
        """Forgets the texts of a window whose digest is published, and all of those before it.

        Its keys stay until the next one, for messages whose acknowledgement was lost.

        :raises JournalError: that can't be written; the digest will be published again.
        """
        with self._database.writing() as db:
            where = "WHERE route = ? AND topic = ? AND"
            db.execute(f"DELETE FROM windows {where} batch < ? AND text IS NULL", (*window, batch))
            db.execute(f"UPDATE windows SET text = NULL, name = '' {where} batch = ?", (*window, batch))

    def forget_route(self, route: str) -> None:
        """:raises JournalError: that can't be written."""
        self._database.write("DELETE FROM windows WHERE route = ?", route)
