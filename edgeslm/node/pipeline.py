"""The pipeline: passes each incoming message to the request handler, the router or the store of corrections.

A message is acknowledged when the work on it has ended or, with ``durability: spool``, when it is in the
spool; the broker keeps it until then. Requests that are unanswered after a second, or when the connection
breaks, are copied to the spool, since a broker that is killed may lose them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from edgeslm.config.loader import Config
from edgeslm.errors import InternalError, JournalError
from edgeslm.messages import ErrorBody
from edgeslm.mqtt.client import BusClient, Subscription
from edgeslm.mqtt.publisher import Publisher
from edgeslm.node.backend import NodeBackend, Observers
from edgeslm.node.direct_requests import DirectRequests
from edgeslm.node.feedback import Corrections
from edgeslm.node.in_flight import Admission, InFlight
from edgeslm.node.pool_membership import Membership
from edgeslm.node.request_handler import RequestHandler
from edgeslm.node.routes.router import Router
from edgeslm.protocol.codec import Rejected, Topics
from edgeslm.protocol.delivery import Delivery
from edgeslm.serving.service import Service
from edgeslm.storage.database import Database
from edgeslm.storage.feedback_store import FeedbackStore
from edgeslm.storage.journal import Journal, delivery_key, reader_key
from edgeslm.storage.spool import Damaged, Spool
from edgeslm.storage.window_store import Windows

log = logging.getLogger("edgeslm.node")


@dataclass(slots=True)
class BrokerAndSpool:
    """Acknowledges a message to the broker and deletes its copy from the spool."""

    bus: BusClient
    spool: Spool

    def acknowledge(self, held: InFlight) -> None:
        self.bus.ack(held.delivery)
        if held.spooled is not None:
            self.spool.remove(held.spooled)


class Pipeline:
    """Dispatches messages by topic; started and stopped by the daemon."""

    def __init__(
        self,
        config: Config,
        service: Service,
        bus: BusClient,
        database: Database,
        journal: Journal,
        membership: Membership,
        observers: Observers,
    ) -> None:
        self._config = config
        self._bus = bus
        self._journal = journal
        self._membership = membership
        self._meter = meter = observers.meter
        self._audit = observers.audit
        self._topics = Topics(config.node, config.prefix)
        self._spool = Spool(database, limit_bytes=config.limits.journal_bytes)
        self._publisher = publisher = Publisher(bus, self._topics)
        self._admission = Admission(config.limits, BrokerAndSpool(bus, self._spool), publisher, meter)
        self._corrections = Corrections(FeedbackStore(config.state_dir), service, meter, observers.feed)
        backend = NodeBackend(service, publisher, observers, self._corrections)
        self.direct = DirectRequests(backend, journal)
        """Answers requests of the HTTP API."""
        replies, limit = (*config.replies, *membership.replies), config.limits.packet_bytes
        self._handler = RequestHandler(
            backend, self._admission, publisher, journal, meter, observers.tracer, replies, limit
        )
        self._router = Router(config, backend, self._admission, journal, Windows(database))
        self._arrivals: list[Delivery] = []
        self._last_spooled = 0
        self._is_behind = False
        """Whether the spool may have messages that wait for room."""
        self._closed = False
        self._is_leaving = False

    @property
    def subscriptions(self) -> list[str | Subscription]:
        """Subscriptions to requests, cancellations and feedback, to the pool's topics, and to the topics that
        routes watch."""
        return [
            self._topics.requests_filter,
            self._topics.cancel,
            *self._feedback_topics,
            *self._membership.subscriptions,
            *self._router.subscriptions,
        ]

    @property
    def _feedback_topics(self) -> list[str]:
        senders = self._config.feedback.senders
        return [self._topics.feedback] if senders is None else [*map(self._topics.feedback_by, senders)]

    def alerts(self) -> Iterator[str]:
        """Sentences about messages that routes couldn't use."""
        return self._router.unusable.alerts()

    def routes(self) -> list[dict[str, Any]]:
        """The routes with the messages since the node's start, for people."""
        return self._router.describe()

    def take_up(self, config: Config) -> None:
        """Switches routes, pool and reply topics for later messages; messages in flight are unaffected."""
        self._config = config
        self._membership.take_up(config.pool)
        self._handler.replies = (*config.replies, *self._membership.replies)
        self._router.take_up(config)

    def open(self) -> None:
        """Resumes work on the messages that an earlier run of the node left in the spool and in the routes'
        windows."""
        self._membership.open()
        self._router.open()
        self._feed()

    def close(self, *, is_leaving: bool = False) -> None:
        """Ignores later messages, which stay unacknowledged, so that the broker delivers them again at the
        next start.

        With ``is_leaving``, the node still serves the pool's requests that reach it, since the broker doesn't
        send them to another member.
        """
        self._closed, self._is_leaving = True, is_leaving and bool(self._membership.subscriptions)
        self._router.close()

    async def drain(self, limit_s: float) -> int:
        """Waits for running work. :return: number of tasks that still run after ``limit_s``."""
        return await self._admission.drain(limit_s)

    @property
    def is_busy(self) -> bool:
        """Whether messages are in flight."""
        return len(self._admission) > 0

    def abandon(self) -> None:
        """Cancels all running work; broker and spool keep the messages for the next start."""
        self.close()
        self._admission.abandon()
        self.direct.abandon()

    # In

    def _takes(self, topic: str) -> bool:
        return not self._closed or (self._is_leaving and self._membership.is_for_a_pool(topic))

    def deliver(self, delivery: Delivery) -> None:
        if not self._takes(delivery.topic) or self._admission.renew(delivery, self._journal.epoch):
            return
        held = InFlight(delivery, self._journal.epoch)
        cancelled = self._membership.cancelled(delivery.topic)
        sender = self._topics.feedback_sender(delivery.topic)
        if cancelled is not None:
            self._audit.note("cancel", bytes=delivery.size)
        elif sender is not None:
            self._audit.note("feedback", bytes=delivery.size, **({"by": sender} if sender else {}))
        if cancelled is not None:
            self._spool_arrivals()  # the request to cancel may be among them
            self._admit(held, self._handler.cancel(held, cancelled.pool))
        elif sender is not None and delivery.topic not in self._feedback_topics:
            self._meter.drop("feedback")  # sent before a reload that removed the sender
            self._admission.admit(held)
        elif sender is not None and not delivery.qos and self._corrections.is_full:
            self._meter.drop("feedback")
        elif sender is not None:
            self._admit(held, self._correct(held, sender))
        elif self._admission.is_flood(delivery):
            return
        elif self._config.durability == "spool" and delivery.qos:
            if not self._arrivals:  # one sync for all arrivals of this loop iteration
                asyncio.get_running_loop().call_soon(self._spool_arrivals)
            self._arrivals.append(delivery)
        else:
            self._take(held)

    def keep(self, older_than_s: float = 0.0) -> None:
        """Copies unanswered requests older than ``older_than_s`` to the spool.

        A broker such as mosquitto, if it is killed, may lose messages that it has delivered, even if they
        aren't acknowledged yet. If the node crashes as well, requests without a copy in the spool are lost.
        """
        self._spool.retry()
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
        except JournalError as error:  # logged by the journal already
            log.debug("%d messages are kept in memory only: %s", len(loose), error)
            return
        for held, number in zip(loose, numbers, strict=True):
            held.spooled = number

    def _spool_arrivals(self) -> None:
        arrivals, self._arrivals = self._arrivals, []
        if not arrivals:
            return
        epoch = self._journal.epoch
        try:
            for delivery in arrivals:
                # An equal message in a window may have this key: from the spool, this one would count as its
                # redelivery. If that one is in the spool too, this one gets no key there.
                key = delivery_key(epoch, delivery)
                if not delivery.dup and not self._spool.has(key):
                    self._router.forget_key(key)
            self._spool.add([(one, delivery_key(epoch, one)) for one in arrivals])
        except JournalError:  # unacknowledged, they stay at the broker
            for delivery in arrivals:
                self._take(InFlight(delivery, epoch))
            return
        for delivery in arrivals:
            if not delivery.dup:
                self._journal.forget(delivery_key(epoch, delivery))
            self._bus.ack(delivery)
        self._feed()

    def _feed(self) -> None:
        """Takes messages from the spool until a limit of the messages in flight is reached."""
        in_flight = {held.spooled for held in self._admission}
        self._is_behind = True
        while self._admission.has_room and (not self._closed or self._is_leaving):
            spooled = self._spool.next(self._last_spooled)
            if spooled is None:
                self._is_behind = False
                return
            self._last_spooled = spooled.id
            if isinstance(spooled, Damaged):
                if spooled.id not in in_flight:
                    self._admission.start(self._give_up(spooled))
            elif spooled.id not in in_flight and self._takes(spooled.delivery.topic):
                name = spooled.key or reader_key(b"spool", str(spooled.id))
                self._take(InFlight(spooled.delivery, self._journal.epoch, name, spooled=spooled.id))

    async def _give_up(self, damaged: Damaged) -> None:
        """Reports a stored message dead that the disk has changed, and removes it. Its sender gets no error
        result, since its address may be changed too."""
        self._meter.drop("damaged")
        why = InternalError("the disk changed the message while it waited in the node; send it again")
        addressee = self._membership.addressee(damaged.topic)
        task = addressee[1] if addressee is not None else ""
        lost = Rejected(task, damaged.name, damaged.reply_to or damaged.topic, why)
        await self._publisher.report_dead(lost, ErrorBody.of(why))
        self._spool.remove(damaged.id)

    def _take(self, held: InFlight) -> None:
        held.is_request = True
        addressee = self._membership.addressee(held.delivery.topic)
        work = self._router.work_on(held) if addressee is None else [self._handler.handle(held, *addressee)]
        self._admit(held, *work)

    def _admit(self, held: InFlight, *work: Coroutine[Any, Any, None]) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            # Any message may have taken the room that the spool needs.
            if self._is_behind and not held.left:
                self._feed()

        for task in self._admission.admit(held, *work):
            task.add_done_callback(ended)

    async def _correct(self, held: InFlight, sender: str) -> None:
        async with self._admission.hold(held):
            delivery = held.delivery
            retained, again = delivery.retain, delivery.dup
            await self._corrections.take(delivery.payload, retained=retained, again=again, by=sender)
