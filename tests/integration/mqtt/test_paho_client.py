"""paho driven by its public methods: the socket that it is given, its turns, its end."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from edgeslm.mqtt.broker_address import BrokerAddress
from edgeslm.mqtt.buffered_socket import BufferedSocket
from edgeslm.mqtt.connection import BrokerLink, ConnectionSettings, Network, Will
from edgeslm.mqtt.diagnostics import Problem, Welcome
from edgeslm.mqtt.paho_client import Alarm, cut, make_properties, turn, wrap_sockets
from edgeslm.protocol.delivery import OutgoingMessage, Subscription
from tests.support.brokers import Mosquitto

WAIT_S = 30.0


class Echo:
    """A listener that publishes once it is subscribed, and hears itself."""

    def __init__(self) -> None:
        self.messages: list[MQTTMessage] = []
        self.reasons: list[ReasonCode] = []
        self.done = threading.Event()

    def welcomed(self, link: BrokerLink, welcome: Welcome) -> None:
        link.subscribe([Subscription("a/b")])

    def subscribed(self, link: BrokerLink, mid: int, failures: Sequence[str | None]) -> None:
        link.publish(OutgoingMessage("a/b", b"hello", correlation=b"c"))

    def received(self, link: BrokerLink, message: MQTTMessage) -> None:
        self.messages.append(message)
        link.ack(message.mid)
        self._look()

    def acknowledged(self, link: BrokerLink, mid: int, reason: ReasonCode) -> None:
        self.reasons.append(reason)
        self._look()

    def lost(self, problem: Problem) -> None: ...

    def _look(self) -> None:
        if self.messages and self.reasons:
            self.done.set()


@pytest.mark.parametrize("mqtt5", [True, False])
def test_a_message_and_its_acknowledgement_come_back(broker: Mosquitto, mqtt5: bool) -> None:
    echo, stop = Echo(), threading.Event()
    settings = ConnectionSettings("echo", 30, 0, 10, 1_000_000)
    link = BrokerLink(BrokerAddress.parse(broker.url), settings, echo, mqtt5=mqtt5)
    thread = threading.Thread(target=link.run, args=(stop,))
    thread.start()
    try:
        assert echo.done.wait(WAIT_S)
        assert isinstance(link._client.socket(), BufferedSocket)
    finally:
        stop.set()
        thread.join(WAIT_S)
    assert [bytes(message.payload) for message in echo.messages] == [b"hello"]
    assert [reason.value for reason in echo.reasons] == [0]
    assert getattr(echo.messages[0].properties, "CorrelationData", None) == (b"c" if mqtt5 else None)


def test_an_alarm_can_ring_often_and_after_its_end() -> None:
    alarm = Alarm()
    for _ in range(5_000):
        alarm.ring()
    alarm.quiet()
    alarm.close()
    alarm.ring()
    assert alarm.fileno() == -1


class Witness:
    """A listener that keeps what comes, and how often the connection was lost."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.lost_for: list[str] = []
        self.ready = threading.Event()
        self.has_last = threading.Event()

    def welcomed(self, link: BrokerLink, welcome: Welcome) -> None:
        link.subscribe([Subscription("a/#")])

    def subscribed(self, link: BrokerLink, mid: int, failures: Sequence[str | None]) -> None:
        self.ready.set()

    def received(self, link: BrokerLink, message: MQTTMessage) -> None:
        self.payloads.append(bytes(message.payload))
        link.ack(message.mid)
        if message.payload == b"last":
            self.has_last.set()

    def acknowledged(self, link: BrokerLink, mid: int, reason: ReasonCode) -> None: ...

    def lost(self, problem: Problem) -> None:
        self.lost_for.append(problem.sentence)


def test_a_message_with_texts_that_paho_refuses_does_not_cost_the_connection(broker: Mosquitto) -> None:
    """mosquitto passes U+FEFF on, and paho ends the connection over it: the message would come for ever."""
    witness = Witness()
    settings = ConnectionSettings("witness", 30, 60, 10, 1_000_000)
    network = Network(BrokerAddress.parse(broker.url), settings, witness, (0.1, 0.1))
    network.start()
    stranger = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    try:
        assert witness.ready.wait(WAIT_S)
        stranger.connect("127.0.0.1", broker.port)
        stranger.loop_start()
        for name, value in (
            ("UserProperty", ("\ufeff", "x")),
            ("ContentType", "\ufeff"),
            ("ResponseTopic", "\ufeff"),
        ):
            properties = make_properties(PacketTypes.PUBLISH, **{name: value})
            stranger.publish("a/b", name, qos=1, properties=properties).wait_for_publish(WAIT_S)
        stranger.publish("a/b", "last", qos=1).wait_for_publish(WAIT_S)
        assert witness.has_last.wait(WAIT_S)
        assert not witness.lost_for
    finally:
        stranger.disconnect()
        stranger.loop_stop()
        assert network.stop(WAIT_S)
    assert witness.payloads == [b"UserProperty", b"ContentType", b"ResponseTopic", b"last"]


def test_a_connection_is_cut_without_a_goodbye(broker: Mosquitto) -> None:
    witness = Witness()
    will = Will("a/will", b"last")
    heir = Network(
        BrokerAddress.parse(broker.url),
        ConnectionSettings("heir", 30, 0, 10, 1_000_000),
        witness,
        (0.1, 0.1),
    )
    heir.start()
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.will_set(will.topic, will.payload)
    wrap_sockets(client, None, mqtt5=True)
    alarm = Alarm()
    try:
        assert witness.ready.wait(WAIT_S)
        client.connect("127.0.0.1", broker.port)
        while not client.is_connected():
            turn(client, alarm)
        cut(client)
        assert client.socket() is None
        cut(client)
        assert witness.has_last.wait(WAIT_S), "the will was not published"
    finally:
        alarm.close()
        assert heir.stop(WAIT_S)
