"""For apps: ask a node something and get the answer.

::

    with Client("mqtt://broker.local", "press-hall-4") as client:
        result = client.request("triage", "Spindle 3 smells of burnt oil")

Needs the MQTT client library and nothing else of what a node needs. Blocking, and safe to share between
threads. Knows the protocol, no configuration and no models.
"""

from __future__ import annotations

import contextlib
import math
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm.bus.address import BrokerAddress, read_password
from edgeslm.bus.network import Link, Network, Settings, Subscription
from edgeslm.bus.outbox import packet_bytes
from edgeslm.bus.problems import Problem, Welcome
from edgeslm.bus.protocol import (
    Topics,
    check_topic_name,
    encode_request,
    parse_chunk,
    parse_result,
    parse_state,
)
from edgeslm.errors import BrokerError, ProtocolError, TimedOut, TooLarge, UnknownTask
from edgeslm.messages import Chunk, Result
from edgeslm.topics import DEFAULT_PREFIX

if TYPE_CHECKING:
    from paho.mqtt.client import MQTTMessage
    from paho.mqtt.reasoncodes import ReasonCode

__all__ = ["Client"]

NOBODY_LISTENS = 0x10
"""PUBACK: the broker took the message and had nobody to give it to (MQTT 5 section 3.4.2.1)."""

OnChunk = Callable[[Chunk], None]


@dataclass(frozen=True, slots=True)
class _Result:
    payload: bytes


@dataclass(frozen=True, slots=True)
class _Piece:
    payload: bytes


_Events = queue.SimpleQueue[_Result | _Piece | BrokerError]


class Client:
    """A connection of an app to the node ``node`` at the broker ``url`` (``mqtt[s]://[user[:password]@]host``).

    The session outlives a broken connection by ``session_expiry_s``, so that a result that comes meanwhile
    isn't lost; a request is sent once and never repeated.
    """

    def __init__(
        self,
        url: str,
        node: str,
        *,
        prefix: str = DEFAULT_PREFIX,
        username: str | None = None,
        password: str | None = None,
        password_file: Path | None = None,
        ca_file: Path | None = None,
        cert_file: Path | None = None,
        key_file: Path | None = None,
        connect_timeout_s: float = 15.0,
        session_expiry_s: int = 300,
    ) -> None:
        self._url = url
        self._login = username, password, password_file
        self._tls_files = {"ca_file": ca_file, "cert_file": cert_file, "key_file": key_file}
        self._connect_timeout_s = connect_timeout_s
        self._node = node
        self._topics = Topics(node, prefix)
        self._name = f"app-{secrets.token_hex(8)}"
        self._settings = Settings(
            client_id=f"{prefix}-{self._name}",
            keepalive_s=30,
            session_expiry_s=session_expiry_s,
            receive_maximum=256,
            maximum_packet_size=16 * 1024 * 1024,
            keeps_session=False,
        )
        self._network: Network | None = None
        self._desk = _Desk(self._topics, self._name)

    def __enter__(self) -> Client:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def open(self) -> None:
        """Connects; BrokerError says what is wrong if that fails the first time."""
        username, password, password_file = self._login
        address = BrokerAddress.parse(
            self._url,
            username=username,
            password=read_password(password_file) if password_file is not None else password,
            **self._tls_files,
        )
        self._network = Network(address, self._settings, self._desk, first_pause_s=0.5, longest_pause_s=15.0)
        self._network.start()
        try:
            self._desk.wait_connected(self._connect_timeout_s)
        except BrokerError:
            self.close()
            raise

    def close(self) -> None:
        """Disconnects; requests that still wait raise BrokerError."""
        network, self._network = self._network, None
        if network is not None:
            network.stop(5.0)
            self._desk.fail_all(BrokerError("The client was closed before the result came."))

    @property
    def node_state(self) -> str | None:
        """What the node last said of itself (``online``, ``offline`` ...); None if it never did."""
        return self._desk.node_state

    def request(
        self,
        task: str,
        input: str | Mapping[str, Any],
        options: Mapping[str, Any] | None = None,
        *,
        timeout: float = 60.0,
        on_chunk: OnChunk | None = None,
    ) -> Result:
        """Sends one request and waits up to ``timeout`` seconds for its result.

        An error result is a result: look at ``status``. ``on_chunk`` asks for streaming and is called in
        this thread with each piece of text; pieces may be missing, the result is whole.

        :raises TimedOut: no result came in time; the node has been told not to start after that.
        :raises BrokerError: the broker is gone or refuses the request, or no node listens.
        :raises ProtocolError: what came is no result.
        :raises RequestError: what can't be sent: a task that is no topic level, more than the broker takes.
        """
        if self._network is None:
            raise BrokerError("The client isn't open; use it in a with statement, or call open() first.")
        until = time.monotonic() + timeout
        if on_chunk is not None:
            options = {"stream": True, **(options or {})}
        if self._topics.task_of(self._topics.request(task)) != task:
            raise UnknownTask(f"There is no task {task!r}: the name of a task is one level of a topic.")
        check_topic_name(self._topics.request(task))
        reply_to = f"{self._topics.result(task)}/{self._name}"
        self._desk.subscribe(task, reply_to, timeout)
        correlation = secrets.token_hex(8).encode()
        events = self._desk.send(
            self._topics.request(task),
            encode_request(input, options=options),
            reply_to=reply_to,
            correlation=correlation,
            expiry_s=max(1, math.ceil(timeout)),
        )
        try:
            while True:
                event = events.get(timeout=max(0.0, until - time.monotonic()))
                if isinstance(event, BrokerError):
                    raise event
                if isinstance(event, _Result):
                    return parse_result(event.payload)
                if on_chunk is not None:
                    on_chunk(parse_chunk(event.payload))
        except queue.Empty:
            state = f"is {self._desk.node_state}" if self._desk.node_state else "has never said a word here"
            raise TimedOut(f"No result came within {timeout:g} s; the node {self._node!r} {state}.") from None
        finally:
            self._desk.forget(correlation)


