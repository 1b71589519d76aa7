"""Network thread: keeps a connection to the broker, with MQTT 5, or with MQTT 3.1.1 as a fallback.

Each connection has a new paho client, so that no state of an old connection is reused, in particular no
packet identifiers. No messages are stored here: a ``Listener`` gets all events on the network thread.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from paho.mqtt.client import (
    MQTT_CLEAN_START_FIRST_ONLY,
    Client,
    ConnectFlags,
    DisconnectFlags,
    MQTTMessage,
)
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgeslm.errors import BrokerError
from edgeslm.mqtt.broker_address import BrokerAddress
from edgeslm.mqtt.diagnostics import (
    Problem,
    Welcome,
    connection_failure,
    hang_up,
    no_mqtt_5,
    refusal,
    silent_refusal,
)
from edgeslm.mqtt.paho_client import (
    Alarm,
    Pace,
    cut,
    make_properties,
    send_small_packets_at_once,
    turn,
    wrap_sockets,
)
from edgeslm.mqtt.publish_filter import TRACEPARENT
from edgeslm.mqtt.version_probe import is_old_broker
from edgeslm.protocol.delivery import OutgoingMessage, Subscription

log = logging.getLogger("edgeslm.mqtt")

ANSWER_S = 10.0

MQTT_311_IN_FLIGHT = 20
"""Limit of messages in flight with MQTT 3.1.1, which has no Receive Maximum. The value is mosquitto's
default."""

PATIENCE = 4
"""Minimum duration of a successful connection, as a multiple of the first reconnect pause; a successful
connection resets the backoff."""

PAUSES_S = (0.5, 15.0)
"""First and longest pause, in seconds, before the app client (``edgeslm.client``) reconnects."""

SESSION_EXPIRY_S = 7 * 24 * 3600
"""Session Expiry Interval in seconds: how long the broker keeps requests for an offline node."""


@dataclass(frozen=True, slots=True)
class Will:
    """Last will: a retained message that the broker publishes at QoS 1 when the connection breaks."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """Parameters of each CONNECT. ``maximum_packet_size`` is in bytes.

    With ``keeps_session`` False, a clean disconnect ends the session, but a broken connection doesn't.
    ``answer_s`` is the timeout for the broker's CONNACK, and for a clean disconnect.
    """

    client_id: str
    keepalive_s: int
    session_expiry_s: int
    receive_maximum: int
    maximum_packet_size: int
    will: Will | None = None
    keeps_session: bool = True
    answer_s: float = ANSWER_S


class Sent(Protocol):
    """A message passed to the network thread."""

    mid: int

    def is_published(self) -> bool:
        """Whether a QoS 0 message no longer waits in memory, since it was sent or lost."""


class Listener(Protocol):
    """Callbacks on the network thread, which must return at once and never raise."""

    def welcomed(self, link: BrokerLink, welcome: Welcome) -> None: ...
    def received(self, link: BrokerLink, message: MQTTMessage) -> None: ...
    def acknowledged(self, link: BrokerLink, mid: int, reason: ReasonCode) -> None: ...
    def subscribed(self, link: BrokerLink, mid: int, failures: Sequence[str | None]) -> None: ...
    def lost(self, problem: Problem) -> None: ...


class BrokerLink:
    """One connection to a broker. The method ``run`` blocks; ``publish``, ``ack``, ``[un]subscribe`` and
    ``close`` are thread-safe.

    :raises BrokerError: a TLS file can't be used.
    """

    def __init__(
        self, address: BrokerAddress, settings: ConnectionSettings, listener: Listener, *, mqtt5: bool = True
    ) -> None:
        self._address = address
        self._settings = settings
        self._listener = listener
        self._mqtt5 = mqtt5
        self._problem: Problem | None = None
        self.beat_at = time.monotonic()
        self.was_welcome = False
        self._received = 0
        self._client = self._make_client()
        self._alarm = Alarm()

    def run(self, stop: threading.Event) -> Problem:
        """Connects and serves the connection until it ends; returns the reason."""
        try:
            problem = self._serve(stop)
        except Exception as error:
            log.debug("the network loop ended", exc_info=True)
            problem = connection_failure(self._address, error)
        finally:
            self._client.on_disconnect = None
            cut(self._client)
            self._alarm.close()
        return self._problem or problem

    def publish(self, message: OutgoingMessage) -> Sent | None:
        """Passes a message to the network thread; returns None if the message can't be sent now."""
        properties = self._properties(
            PacketTypes.PUBLISH,
            MessageExpiryInterval=message.expiry_s,
            ResponseTopic=message.response_topic,
            CorrelationData=message.correlation,
            UserProperty=None if message.traceparent is None else (TRACEPARENT, message.traceparent),
        )
        try:
            sent = self._client.publish(
                message.topic, message.payload, message.qos, message.retain, properties
            )
        except OSError:  # the connection is being closed on the network thread
            return None
        return sent if sent.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def ack(self, mid: int) -> None:
        try:
            self._client.ack(mid, 1)
        except OSError:
            log.debug("an acknowledgement came too late for its connection")

    def subscribe(self, subscriptions: Sequence[Subscription]) -> int | None:
        """Sends one SUBSCRIBE packet; returns the packet identifier, or None if the packet can't be sent now.

        A packet holds one Subscription Identifier: that of the first subscription.
        """
        wanted: list[tuple[str, Any]] = [
            (
                one.filter,
                SubscribeOptions(qos=min(one.qos, 1), retainHandling=_retain_handling(one))
                if self._mqtt5
                else min(one.qos, 1),
            )
            for one in subscriptions
        ]
        properties = self._properties(
            PacketTypes.SUBSCRIBE, SubscriptionIdentifier=subscriptions[0].identifier
        )
        try:
            return self._client.subscribe(wanted, properties=properties)[1]
        except OSError:
            return None

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribes without waiting for the broker's answer; the caller ignores messages that still
        arrive."""
        with contextlib.suppress(OSError):
            self._client.unsubscribe(list(filters))

    def close(self) -> None:
        """Disconnects cleanly: the broker drops the will."""
        expiry_s = None if self._settings.keeps_session else 0
        try:
            self._client.disconnect(
                properties=self._properties(PacketTypes.DISCONNECT, SessionExpiryInterval=expiry_s)
            )
        except OSError:
            log.debug("a goodbye came too late for its connection")

    def _make_client(self) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._settings.client_id,
            # MQTT 5 requests the old session in connect(), 3.1.1 here.
            clean_session=None if self._mqtt5 else False,
            protocol=MQTTProtocolVersion.MQTTv5 if self._mqtt5 else MQTTProtocolVersion.MQTTv311,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        client.suppress_exceptions = True  # an exception in a callback would end the thread
        client.max_inflight_messages_set(0)  # unlimited: the outbox enforces the Receive Maximum
        client.connect_timeout = self._settings.answer_s
        if self._address.login.username is not None:
            client.username_pw_set(self._address.login.username, self._address.login.password)
        wrap_sockets(client, self._address.tls_context(), mqtt5=self._mqtt5)
        if self._settings.will is not None:
            client.will_set(self._settings.will.topic, self._settings.will.payload, qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_socket_open = send_small_packets_at_once
        # With this callback, paho writes on the network thread only. It may be called once for several
        # packets.
        client.on_socket_register_write = lambda client, userdata, sock: self._alarm.ring()
        return client

    def _properties(self, packet_type: int, **values: Any) -> Properties | None:
        return make_properties(packet_type, **values) if self._mqtt5 else None

    def _serve(self, stop: threading.Event) -> Problem:
        properties = self._properties(
            PacketTypes.CONNECT,
            SessionExpiryInterval=self._settings.session_expiry_s,
            ReceiveMaximum=self._settings.receive_maximum,
            MaximumPacketSize=self._settings.maximum_packet_size,
        )
        self._client.connect(
            self._address.host,
            self._address.port,
            keepalive=self._settings.keepalive_s,
            clean_start=False if self._mqtt5 else MQTT_CLEAN_START_FIRST_ONLY,
            properties=properties,
        )
        give_up_at = time.monotonic() + self._settings.answer_s
        is_closing = False
        pace = Pace()
        while self._client.socket() is not None:
            self.beat_at = time.monotonic()
            if stop.is_set() and not is_closing:
                is_closing = True
                give_up_at = self.beat_at + self._settings.answer_s
                self.close()
            if self.beat_at > give_up_at and (is_closing or not self.was_welcome):
                said = f"The broker at {self._address} doesn't answer; is it an MQTT broker?"
                return Problem(said, unanswered=True)
            pace.keep(self._received)
            code = turn(self._client, self._alarm)
            if code == MQTTErrorCode.MQTT_ERR_PROTOCOL and not self._mqtt5 and not self.was_welcome:
                return no_mqtt_5(self._address)  # paho's code for a refusal of 3.1.1
            if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
                break
        if not self.was_welcome:
            return silent_refusal(self._address)
        return Problem(f"The connection to the broker at {self._address} was lost.")

    # paho's callbacks, on the network thread

    def _on_connect(
        self,
        client: Client,
        userdata: Any,
        flags: ConnectFlags,
        reason: ReasonCode,
        granted: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._problem = refusal(self._address, reason)
            return
        self.was_welcome = True
        welcome = read_welcome(flags.session_present, granted, self._settings, mqtt5=self._mqtt5)
        self._listener.welcomed(self, welcome)

    def _on_disconnect(
        self,
        client: Client,
        userdata: Any,
        flags: DisconnectFlags,
        reason: ReasonCode,
        granted: Properties | None,
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._problem = hang_up(self._address, reason)

    def _on_message(self, client: Client, userdata: Any, message: MQTTMessage) -> None:
        self._received += message.qos > 0
        self._listener.received(self, message)

    def _on_publish(
        self, client: Client, userdata: Any, mid: int, reason: ReasonCode, granted: Properties
    ) -> None:
        self._listener.acknowledged(self, mid, reason)

    def _on_subscribe(
        self, client: Client, userdata: Any, mid: int, reasons: list[ReasonCode], granted: Properties
    ) -> None:
        self._listener.subscribed(self, mid, [one.getName() if one.is_failure else None for one in reasons])


def _retain_handling(subscription: Subscription) -> int:
    """Retain Handling (MQTT 5 section 3.8.3.1): the broker sends retained messages always (0), only for new
    subscriptions (1), or never (2)."""
    if subscription.every_time:
        return 0
    return 1 if subscription.retained else 2


def read_welcome(
    session_present: bool, granted: Properties | None, asked: ConnectionSettings, *, mqtt5: bool = True
) -> Welcome:
    """Reads the properties of a CONNACK; missing properties get the defaults of the MQTT specification. A
    CONNACK of MQTT 3.1.1 has no properties."""
    return Welcome(
        mqtt5=mqtt5,
        session_present=session_present,
        receive_maximum=getattr(granted, "ReceiveMaximum", 65535) if mqtt5 else MQTT_311_IN_FLIGHT,
        maximum_packet_size=getattr(granted, "MaximumPacketSize", None),
        maximum_qos=getattr(granted, "MaximumQoS", 2),
        retain_available=bool(getattr(granted, "RetainAvailable", 1)),
        wildcards_available=bool(getattr(granted, "WildcardSubscriptionAvailable", 1)),
        identifiers_available=bool(getattr(granted, "SubscriptionIdentifierAvailable", 1)),
        shared_available=bool(getattr(granted, "SharedSubscriptionAvailable", 1)),
        session_expiry_s=getattr(granted, "SessionExpiryInterval", asked.session_expiry_s),
    )


class Network:
    """Reconnects until :meth:`stop`.

    :param pauses_s: first and longest pause between attempts; the pauses grow exponentially, with jitter.
    :param may_connect: each attempt except the first waits until this event is set.
    """

    def __init__(
        self,
        address: BrokerAddress,
        settings: ConnectionSettings,
        listener: Listener,
        pauses_s: tuple[float, float],
        may_connect: threading.Event | None = None,
    ) -> None:
        self._address = address
        self._settings = settings
        self._listener = listener
        self._may_connect = may_connect
        self._first_pause_s, self._longest_pause_s = pauses_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgeslm-bus", daemon=True)
        self._beat_at = time.monotonic()
        self._link: BrokerLink | None = None
        self._mqtt5 = True
        self._had_mqtt5 = False

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Disconnects cleanly and waits for the thread to end. :return: whether the thread has ended."""
        self._stop.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def silent_s(self) -> float:
        """Seconds since the last iteration of the network thread's loop; a connection attempt may block the
        loop for 20 s."""
        link = self._link
        return time.monotonic() - max(self._beat_at, link.beat_at if link else 0.0)

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            began_at = time.monotonic()
            was_welcome = False
            try:
                self._link = BrokerLink(self._address, self._settings, self._listener, mqtt5=self._mqtt5)
                problem = self._link.run(self._stop)
                was_welcome = self._link.was_welcome
                self._had_mqtt5 = self._had_mqtt5 or (was_welcome and self._mqtt5)
            except BrokerError as error:
                problem = Problem(str(error))
            self._link = None
            if problem.version_refused and self._mqtt5:
                self._mqtt5 = False
                continue
            if problem.unanswered and not self._had_mqtt5:
                self._beat_at = time.monotonic()
                self._mqtt5 = not is_old_broker(self._address)
            self._listener.lost(problem)
            if problem.fatal:
                return
            failures += 1
            if was_welcome and time.monotonic() - began_at > PATIENCE * self._first_pause_s:
                failures = 0
            self._pause(failures)

    def _pause(self, failures: int) -> None:
        """Waits with exponential backoff and jitter, so that not all clients reconnect to a broker at the
        same time."""
        until = time.monotonic() + self._longest_pause(failures) * random.uniform(0.5, 1.0)
        while (left := until - time.monotonic()) > 0 or not self._is_allowed:
            if self._stop.wait(min(max(left, 0.05), 1.0)):
                return
            self._beat_at = time.monotonic()

    @property
    def _is_allowed(self) -> bool:
        return self._may_connect is None or self._may_connect.is_set()

    def _longest_pause(self, failures: int) -> float:
        return min(self._longest_pause_s, self._first_pause_s * 2.0 ** min(failures, 16))
