"""MQTT messages and subscriptions as values: deliveries from the broker, outgoing messages to it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

PACKET_OVERHEAD_BYTES: Final = 32
"""Upper bound of the size of a PUBLISH packet, without its strings and payload."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message from the broker.

    ``size`` is the payload's size in bytes, even if ``payload`` was dropped because it is over the limit.
    ``expiry_s`` is the remaining Message Expiry Interval; ``received_at`` is a time of the monotonic clock in
    seconds. ``generation`` is the number of the connection, and ``mid`` the id of the message in this
    connection. ``identifiers`` are the Subscription Identifiers of this copy of the message, if the broker
    supports them. ``traceparent`` is the value of the User Property ``traceparent``, which isn't validated.
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
        """Creates a delivery with the current time as the time of receipt, without a topic or a
        connection."""
        now = time.monotonic()
        return cls("", payload, 0, False, False, None, correlation, None, 0, 0, len(payload), now)


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message to publish; ``repr`` hides its payload. ``expiry_s`` is the Message Expiry Interval. MQTT
    3.1.1 can't transmit ``response_topic``, ``correlation``, ``expiry_s`` and ``traceparent``."""

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
        """Upper bound of the PUBLISH packet's size."""
        size = PACKET_OVERHEAD_BYTES + len(self.topic.encode()) + len(self.payload)
        size += len((self.response_topic or "").encode()) + len(self.correlation or b"")
        return size + len(self.traceparent or "")


@dataclass(frozen=True, slots=True)
class Subscription:
    """A topic filter to subscribe to.

    With ``retained``, the broker sends retained messages when the subscription is new; with ``every_time``,
    also after each reconnect. By default, the broker sends no retained messages, since a retained request
    would run again after every reconnect. ``identifier`` is the Subscription Identifier (1 to 268,435,455),
    which the broker adds to each message of this subscription. The identifier tells copies apart: a message
    that matches several filters may arrive once for each filter (MQTT 5 section 3.3.4). If the broker refuses
    an ``optional`` subscription, nothing is logged.
    """

    filter: str
    qos: int = 1
    retained: bool = False
    identifier: int | None = None
    every_time: bool = False
    optional: bool = False
