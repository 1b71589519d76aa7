"""The way of a message: from its delivery to the acknowledgement of its result, once.

::

    delivery -> Request -> known? -> scheduler, engine -> journal -> result's PUBACK -> request's PUBACK
                             | answered before: the stored result again
                             | being answered: waits for that
                             | ended the engine three times: poisoned, reported dead

A request is acknowledged last, so the broker keeps it until then. What the node holds when the connection
breaks goes to the spool, since a broker that was killed may have forgotten it. Knows no life cycle: the
daemon starts and stops it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Protocol

from edgeslm.bus.client import BusClient, Delivery, Subscription
from edgeslm.bus.journal import Journal, delivery_key, reader_key, request_key
from edgeslm.bus.protocol import (
    Rejected,
    Topics,
    encode_result,
    error_result,
    parse_cancel,
    parse_request,
)
from edgeslm.bus.spool import Spool
from edgeslm.bus.windows import Windows
from edgeslm.config import Config
from edgeslm.corrections import Corrections
from edgeslm.errors import Busy, InternalError, InvalidRequest, JournalError
from edgeslm.held import Flights, Held
from edgeslm.messages import Request, Result
from edgeslm.observe.audit import AuditLog
from edgeslm.observe.health import Meter
from edgeslm.observe.tracing import Tracer
from edgeslm.outgoing import Outgoing
from edgeslm.remembering import Remembering
from edgeslm.service import Service
from edgeslm.tries import Tries
from edgeslm.watching import Watcher

log = logging.getLogger("edgeslm.pipeline")

MOST_REFUSED = 4
"""Messages of QoS 0 beyond ``queue_unsure`` are told that it is busy; beyond so many times that, nothing."""


class Onlooker(Protocol):
    """Sees one request: that its turn has come, and what became of it; None if it was broken off."""

    def begun(self) -> None: ...
    def ended(self, result: Result | None) -> None: ...


class _Nobody:
    def begun(self) -> None: ...
    def ended(self, result: Result | None) -> None: ...


class Pipeline:
    """Serves what the bus delivers. ``meter`` counts what becomes of it."""

    def __init__(
        self,
        config: Config,
        service: Service,
        bus: BusClient,
        *,
        topics: Topics,
        journal: Journal,
        spool: Spool,
        windows: Windows,
        meter: Meter,
        tracer: Tracer,
        corrections: Corrections,
        audit: AuditLog,
        watch: Callable[[Request], Onlooker] | None = None,
    ) -> None:
        self._config = config
        self._watch = watch or (lambda request: _Nobody())
        self._service = service
        self._topics = topics
        self._meter = meter
        self._audit = audit
        self._tracer = tracer
        self._corrections = corrections
        self._journal = journal
        self._spool = spool
        self._bus = bus
        self._outgoing = Outgoing(bus, topics)
        self._watcher = Watcher(
            config,
            self._run_for_route,
            start=self._start,
            outgoing=self._outgoing,
            journal=journal,
            windows=windows,
            remembering=Remembering(lambda: service.library, meter.drop),
            meter=meter,
            tracer=tracer,
            base=topics.base,
        )
        self._held: dict[Held, None] = {}
        self._held_bytes = 0
        self._unsure = 0
        self._flights = Flights()
        self._arrivals: list[Delivery] = []
        self._last_spooled = 0
        self._from_spool: set[int] = set()
        self._is_feeding = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def subscriptions(self) -> list[str | Subscription]:
        """What to subscribe to."""
        return [
            self._topics.requests_filter,
            self._topics.cancel,
            self._topics.feedback,
            *self._watcher.subscriptions,
        ]

    def take_up(self, config: Config) -> None:
        """Other routes and reply topics, from the next message on; what is being served is not disturbed."""
        self._config = config
        self._watcher.take_up(config)

    def open(self) -> None:
        """Begins with what the disk holds from before."""
        self._watcher.open()
        self._feed()

    def close(self) -> None:
        """Takes nothing more: what comes now is not acknowledged, so it is delivered at the next start."""
        self._closed = True
        self._watcher.close()

    async def drain(self, limit_s: float) -> int:
        """Waits for what is being served; how many messages are left after ``limit_s``."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=limit_s)
        return len(self._tasks)

    def abandon(self) -> None:
        """Breaks off what is left: it is not answered, so broker and spool keep it for the next start."""
        self.close()
        for task in self._tasks:
            task.cancel()

    # In

    def deliver(self, delivery: Delivery) -> None:
        if self._closed:
            return
        if delivery.topic in (self._topics.cancel, self._topics.feedback):
            self._audit.note(delivery.topic.rpartition("/")[2], bytes=delivery.size)
        if delivery.topic == self._topics.cancel:
            self._spool_arrivals()  # what it means may be among them
            self._hold(Held(delivery, self._journal.epoch), [self._cancel(delivery)])
        elif delivery.topic == self._topics.feedback and not delivery.qos and self._corrections.is_full:
            self._meter.drop("feedback")
        elif delivery.topic == self._topics.feedback:
            take = self._corrections.take(delivery.payload, retained=delivery.retain)
            self._hold(Held(delivery, self._journal.epoch), [take])
        elif not delivery.qos and self._unsure >= MOST_REFUSED * self._config.limits.queue_unsure:
            self._meter.drop("busy")  # nothing holds a flood back, and answers have to be held too
        elif self._config.durability == "spool" and delivery.qos:
            if not self._arrivals:  # all that come in this turn of the loop are synced at once
                asyncio.get_running_loop().call_soon(self._spool_arrivals)
            self._arrivals.append(delivery)
        else:
            self._take(Held(delivery, self._journal.epoch, unsure=not delivery.qos))

    def keep(self, older_than_s: float = 0.0) -> None:
        """Writes to the spool what has been held for so long.

        A broker that is killed may come back without what it had delivered, mosquitto does; should the node
        end too before it has answered, nobody would know of it.
        """
        if self._config.journal.keep == "none":
            return
        since = time.monotonic() - older_than_s
        loose = []
        for held in self._held:  # the oldest first
            if held.delivery.received_at > since:
                break
            if held.is_request and held.spooled is None and not held.unsure:
                loose.append(held)
        if not loose:
            return
        try:
            numbers = self._spool.add([(held.delivery, held.key) for held in loose])
        except JournalError as error:  # said already where it was found
            log.debug("%d messages are kept in memory only: %s", len(loose), error)
            return
        for held, number in zip(loose, numbers, strict=True):
            held.spooled = number
            self._from_spool.add(number)

    def _spool_arrivals(self) -> None:
        arrivals, self._arrivals = self._arrivals, []
        if not arrivals:
            return
        epoch = self._journal.epoch
        try:
            self._spool.add([(one, delivery_key(epoch, one)) for one in arrivals])
        except JournalError:  # then the broker keeps them, as without a spool
            for delivery in arrivals:
                self._take(Held(delivery, epoch))
            return
        for delivery in arrivals:
            if not delivery.dup:
                self._journal.forget(delivery_key(epoch, delivery))
            self._bus.ack(delivery)
        self._feed()

    def _feed(self) -> None:
        """Takes messages from the spool, as many as may be held at a time."""
        if self._is_feeding:  # a message that nobody reads is done with before the next is taken
            return
        limits = self._config.limits
        self._is_feeding = True
        try:
            while (
                len(self._held) < limits.queue and self._held_bytes < limits.queue_bytes and not self._closed
            ):
                spooled = self._spool.next(self._last_spooled)
                if spooled is None:
                    return
                self._last_spooled = spooled.id
                if spooled.id not in self._from_spool:
                    self._from_spool.add(spooled.id)
                    name = spooled.key or reader_key(b"spool", str(spooled.id))
                    self._take(Held(spooled.delivery, self._journal.epoch, name, spooled=spooled.id))
        finally:
            self._is_feeding = False

    def _take(self, held: Held) -> None:
        delivery = held.delivery
        held.is_request = True
        if held.spooled is None:
            held.refusal = self._why_full(held)
        if (task := self._topics.task_of(delivery.topic)) is not None:
            self._hold(held, [self._serve_request(held, task)])
        else:
            # All at once, so that no later message overtakes this one on its way to the queue.
            self._hold(held, self._watcher.work_on(held))

    def _why_full(self, held: Held) -> str | None:
        limits = self._config.limits
        if held.unsure and self._unsure >= limits.queue_unsure:
            return f"{self._unsure} messages of QoS 0 are waiting, which is the limit; send at QoS 1"
        if self._held and self._held_bytes + len(held.delivery.payload) > limits.queue_bytes:
            return f"{self._held_bytes} bytes are waiting and {limits.queue_bytes} are the limit"
        return None

    def _hold(self, held: Held, work: list[Coroutine[Any, Any, None]]) -> None:
        """Acknowledges a message when all of its work has ended, even badly.

        Acknowledgements keep their order, so one that never left would hold back all that follow.
        """
        held.left = len(work)
        self._held[held] = None
        self._held_bytes += len(held.delivery.payload)
        self._unsure += held.unsure

        def ended(task: asyncio.Task[None]) -> None:
            held.left -= 1
            held.is_broken_off = held.is_broken_off or task.cancelled()
            if not held.left:
                self._release(held, answered=not held.is_broken_off)

        for each in work:
            self._start(each).add_done_callback(ended)
        if not work:
            self._release(held, answered=True)

    def _release(self, held: Held, *, answered: bool) -> None:
        del self._held[held]
        self._held_bytes -= len(held.delivery.payload)
        self._unsure -= held.unsure
        if answered:
            self._bus.ack(held.delivery)
            if held.spooled is not None:
                self._from_spool.discard(held.spooled)
                self._spool.remove(held.spooled)
                self._feed()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a message was not served to its end: %s", type(error).__name__)
            log.debug("a message was not served to its end", exc_info=error)

    # Requests

    async def _serve_request(self, held: Held, task: str) -> None:
        delivery = held.delivery
        if delivery.retain:  # MQTT 3.1.1 brings it again with each subscription
            self._meter.drop("retained")
            return
        request = parse_request(
            delivery.payload,
            task=task,
            topics=self._topics,
            allowed_replies=self._config.replies,
            packet_limit=self._config.limits.packet_bytes,
            now=delivery.received_at,
            response_topic=delivery.response_topic,
            correlation=delivery.correlation,
            expiry_s=delivery.expiry_s,
            size=delivery.size,
        )
        if (trace := self._tracer.trace(delivery.traceparent)) is not None:
            request = replace(request, trace=trace)
        if isinstance(request, Rejected):
            refused = error_result(request.id, request.task, request.error)
            self._meter.count(refused)
            self._note("request", request, refused, delivery.size)
            await self._outgoing.send(request, refused, encode_result(refused))
            return
        self._corrections.remember(request)
        key = held.key
        if request.named:
            name = request.correlation
            name = b"correlation " + name if name else b"id " + request.id.encode()
            key = request_key(request.reply_to, name, task, delivery.payload)
        if (landing := self._flights.landing(key)) is not None:
            self._meter.repeats["attached"] += 1
            await asyncio.shield(landing)
            return
        with self._flights.flight(key):
            known = self._journal.find(key) if key is not None and (request.named or delivery.dup) else None
            if known is not None and known.result is not None:
                self._meter.repeats["resent"] += 1
                self._note("repeat", request, None, delivery.size)
                await self._outgoing.resend(request, known.result)
                return
            tries = Tries(self._journal, key, known.attempts if known else 0)
            try:
                result, payload = await self._run(request, tries, held.refusal)
            except Exception as error:  # a mistake of ours; the sender must not wait for ever
                log.error("request %s failed: %s", request.id, type(error).__name__)
                log.debug("request %s", request.id, exc_info=error)
                why = InternalError(f"the node failed on it ({type(error).__name__})")
                result = error_result(request.id, request.task, why)
                payload = encode_result(result)
            self._note("request", request, result, delivery.size)
            await self._outgoing.send(request, result, payload)

    async def _run_for_route(self, request: Request, tries: Tries) -> tuple[Result, bytes]:
        result, payload = await self._run(request, tries)
        self._note("route", request, result, None)
        return result, payload

    def _note(self, what: str, request: Request | Rejected, result: Result | None, size: int | None) -> None:
        """Writes down who asked, without what was asked."""
        task = self._service.tasks.get(request.task)
        self._audit.note(
            what,
            task=request.task,
            kind=task.kind if task is not None else None,
            id=request.id,
            reply_to=request.reply_to,
            bytes=size,
            status=result.status if result is not None else None,
            code=result.error.code if result is not None and result.error is not None else None,
            ms=round(result.timings_ms.get("total", 0.0), 1) if result is not None else None,
            tokens=sum(result.usage.values()) if result is not None and result.usage else None,
        )

    async def _run(self, request: Request, tries: Tries, refusal: str | None = None) -> tuple[Result, bytes]:
        onlooker, result = self._watch(request), None

        def start() -> None:
            tries.start()
            onlooker.begun()

        try:
            if refusal is None:
                chunks = self._outgoing.chunks_of(request)
                result = await self._service.submit(request, chunks, start)
            else:
                busy = Busy(refusal, retry_after_ms=math.ceil(self._service.scheduler.wait_s * 1000))
                result = error_result(request.id, request.task, busy)
        except asyncio.CancelledError:
            tries.withdraw()
            raise
        finally:
            onlooker.ended(result)
        self._meter.count(result)
        self._tracer.record(request, result)
        payload = encode_result(result)
        tries.end(result, payload)
        return result, payload

    async def _cancel(self, delivery: Delivery) -> None:
        """A task too: the request that it means may have come just before and not have begun."""
        try:
            cancel = parse_cancel(delivery.payload, delivery.correlation)
        except InvalidRequest as error:
            log.warning("a message on %s names no request", self._topics.cancel)
            log.debug("a message on %s names no request: %s", self._topics.cancel, error)
            return
        self._service.cancel(
            lambda request: (
                request.correlation == cancel.correlation if cancel.correlation else request.id == cancel.id
            )
        )
