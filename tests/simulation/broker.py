"""Simulated MQTT 5 broker: sessions, QoS 0 and 1, Receive Maximum, expiry, retained messages, wills, shared
subscriptions, and mosquitto's saving.

A killed broker comes back with its last save. mosquitto acknowledges a message before it saves, so a kill may
take messages that senders count as accepted.
"""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

MOST_QUEUED = 10_000

SUCCESS, NO_SUBSCRIBERS, NOT_AUTHORIZED, TAKEN_OVER, SHUTTING_DOWN = 0x00, 0x10, 0x87, 0x8E, 0x8B
QUOTA_EXCEEDED, UNSUPPORTED_VERSION = 0x97, 0x84


@dataclass(frozen=True)
class Message:
    """An application message. ``number`` identifies what one sender published once."""

    number: int
    topic: str
    payload: bytes
    qos: int
    retain: bool = False
    response_topic: str | None = None
    correlation: bytes | None = None
    expires_at: float | None = None
    user: tuple[str, str] | None = None


@dataclass(frozen=True)
class Filter:
    topic: str
    qos: int
    identifier: int | None = None
    retain_handling: int = 0


@dataclass
class Session:
    client: str
    expiry_s: float
    filters: dict[str, Filter] = field(default_factory=dict)
    queue: deque[tuple[Message, tuple[int, ...]]] = field(default_factory=deque)
    in_flight: dict[int, tuple[Message, tuple[int, ...]]] = field(default_factory=dict)
    next_mid: int = 0
    left_at: float | None = None

    def copy(self) -> Session:
        return replace(
            self, filters=dict(self.filters), queue=deque(self.queue), in_flight=dict(self.in_flight)
        )

    def messages(self) -> Iterable[Message]:
        yield from (message for message, _ in self.in_flight.values())
        yield from (message for message, _ in self.queue)

    def identifiers(self) -> dict[int, int]:
        """Message number -> packet identifier, 0 for messages that weren't delivered yet."""
        delivered = {message.number: mid for mid, (message, _) in self.in_flight.items()}
        return delivered | {message.number: 0 for message, _ in self.queue}


class Peer(Protocol):
    """The client's end of a connection."""

    client: str
    receive_maximum: int

    def deliver(self, packet: tuple[Any, ...]) -> None: ...


class Watcher(Protocol):
    """Sees what happens at the broker."""

    def accepted(self, client: str, message: Message, *, has_readers: bool) -> None: ...
    def released(self, client: str, message: Message) -> None: ...
    def forgotten(self, messages: list[Message]) -> None: ...
    def reverted(self, messages: list[Message]) -> None: ...
    def violation(self, invariant: str, sentence: str) -> None: ...


def matches(topic_filter: str, topic: str) -> bool:
    """MQTT 5 section 4.7."""
    wanted, given = topic_filter.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    for place, part in enumerate(wanted):
        if part == "#":
            return True
        if place >= len(given) or (part != "+" and part != given[place]):
            return False
    return len(wanted) == len(given)


@dataclass
class _Saved:
    sessions: dict[str, Session] = field(default_factory=dict)
    retained: dict[str, Message] = field(default_factory=dict)


