"""The acknowledgement log: answered messages that wait since an earlier one is still open.

Acknowledgements leave in the order of receipt (MQTT-4.6.0-2), so behind one request on a slow node a whole
window of answered ones may wait. Should the dispatcher end now, the broker brings them again to whoever is
next, and without this list their senders would get each result twice. It is kept in a file in shared memory,
which outlives a kill, and told to the dispatcher that waits. A power cut costs second results, never a
request.
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
"""What is answered in so long is told at once."""


def name_of(delivery: Delivery) -> bytes:
    """Names a message in the pool's session, the same on every machine that has the session. With the
    Correlation Data: packet identifiers come again, and so do texts."""
    return reader_key(delivery_key(0, delivery), (delivery.correlation or b"").hex())


class Answered:
    """The last ``most`` of them. ``file`` is made if need be; without it they are in memory alone."""

    def __init__(self, file: Path, most: int) -> None:
        self._most = most
        self._slots: dict[bytes, int] = {}
        self._next = 0
        self._pages: mmap.mmap | None = None
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # Room on the disk too: to write to a page that has none would end the process.
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
        """The name is another message's from now on."""
        slot = self._slots.pop(key, None)
        if slot is not None:
            self._write(slot, bytes(KEY_BYTES))

    def clear(self) -> None:
        """The broker has a new session, with other messages."""
        for key in list(self._slots):
            self.discard(key)

    def _write(self, slot: int, key: bytes) -> None:
        if self._pages is not None:
            self._pages[slot * KEY_BYTES : (slot + 1) * KEY_BYTES] = key


@dataclass(slots=True)
class PoolAcks:
    """Acknowledges requests of the pool's session, and what brought their answers in that of the nodes.

    What has to wait for earlier ones is remembered, and told to the dispatcher that waits if this one
    ``leads``.
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
        """Whether the broker brings again what only had to be acknowledged."""
        if not delivery.dup:
            self.answered.discard(name_of(delivery))
            return False
        return name_of(delivery) in self.answered

    def forget(self) -> None:
        """The broker has a new session."""
        self.answered.clear()
        self.pool.publish(OutgoingMessage(self.topics.answered, b"", 0))

    def tell(self) -> None:
        untold, self._untold = self._untold, []
        if self.leads and untold and self.pool.connected:
            self.pool.publish(OutgoingMessage(self.topics.answered, encode_keys(untold), 0))


def encode_keys(keys: Iterable[bytes]) -> bytes:
    return b"".join(keys)


def parse_keys(payload: bytes) -> list[bytes]:
    """Nothing for what is no list of keys."""
    if len(payload) % KEY_BYTES:
        return []
    keys = (payload[at : at + KEY_BYTES] for at in range(0, len(payload), KEY_BYTES))
    return [key for key in keys if key != bytes(KEY_BYTES)]
