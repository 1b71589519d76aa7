"""A message from the broker, as a value."""

from __future__ import annotations

from dataclasses import dataclass


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