class Broker:
    """``refuses`` says with which reason code a client's PUBLISH or SUBSCRIBE for a topic is refused.

    With ``saves_at_once``, each change is saved before it is acknowledged; otherwise :meth:`save` is called
    by the world.
    """

    def __init__(self, clock: Callable[[], float], watcher: Watcher, *, receive_maximum: int = 20) -> None:
        self._clock = clock
        self._watcher = watcher
        self.receive_maximum = receive_maximum
        self.saves_at_once = False
        self.speaks_mqtt5 = True
        self.takes_lowest_mids = False
        """Whether each message gets the lowest free packet identifier."""
        self.forgets_all = False
        """Whether a kill loses what was saved too."""
        self.is_up = True
        self.refuses: Callable[[str, str, str], int] = lambda client, action, topic: 0
        self.sessions: dict[str, Session] = {}
        self.retained: dict[str, Message] = {}
        self._links: dict[str, Peer] = {}
        self._wills: dict[str, Message] = {}
        self._shares: dict[str, int] = {}
        self._saved = _Saved()
        self._numbers = itertools.count(1)
        self._acks: dict[str, deque[int]] = {}

    # Saving

    def save(self) -> None:
        kept = {name: one.copy() for name, one in self.sessions.items() if one.expiry_s > 0}
        self._saved = _Saved(kept, dict(self.retained))

    def kill(self) -> None:
        """Ends as after ``kill -9``; what wasn't saved is forgotten."""
        self.is_up = False
        if self.forgets_all:
            self._saved = _Saved()
        kept = {message.number for session in self._saved.sessions.values() for message in session.messages()}
        lost = [
            message
            for session in self.sessions.values()
            for message in session.messages()
            if message.number not in kept
        ]
        reverted = [
            message
            for name, session in self._saved.sessions.items()
            for message in session.messages()
            if self._identifier(name, message) != session.identifiers()[message.number]
        ]
        saved = copy.copy(self._saved)
        self.sessions = {name: session.copy() for name, session in saved.sessions.items()}
        self.retained = dict(saved.retained)
        self._links.clear()
        self._wills.clear()
        self._watcher.forgotten(lost)
        self._watcher.reverted(reverted)

    def _identifier(self, client: str, message: Message) -> int | None:
        session = self.sessions.get(client)
        return None if session is None else session.identifiers().get(message.number)

    def start(self) -> None:
        self.is_up = True
        for session in self.sessions.values():
            session.left_at = self._clock()

    # Connections

    def connect(
        self, peer: Peer, *, expiry_s: float, will: tuple[str, bytes] | None, clean: bool, mqtt5: bool = True
    ) -> bool:
        """:return: whether the session is present."""
        client = peer.client
        if mqtt5 and not self.speaks_mqtt5:
            peer.deliver(("connack", UNSUPPORTED_VERSION, False, 0))
            peer.deliver(("disconnect", None))
            return False
        if (old := self._links.get(client)) is not None:
            old.deliver(("disconnect", TAKEN_OVER))
            self._drop(client, old, publishes_will=False)
        session = self.sessions.get(client)
        if session is not None and self._clock() - (session.left_at or self._clock()) > session.expiry_s:
            session = None
        if clean or session is None:
            present, session = False, Session(client, expiry_s)
            self.sessions[client] = session
        else:
            present = True
        session.expiry_s, session.left_at = expiry_s, None
        self._links[client] = peer
        self._acks[client] = deque()
        if will is not None:
            self._wills[client] = Message(next(self._numbers), will[0], will[1], 1, retain=True)
        peer.deliver(("connack", 0, present, self.receive_maximum))
        again = dict(session.in_flight)
        for mid, (message, identifiers) in again.items():
            self._send(peer, session, mid, message, identifiers, dup=True)
        self._pump(client)
        return present

    def disconnect(self, peer: Peer, *, expiry_s: float | None = None) -> None:
        """A DISCONNECT packet: the will is discarded."""
        if self._links.get(peer.client) is peer:
            if expiry_s is not None:
                self.sessions[peer.client].expiry_s = expiry_s
            self._drop(peer.client, peer, publishes_will=False)

    def lost(self, peer: Peer) -> None:
        """The connection broke."""
        if self._links.get(peer.client) is peer:
            self._drop(peer.client, peer, publishes_will=True)

    def is_linked(self, peer: Peer) -> bool:
        return self._links.get(peer.client) is peer

    def _drop(self, client: str, peer: Peer, *, publishes_will: bool) -> None:
        del self._links[client]
        session = self.sessions[client]
        session.left_at = self._clock()
        if session.expiry_s <= 0:
            del self.sessions[client]
        will = self._wills.pop(client, None)
        if will is not None and publishes_will:
            self._route(client, will)

    # Packets from clients

    def publish(self, peer: Peer, mid: int, message: Message) -> None:
        client = peer.client
        if not self.is_linked(peer):
            return
        message = replace(message, number=next(self._numbers))
        if code := self.refuses(client, "publish", message.topic):
            if message.qos:
                peer.deliver(("puback", mid, code))
            return
        has_readers = self._route(client, message)
        if message.qos:
            if self.saves_at_once:
                self.save()
            self._watcher.accepted(client, message, has_readers=has_readers)
            is_silent = has_readers or not self.speaks_mqtt5
            peer.deliver(("puback", mid, SUCCESS if is_silent else NO_SUBSCRIBERS))

    def acknowledge(self, peer: Peer, mid: int) -> None:
        client = peer.client
        if not self.is_linked(peer):
            return
        session = self.sessions[client]
        sent = self._acks[client]
        if mid not in session.in_flight:
            self._watcher.violation("acknowledgement", f"{client} acknowledged {mid}, which isn't in flight")
            return
        if sent and sent[0] != mid:
            self._watcher.violation("order", f"{client} acknowledged {mid} before {sent[0]}")
        if mid in sent:
            sent.remove(mid)
        message, _ = session.in_flight.pop(mid)
        self._watcher.released(client, message)
        if self.saves_at_once:
            self.save()
        self._pump(client)

    def subscribe(self, peer: Peer, mid: int, filters: Iterable[Filter]) -> None:
        client = peer.client
        if not self.is_linked(peer):
            return
        session = self.sessions[client]
        codes = []
        for one in filters:
            if code := self.refuses(client, "subscribe", one.topic):
                codes.append(code)
                continue
            is_new = one.topic not in session.filters
            session.filters[one.topic] = one
            codes.append(min(one.qos, 1))
            if one.retain_handling == 0 or (one.retain_handling == 1 and is_new):
                self._send_retained(client, one)
        peer.deliver(("suback", mid, codes))
        if self.saves_at_once:
            self.save()
        self._pump(client)

    def unsubscribe(self, peer: Peer, mid: int, filters: Iterable[str]) -> None:
        if self.is_linked(peer):
            for one in filters:
                self.sessions[peer.client].filters.pop(one, None)
            peer.deliver(("unsuback", mid))

    # Routing

    def _send_retained(self, client: str, one: Filter) -> None:
        for topic, message in self.retained.items():
            if matches(one.topic, topic):
                ids = () if one.identifier is None else (one.identifier,)
                self._queue(client, replace(message, qos=min(message.qos, one.qos)), ids)

    def _route(self, sender: str, message: Message) -> bool:
        if message.retain:
            if message.payload:
                self.retained[message.topic] = message
            else:
                self.retained.pop(message.topic, None)
        has_readers = False
        plain = replace(message, retain=False)
        shares: dict[str, list[str]] = {}
        for name, session in list(self.sessions.items()):
            ids: list[int] = []
            qos = -1
            for one in session.filters.values():
                if one.topic.startswith("$share/"):
                    if matches(one.topic.split("/", 2)[2], message.topic):
                        shares.setdefault(one.topic, []).append(name)
                elif matches(one.topic, message.topic):
                    qos = max(qos, one.qos)
                    if one.identifier is not None:
                        ids.append(one.identifier)
            if qos >= 0:
                has_readers = True
                self._queue(name, replace(plain, qos=min(message.qos, qos)), tuple(ids))
        for shared, members in shares.items():
            has_readers = True
            turn = self._shares[shared] = self._shares.get(shared, -1) + 1
            name = members[turn % len(members)]
            self._queue(name, plain, ())
        return has_readers

    def _queue(self, client: str, message: Message, identifiers: tuple[int, ...]) -> None:
        session = self.sessions[client]
        peer = self._links.get(client)
        if message.qos == 0:
            if peer is not None:
                self._send(peer, session, 0, message, identifiers, dup=False)
            return
        if len(session.queue) >= MOST_QUEUED:
            return
        session.queue.append((message, identifiers))
        self._pump(client)

    def _pump(self, client: str) -> None:
        session, peer = self.sessions.get(client), self._links.get(client)
        if session is None or peer is None:
            return
        while session.queue and len(session.in_flight) < peer.receive_maximum:
            message, identifiers = session.queue.popleft()
            if message.expires_at is not None and message.expires_at <= self._clock():
                self._watcher.released(client, message)
                continue
            if self.takes_lowest_mids:
                session.next_mid = 0
            while True:
                session.next_mid = session.next_mid % 65535 + 1
                if session.next_mid not in session.in_flight:
                    break
            session.in_flight[session.next_mid] = (message, identifiers)
            self._send(peer, session, session.next_mid, message, identifiers, dup=False)

    def _send(
        self,
        peer: Peer,
        session: Session,
        mid: int,
        message: Message,
        identifiers: tuple[int, ...],
        *,
        dup: bool,
    ) -> None:
        if mid:
            self._acks[session.client].append(mid)
        peer.deliver(("publish", mid, message, identifiers, dup, self._clock()))
