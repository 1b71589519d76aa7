"""The active dispatcher: receives the pool's requests in one MQTT session, and the nodes' answers in another
session.

In a single session, requests that wait for an answer could use up the Receive Maximum, so that the broker
couldn't deliver the answers. A request and the node's answer are acknowledged after the result is published.
After a crash, the broker therefore delivers both to the next dispatcher.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Any, Final

from edgeslm.config.sections import Tracing
from edgeslm.dispatcher.ack_log import Answered, PoolAcks
from edgeslm.dispatcher.backend import PoolBackend
from edgeslm.dispatcher.lease import encode_lease, parse_lease
from edgeslm.dispatcher.nodes import NodeSide
from edgeslm.dispatcher.report import describe, health
from edgeslm.dispatcher.settings import PAUSES_S, DispatcherSettings
from edgeslm.dispatcher.standby import look
from edgeslm.dispatcher.topics import PoolTopics
from edgeslm.errors import BrokerError
from edgeslm.mqtt.client import BusClient, Subscription, Will
from edgeslm.mqtt.presence import Presence
from edgeslm.mqtt.publisher import Publisher
from edgeslm.node.in_flight import Admission, InFlight
from edgeslm.node.request_handler import RequestHandler
from edgeslm.protocol.codec import encode_state
from edgeslm.protocol.delivery import Delivery, OutgoingMessage
from edgeslm.storage.database import Database
from edgeslm.storage.journal import Journal
from edgeslm.telemetry.health import Meter
from edgeslm.telemetry.tracing import Tracer

log = logging.getLogger("edgeslm.dispatcher")

TICK_S: Final = 0.1
HEALTH_EVERY_S: Final = 30.0
DRAIN_LIMIT_S: Final = 5.0
"""Seconds that a stopping dispatcher waits for answers; the next dispatcher gets the unanswered requests."""
CONNECT_S: Final = 10.0


class ActiveDispatcher:
    """One term in which this dispatcher leads the pool. A term begins when this dispatcher takes the pool's
    session and ends when the dispatcher loses the session or stops. ``boot_id`` identifies the term."""

    def __init__(
        self,
        settings: DispatcherSettings,
        client_id: str,
        boot_id: str,
        *,
        journal: Journal,
        answered: Answered,
        meter: Meter,
        database: Database,
    ) -> None:
        self.settings = settings
        self.boot_id = boot_id
        self.topics = PoolTopics(settings.pool, settings.prefix)
        self._clients = self.topics.clients
        self._journal = journal
        self.meter = meter
        self._database = database
        limits = settings.limits
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
        publisher = Publisher(self.pool, self._clients)
        self.nodes = NodeSide(settings, client_id, publisher, journal, meter, on_disconnect=self.disconnected)
        self._acks = PoolAcks(self.pool, self.nodes.bus, self.topics, answered)
        self._admission = Admission(limits, self._acks, publisher, meter)
        backend = PoolBackend(settings, self.nodes, journal, meter)
        tracer = Tracer(Tracing(), settings.name)  # only passes trace contexts on
        replies, limit = settings.replies, limits.packet_bytes
        self._handler = RequestHandler(
            backend, self._admission, publisher, journal, meter, tracer, replies, limit
        )
        self.presence = Presence(self.pool, self._clients, boot_id, self)

    async def run(self, stop: asyncio.Event) -> bool:
        """Leads the pool until ``stop`` is set (returns True) or another dispatcher has taken over (returns
        False).

        :raises BrokerError: the broker refuses the connection for good.
        """
        self.presence.state = "online"
        await self.pool.start()
        await self._wait_connected(stop)
        await self.nodes.bus.start()  # after the pool's: redelivered requests come before their answers
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
        """Frees the lease for the standby."""
        self._acks.tell()
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
            if self.pool.connected and not self._is_closed:
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
            self._acks.forget()
        if self._takes_lease:  # after a reconnect only if nobody else has it
            self._say_lease()
        self._connections += 1
        # QoS 0, since unanswered requests may use up the Receive Maximum.
        watched = (self.topics.lease, self._clients.state)
        self.pool.subscribe([Subscription(topic, qos=0, every_time=True) for topic in watched])
        self.pool.subscribe([self._clients.requests_filter, self._clients.cancel])
        self.presence.announce()

    def delivered(self, delivery: Delivery) -> None:
        if delivery.topic == self.topics.lease:
            self.pool.ack(delivery)
            self._hear_lease(delivery.payload)
        elif delivery.topic == self._clients.state:
            self.pool.ack(delivery)
            # The late will of an old connection must not replace the active dispatcher's state.
            if delivery.payload != encode_state(self.presence.state, self.boot_id) and not self._is_closed:
                self.presence.announce()
        elif self._is_closed or self._admission.renew(delivery, self._journal.epoch):
            return
        elif delivery.topic == self._clients.cancel:
            held = InFlight(delivery, self._journal.epoch)
            self._admission.admit(held, self._handler.cancel(held, self._clients.pool))
        elif self._acks.is_answered(delivery):
            self.meter.repeats["acknowledged"] += 1
            self._acks.ack(delivery)
        elif (task := self._clients.task_of(delivery.topic)) is not None:
            if not self._admission.is_flood(delivery):
                held = InFlight(delivery, self._journal.epoch, is_request=True)
                self._admission.admit(held, self._handler.handle(held, self._clients, task))
        else:
            self.pool.ack(delivery)

    def _hear_lease(self, payload: bytes) -> None:
        word = parse_lease(payload)
        if word is not None and word.holder == self.boot_id:
            self._acks.leads = True
        elif self._acks.leads and word is not None and word.holder is not None:
            self._give_way()
        elif self._acks.leads and not self._is_closed:
            self._say_lease()

    def disconnected(self) -> None:
        """Checks the lease before reconnecting, since another dispatcher may have taken over."""
        if not self._connections or self._is_closed:
            return
        for bus in (self.pool, self.nodes.bus):
            bus.may_connect.clear()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        try:
            word = await look(self.settings, self._client_id)
        except BrokerError as error:  # a lasting error also fails the session's own connection
            log.warning("the lease can't be looked at: %s", error)
            word = None
        if word is None or word.holder in (None, self.boot_id):
            self._takes_lease = word is None  # the broker has lost it
            for bus in (self.pool, self.nodes.bus):
                bus.may_connect.set()
        else:
            self._give_way()

    def _give_way(self) -> None:
        """Drops all requests, since another dispatcher has them now."""
        if not self._is_closed:
            log.warning("another dispatcher has taken over meanwhile")
            self._is_closed = True
            self._acks.leads = False
            self._admission.abandon()
            self.yielded.set()

    # Status messages

    @property
    def alerts(self) -> list[str]:
        return [
            *(told for told in (self._database.problem, self._database.damage) if told),
            *self.nodes.members.problems,
            *self.pool.shortcomings,
            *self.nodes.bus.shortcomings,
        ]

    def health(self) -> dict[str, Any]:
        figures = self.meter.figures()
        figures["dropped"]["qos0"] = self.pool.dropped
        lost, alerts = self._sessions_lost, self.alerts
        return health(self.presence.state, figures, self.nodes, session_lost=lost, alerts=alerts)

    def info(self) -> dict[str, Any]:
        return describe(self.settings, self.nodes.members, self.boot_id)
