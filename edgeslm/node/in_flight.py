"""Messages in flight: delivered by the broker, held until their work has ended, and then acknowledged.

Each is answered or given up before that. What was broken off is neither: it is delivered again.
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
"""Messages of QoS 0 beyond ``qos0_queue`` are told that it is busy; beyond so many times that, nothing."""
NO_MEMORY_S = 0.5
"""After which what lacked memory is tried again."""


@dataclass(slots=True, eq=False)
class InFlight:
    """A message that isn't acknowledged. ``epoch`` is the broker's session that it came in.

    ``addressee`` is to whom a request was sent, and for which task. ``left`` counts what still works on it;
    ``spooled`` is its number in the spool. ``refusal`` says why it is one too many.
    ``is_request`` is false for what needs no answer; ``is_broken_off`` is true if some of the work was
    cancelled, which is no answer. ``receipt`` brought the answer and is acknowledged with it.
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
        """Whether it came at QoS 0; those of the spool have nothing left to acknowledge either."""
        return not self.delivery.qos and self.spooled is None

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, about."""
        delivery = self.delivery
        reply = len((delivery.response_topic or "").encode())
        return len(delivery.payload) + len(delivery.correlation or b"") + reply

    @property
    def key(self) -> bytes | None:
        """Its name in the journal if its sender gave it none; nothing is remembered of what came at QoS 0."""
        if self.name is None and not self.qos0:
            self.name = delivery_key(self.epoch, self.delivery)
        return self.name


class Acknowledger(Protocol):
    """Who keeps messages until they are answered: the broker, the spool."""

    def acknowledge(self, held: InFlight) -> None: ...


@dataclass(slots=True)
class Admission:
    """What the node holds. ``publisher`` and ``meter`` are for what a mistake of ours ended."""

    limits: Limits
    acknowledger: Acknowledger
    publisher: Publisher
    meter: Meter
    bytes: int = 0
    qos0: int = 0
    """Those that came at QoS 0."""
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
        """Whether not even a refusal is to be had: nothing holds QoS 0 back, and answers are held too."""
        if delivery.qos or self.qos0 < MOST_REFUSED * self.limits.qos0_queue:
            return False
        self.meter.drop("busy")
        return True

    def _why_full(self, held: InFlight) -> str | None:
        """Why a message is one too many, as a part of a sentence."""
        limits = self.limits
        if held.qos0 and self.qos0 >= limits.qos0_queue:
            return f"{self.qos0} messages of QoS 0 are waiting, which is the limit; send at QoS 1"
        if self._held and self.bytes + held.size > limits.queue_bytes:
            return f"{self.bytes} bytes are waiting and {limits.queue_bytes} are the limit"
        return None

    def admit(self, held: InFlight, *work: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
        """Takes a message and starts all of its work, each part of which holds it (:meth:`hold`).

        All at once, so that no later message overtakes this one on its way to the queue.
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
        """Around one part of the work on a message. After the last it is acknowledged, even if that ended
        badly: acknowledgements keep their order, so one that never left would hold back all that follow."""
        try:
            try:
                yield
            except Exception as error:  # a mistake of ours
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
        """Runs something beside the messages that are held; a drain waits for it too."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def drain(self, limit_s: float) -> int:
        """Waits for what is being worked on; how much is left after ``limit_s``."""
        give_up_at = time.monotonic() + limit_s
        while self._tasks and (left_s := give_up_at - time.monotonic()) > 0:
            await asyncio.wait(set(self._tasks), timeout=left_s)
        return len(self._tasks)

    def abandon(self) -> None:
        """Breaks off what is left: it is not answered."""
        for task in self._tasks:
            task.cancel()

    def _release(self, held: InFlight) -> None:
        del self._held[held]
        self.bytes -= held.size
        self.qos0 -= held.is_request and held.qos0
        if not held.is_broken_off:
            self.acknowledger.acknowledge(held)

    async def _give_up(self, held: InFlight, error: Exception) -> None:
        """It is acknowledged, so it must not vanish. Too little memory for that passes, and until then it is
        kept."""
        while True:
            try:
                await self._report(held, error)
                return
            except MemoryError:
                await asyncio.sleep(NO_MEMORY_S)

    async def _report(self, held: InFlight, error: Exception) -> None:
        """A request is answered and reported dead, whatever was known of it by then; others only the
        latter."""
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
            log.error("a message was not served to its end: %s", type(error).__name__)
            log.debug("a message was not served to its end", exc_info=error)
