"""Spool: messages stored on disk until they are answered, in case the broker loses them.

With ``durability: spool``, every message is stored before it is acknowledged. Otherwise messages are stored
only when the connection breaks while the node holds them, since a killed broker may come back without them.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from edgeslm.errors import JournalError
from edgeslm.protocol.delivery import Delivery
from edgeslm.storage.database import Database
from edgeslm.storage.schema import place_of

log = logging.getLogger("edgeslm.storage")

_COLUMNS = "key, at, topic, payload, retain, response_topic, correlation, expiry_s, size, identifiers"


@dataclass(frozen=True, slots=True)
class Spooled:
    """A stored message. ``id``: the message's number, which increases with each stored message and is the
    argument of :meth:`Spool.remove`."""

    id: int
    key: bytes | None
    delivery: Delivery


class Spool:
    """FIFO queue of messages. ``limit_bytes`` is the maximum size of the whole database file."""

    def __init__(self, database: Database, *, limit_bytes: int) -> None:
        self._database = database
        self._limit_bytes = limit_bytes
        self._unremoved: set[int] = set()
        """Numbers of answered messages that couldn't be removed yet."""

    def __len__(self) -> int:
        row = self._database.read("SELECT count(*) FROM spool")
        return int(row[0]) if row else 0

    def add(self, deliveries: Sequence[tuple[Delivery, bytes | None]]) -> list[int]:
        """Stores messages, each with its deduplication key or None, in one synced transaction.

        :return: the messages' numbers; a redelivery isn't stored again and gets the first delivery's number.
        :raises JournalError: the messages can't be written, so they must not be acknowledged.
        """
        if self._database.is_resting:
            raise JournalError(self._database.problem or "The journal can't be written.")
        with self._database.synced() as db:
            if self._database.used_bytes > self._limit_bytes:
                raise JournalError(f"The spool has {self._limit_bytes} bytes, which is the limit.")
            return [self._add(db, delivery, key) for delivery, key in deliveries]

    def _add(self, db: sqlite3.Connection, delivery: Delivery, key: bytes | None) -> int:
        there = db.execute("SELECT id FROM spool WHERE key = ?", (key,)).fetchone()  # never for NULL
        if there is not None:
            if delivery.dup:
                return int(there[0])
            key = None  # another message that reuses the packet identifier
        values = (
            key,
            self._database.now,
            delivery.topic,
            self._database.sealed(delivery.payload, place_of("spool", delivery.topic)),
            delivery.retain,
            delivery.response_topic,
            delivery.correlation,
            delivery.expiry_s,
            delivery.size,
            json.dumps(delivery.identifiers),
        )
        marks = ", ".join("?" * len(values))
        row = db.execute(f"INSERT INTO spool ({_COLUMNS}) VALUES ({marks})", values)
        return int(row.lastrowid or 0)

    def next(self, after: int) -> Spooled | None:
        """The oldest message after number ``after``, with its expiry reduced by its time in the spool.

        Messages that can't be read, such as after a bit flip, are skipped, so that they don't block others.
        """
        while (found := self._database.read("SELECT min(id) FROM spool WHERE id > ?", after)) and found[0]:
            after = int(found[0])
            row = self._database.read(f"SELECT id, {_COLUMNS} FROM spool WHERE id = ?", after)
            try:
                return self._read(row)
            except (TypeError, ValueError):
                log.error("message %d of the spool can't be read; it is left there, unanswered", after)
        return None

    def _read(self, row: Any) -> Spooled:
        """:raises ValueError, TypeError: the row is damaged."""
        number, key, at, topic, payload, retain, response_topic, correlation, expiry_s, size, identifiers = (
            row
        )
        waited_s = self._database.now - at
        delivery = Delivery(
            topic=topic,
            payload=self._database.unsealed(payload, place_of("spool", topic)),
            qos=0,  # nothing is left to acknowledge
            retain=bool(retain),
            dup=True,  # it may have been started before
            response_topic=response_topic,
            correlation=correlation,
            expiry_s=expiry_s if expiry_s is None else max(0, int(expiry_s - waited_s)),
            generation=0,
            mid=number,
            size=size,
            received_at=self._database.clock(),
            identifiers=tuple(json.loads(identifiers)),
        )
        return Spooled(number, key, delivery)

    def remove(self, number: int) -> None:
        """Removes an answered message. If the disk fails, the message stays until :meth:`retry` succeeds; if
        the node ends before, the message is answered again."""
        self._unremoved.add(number)
        self.retry()

    def retry(self) -> None:
        """Removes the answered messages that couldn't be removed before."""
        with suppress(JournalError):
            while self._unremoved and not self._database.is_resting:
                number = next(iter(self._unremoved))
                self._database.write("DELETE FROM spool WHERE id = ?", number)
                self._unremoved.discard(number)
