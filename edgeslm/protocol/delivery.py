"""Messages of the bus and subscriptions, as values: from the broker, and to it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

PACKET_OVERHEAD_BYTES: Final = 32
"""Header, lengths and properties of a PUBLISH beside its texts and its payload."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message from the broker.

    ``size`` is the payload's size in bytes even when ``payload`` was dropped for being over the node's limit.
    ``expiry_s`` is what is left of the Message Expiry Interval; ``received_at`` is monotonic seconds.
    ``generation`` and ``mid`` say which message of which connection this is. ``identifiers`` are those of the
    subscriptions that brought this copy; empty where none has one, or the broker knows none. ``traceparent``
    is what the sender's User Property of that name holds: any text.
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    response_topic: str | None
    correlation: bytes | None
    expiry_s: int | None
    generation: int
    mid: int
    size: int
    received_at: float
    identifiers: tuple[int, ...] = ()
    traceparent: str | None = None

    @classmethod
    def local(cls, payload: bytes, *, correlation: bytes | None = None) -> Delivery:
        """As if it had come now, on no topic and no connection."""
        now = time.monotonic()
        return cls("", payload, 0, False, False, None, correlation, None, 0, 0, len(payload), now)


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message to publish; its payload is private. ``expiry_s`` is the Message Expiry Interval. From
    ``response_topic`` on, MQTT 3.1.1 has nothing of it."""

    topic: str
    payload: bytes = field(repr=False)
    qos: int = 1
    retain: bool = False
    response_topic: str | None = None
    correlation: bytes | None = None
    expiry_s: int | None = None
    traceparent: str | None = None

    @property
    def packet_bytes(self) -> int:
        """Size of its PUBLISH packet, at most."""
        size = PACKET_OVERHEAD_BYTES + len(self.topic.encode()) + len(self.payload)
        size += len((self.response_topic or "").encode()) + len(self.correlation or b"")
        return size + len(self.traceparent or "")


@dataclass(frozen=True, slots=True)
class Subscription:
    """A topic filter. ``retained`` asks for retained messages when the subscription is new.

    Otherwise a message that somebody left retained on a request topic would run at every reconnect.
    ``identifier`` (1 to 268,435,455) comes back with each message that the filter brings; a broker may send
    a message once for each filter that it fits (MQTT 5 section 3.3.4). ``every_time`` asks for retained
    messages on each connection, also in a session that has the subscription already. One that is ``optional``
    may be refused: then there is nothing to say about it.
    """

    filter: str
    qos: int = 1
    retained: bool = False
    identifier: int | None = None
    every_time: bool = False
    optional: bool = False
