"""Outbox: messages queued for the broker and in flight, with one limit for both.

A message leaves the outbox when the broker has acknowledged or refused it. Pure, without threads.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from edgeslm.errors import BrokerError
from edgeslm.mqtt.flow_control import FlowControl
from edgeslm.protocol.delivery import OutgoingMessage

log = logging.getLogger("edgeslm.mqtt")


class OutboxFull(BrokerError):
    """The outbox is full; a retry may succeed."""


class NeverFits(BrokerError):
    """The message is larger than the outbox's limit; a retry can't succeed."""


@dataclass(slots=True, eq=False)
class Parcel:
    """A message in the outbox. ``done`` are the callers' futures; ``expires_at`` is in seconds of
    ``time.monotonic()``.

    ``namesakes`` counts QoS 0 messages that got the same packet identifier while this message was in flight;
    ``size`` is in bytes.
    """

    message: OutgoingMessage
    expires_at: float | None = None
    done: list[asyncio.Future[None]] = field(default_factory=list)
    namesakes: int = 0
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = self.message.packet_bytes

    def expiry_s(self, now: float) -> int | None:
        """Seconds until the message expires, rounded up; 0 if it has expired, None if it never expires."""
        return None if self.expires_at is None else max(0, math.ceil(self.expires_at - now))

    def settle(self, error: BrokerError | None = None) -> None:
        """Resolves the futures, with ``error`` if it isn't None."""
        if error:
            log.debug("not published: %s", error)
        for future in self.done:
            if not future.done():
                if error:
                    future.set_exception(error)
                    future.exception()  # no warning of asyncio if nobody awaits it
                else:
                    future.set_result(None)


class Outbox:
    """FIFO queue of QoS 1 and 2 messages. ``limit_bytes`` limits queued and in-flight messages together."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._queue: deque[Parcel] = deque()
        self.flow: FlowControl[Parcel] = FlowControl()
        self._retained: dict[str, Parcel] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._queue) + len(self.flow)

    def add(self, parcel: Parcel) -> None:
        """Queues a message. A retained message replaces a queued retained message of the same topic, so that
        after hours offline there is one ``health`` message to send instead of hundreds.

        :raises OutboxFull: there is no room now.
        :raises NeverFits: the message alone exceeds the limit.
        """
        if parcel.size > self._limit_bytes:
            raise NeverFits(
                f"It has {parcel.size} bytes and at most {self._limit_bytes} may wait for the broker."
            )
        retain, topic = parcel.message.retain, parcel.message.topic
        older = self._retained.get(topic) if retain else None
        if self.bytes + parcel.size - (older.size if older else 0) > self._limit_bytes:
            raise OutboxFull(
                f"The broker is slow or away and {self.bytes} bytes wait for it already, which is the limit."
            )
        if older:
            self._queue.remove(older)
            self.bytes -= older.size
            parcel.done += older.done
        self._queue.append(parcel)
        self.bytes += parcel.size
        if retain:
            self._retained[topic] = parcel

    def take(self) -> Parcel | None:
        """Takes the next message from the queue; the caller must then pass the message to ``flow.sent``,
        ``put_back`` or ``drop``."""
        if not self._queue:
            return None
        parcel = self._queue.popleft()
        if self._retained.get(parcel.message.topic) is parcel:
            del self._retained[parcel.message.topic]
        return parcel

    def put_back(self, parcel: Parcel) -> None:
        """Puts a message that :meth:`take` returned back at the head of the queue. From now on, no newer
        retained message replaces this message."""
        self._queue.appendleft(parcel)

    def drop(self, parcel: Parcel, error: BrokerError | None = None) -> None:
        """Removes a message returned by :meth:`take`, and resolves its futures."""
        self.bytes -= parcel.size
        parcel.settle(error)

    def landed(self, mid: int, error: BrokerError | None = None) -> None:
        """Removes a message that the broker has acknowledged, or refused with ``error``."""
        self.drop(self.flow.acknowledged(mid), error)

    def land_all(self, guilty: Sequence[Parcel] = (), error: BrokerError | None = None) -> None:
        """Call this method after a disconnect: it puts the messages in flight back at the head of the queue,
        in order.

        :param guilty: messages that made the broker disconnect; they fail with ``error``.
        """
        landed = self.flow.clear()
        for parcel in landed:
            parcel.namesakes = 0  # of the connection that has ended
        self._queue.extendleft(parcel for parcel in reversed(landed) if parcel not in guilty)
        for parcel in guilty:
            self.drop(parcel, error)

    def clear(self) -> Iterator[Parcel]:
        """Empties the outbox and yields its messages."""
        self.land_all()
        while (parcel := self.take()) is not None:
            self.bytes -= parcel.size
            yield parcel
