"""The pipeline: a message from its delivery to the acknowledgement of its result, once.

::

    delivery -> Request -> known? -> scheduler, engine -> journal -> result's PUBACK -> request's PUBACK
                             | answered before: the stored result again
                             | being answered: waits for that
                             | ended or froze the node twice: poisoned, reported dead

A request is acknowledged last, so the broker keeps it until then. What the node holds when the connection
breaks goes to the spool, since a broker that was killed may have forgotten it. Knows no life cycle: the
daemon starts and stops it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable
from typing import Protocol

from edgeslm.config.loader import Config
from edgeslm.errors import Busy, InternalError, InvalidRequest, JournalError
from edgeslm.messages import ErrorBody, Request, Result
from edgeslm.mqtt.client import BusClient, Subscription
from edgeslm.mqtt.publisher import Publisher
from edgeslm.node.admission import Admission
from edgeslm.node.attempts import AttemptLog
from edgeslm.node.feedback import Corrections
from edgeslm.node.in_flight import InFlight
from edgeslm.node.pool_membership import Membership
from edgeslm.node.request_handler import RequestHandler
from edgeslm.node.routes.ingest import Ingest
from edgeslm.node.routes.router import Router
from edgeslm.protocol.codec import Rejected, Topics, encode_result, error_result, parse_cancel
from edgeslm.protocol.delivery import Delivery
from edgeslm.serving.service import Service
from edgeslm.storage.journal import Journal, delivery_key, reader_key
from edgeslm.storage.spool import Spool
from edgeslm.storage.window_store import Windows
from edgeslm.telemetry.audit import AuditLog
from edgeslm.telemetry.health import Meter
from edgeslm.telemetry.tracing import Tracer

log = logging.getLogger("edgeslm.node")

NO_MEMORY_S = 0.5
"""After which what lacked memory is tried again."""
MOST_REFUSED = 4
"""Messages of QoS 0 beyond ``qos0_queue`` are told that it is busy; beyond so many times that, nothing."""


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
        membership: Membership,
        watch: Callable[[Request], Onlooker] | None = None,
    ) -> None:
        self._config = config
        self._watch = watch or (lambda request: _Nobody())
        self._service = service
        self._topics = topics
        self._membership = membership
        self._replies = (*config.replies, *membership.replies)
        self._meter = meter
        self._audit = audit
        self._tracer = tracer
        self._corrections = corrections
        self._journal = journal
        self._spool = spool
        self._bus = bus
        self._publisher = Publisher(bus, topics)
        self._admission = Admission(self._released, self._failed)
        self._handler = RequestHandler(
            self._answer,
            clerk=self,
            journal=journal,
            publisher=self._publisher,
            meter=meter,
            trace=tracer.trace,
        )
        self._router = Router(
            config,
            self._run_for_route,
            start=self._admission.start,
            publisher=self._publisher,
            journal=journal,
            windows=windows,
            ingest=Ingest(lambda: service.library, meter.drop),
            meter=meter,
            tracer=tracer,
            base=topics.base,
        )
        self._arrivals: list[Delivery] = []
        self._last_spooled = 0
        self._from_spool: set[int] = set()
        self._is_feeding = False
        self._closed = False
        self._is_leaving = False

    @property
    def subscriptions(self) -> list[str | Subscription]:
        """What to subscribe to."""
        return [
            self._topics.requests_filter,
            self._topics.cancel,
            self._topics.feedback,
            *self._membership.subscriptions,
            *self._router.subscriptions,
        ]

    def take_up(self, config: Config) -> None:
        """Other routes, pool, reply topics, from the next message on; what is being served stays as it is."""
        self._config = config
        self._membership.take_up(config.pool)
        self._replies = (*config.replies, *self._membership.replies)
        self._router.take_up(config)

    def open(self) -> None:
        """Begins with what the disk holds from before."""
        self._membership.open()
        self._router.open()
        self._feed()

    def close(self, *, is_leaving: bool = False) -> None:
        """Takes nothing more: what comes now is not acknowledged, so it is delivered at the next start.

        ``is_leaving``: but for requests to the pool, which would wait while others could serve them.
        """
        self._closed, self._is_leaving = True, is_leaving and bool(self._membership.subscriptions)
        self._router.close()

    async def drain(self, limit_s: float) -> int:
        """Waits for what is being served; how many messages are left after ``limit_s``."""
        return await self._admission.drain(limit_s)

    @property
    def is_busy(self) -> bool:
        """Whether a message is being served."""
        return len(self._admission) > 0

    def abandon(self) -> None:
        """Breaks off what is left: it is not answered, so broker and spool keep it for the next start."""
        self.close()
        self._admission.abandon()

    # In

    def _takes(self, topic: str) -> bool:
        return not self._closed or (self._is_leaving and self._membership.is_for_a_pool(topic))

    def deliver(self, delivery: Delivery) -> None:
        if not self._takes(delivery.topic):
            return
        cancelled = self._membership.cancelled(delivery.topic)
        if cancelled is not None or delivery.topic == self._topics.feedback:
            self._audit.note(delivery.topic.rpartition("/")[2], bytes=delivery.size)
        if cancelled is not None:
            self._spool_arrivals()  # what it means may be among them
            self._admission.hold(
                InFlight(delivery, self._journal.epoch), [self._cancel(delivery, cancelled.pool)]
            )
        elif delivery.topic == self._topics.feedback and not delivery.qos and self._corrections.is_full:
            self._meter.drop("feedback")
        elif delivery.topic == self._topics.feedback:
            take = self._corrections.take(delivery.payload, retained=delivery.retain)
            self._admission.hold(InFlight(delivery, self._journal.epoch), [take])
        elif not delivery.qos and self._admission.qos0 >= MOST_REFUSED * self._config.limits.qos0_queue:
            self._meter.drop("busy")  # nothing holds a flood back, and answers have to be held too
        elif self._config.durability == "spool" and delivery.qos:
            if not self._arrivals:  # all that come in this turn of the loop are synced at once
                asyncio.get_running_loop().call_soon(self._spool_arrivals)
            self._arrivals.append(delivery)
        else:
            self._take(InFlight(delivery, self._journal.epoch, qos0=not delivery.qos))

    def keep(self, older_than_s: float = 0.0) -> None:
        """Writes to the spool what has been held for so long.

        A broker that is killed may come back without what it had delivered, mosquitto does; should the node
        end too before it has answered, nobody would know of it.
        """
        if self._config.journal.keep == "none":
            return
        since = time.monotonic() - older_than_s
        loose = []
        for held in self._admission:  # the oldest first
            if held.delivery.received_at > since:
                break
            if held.is_request and held.spooled is None and not held.qos0:
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
                self._take(InFlight(delivery, epoch))
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
            while self._admission.has_room(limits) and (not self._closed or self._is_leaving):
                spooled = self._spool.next(self._last_spooled)
                if spooled is None:
                    return
                self._last_spooled = spooled.id
                if spooled.id not in self._from_spool and self._takes(spooled.delivery.topic):
                    self._from_spool.add(spooled.id)
                    name = spooled.key or reader_key(b"spool", str(spooled.id))
                    self._take(InFlight(spooled.delivery, self._journal.epoch, name, spooled=spooled.id))
        finally:
            self._is_feeding = False

    def _take(self, held: InFlight) -> None:
        delivery = held.delivery
        held.is_request = True
        if held.spooled is None:
            held.refusal = self._admission.why_full(held, self._config.limits)
        if (addressee := self._membership.addressee(delivery.topic)) is not None:
            self._admission.hold(held, [self._serve(held, *addressee)])
        else:
            # All at once, so that no later message overtakes this one on its way to the queue.
            self._admission.hold(held, self._router.work_on(held))

    def _released(self, held: InFlight, answered: bool) -> None:
        if answered:
            self._bus.ack(held.delivery)
            if held.spooled is not None:
                self._from_spool.discard(held.spooled)
                self._spool.remove(held.spooled)
                self._feed()

    async def _failed(self, held: InFlight, error: Exception) -> None:
        """Of a message that a mistake of ours ended: it is acknowledged, so it must not vanish.

        Too little memory for that passes, and until then the message is kept.
        """
        while True:
            try:
                await self._give_up(held, error)
                return
            except MemoryError:
                await asyncio.sleep(NO_MEMORY_S)

    async def _give_up(self, held: InFlight, error: Exception) -> None:
        topic = held.delivery.topic
        addressee = self._membership.addressee(topic)
        if addressee is not None:
            await self._handler.give_up(addressee[0], held, error)
        else:
            why = InternalError(f"the node failed on it ({type(error).__name__})")
            lost = Rejected("", secrets.token_hex(8), topic, why)
            await self._publisher.report_dead(lost, ErrorBody.of(why))

    # Requests

    async def _serve(self, held: InFlight, topics: Topics, task: str) -> None:
        limit = self._config.limits.packet_bytes
        await self._handler.serve(held, task, topics, replies=self._replies, packet_bytes=limit)

    async def _answer(
        self, request: Request, held: InFlight, key: bytes | None, lost: int
    ) -> tuple[Result, bytes]:
        return await self._run(request, AttemptLog(self._journal, key, lost), held.refusal)

    def taken(self, request: Request) -> None:
        self._corrections.remember(request)

    async def _run_for_route(self, request: Request, attempts: AttemptLog) -> tuple[Result, bytes]:
        result, payload = await self._run(request, attempts)
        self.note("route", request, result, None)
        return result, payload

    def note(self, what: str, request: Request | Rejected, result: Result | None, size: int | None) -> None:
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

    async def _run(
        self, request: Request, attempts: AttemptLog, refusal: str | None = None
    ) -> tuple[Result, bytes]:
        onlooker, result = self._watch(request), None
        attempts.on_turn = onlooker.begun
        try:
            if refusal is None:
                chunks = self._publisher.chunks_of(request)
                result = await self._service.submit(request, chunks, attempts)
            else:
                busy = Busy(refusal, retry_after_ms=math.ceil(self._service.scheduler.wait_s * 1000))
                result = error_result(request.id, request.task, busy)
        except asyncio.CancelledError:
            attempts.withdraw()
            raise
        finally:
            onlooker.ended(result)
        self._meter.count(result)
        self._tracer.record(request, result)
        payload = encode_result(result)
        attempts.end(result, payload)
        return result, payload

    async def _cancel(self, delivery: Delivery, pool: str | None) -> None:
        """A task too: the request that it means may have come just before and not have begun."""
        try:
            cancel = parse_cancel(delivery.payload, delivery.correlation)
        except InvalidRequest as error:
            log.warning("a message on %s names no request", delivery.topic)
            log.debug("a message on %s names no request: %s", delivery.topic, error)
            return

        def is_meant(request: Request) -> bool:
            if cancel.correlation:
                return request.pool == pool and request.correlation == cancel.correlation
            return request.pool == pool and request.id == cancel.id

        self._service.cancel(is_meant)
