"""Whether paho still calls what is done otherwise here; if not, the node works, slowly."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from paho.mqtt.client import MQTTMessage
from paho.mqtt.reasoncodes import ReasonCode

from edgeslm.bus.address import BrokerAddress
from edgeslm.bus.buffered_socket import BufferedSocket
from edgeslm.bus.network import Link, Settings, Subscription
from edgeslm.bus.packets import ReceivedProperties
from edgeslm.bus.paho_client import SUCCESS, Alarm
from edgeslm.bus.problems import Problem, Welcome
from tests.brokers import Mosquitto

WAIT_S = 30.0


class Echo:
    """A listener that publishes once it is subscribed, and hears itself."""

    def __init__(self) -> None:
        self.messages: list[MQTTMessage] = []
        self.reasons: list[ReasonCode] = []
        self.done = threading.Event()

    def welcomed(self, link: Link, welcome: Welcome) -> None:
        link.subscribe([Subscription("a/b")])

    def subscribed(self, link: Link, mid: int, failures: Sequence[str | None]) -> None:
        link.publish("a/b", b"hello", qos=1, retain=False, correlation=b"c")

    def received(self, link: Link, message: MQTTMessage) -> None:
        self.messages.append(message)
        link.ack(message.mid)
        self._look()

    def acknowledged(self, link: Link, mid: int, reason: ReasonCode) -> None:
        self.reasons.append(reason)
        self._look()

    def lost(self, problem: Problem) -> None: ...

    def _look(self) -> None:
        if self.messages and self.reasons:
            self.done.set()


@pytest.mark.parametrize("mqtt5", [True, False])
def test_requests_and_acknowledgements_come_the_short_way(broker: Mosquitto, mqtt5: bool) -> None:
    echo, stop = Echo(), threading.Event()
    settings = Settings("echo", 30, 0, 10, 1_000_000)
    link = Link(BrokerAddress.parse(broker.url), settings, echo, mqtt5=mqtt5)
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
    assert isinstance(echo.messages[0].properties, ReceivedProperties) == mqtt5
    assert (echo.reasons[0] is SUCCESS) == mqtt5


def test_an_alarm_can_ring_often_and_after_its_end() -> None:
    alarm = Alarm()
    for _ in range(5_000):
        alarm.ring()
    alarm.quiet()
    alarm.close()
    alarm.ring()
    assert alarm.fileno() == -1
