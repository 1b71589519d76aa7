"""The active dispatcher: requests of the pool from one session, answers of nodes from another.

Two sessions, since acknowledgements leave in the order of receipt: on one, answers would wait behind the
requests that they answer, and a window full of requests would let none in. A request is acknowledged after
its result was, and a node's answer with it, so that whoever takes over finds both again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

from edgeslm.dispatcher.ack_log import Answered, encode_keys, name_of
from edgeslm.dispatcher.lease import encode_lease, parse_lease
from edgeslm.dispatcher.nodes import NodeSide
from edgeslm.dispatcher.queue import Answer, ForwardedRequest
from edgeslm.dispatcher.report import describe, health
from edgeslm.dispatcher.results import as_the_pools
from edgeslm.dispatcher.settings import PAUSES_S, DispatcherSettings
from edgeslm.dispatcher.standby import look
from edgeslm.dispatcher.topics import PoolTopics
from edgeslm.errors import BrokerError, Busy, InvalidRequest, UnknownTask
from edgeslm.messages import Chunk, Request, Result, Trace
from edgeslm.mqtt.client import BusClient, Subscription, Will
from edgeslm.mqtt.presence import Presence
from edgeslm.mqtt.publisher import Publisher
from edgeslm.node.admission import Admission
from edgeslm.node.attempts import TRANSIENT
from edgeslm.node.in_flight import InFlight
from edgeslm.node.request_handler import RequestHandler
from edgeslm.protocol.codec import Rejected, encode_chunk, encode_result, encode_state, parse_cancel
from edgeslm.protocol.delivery import Delivery, OutgoingMessage
from edgeslm.serving.quotas import ClientQuotas
from edgeslm.storage.journal import Journal, delivery_key
from edgeslm.telemetry.health import Meter

log = logging.getLogger("edgeslm.dispatcher")

TICK_S: Final = 0.1
HEALTH_EVERY_S: Final = 30.0
TELL_S: Final = 0.02
"""What is answered in so long is told at once."""
DRAIN_LIMIT_S: Final = 5.0
"""How long a stop waits for answers; the next dispatcher gets the others."""
RETURN_S: Final = 1.0
"""How long a request that came before waits for an answer that may be under way already."""
CONNECT_S: Final = 10.0
OWN_KEPT: Final = frozenset({"cancelled", "poisoned"})
"""Errors of ours that a repeat is told again. With the others it is asked anew: members come and go."""


class ActiveDispatcher:
    """One term at work, from taking the pool's session to losing it or a stop. ``boot_id`` names it."""

    def __init__(
        self,
        settings: DispatcherSettings,
        client_id: str,
        boot_id: str,
        *,
        journal: Journal,
        answered: Answered,
        meter: Meter,
        problems: Callable[[], list[str]],
    ) -> None:
        self.settings = settings
        self.boot_id = boot_id
        self.topics = PoolTopics(settings.pool, settings.prefix)
        self._clients = self.topics.clients
        self._journal = journal
        self._answered = answered
        self._untold: list[bytes] = []
        self.meter = meter
        self._problems = problems
        self.nodes = NodeSide(
            settings,
            client_id,
            on_end=self._note_end,
            on_piece=self._pass_on,
            drop=meter.drop,
            on_disconnect=self.disconnected,
        )
        limits = settings.limits
        share = limits.sender_queue or max(1, limits.queue // 2)
        self._quotas = ClientQuotas(share, limits.sender_tokens_per_min, nameless_queue=limits.sender_queue)
        self._receipts: dict[InFlight, Delivery] = {}
        self._leads = False
        self._client_id = client_id
        self._takes_lease = True
        self._looking: asyncio.Task[None] | None = None
        self._connections = 0
        self._sessions_lost = 0
        self._is_closed = False
        self.yielded = asyncio.Event()
        self.pool = BusClient(
            settings.broker,
            self,
            client_id=client_id,
            queue=limits.queue,
            packet_bytes=limits.packet_bytes,
            will=Will(self._clients.state, encode_state("offline", boot_id)),
            pauses_s=PAUSES_S,
        )
        self._publisher = Publisher(self.pool, self._clients)
        self._handler = RequestHandler(
            self._answer,
            clerk=self,
            journal=journal,
            publisher=self._publisher,
            meter=meter,
            trace=lambda header: Trace(header, None) if header and len(header) == 55 else None,
        )
        self._admission = Admission(self._released, partial(self._handler.give_up, self._clients))
        self.presence = Presence(self.pool, self._clients, boot_id, self)

    async def run(self, stop: asyncio.Event) -> bool:
        """Works until told to stop, which it says by True, or until another has the session or the lease.

        :raises BrokerError: trying to connect again is no use.
        """
        self.presence.state = "online"
        await self.pool.start()
        await self._wait_connected(stop)
        await self.nodes.bus.start()  # second: what comes again finds its answers on the way
        beside = [asyncio.create_task(one) for one in (self._tick(), self._renew(), self._tell())]
        ends = [asyncio.create_task(stop.wait()), asyncio.create_task(self.yielded.wait())]
        failures: list[asyncio.Future[None]] = [self.pool.failed, self.nodes.bus.failed, *beside]
        all_: list[asyncio.Future[Any]] = [*ends, *failures]
        is_told = False
        try:
            await asyncio.wait(all_, return_when=asyncio.FIRST_COMPLETED)
            for one in failures:
                if one.done():
                    one.result()  # raises what it failed with
            is_told = stop.is_set()
            if is_told and not self.yielded.is_set():
                await self._drain()
                await self._hand_over()
        finally:
            for task in (*ends, *beside, *([self._looking] if self._looking else [])):
                task.cancel()
            self._is_closed = True
            self._admission.abandon()
            await self._admission.drain(1.0)
            await self.pool.stop()
            await self.nodes.bus.stop()
        return is_told

    async def _wait_connected(self, stop: asyncio.Event) -> None:
        give_up_at = time.monotonic() + CONNECT_S
        while not self.pool.connected and not self.pool.failed.done() and not stop.is_set():
            if time.monotonic() > give_up_at:
                return
            await asyncio.sleep(0.02)

    async def _drain(self) -> None:
        self._is_closed = True
        await self.presence.change("draining")
        if left := await self._admission.drain(DRAIN_LIMIT_S):
            log.info("%d requests are left to the next dispatcher", left)

    async def _hand_over(self) -> None:
        """Says that whoever waits may go on."""
        self._tell_answered()
        await self.presence.change("stopped")
        if self.pool.connected:
            free = encode_lease(None, self.settings.name, self.settings.lease_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self.presence.retain(self.topics.lease, free)

    # Beside the messages

    async def _tick(self) -> None:
        told = 0
        while True:
            await asyncio.sleep(TICK_S)
            self.nodes.tick()
            if self.pool.is_held_up:
                self.nodes.forwarder.refuse_stranded()
            if (version := self.nodes.members.version) != told:
                told = version
                self.presence.announce_info()
                self.presence.announce_health()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self.settings.lease_s / 3)
            if self._leads and self.pool.connected:
                self._say_lease()

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_EVERY_S)
            self._journal.retry()
            self._journal.tidy()
            self.presence.announce_health()

    def _say_lease(self) -> None:
        lease = encode_lease(self.boot_id, self.settings.name, self.settings.lease_s)
        self.pool.publish(OutgoingMessage(self.topics.lease, lease, retain=True))

    # Clients

    def connected(self) -> None:
        if not self.pool.resumed:
            if self._journal.epoch:
                self._sessions_lost += 1
                log.warning("the broker has lost the pool's session, and the requests that waited in it")
            self._journal.begin_session()
            self._answered.clear()
            self.pool.publish(OutgoingMessage(self.topics.answered, b"", 0))
        if self._takes_lease:  # later another may have it, which is looked at first
            self._say_lease()
        self._connections += 1
        watched = (self.topics.lease, self._clients.state)
        self.pool.subscribe([Subscription(topic, every_time=True) for topic in watched])
        self.pool.subscribe([self._clients.requests_filter, self._clients.cancel])
        self.presence.announce()

    def delivered(self, delivery: Delivery) -> None:
        if delivery.topic == self.topics.lease:
            self.pool.ack(delivery)
            self._hear_lease(delivery.payload)
        elif delivery.topic == self._clients.state:
            self.pool.ack(delivery)
            # A late last will, of a connection that broke long ago, must not stand for the one at work.
            if delivery.payload != encode_state(self.presence.state, self.boot_id) and not self._is_closed:
                self.presence.announce()
        elif self._is_closed:
            return
        elif delivery.topic == self._clients.cancel:
            self._admission.hold(InFlight(delivery, self._journal.epoch), [self._cancel(delivery)])
        elif self._is_answered(delivery):
            self.meter.repeats["acknowledged"] += 1
            self._acknowledge(delivery)
        elif (task := self._clients.task_of(delivery.topic)) is not None:
            if not delivery.qos and self._admission.qos0 >= 4 * self.settings.limits.qos0_queue:
                self.meter.drop("busy")
                return
            held = InFlight(delivery, self._journal.epoch, qos0=not delivery.qos, is_request=True)
            held.refusal = self._admission.why_full(held, self.settings.limits)
            self._admission.hold(held, [self._serve(held, task)])
        else:
            self.pool.ack(delivery)

    def _is_answered(self, delivery: Delivery) -> bool:
        """Whether the broker brings again what only had to be acknowledged."""
        if not delivery.dup:
            self._answered.discard(name_of(delivery))
            return False
        return name_of(delivery) in self._answered

    def _acknowledge(self, delivery: Delivery) -> None:
        """What has to wait for that is remembered, and told to the dispatcher that waits."""
        if self.pool.ack(delivery):
            return
        name = name_of(delivery)
        self._answered.add([name])
        if not self._untold:
            asyncio.get_running_loop().call_later(TELL_S, self._tell_answered)
        self._untold.append(name)

    def _tell_answered(self) -> None:
        untold, self._untold = self._untold, []
        if self._leads and untold and self.pool.connected:
            self.pool.publish(OutgoingMessage(self.topics.answered, encode_keys(untold), 0))

    def _hear_lease(self, payload: bytes) -> None:
        word = parse_lease(payload)
        if word is not None and word.holder == self.boot_id:
            self._leads = True
        elif self._leads and word is not None and word.holder is not None:
            self._give_way()
        elif self._leads and not self._is_closed:
            self._say_lease()

    def disconnected(self) -> None:
        """Before the session is taken again: another may have it."""
        if not self._connections or self._is_closed:
            return
        for bus in (self.pool, self.nodes.bus):
            bus.may_connect.clear()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        try:
            word = await look(self.settings, self._client_id)
        except BrokerError as error:  # the session's own connection will tell it too, if it lasts
            log.warning("the lease can't be looked at: %s", error)
            word = None
        if word is None or word.holder in (None, self.boot_id):
            self._takes_lease = word is None  # the broker has forgotten it
            for bus in (self.pool, self.nodes.bus):
                bus.may_connect.set()
        else:
            self._give_way()

    def _give_way(self) -> None:
        """What is in hand is in the hands of another by now."""
        if not self._is_closed:
            log.warning("another dispatcher has taken over meanwhile")
            self._is_closed = True
            self._leads = False
            self._admission.abandon()
            self.yielded.set()

    async def _serve(self, held: InFlight, task: str) -> None:
        settings = self.settings
        await self._handler.serve(
            held,
            task,
            self._clients,
            replies=settings.replies,
            packet_bytes=settings.limits.packet_bytes,
        )

    async def _answer(
        self, request: Request, held: InFlight, key: bytes | None, lost: int
    ) -> tuple[Result, bytes]:
        order = ForwardedRequest(
            request,
            held.delivery.payload,
            self._identity(request, held, key),
            asyncio.get_running_loop().create_future(),
            give_up_at=request.received_at + self.settings.limits.request_timeout_s,
            not_before=time.monotonic() + RETURN_S if held.delivery.dup else 0.0,
            ends=lost,
            key=key,
        )
        result, payload = await self._ask(order, held)
        code = result.error.code if result.error is not None else None
        if payload is None:
            is_kept = code in OWN_KEPT
            payload = encode_result(result)
        else:
            is_kept = code not in TRANSIENT
            result, payload = as_the_pools(request, result, payload, time.monotonic())
        self.meter.count(result)
        if key is not None and is_kept:
            self._journal.finish(key, order.ends, payload)
        if order.receipt is not None:
            self._receipts[held] = order.receipt
        return result, payload

    @staticmethod
    def _identity(request: Request, held: InFlight, key: bytes | None) -> bytes:
        """The same after a restart, so that a node which has answered it before sends that again."""
        if request.named and key is not None:
            return key
        # Not the number of the session: another machine counts otherwise.
        return delivery_key(0, held.delivery) if not held.qos0 else request.id.encode()

    async def _ask(self, order: ForwardedRequest, held: InFlight) -> Answer:
        request = order.request
        if held.refusal is not None:
            return order.refuse(Busy(held.refusal, retry_after_ms=1000))
        tasks = self.settings.tasks
        if tasks is not None and request.task not in tasks:
            known = ", ".join(sorted(tasks))
            return order.refuse(UnknownTask(f"This pool does no task of that name; it does {known}."))
        try:
            self._quotas.admit(request.sender or "", lambda: 1.0)
        except Busy as error:
            return order.refuse(error)
        usage: dict[str, int] = {}
        try:
            self.nodes.submit(order)
            answer = await order.answered
            usage = dict(answer[0].usage)
            return answer
        except asyncio.CancelledError:
            self.nodes.forwarder.drop(order)
            raise
        finally:
            self._quotas.settle(request.sender or "", usage)

    async def _cancel(self, delivery: Delivery) -> None:
        try:
            cancel = parse_cancel(delivery.payload, delivery.correlation)
        except InvalidRequest as error:
            log.warning("a message on %s names no request", self._clients.cancel)
            log.debug("a message on %s names no request: %s", self._clients.cancel, error)
            return
        self.nodes.forwarder.cancel(
            lambda request: (
                request.correlation == cancel.correlation if cancel.correlation else request.id == cancel.id
            )
        )

    def _released(self, held: InFlight, answered: bool) -> None:
        receipt = self._receipts.pop(held, None)
        if answered:
            self._acknowledge(held.delivery)
            if receipt is not None:
                self.nodes.bus.ack(receipt)

    def _note_end(self, order: ForwardedRequest) -> None:
        """A request that ends nodes is remembered over a restart of ours."""
        if order.key is not None:
            self._journal.finish(order.key, order.ends, None)

    def _pass_on(self, request: Request, chunk: Chunk) -> None:
        topic, payload = self._clients.stream(request.reply_to), encode_chunk(replace(chunk, id=request.id))
        self.pool.publish(OutgoingMessage(topic, payload, 0, correlation=request.correlation))

    def taken(self, request: Request) -> None:
        """Nothing is remembered of it."""

    def note(self, what: str, request: Request | Rejected, result: Result | None, size: int | None) -> None:
        log.debug("%s %s: %s", what, request.id, result.status if result is not None else "sent again")

    # What is said of it

    @property
    def alerts(self) -> list[str]:
        return [
            *self._problems(),
            *self.nodes.members.problems,
            *self.pool.shortcomings,
            *self.nodes.bus.shortcomings,
        ]

    def health(self) -> dict[str, Any]:
        figures = self.meter.figures()
        figures["dropped"]["qos0"] = self.pool.dropped
        return health(
            self.presence.state,
            figures,
            self.nodes,
            session_lost=self._sessions_lost,
            alerts=self.alerts,
        )

    def info(self) -> dict[str, Any]:
        return describe(self.settings, self.nodes.members, self.boot_id)
