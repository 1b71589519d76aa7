"""Messages in flight, which are acknowledged to the broker when they are done.

A message is done once it is answered or reported dead. If the work on a message is cancelled, the broker
delivers the message again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgeslm.config.sections import Limits
from edgeslm.errors import InternalError
from edgeslm.messages import ErrorBody
from edgeslm.mqtt.publisher import Publisher
from edgeslm.protocol.codec import MAX_CORRELATION_BYTES, Rejected, Topics, encode_result, error_result
from edgeslm.protocol.delivery import Delivery
from edgeslm.storage.journal import delivery_key
from edgeslm.telemetry.health import Meter

log = logging.getLogger("edgeslm.node")

MOST_REFUSED = 4
"""The node drops QoS 0 messages while at least ``MOST_REFUSED * qos0_queue`` QoS 0 requests are in flight.
While at least ``qos0_queue`` are in flight, the node answers further QoS 0 requests with ``busy``."""
NO_MEMORY_S = 0.5
"""Pause before a retry after a MemoryError."""


@dataclass(slots=True, eq=False)
class InFlight:
    """A message that isn't acknowledged yet. ``epoch`` is the number of the broker session in which the
    message arrived.

    For a request, ``addressee`` contains the task, and the topics of the node or pool to which the request
    was sent. ``left`` is the number of coroutines that still work on the message. ``spooled`` is the
    message's number in the spool. ``refusal`` is the reason to answer ``busy``. ``is_request`` is false for
    cancellations and corrections. ``is_broken_off`` is true once one of the coroutines was cancelled.
    ``receipt`` is used only in a dispatcher: it is the MQTT message with a node's answer to the request, and
    is acknowledged together with the request.
    """

    delivery: Delivery
    epoch: int
    name: bytes | None = None
    addressee: tuple[Topics, str] | None = None
    left: int = 0
    is_request: bool = False
    is_broken_off: bool = False
    spooled: int | None = None
    refusal: str | None = None
    receipt: Delivery | None = None

    @property
    def qos0(self) -> bool:
        """Whether the message came at QoS 0 and isn't in the spool."""
        return not self.delivery.qos and self.spooled is None

    @property
    def size(self) -> int:
        """Approximate bytes in memory."""
        delivery = self.delivery
        reply = len((delivery.response_topic or "").encode())
        return len(delivery.payload) + len(delivery.correlation or b"") + reply

    @property
    def key(self) -> bytes | None:
        """A key that identifies the message after a redelivery; None for a QoS 0 message that isn't in the
        spool. For a request without id and Correlation Data, this is also the journal key."""
        if self.name is None and not self.qos0:
            self.name = delivery_key(self.epoch, self.delivery)
        return self.name


class Acknowledger(Protocol):
    """Acknowledges messages to the broker and the spool. Broker and spool keep a message until it is
    acknowledged."""

    def acknowledge(self, held: InFlight) -> None: ...


