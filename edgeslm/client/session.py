"""Client session: dispatches messages and acknowledgements to the requests that wait for them.

A session subscribes to the reply topics after every connect, and respects the broker's Receive Maximum. The
network thread and the callers share one session. Retries are decided in ``pending_request``.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from edgeslm.client.pending_request import (
    Acknowledged,
    Answered,
    Event,
    Failed,
    Heard,
    Lost,
    NodeUp,
    Piece,
    Ready,
    Room,
    named,
)
from edgeslm.errors import BrokerError, InvalidRequest, ProtocolError, TooLarge
from edgeslm.mqtt.connection import BrokerLink
from edgeslm.mqtt.diagnostics import Problem, Welcome
from edgeslm.mqtt.flow_control import FlowControl
from edgeslm.protocol.codec import parse_state
from edgeslm.protocol.delivery import OutgoingMessage, Subscription
from edgeslm.protocol.strict_json import decode_text, parse_json
from edgeslm.protocol.topic_filters import matches
from edgeslm.protocol.topics import Topics
from edgeslm.protocol.versions import why_not_spoken

if TYPE_CHECKING:
    from paho.mqtt.client import MQTTMessage
    from paho.mqtt.reasoncodes import ReasonCode

log = logging.getLogger("edgeslm.client")

NO_MQTT_5 = Problem(
    "The broker speaks only MQTT 3.1.1 and this client needs MQTT 5; use a broker that has it, or ask with "
    "an id in the payload, as an MQTT 3.1.1 client does.",
    fatal=True,
)


class Inbox(Protocol):
    """A function that receives the events of one request, message or subscription. It is thread-safe and
    never blocks or raises."""

    def __call__(self, event: Event, /) -> None: ...


class ClientSession:
    """Receives the callbacks of an app's network thread. The session's reply topics end with ``name``.

    The session never holds its lock while it calls the link. Otherwise there could be a deadlock, since paho
    holds its own locks while it calls the session.
    """

    def __init__(self, topics: Topics, name: str) -> None:
        self._topics = topics
        self._name = name
        self._stream_end = topics.stream(f"/{name}")
        self._changed = threading.Condition()
        self._link: BrokerLink | None = None
        self._generation = 0
        self._problem: Problem | None = None
        self._closed: Failed | None = None
        self._packet_limit: int | None = None
        self._inboxes: dict[bytes | None, Inbox] = {}
        # Reply topic -> further filters to subscribe with it; and those confirmed on this connection.
        self._filters: dict[str, list[str]] = {topics.state: [topics.info]}
        self._confirmed: set[str] = set()
        self._askers: dict[str | None, set[bytes | None]] = {}
        self._listeners: dict[bytes, Sequence[str]] = {}
        self._asked_for: dict[int, str] = {}
        self._early_subacks: dict[int, Sequence[str | None]] = {}
        self._flow: FlowControl[bytes | None] = FlowControl()
        self._early_pubacks: dict[int, ReasonCode] = {}
        self._want_room: deque[bytes | None] = deque()
        self.node_state: str | None = None
        self._state: bytes | None = None
        self._fault: Failed | None = None

    # For the callers' threads

    def wait_connected(self, timeout_s: float) -> None:
        """Waits for the first connection. :raises BrokerError: there is no connection; the error message says
        why."""
        with self._changed:
            self._changed.wait_for(lambda: self._link or self._problem, timeout_s)
            link, problem = self._link, self._problem
        if link is None:
            raise BrokerError(problem.sentence if problem else "The broker doesn't answer.")

    @property
    def is_closed(self) -> bool:
        return self._closed is not None

    @property
    def problem(self) -> str | None:
        """Why there is no connection, if known."""
        return self._problem.sentence if self._problem else None

    def reply_topic(self, task: str) -> str:
        return f"{self._topics.result(task)}/{self._name}"

    def enlist(self, task: str, outgoing: OutgoingMessage, inbox: Inbox) -> None:
        """Registers ``inbox`` for the events of a message. The first event is ``Ready``, ``Lost`` or
        ``Failed``.

        A message without Response Topic gets no answer. Each message must have different Correlation Data.
        """
        reply_to = outgoing.response_topic
        with self._changed:
            link, generation = self._link, self._generation
            self._inboxes[outgoing.correlation] = inbox
            self._askers.setdefault(reply_to, set()).add(outgoing.correlation)
            is_new = reply_to is not None and reply_to not in self._filters
            if reply_to is not None and is_new:
                # The result topic too: the node answers there if it refuses the reply topic.
                self._filters[reply_to] = [self._topics.stream(reply_to), self._topics.result(task)]
            if self._closed is not None:
                inbox(self._closed)
            elif self._fault is not None:
                inbox(self._fault)
            elif reply_to in self._confirmed or (link is not None and reply_to is None):
                inbox(Ready(generation))
            elif link is None and self._problem is not None:
                inbox(Lost(generation, self._problem))
        if reply_to is not None and is_new and link is not None:
            self._subscribe(link, generation, reply_to)

    def forget(self, outgoing: OutgoingMessage) -> None:
        with self._changed:
            self._inboxes.pop(outgoing.correlation, None)
            askers = self._askers.get(outgoing.response_topic, set())
            askers.discard(outgoing.correlation)
            if not askers:
                self._askers.pop(outgoing.response_topic, None)
            with contextlib.suppress(ValueError):
                self._want_room.remove(outgoing.correlation)
            self._offer_room()

    def listen(self, filters: Sequence[str], key: bytes, inbox: Inbox) -> None:
        """Registers ``inbox`` for messages on ``filters``; ``inbox`` gets the event ``Ready`` for each filter
        that the broker has confirmed.

        The broker sends retained messages again on each connection, even for existing subscriptions.
        """
        with self._changed:
            link, generation = self._link, self._generation
            self._inboxes[key] = inbox
            self._listeners[key] = filters
            for one in filters:
                self._filters.setdefault(one, [])
                self._askers.setdefault(one, set()).add(key)
            if self._closed is not None:
                inbox(self._closed)
            if self._topics.state in filters and self._state is not None:
                inbox(Heard(self._topics.state, self._state, True))
        if link is not None:
            for one in filters:
                if one != self._topics.state:  # always subscribed
                    self._subscribe(link, generation, one)

    def has_confirmed(self, filters: Sequence[str]) -> bool:
        return self._confirmed.issuperset(filters)

    def stop_listening(self, key: bytes) -> None:
        """Unregisters an inbox, and unsubscribes from filters that nobody else uses."""
        with self._changed:
            self._inboxes.pop(key, None)
            unwanted = []
            for one in self._listeners.pop(key, ()):
                askers = self._askers.get(one, set())
                askers.discard(key)
                beside = [item for others in self._filters.values() for item in others]
                if not askers and one in self._filters and one not in (self._topics.state, *beside):
                    del self._filters[one]
                    self._askers.pop(one, None)
                    self._confirmed.discard(one)
                    unwanted.append(one)
            link = self._link
        if link is not None and unwanted:
            link.unsubscribe(unwanted)

    def close(self, error: BrokerError) -> None:
        """Sends ``error`` to all registered inboxes, and to each inbox that is registered later."""
        with self._changed:
            self._closed = Failed(error)
            for inbox in self._inboxes.values():
                inbox(self._closed)

    def send(self, outgoing: OutgoingMessage) -> int | None:
        """Publishes a message. :return: the number of the current connection (the ``generation`` of an
        event); None if the caller must wait for the event ``Ready`` or ``Room``.

        :raises TooLarge: the packet is too large for the broker.
        """
        size, reply_to = outgoing.packet_bytes, outgoing.response_topic
        with self._changed:
            link, generation = self._link, self._generation
            if link is None or (reply_to is not None and reply_to not in self._confirmed):
                return None
            if self._packet_limit is not None and size > self._packet_limit:
                raise TooLarge(
                    f"The request has {size} bytes and the broker takes {self._packet_limit}; send less text."
                )
            if self._flow.room < 1:
                if outgoing.correlation in self._inboxes and outgoing.correlation not in self._want_room:
                    self._want_room.append(outgoing.correlation)
                return None
            self._flow.reserved += 1
        sent = link.publish(outgoing)
        with self._changed:
            if generation != self._generation or self._link is None:
                return None  # the connection was lost, with its flow control state
            self._flow.reserved -= 1
            if sent is None:
                return None
            self._flow.sent(sent.mid, outgoing.correlation)
            if (reason := self._early_pubacks.pop(sent.mid, None)) is not None:
                self._settle(sent.mid, reason)
        return generation

    def _subscribe(self, link: BrokerLink, generation: int, reply_to: str) -> None:
        with self._changed:
            filters = [reply_to, *self._filters.get(reply_to, [])]
            heard = {one for listened in self._listeners.values() for one in listened}
        mid = link.subscribe(
            [
                Subscription(
                    one,
                    retained=one in (self._topics.state, self._topics.info),
                    every_time=one in heard,
                    optional=one == self._topics.info,
                )
                for one in filters
            ]
        )
        with self._changed:
            if generation != self._generation or mid is None:
                return
            if (failures := self._early_subacks.pop(mid, None)) is not None:
                self._settle_subscription(reply_to, failures)
            else:
                self._asked_for[mid] = reply_to

    # With the lock held

    def _settle_subscription(self, reply_to: str, failures: Sequence[str | None]) -> None:
        event: Event = Ready(self._generation)
        if failures[0]:
            event = Failed(BrokerError(f"The broker refuses the subscription to {reply_to} ({failures[0]})."))
            if reply_to != self._topics.state:
                self._filters.pop(reply_to, None)  # the next request retries
        else:
            self._confirmed.add(reply_to)
        for correlation in self._askers.get(reply_to, ()):
            self._tell(correlation, event)

    def _settle(self, mid: int, reason: ReasonCode) -> None:
        correlation = self._flow.acknowledged(mid)
        if not len(self._flow) and not self._want_room:
            self._flow.passed()
        self._tell(correlation, Acknowledged(reason.value, reason.getName()))
        self._offer_room()

    def _offer_room(self) -> None:
        """Wakes as many waiting requests as the Receive Maximum allows, in FIFO order."""
        for _ in range(min(self._flow.room, len(self._want_room))):
            self._tell(self._want_room.popleft(), Room())

    def _tell(self, correlation: bytes | None, event: Event) -> None:
        inbox = self._inboxes.get(correlation)
        if inbox is not None:
            inbox(event)

    # The listener, on the network thread

    def welcomed(self, link: BrokerLink, welcome: Welcome) -> None:
        if not welcome.mqtt5:
            self.lost(NO_MQTT_5)
            return
        with self._changed:
            self._generation += 1
            generation = self._generation
        # First, so that a node whose protocol version is incompatible gets no request.
        self._subscribe(link, generation, self._topics.state)
        with self._changed:
            self._link, self._problem = link, None
            self._packet_limit = welcome.maximum_packet_size
            self._flow.receive_maximum = welcome.receive_maximum
            reply_topics = [one for one in self._filters if one != self._topics.state]
            for correlation in self._askers.get(None, ()):
                self._tell(correlation, Ready(generation))
            self._changed.notify_all()
        for reply_to in reply_topics:
            self._subscribe(link, generation, reply_to)

    def received(self, link: BrokerLink, message: MQTTMessage) -> None:
        if message.qos:
            link.ack(message.mid)
        payload = bytes(message.payload)
        if message.topic == self._topics.state:
            self._hear_state(payload)
            self._state = payload
        elif message.topic == self._topics.info:
            self._hear_info(payload)
        correlation = getattr(message.properties, "CorrelationData", b"")
        is_piece = message.topic.endswith(self._stream_end)
        with self._changed:
            self._tell(correlation, Piece(payload) if is_piece else Answered(payload))
            for key, filters in self._listeners.items():
                if any(matches(one, message.topic) for one in filters):
                    self._tell(key, Heard(message.topic, payload, message.retain))

    def _hear_state(self, payload: bytes) -> None:
        with contextlib.suppress(ProtocolError):
            self.node_state = state = parse_state(payload).state
            if state == "online":
                with self._changed:
                    for inbox in self._inboxes.values():
                        inbox(NodeUp())

    def _hear_info(self, payload: bytes) -> None:
        """Fails all requests if the node and the client have incompatible protocol versions."""
        try:
            info = parse_json(decode_text(payload)) if payload else {}
        except InvalidRequest:
            return
        fault = why_not_spoken(named(self._topics.node), info) if isinstance(info, dict) else None
        with self._changed:
            self._fault = Failed(ProtocolError(fault)) if fault else None
            for key, inbox in self._inboxes.items():
                if self._fault is not None and key not in self._listeners:
                    inbox(self._fault)

    def acknowledged(self, link: BrokerLink, mid: int, reason: ReasonCode) -> None:
        with self._changed:
            if mid in self._flow:
                self._settle(mid, reason)
            else:
                self._early_pubacks[mid] = reason

    def subscribed(self, link: BrokerLink, mid: int, failures: Sequence[str | None]) -> None:
        with self._changed:
            reply_to = self._asked_for.pop(mid, None)
            if reply_to is None:
                self._early_subacks[mid] = failures
            else:
                self._settle_subscription(reply_to, failures)

    def lost(self, problem: Problem) -> None:
        with self._changed:
            is_news = self._problem is None or self._problem.sentence != problem.sentence
            if is_news and self._inboxes and self._closed is None:
                log.warning("%s", problem.sentence)
            self._link, self._problem = None, problem
            guilty = self._flow.hung_up() if problem.packet_refused else ()
            for correlation in guilty:
                self._tell(correlation, Failed(BrokerError(problem.sentence)))
            self._confirmed.clear()
            self._asked_for.clear()
            self._early_subacks.clear()
            self._flow.clear()
            self._early_pubacks.clear()
            self._want_room.clear()
            for inbox in self._inboxes.values():
                inbox(Lost(self._generation, problem))
            self._changed.notify_all()
