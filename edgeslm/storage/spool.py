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
from edgeslm.storage.erasure_filter import id_of
from edgeslm.storage.schema import COLUMNS, place_of

log = logging.getLogger("edgeslm.storage")

_COLUMNS = ", ".join(COLUMNS["spool"])


@dataclass(frozen=True, slots=True)
class Spooled:
    """A stored message. ``id``: the message's number, which increases with each stored message and is the
    argument of :meth:`Spool.remove`."""

    id: int
    key: bytes | None
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Damaged:
    """A message that isn't as it was stored, to be reported dead. What is told of it may be wrong too:
    ``name`` is its ``id`` or, in hexadecimal digits, its Correlation Data; empty if unknown."""

    id: int
    name: str
    topic: str
    reply_to: str


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
        row = {
            "key": key,
            "at": self._database.now,
            "topic": delivery.topic,
            "payload": self._database.sealed(delivery.payload, place_of("spool", delivery.topic)),
            "retain": int(delivery.retain),
            "response_topic": delivery.response_topic,
            "correlation": delivery.correlation,
            "expiry_s": delivery.expiry_s,
            "size": delivery.size,
            "identifiers": json.dumps(delivery.identifiers),
        }
        return self._database.insert("spool", row)

    def has(self, key: bytes) -> bool:
        """Whether a message with this deduplication key is stored."""
        return self._database.read("SELECT 1 FROM spool WHERE key = ?", key) is not None

    def next(self, after: int) -> Spooled | Damaged | None:
        """The oldest message after number ``after``, with its expiry reduced by its time in the spool.

        Rows that the disk doesn't return are skipped, so that they don't block others.
        """
        while (found := self._database.read("SELECT min(id) FROM spool WHERE id > ?", after)) and found[0]:
            after = int(found[0])
            rows = self._database.all_rows(f"SELECT {_COLUMNS} FROM spool WHERE id = ?", after)
            if not rows:
                log.error("message %d of the spool can't be read; it is left there, unanswered", after)
                continue
            row = dict(zip(COLUMNS["spool"], rows[0], strict=True))
            if not self._database.is_sound("spool", after, row):
                return self._damaged(after, row)
            try:
                return Spooled(after, row["key"], self._read(after, row))
            except (TypeError, ValueError):
                self._database.note_unsound("spool")
                return self._damaged(after, row)
        return None

    def _read(self, number: int, row: dict[str, Any]) -> Delivery:
        """:raises ValueError, TypeError: the row is damaged."""
        topic, expiry_s = row["topic"], row["expiry_s"]
        waited_s = max(0.0, self._database.now - row["at"])
        return Delivery(
            topic=topic,
            payload=self._database.unsealed(row["payload"], place_of("spool", topic)),
            qos=0,  # nothing is left to acknowledge
            retain=bool(row["retain"]),
            dup=True,  # it may have been started before
            response_topic=row["response_topic"],
            correlation=row["correlation"],
            expiry_s=expiry_s if expiry_s is None else max(0, int(expiry_s - waited_s)),
            generation=0,
            mid=number,
            size=row["size"],
            received_at=self._database.clock(),
            identifiers=tuple(json.loads(row["identifiers"])),
        )

    def _damaged(self, number: int, row: dict[str, Any]) -> Damaged:
        try:
            payload = self._database.unsealed(row["payload"], place_of("spool", row["topic"]))
        except (TypeError, ValueError):
            payload = b""
        correlation = row["correlation"]
        named = correlation.hex()[:32] if isinstance(correlation, bytes) else ""
        return Damaged(number, id_of(payload) or named, str(row["topic"]), str(row["response_topic"] or ""))

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
