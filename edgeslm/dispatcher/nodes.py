"""The dispatcher's session with the nodes: sends requests, receives answers, chunks and states."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Final

from edgeslm.dispatcher.forwarding import Forwarder
from edgeslm.dispatcher.members import Members
from edgeslm.dispatcher.queue import ForwardedRequest
from edgeslm.dispatcher.settings import PAUSES_S, DispatcherSettings, Wanted
from edgeslm.dispatcher.topics import KINDS, PoolTopics, Reply
from edgeslm.errors import InternalError, ProtocolError
from edgeslm.messages import Result
from edgeslm.mqtt.client import BusClient, OutboxFull, Subscription
from edgeslm.mqtt.publisher import Publisher
from edgeslm.protocol.codec import parse_chunk, parse_result
from edgeslm.protocol.delivery import Delivery, OutgoingMessage
from edgeslm.storage.journal import Journal
from edgeslm.telemetry.health import Meter

log = logging.getLogger("edgeslm.dispatcher")

EARLY_S: Final = 2.0
"""Seconds after the first connect during which an answer to an unknown request is kept, since the broker may
deliver the request later. The time is short, since an unacknowledged answer holds back the acknowledgements
of later answers."""
MOST_EARLY: Final = 1000
ANSWERS: Final = 1000
"""Maximum number of unacknowledged answers of nodes."""
WITHDRAW_EXPIRY_S: Final = 600
ANSWER_BYTES: Final = 4 * 1024 * 1024
"""Size limit of a node's message, in bytes."""


class NodeSide:
    """The session with the nodes. ``clients`` publishes chunks to clients; ``meter`` counts invalid
    messages."""

    def __init__(
        self,
        settings: DispatcherSettings,
        client_id: str,
        clients: Publisher,
        journal: Journal,
        meter: Meter,
        *,
        on_disconnect: Callable[[], None],
    ) -> None:
        self._topics = PoolTopics(settings.pool, settings.prefix)
        self._clients = clients
        self._journal = journal
        self._meter = meter
        self.disconnected = on_disconnect
        wanted: Mapping[str, Wanted] | None = settings.tasks
        self.members = Members(settings.pool, wanted)
        window = settings.limits.node_queue
        self.forwarder = Forwarder(self, self.members, window=window, clock=time.monotonic)
        self._early: dict[bytes, tuple[Delivery, Reply, Result]] = {}
        self._early_until: float | None = None
        self.bus = BusClient(
            settings.broker,
            self,
            client_id=f"{client_id}.nodes",
            queue=ANSWERS,
            packet_bytes=ANSWER_BYTES,
            pauses_s=PAUSES_S,
        )

    def submit(self, order: ForwardedRequest) -> None:
        """Queues a request; the request's future gets the answer."""
        early = self._early.pop(order.correlation, None)
        self.forwarder.submit(order)
        if early is not None:
            self._take_answer(*early)

    def tick(self) -> None:
        """Handles timeouts; call it a few times a second."""
        self.forwarder.tick()
        if self._early and time.monotonic() > (self._early_until or 0.0):
            early, self._early = self._early, {}
            for delivery, _, _ in early.values():
                self.bus.ack(delivery)

    def forward(self, order: ForwardedRequest, node: str) -> None:
        """Sends a request to a node."""
        request, expiry_s = order.request, None
        if request.expires_at is not None:
            expiry_s = max(1, math.ceil(request.expires_at - time.monotonic()))
        sent = self.bus.publish(
            OutgoingMessage(
                self._topics.node(node).request(request.task),
                order.payload,
                response_topic=self._topics.reply(request.task, node),
                correlation=order.correlation,
                expiry_s=expiry_s,
                traceparent=request.trace.header if request.trace else None,
            )
        )

        def told(done: asyncio.Future[None]) -> None:
            if done.cancelled() or (error := done.exception()) is None:
                return
            why = f"The pool can't pass the request on. {error}"
            is_passing = isinstance(error, OutboxFull)
            self.forwarder.undelivered(order, node, None if is_passing else InternalError(why))

        sent.add_done_callback(told)

    def withdraw(self, order: ForwardedRequest, node: str) -> None:
        """Cancels a request at a node."""
        topic = self._topics.node(node).cancel
        self.bus.publish(
            OutgoingMessage(topic, b"", correlation=order.correlation, expiry_s=WITHDRAW_EXPIRY_S)
        )

    def ended(self, order: ForwardedRequest) -> None:
        """Records in the journal how many nodes a request has crashed, so that a restart keeps the count."""
        if order.key is not None:
            self._journal.finish(order.key, order.ends, None)

    def connected(self) -> None:
        self.forwarder.connected_at = time.monotonic()
        self.bus.subscribe([self._topics.replies_filter, Subscription(self._topics.pieces_filter, qos=0)])
        for kind in KINDS:
            # Retained messages each time: QoS 0 messages were dropped while the connection was down.
            said = Subscription(self._topics.node_filter(kind), qos=int(kind != "health"), every_time=True)
            self.bus.subscribe([said])
        if self._early_until is None:  # the first connection: requests may come after their answers
            self._early_until = time.monotonic() + EARLY_S
        elif not self.bus.resumed:  # the broker has lost the session, and the answers in it
            self.forwarder.repeat()

    def delivered(self, delivery: Delivery) -> None:
        reply = self._topics.read_reply(delivery.topic)
        if reply is None:
            self.bus.ack(delivery)
            word = self._topics.read_word(delivery.topic)
            if word is not None and len(delivery.payload) == delivery.size:
                self.forwarder.hear(*word, delivery.payload)
            return
        try:
            if delivery.retain or delivery.correlation is None:
                raise ProtocolError("It is retained, or has no Correlation Data.")
            if not reply.is_piece:
                self._take_answer(delivery, reply, parse_result(delivery.payload))
                return
            chunk = parse_chunk(delivery.payload)
            request = self.forwarder.piece(reply.node, delivery.correlation, chunk)
            if request is not None:
                self._clients.pass_on(request, chunk)
        except ProtocolError as error:
            log.warning("invalid answer from node %s: %s", reply.node, error)
            self._meter.drop("strays")
        self.bus.ack(delivery)

    def _take_answer(self, delivery: Delivery, reply: Reply, result: Result) -> None:
        correlation = delivery.correlation or b""
        order = self.forwarder.answer(reply.node, correlation, result, delivery.payload)
        if order is None:
            is_early = time.monotonic() < (self._early_until or 0.0)
            if is_early and len(self._early) < MOST_EARLY and correlation not in self._early:
                self._early[correlation] = delivery, reply, result  # its request may be on its way
                return
        elif order.answered.done() and order.receipt is None:
            order.receipt = delivery
            return
        self.bus.ack(delivery)
