"""Outbox: a queue of messages on their way to the broker and those in flight, with a bound on both.

Pure: no connection, no thread. A message leaves the outbox when the broker has acknowledged it, for better or
worse.
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
    """So much waits for the broker that there is no room for a message; there may be later."""


class NeverFits(BrokerError):
    """A message is larger than all that may wait for the broker: there will never be room for it."""


@dataclass(slots=True, eq=False)
class Parcel:
    """A message on its way. ``done`` are the futures of those who wait; ``expires_at`` is monotonic seconds.

    ``namesakes`` counts QoS 0 messages that got the same packet identifier while this one was in flight;
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
        """What is left of the message's life, in whole seconds; 0 when it is over."""
        return None if self.expires_at is None else max(0, math.ceil(self.expires_at - now))

    def settle(self, error: BrokerError | None = None) -> None:
        """Tells those who wait."""
        if error:
            log.debug("not published: %s", error)
        for future in self.done:
            if not future.done():
                if error:
                    future.set_exception(error)
                    future.exception()  # marks it as seen, for those who don't wait
                else:
                    future.set_result(None)


class Outbox:
    """Messages of QoS 1 and 2, first in, first out. ``limit_bytes`` bounds queue and flight together."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._queue: deque[Parcel] = deque()
        self.flow: FlowControl[Parcel] = FlowControl()
        self._retained: dict[str, Parcel] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._queue) + len(self.flow)

    def add(self, parcel: Parcel) -> None:
        """Queues a message; OutboxFull if there is no room, NeverFits if there never is.

        A retained message takes the place of one that still waits for the same topic: hours without a
        broker leave one ``health`` to send, not hundreds.
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
        """The next message to send; ``flow.sent``, ``put_back`` or ``drop`` then says what became of it."""
        if not self._queue:
            return None
        parcel = self._queue.popleft()
        if self._retained.get(parcel.message.topic) is parcel:
            del self._retained[parcel.message.topic]
        return parcel

    def put_back(self, parcel: Parcel) -> None:
        """To the head of the queue. It can't be replaced any more: a newer one comes after it."""
        self._queue.appendleft(parcel)

    def drop(self, parcel: Parcel, error: BrokerError | None = None) -> None:
        """Gives up a message that was taken."""
        self.bytes -= parcel.size
        parcel.settle(error)

    def landed(self, mid: int, error: BrokerError | None = None) -> None:
        """The broker acknowledged a message, or refused it with ``error``."""
        self.drop(self.flow.acknowledged(mid), error)

    def land_all(self, guilty: Sequence[Parcel] = (), error: BrokerError | None = None) -> None:
        """The connection is gone: what was in flight goes back to the head of the queue, in its order.

        :param guilty: what the broker hung up for is given up with ``error``.
        """
        landed = self.flow.clear()
        self._queue.extendleft(parcel for parcel in reversed(landed) if parcel not in guilty)
        for parcel in guilty:
            self.drop(parcel, error)

    def clear(self) -> Iterator[Parcel]:
        """Empties the outbox and hands out what was in it."""
        self.land_all()
        while (parcel := self.take()) is not None:
            self.bytes -= parcel.size
            yield parcel
