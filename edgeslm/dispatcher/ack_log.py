"""The acknowledgement log: answered requests whose acknowledgement waits for an earlier request.

Acknowledgements go out in the order of receipt (MQTT-4.6.0-2), so one unanswered request on a slow node may
hold back the acknowledgements of many answered requests. If the dispatcher ends while acknowledgements wait,
the broker delivers the answered requests again to the next dispatcher. Without this log, clients would then
get each result twice. The log is a memory-mapped file, which survives a kill, and is published to the
standby. After a power cut, results may be sent twice, but no request is lost.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edgeslm.dispatcher.topics import PoolTopics
from edgeslm.mqtt.client import BusClient
from edgeslm.node.in_flight import InFlight
from edgeslm.protocol.delivery import Delivery, OutgoingMessage
from edgeslm.storage.journal import delivery_key, reader_key
from edgeslm.storage.running_marks import KEY_BYTES

log = logging.getLogger("edgeslm.dispatcher")

TELL_S: Final = 0.02
"""Seconds for which answered requests are collected into one message to the standby."""


def name_of(delivery: Delivery) -> bytes:
    """A key that identifies a message in the pool's session and is the same on every machine. The key
    includes the Correlation Data, since packet identifiers and texts may repeat."""
    return reader_key(delivery_key(0, delivery), (delivery.correlation or b"").hex())


class Answered:
    """Keys of the last ``most`` answered requests, stored in ``file``, or only in memory if the file can't be
    created."""

    def __init__(self, file: Path, most: int) -> None:
        self._most = most
        self._slots: dict[bytes, int] = {}
        self._next = 0
        self._pages: mmap.mmap | None = None
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # Reserve disk space: writing to a page without any would kill the process (SIGBUS).
                os.posix_fallocate(descriptor, 0, KEY_BYTES * most)
                self._pages = mmap.mmap(descriptor, KEY_BYTES * most)
            finally:
                os.close(descriptor)
        except OSError as error:
            log.warning("%s can't be used (%s): a kill may cost second results", file, error.strerror)
            return
        for slot in range(most):
            key = self._pages[slot * KEY_BYTES : (slot + 1) * KEY_BYTES]
            if key != bytes(KEY_BYTES):
                self._slots[key] = slot

    def close(self) -> None:
        if self._pages is not None:
            self._pages.close()
            self._pages = None

    def __contains__(self, key: bytes) -> bool:
        return key in self._slots

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._slots)

    def add(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            if key in self._slots:
                continue
            slot, self._next = self._next, (self._next + 1) % self._most
            if self._pages is not None:
                self._slots.pop(self._pages[slot * KEY_BYTES : (slot + 1) * KEY_BYTES], None)
            elif len(self._slots) >= self._most:
                del self._slots[next(iter(self._slots))]
            self._slots[key] = slot
            self._write(slot, key)

    def discard(self, key: bytes) -> None:
        """Removes a key, since a new message has the same key."""
        slot = self._slots.pop(key, None)
        if slot is not None:
            self._write(slot, bytes(KEY_BYTES))

    def clear(self) -> None:
        """Removes all keys, for a new session, in which the broker doesn't deliver the answered requests
        again."""
        for key in list(self._slots):
            self.discard(key)

    def _write(self, slot: int, key: bytes) -> None:
        if self._pages is not None:
            self._pages[slot * KEY_BYTES : (slot + 1) * KEY_BYTES] = key


@dataclass(slots=True)
class PoolAcks:
    """Acknowledges messages on the dispatcher's two MQTT sessions: clients' requests on ``pool``, nodes'
    answers on ``nodes``.

    Acknowledgements that must wait for an earlier message are recorded in the log and, while this dispatcher
    ``leads``, published to the standby.
    """

    pool: BusClient
    nodes: BusClient
    topics: PoolTopics
    answered: Answered
    leads: bool = False
    _untold: list[bytes] = field(default_factory=list, init=False)

    def acknowledge(self, held: InFlight) -> None:
        self.ack(held.delivery)
        if held.receipt is not None:
            self.nodes.ack(held.receipt)

    def ack(self, delivery: Delivery) -> None:
        if self.pool.ack(delivery):
            return
        name = name_of(delivery)
        self.answered.add([name])
        if not self._untold:
            asyncio.get_running_loop().call_later(TELL_S, self.tell)
        self._untold.append(name)

    def is_answered(self, delivery: Delivery) -> bool:
        """Whether ``delivery`` is a redelivered request that was answered before."""
        if not delivery.dup:
            self.answered.discard(name_of(delivery))
            return False
        return name_of(delivery) in self.answered

    def forget(self) -> None:
        """Clears the log, here and at the standby, since the broker has lost the session."""
        self.answered.clear()
        self.pool.publish(OutgoingMessage(self.topics.answered, b"", 0))

    def tell(self) -> None:
        untold, self._untold = self._untold, []
        if self.leads and untold and self.pool.connected:
            self.pool.publish(OutgoingMessage(self.topics.answered, encode_keys(untold), 0))


def encode_keys(keys: Iterable[bytes]) -> bytes:
    return b"".join(keys)


def parse_keys(payload: bytes) -> list[bytes]:
    """The keys in a message that :func:`encode_keys` made; empty for an invalid message."""
    if len(payload) % KEY_BYTES:
        return []
    keys = (payload[at : at + KEY_BYTES] for at in range(0, len(payload), KEY_BYTES))
    return [key for key in keys if key != bytes(KEY_BYTES)]