@dataclass(slots=True)
class Admission:
    """Tracks the messages in flight and enforces limits of their number and size. A message that fails
    because of a bug is reported with ``publisher`` and ``meter``."""

    limits: Limits
    acknowledger: Acknowledger
    publisher: Publisher
    meter: Meter
    bytes: int = 0
    qos0: int = 0
    """Number of requests in flight that came at QoS 0 and aren't in the spool."""
    _held: dict[InFlight, None] = field(default_factory=dict, init=False)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[InFlight]:
        """The oldest first."""
        return iter(self._held)

    @property
    def has_room(self) -> bool:
        return len(self._held) < self.limits.queue and self.bytes < self.limits.queue_bytes

    def is_flood(self, delivery: Delivery) -> bool:
        """Whether to drop a QoS 0 message without a ``busy`` answer, because too many QoS 0 messages are in
        flight and answers take memory too."""
        if delivery.qos or self.qos0 < MOST_REFUSED * self.limits.qos0_queue:
            return False
        self.meter.drop("busy")
        return True

    def _why_full(self, held: InFlight) -> str | None:
        """Why a message exceeds the limits, as text for an error message; None if it doesn't exceed them."""
        limits = self.limits
        if held.qos0 and self.qos0 >= limits.qos0_queue:
            return f"{self.qos0} messages of QoS 0 are waiting, which is the limit; send at QoS 1"
        if self._held and self.bytes + held.size > limits.queue_bytes:
            return f"{self.bytes} bytes are waiting and {limits.queue_bytes} are the limit"
        return None

    def renew(self, delivery: Delivery, epoch: int) -> bool:
        """Whether ``delivery`` brings a message in flight again, on a new connection.

        The message is then acknowledged on that connection. If each redelivery were held beside the first
        delivery, a broken connection would take memory for the whole Receive Maximum each time.
        """
        if not delivery.dup:
            return False
        for held in self._held:
            before = held.delivery
            if (
                (before.mid, before.topic, held.epoch) == (delivery.mid, delivery.topic, epoch)
                and before.qos
                and not held.is_broken_off  # which is never acknowledged
                and before.generation != delivery.generation
                and (before.payload, before.response_topic, before.correlation)
                == (delivery.payload, delivery.response_topic, delivery.correlation)
            ):
                held.delivery = delivery
                return True
        return False

    def admit(self, held: InFlight, *work: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
        """Adds a message and starts the coroutines ``work``, each of which uses :meth:`hold`.

        The coroutines start at once, so that no later message reaches the queue before this message.
        """
        if held.is_request and held.spooled is None:
            held.refusal = self._why_full(held)
        held.left = len(work)
        self._held[held] = None
        self.bytes += held.size
        self.qos0 += held.is_request and held.qos0
        if not work:
            self._release(held)
        return [self.start(part) for part in work]

    @asynccontextmanager
    async def hold(self, held: InFlight) -> AsyncIterator[None]:
        """Each coroutine that works on a message has to use this context manager. When the last coroutine has
        ended, the message is acknowledged, even if a coroutine failed: acknowledgements go out in order, so a
        missing acknowledgement would block all later acknowledgements. If a coroutine was cancelled, the
        message isn't acknowledged."""
        try:
            try:
                yield
            except Exception as error:  # a bug
                if held.is_request:
                    await self._give_up(held, error)
                raise
        except BaseException as error:
            held.is_broken_off = held.is_broken_off or not isinstance(error, Exception)
            raise
        finally:
            held.left -= 1
            if not held.left:
                self._release(held)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs ``work`` as a task that :meth:`drain` waits for."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def drain(self, limit_s: float) -> int:
        """Waits for running work. :return: number of tasks that still run after ``limit_s`` seconds."""
        give_up_at = time.monotonic() + limit_s
        while self._tasks and (left_s := give_up_at - time.monotonic()) > 0:
            await asyncio.wait(set(self._tasks), timeout=left_s)
        return len(self._tasks)

    def abandon(self) -> None:
        """Cancels all running work; the messages in flight stay unacknowledged."""
        for task in self._tasks:
            task.cancel()

    def _release(self, held: InFlight) -> None:
        del self._held[held]
        self.bytes -= held.size
        self.qos0 -= held.is_request and held.qos0
        if not held.is_broken_off:
            self.acknowledger.acknowledge(held)

    async def _give_up(self, held: InFlight, error: Exception) -> None:
        """Publishes a dead letter for a message before the message is acknowledged. Retries while memory is
        short."""
        while True:
            try:
                await self._report(held, error)
                return
            except MemoryError:
                await asyncio.sleep(NO_MEMORY_S)

    async def _report(self, held: InFlight, error: Exception) -> None:
        """Publishes a dead letter, and for a request also an error result."""
        delivery = held.delivery
        why = InternalError(f"the node failed on it ({type(error).__name__})")
        if held.addressee is None:
            lost = Rejected("", secrets.token_hex(8), delivery.topic, why)
            await self.publisher.report_dead(lost, ErrorBody.of(why))
            return
        topics, task = held.addressee
        correlation = delivery.correlation or b""
        if len(correlation) > MAX_CORRELATION_BYTES:
            correlation = b""
        id = correlation.hex()[:32] or secrets.token_hex(8)
        request = Rejected(task, id, topics.result(task), why, correlation or None)
        result = error_result(id, task, why)
        try:
            self.meter.count(result)
            await self.publisher.resend(request, encode_result(result))
        finally:
            await self.publisher.report_dead(request, ErrorBody.of(why))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the work on a message failed: %s", type(error).__name__)
            log.debug("the work on a message failed", exc_info=error)
