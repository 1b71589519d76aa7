"""MQTT messages and subscriptions as values: deliveries from the broker, outgoing messages to it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

PACKET_OVERHEAD_BYTES: Final = 32
"""Allowance for a PUBLISH packet's header, lengths and properties, without strings and payload."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message from the broker.

    ``size`` is the payload's size in bytes, even if ``payload`` was dropped because it is over the limit.
    ``expiry_s`` is the remaining Message Expiry Interval; ``received_at`` is monotonic seconds.
    ``generation`` numbers the connection, ``mid`` the message in it. ``identifiers`` are the Subscription
    Identifiers of this copy; empty if there are none or the broker doesn't support them. ``traceparent`` is
    the User Property of that name, unchecked.
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
        """A delivery received now, without a topic and connection."""
        now = time.monotonic()
        return cls("", payload, 0, False, False, None, correlation, None, 0, 0, len(payload), now)


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message to publish; ``repr`` hides its payload. ``expiry_s`` is the Message Expiry Interval. MQTT
    3.1.1 can't carry ``response_topic`` and the fields after it."""

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

    ``retained`` asks for retained messages when the subscription is new; ``every_time`` also on each
    reconnect. By default neither: a message retained on a request topic would run at every reconnect.
    ``identifier`` (1 to 268,435,455) comes back with each message; a broker may send a message once per
    matching filter (MQTT 5 section 3.3.4). If the broker refuses an ``optional`` one, nothing is logged.
    """

    filter: str
    qos: int = 1
    retained: bool = False
    identifier: int | None = None
    every_time: bool = False
    optional: bool = False
