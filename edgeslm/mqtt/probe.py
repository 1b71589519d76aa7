"""Broker probe for ``edgeslm check --connect``: tests login, required features and latency.

The probe uses its own client id, so that a running node isn't disturbed, and leaves nothing at the broker.
"""

from __future__ import annotations

import queue
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edgeslm.errors import BrokerError
from edgeslm.mqtt.broker_address import BrokerAddress
from edgeslm.mqtt.connection import ANSWER_S, SESSION_EXPIRY_S, BrokerLink, ConnectionSettings
from edgeslm.mqtt.diagnostics import Problem, Welcome, no_mqtt_5, reservations, shortcomings
from edgeslm.protocol.delivery import OutgoingMessage, Subscription
from edgeslm.protocol.topics import Topics

if TYPE_CHECKING:
    from edgeslm.config.loader import Config

ROUND_TRIPS = 40
"""Number of round trips, enough to see delayed ACKs, since Linux acknowledges about the first 16 packets of a
connection immediately."""

NAGLE_MS = 30.0
"""Threshold, in milliseconds, for the latency minus four network round trips. Above the threshold, the probe
reports that the broker uses Nagle's algorithm, which delays small packets until a delayed ACK arrives (40
ms)."""


@dataclass(slots=True)
class Probe:
    """Result of a probe. ``problems`` keep a node from working; ``notes`` are informational.

    ``latency_ms`` is the median round trip to another client; None if the latency wasn't measured.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    latency_ms: float | None = None


def probe_broker(config: Config, *, answer_s: float = ANSWER_S) -> Probe:
    """Probes the broker of a configuration with the node's topics; blocks for a few seconds.

    :param answer_s: timeout for each of the broker's answers.
    """
    probe = Probe()
    topics = Topics(config.node, config.prefix)
    try:
        address = BrokerAddress.of(config.broker)
        settings = ConnectionSettings(
            client_id=f"{config.prefix}-{config.node}-check-{secrets.token_hex(4)}",
            keepalive_s=config.broker.keepalive_s,
            session_expiry_s=SESSION_EXPIRY_S,
            receive_maximum=config.limits.queue,
            maximum_packet_size=config.limits.packet_bytes,
            keeps_session=False,
            answer_s=answer_s,
        )
        visit = _Visit(address, settings)
    except BrokerError as error:
        probe.problems.append(str(error))
        return probe
    with visit:
        welcome = visit.welcome()
        if welcome is None:
            probe.problems.append(_refused(address, settings, visit.problem).sentence)
            return probe
        probe.problems += shortcomings(
            welcome, session_expiry_s=SESSION_EXPIRY_S, packet_limit=config.limits.packet_bytes
        )
        _subscribe(visit, [topics.requests_filter, topics.cancel], probe)
        if not probe.problems:
            with _Visit(address, replace(settings, client_id=f"{settings.client_id}-echo")) as echo:
                if echo.welcome() is not None:
                    _measure(visit, echo, topics, probe)
    if probe.latency_ms is not None:
        probe.notes += _speed_notes(address, probe.latency_ms)
        probe.notes += reservations(welcome, queue=config.limits.queue)
    return probe


def _subscribe(visit: _Visit, filters: Sequence[str], probe: Probe) -> None:
    for filter_, failure in zip(filters, visit.subscribe(filters), strict=False):
        if failure:
            probe.problems.append(
                f"The broker refuses the subscription to {filter_} ({failure}); allow it there."
            )


def _measure(visit: _Visit, echo: _Visit, topics: Topics, probe: Probe) -> None:
    """Measures round trips from the connection ``visit`` to the connection ``echo`` and back, like the round
    trip of a request and its result.

    The messages go to new result topics, so that a running node gets no requests.
    """
    name = f"check-{secrets.token_hex(4)}"
    there, back = topics.result(name), f"{topics.result(name)}/back"
    _subscribe(echo, [there], probe)
    _subscribe(visit, [back], probe)
    times = []
    for number in range(ROUND_TRIPS):
        payload = b"check %d" % number
        began_at = time.perf_counter()
        failure = (
            visit.send(there, payload) or echo.take(there) or echo.send(back, payload) or visit.take(back)
        )
        if failure or probe.problems:
            probe.problems += [failure] if failure else []
            return
        times.append((time.perf_counter() - began_at) * 1000)
    from statistics import median  # memory of the parent process

    probe.latency_ms = round(median(times[ROUND_TRIPS // 2 :]), 2)


def _speed_notes(address: BrokerAddress, latency_ms: float) -> list[str]:
    notes = [f"A message through the broker at {address} and its answer take {latency_ms:g} ms."]
    network_ms = _network_ms(address)
    if network_ms is not None and latency_ms - 4 * network_ms > NAGLE_MS:
        notes.append(
            f"The network takes {network_ms:.1f} ms of that: the broker delays small packets by about 40 ms "
            "(Nagle's algorithm). Switch that off there (mosquitto: set_tcp_nodelay true)."
        )
    return notes


def _network_ms(address: BrokerAddress) -> float | None:
    """Network round trip, measured as the time to open a TCP connection."""
    times = []
    for _ in range(3):
        began_at = time.perf_counter()
        try:
            socket.create_connection((address.host, address.port), timeout=ANSWER_S).close()
        except OSError:
            return None
        times.append((time.perf_counter() - began_at) * 1000)
    return min(times)


def _refused(address: BrokerAddress, settings: ConnectionSettings, problem: Problem) -> Problem:
    """The problem to report for a refused connection. A broker that accepts MQTT 3.1.1, but doesn't answer an
    MQTT 5 CONNECT, counts as a broker without MQTT 5."""
    return no_mqtt_5(address) if problem.unanswered and _takes_mqtt_311(address, settings) else problem


def _takes_mqtt_311(address: BrokerAddress, settings: ConnectionSettings) -> bool:
    answers: list[bool] = []

    def on_connect(
        client: Client, userdata: object, flags: ConnectFlags, reason: ReasonCode, granted: Properties | None
    ) -> None:
        answers.append(not reason.is_failure)

    client = Client(CallbackAPIVersion.VERSION2, client_id=settings.client_id, reconnect_on_failure=False)
    client.on_connect = on_connect
    if address.login.username is not None:
        client.username_pw_set(address.login.username, address.login.password)
    context = address.tls_context()
    if context is not None:
        client.tls_set_context(context)
    try:
        client.connect(address.host, address.port)
        give_up_at = time.monotonic() + settings.answer_s
        while not answers and time.monotonic() < give_up_at:
            if client.loop(timeout=0.2) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                break
        client.disconnect()
    except OSError:
        return False
    return answers == [True]


class _Visit:
    """A short connection with blocking methods, and the ``Listener`` of its ``BrokerLink``."""

    def __init__(self, address: BrokerAddress, settings: ConnectionSettings) -> None:
        self._link = BrokerLink(address, settings, self)
        self._answer_s = settings.answer_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgeslm-probe", daemon=True)
        self._events: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.problem = Problem("The broker accepted the connection but did not respond.", unanswered=True)

    def __enter__(self) -> _Visit:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(self._answer_s)

    def welcome(self) -> Welcome | None:
        """Values of the CONNACK. If the connection was refused, the result is None and ``problem`` is set."""
        welcome: Welcome | None = self._next("welcomed")
        return welcome

    def subscribe(self, filters: Sequence[str]) -> Sequence[str | None]:
        """Subscribes to ``filters``. :return: the refusal of each filter, or None if accepted."""
        self._link.subscribe([Subscription(one) for one in filters])
        failures: Sequence[str | None] | None = self._next("subscribed")
        return failures if failures is not None else [self.problem.sentence] * len(filters)

    def send(self, topic: str, payload: bytes) -> str | None:
        """Publishes a message and waits for the acknowledgement. :return: an error message if the broker
        refused the message or didn't answer."""
        self._link.publish(OutgoingMessage(topic, payload))
        reason: ReasonCode | None = self._next("acknowledged")
        if reason is None:
            return f"A message to {topic} could not be published. {self.problem.sentence}"
        if reason.is_failure:
            return f"The broker refuses a message to {topic} ({reason.getName()}); allow it there."
        return None

    def take(self, topic: str) -> str | None:
        """Waits for a message. :return: an error message if no message arrives."""
        message: MQTTMessage | None = self._next("received")
        if message is None:
            return f"A message published to {topic} didn't arrive. {self.problem.sentence}"
        self._link.ack(message.mid)
        return None

    def _next(self, wanted: str) -> Any:
        give_up_at = time.monotonic() + self._answer_s
        while (left_s := give_up_at - time.monotonic()) > 0:
            try:
                name, value = self._events.get(timeout=left_s)
            except queue.Empty:
                return None
            if name == wanted:
                return value
            if name == "lost":
                self.problem = value
                return None
        return None

    def _run(self) -> None:
        self.lost(self._link.run(self._stop))

    def welcomed(self, link: BrokerLink, welcome: Welcome) -> None:
        self._events.put(("welcomed", welcome))

    def received(self, link: BrokerLink, message: MQTTMessage) -> None:
        self._events.put(("received", message))

    def acknowledged(self, link: BrokerLink, mid: int, reason: ReasonCode) -> None:
        self._events.put(("acknowledged", reason))

    def subscribed(self, link: BrokerLink, mid: int, failures: Sequence[str | None]) -> None:
        self._events.put(("subscribed", failures))

    def lost(self, problem: Problem) -> None:
        self._events.put(("lost", problem))