class _Desk:
    """Who waits for what: the ``Listener`` of the network thread, shared with the asking threads.

    No lock is held while the link is used: paho calls back with its own locks held.
    """

    def __init__(self, topics: Topics, name: str) -> None:
        self._topics = topics
        self._stream_end = topics.stream(f"/{name}")
        self._changed = threading.Condition()
        self._link: Link | None = None
        self._problem: Problem | None = None
        self._packet_limit: int | None = None
        self._filters = [topics.state]
        self._subacks: dict[int, Sequence[str | None]] = {}
        self._waiting: dict[bytes, _Events] = {}
        self._unacknowledged: dict[int, bytes] = {}
        self._early: dict[int, ReasonCode] = {}
        self.node_state: str | None = None

    # For the asking threads

    def wait_connected(self, timeout_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._link or self._problem, timeout_s)
        self._connection()

    def _connection(self) -> Link:
        link, problem = self._link, self._problem
        if link is None:
            raise BrokerError(problem.sentence if problem else "The broker doesn't answer.")
        return link

    def subscribe(self, task: str, reply_to: str, timeout_s: float) -> None:
        """Listens for the results of a task; also where the node answers if it refuses our reply topic."""
        if reply_to in self._filters:
            return
        wanted = [reply_to, self._topics.stream(reply_to), self._topics.result(task)]
        mid = self._connection().subscribe([Subscription(one) for one in wanted])
        with self._changed:
            self._changed.wait_for(lambda: mid in self._subacks or self._link is None, timeout_s)
            failures = self._subacks.pop(mid, None) if mid is not None else None
            if failures is None:
                raise BrokerError("The broker didn't answer a subscription; try again.")
            if failures[0]:
                raise BrokerError(f"The broker refuses the subscription to {reply_to} ({failures[0]}).")
            self._filters += wanted

    def send(
        self, topic: str, payload: bytes, *, reply_to: str, correlation: bytes, expiry_s: int
    ) -> _Events:
        """Publishes a request; what comes of it appears in the queue."""
        link = self._connection()
        size = packet_bytes(topic, payload, correlation) + len(reply_to.encode())
        if self._packet_limit is not None and size > self._packet_limit:
            raise TooLarge(
                f"The request has {size} bytes and the broker takes {self._packet_limit}; send less text."
            )
        events: _Events = queue.SimpleQueue()
        with self._changed:
            self._waiting[correlation] = events
        sent = link.publish(
            topic,
            payload,
            qos=1,
            retain=False,
            correlation=correlation,
            expiry_s=expiry_s,
            response_topic=reply_to,
        )
        with self._changed:
            if sent is None:
                events.put(BrokerError("The connection to the broker broke; try again."))
            elif (reason := self._early.pop(sent.mid, None)) is not None:
                self._settle(correlation, reason)
            else:
                self._unacknowledged[sent.mid] = correlation
        return events

    def forget(self, correlation: bytes) -> None:
        with self._changed:
            self._waiting.pop(correlation, None)

    def fail_all(self, error: BrokerError) -> None:
        with self._changed:
            for events in self._waiting.values():
                events.put(error)

    def _settle(self, correlation: bytes, reason: ReasonCode) -> None:
        events = self._waiting.get(correlation)
        if events is None:
            return
        if reason.is_failure:
            events.put(BrokerError(f"The broker refuses the request: {reason.getName()}."))
        elif reason.value == NOBODY_LISTENS:
            nobody = (
                f"No node {self._topics.node!r} listens at this broker; check the name, or start the node."
            )
            events.put(BrokerError(nobody))

    # The listener, on the network thread

    def welcomed(self, link: Link, welcome: Welcome) -> None:
        link.subscribe([Subscription(one, retained=one == self._topics.state) for one in self._filters])
        with self._changed:
            self._link, self._problem = link, None
            self._packet_limit = welcome.maximum_packet_size
            self._changed.notify_all()

    def received(self, link: Link, message: MQTTMessage) -> None:
        if message.qos:
            link.ack(message.mid)
        payload = bytes(message.payload)
        if message.topic == self._topics.state:
            with contextlib.suppress(ProtocolError):
                self.node_state = parse_state(payload).state
            return
        events = self._waiting.get(getattr(message.properties, "CorrelationData", b""))
        if events is not None:
            events.put(_Piece(payload) if message.topic.endswith(self._stream_end) else _Result(payload))

    def acknowledged(self, link: Link, mid: int, reason: ReasonCode) -> None:
        with self._changed:
            correlation = self._unacknowledged.pop(mid, None)
            if correlation is None:
                self._early[mid] = reason
            else:
                self._settle(correlation, reason)

    def subscribed(self, link: Link, mid: int, failures: Sequence[str | None]) -> None:
        with self._changed:
            self._subacks[mid] = failures
            self._changed.notify_all()

    def lost(self, problem: Problem) -> None:
        with self._changed:
            self._link, self._problem = None, problem
            unsure = [self._waiting.get(one) for one in self._unacknowledged.values()]
            self._unacknowledged.clear()
            self._early.clear()
            self._subacks.clear()
            self._changed.notify_all()
        for events in unsure:
            if events is not None:
                events.put(
                    BrokerError(
                        "The connection broke while the request was being sent, so it isn't known whether it "
                        "arrived; send it again."
                    )
                )
