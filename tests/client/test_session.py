"""Who waits for what, with a link that is none: acknowledgements come when the test says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from paho.mqtt.client import MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edgeslm.client.pending_request import (
    Acknowledged,
    Answered,
    Event,
    Failed,
    Lost,
    NodeUp,
    OutgoingMessage,
    Piece,
    Ready,
    Room,
)
from edgeslm.client.session import ClientSession
from edgeslm.errors import BrokerError, TooLarge
from edgeslm.mqtt.connection import BrokerLink, Sent, Subscription
from edgeslm.mqtt.diagnostics import Problem, Welcome
from edgeslm.protocol.codec import encode_state
from edgeslm.protocol.topics import Topics

TOPICS = Topics("hall")
REPLY_TO = "edgeslm/v1/hall/res/say/app"
SUCCESS = ReasonCode(PacketTypes.PUBACK, "Success")
REFUSED = Problem("The broker ended the connection: Packet too large.", packet_refused=True)
BROKEN = Problem("The connection was lost.")


def welcome(
    receive_maximum: int = 100, maximum_packet_size: int | None = None, mqtt5: bool = True
) -> Welcome:
    return Welcome(
        session_present=False,
        receive_maximum=receive_maximum,
        maximum_packet_size=maximum_packet_size,
        maximum_qos=2,
        retain_available=True,
        wildcards_available=True,
        session_expiry_s=300,
        mqtt5=mqtt5,
    )


class FakeLink(BrokerLink):
    """Notes what it is given. With ``at_once`` the acknowledgement overtakes the packet identifier."""

    def __init__(self, desk: ClientSession, at_once: bool = False) -> None:
        self.desk = desk
        self.at_once = at_once
        self.subscribed: dict[int, list[str]] = {}
        self.published: dict[int, tuple[str, bytes | None, int | None, str | None]] = {}
        self.acks: list[int] = []
        self.is_broken = False

    def subscribe(self, subscriptions: Sequence[Subscription]) -> int | None:
        mid = len(self.subscribed) + 1
        self.subscribed[mid] = [one.filter for one in subscriptions]
        if self.at_once:
            self.desk.subscribed(self, mid, [None] * len(subscriptions))
        return mid

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int,
        retain: bool,
        correlation: bytes | None = None,
        expiry_s: int | None = None,
        response_topic: str | None = None,
        traceparent: str | None = None,
    ) -> Sent | None:
        if self.is_broken:
            return None
        assert (qos, retain, payload) == (1, False, b"{}")
        mid = len(self.published) + 1
        self.published[mid] = (topic, correlation, expiry_s, response_topic)
        if self.at_once:
            self.desk.acknowledged(self, mid, SUCCESS)
        return Sent(mid, lambda: True)

    def ack(self, mid: int) -> None:
        self.acks.append(mid)


class Waiter:
    """Somebody with a letter, and what was told to them."""

    def __init__(self, desk: ClientSession, name: str = "7f", task: str = "say") -> None:
        self.events: list[Event] = []
        self.letter = OutgoingMessage(TOPICS.request(task), b"{}", desk.reply_topic(task), name.encode())
        desk.enlist(task, self.letter, self.events.append)

    def take(self) -> list[Event]:
        events = list(self.events)
        self.events.clear()
        return events


@pytest.fixture
def desk() -> ClientSession:
    return ClientSession(TOPICS, "app")


def connect(desk: ClientSession, *, at_once: bool = False, **granted: Any) -> FakeLink:
    link = FakeLink(desk, at_once)
    desk.welcomed(link, welcome(**granted))
    return link


def message(topic: str, payload: bytes = b"x", correlation: bytes = b"", qos: int = 1) -> MQTTMessage:
    made = MQTTMessage(7, topic.encode())
    made.payload = payload
    made.qos = qos
    made.properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if correlation:
        made.properties.CorrelationData = correlation
    return made


@pytest.mark.parametrize("at_once", [True, False])
def test_a_letter_goes_when_its_reply_topic_is_confirmed(desk: ClientSession, at_once: bool) -> None:
    link = connect(desk, at_once=at_once)
    one = Waiter(desk)
    assert link.subscribed[2] == [REPLY_TO, f"{REPLY_TO}/stream", "edgeslm/v1/hall/res/say"]
    if not at_once:
        assert one.take() == [] and desk.send(one.letter, 60) is None
        desk.subscribed(link, 2, [None, None, None])
    assert one.take() == [Ready(1)]
    assert desk.send(one.letter, 60) == 1
    assert list(link.published.values()) == [("edgeslm/v1/hall/req/say", b"7f", 60, REPLY_TO)]
    if not at_once:
        desk.acknowledged(link, 1, SUCCESS)
    assert one.take() == [Acknowledged(0, "Success")]
    two = Waiter(desk, "80")
    assert two.take() == [Ready(1)] and len(link.subscribed) == 2


def test_subscriptions_are_renewed_on_each_connection_before_anything_is_sent(desk: ClientSession) -> None:
    link = connect(desk, at_once=True)
    one = Waiter(desk)
    desk.send(one.letter, 60)
    desk.lost(BROKEN)
    link = connect(desk)
    assert link.subscribed == {
        1: [TOPICS.state, TOPICS.info],
        2: [REPLY_TO, f"{REPLY_TO}/stream", TOPICS.result("say")],
    }
    desk.subscribed(link, 1, [None])
    assert desk.send(one.letter, 60) is None
    one.take()
    desk.subscribed(link, 2, [None, None, None])
    assert one.take() == [Ready(2)]
    assert desk.send(one.letter, 60) == 2


def test_a_refused_subscription_ends_what_waits_for_it_and_may_be_tried_again(desk: ClientSession) -> None:
    link = connect(desk)
    one, other = Waiter(desk), Waiter(desk, "80", "other")
    desk.subscribed(link, 2, ["Not authorized", None, None])
    (event,) = one.take()
    assert isinstance(event, Failed)
    assert str(event.error) == f"The broker refuses the subscription to {REPLY_TO} (Not authorized)."
    assert other.take() == []
    desk.forget(one.letter)
    Waiter(desk)
    assert link.subscribed[4] == link.subscribed[2]


def test_no_more_is_under_way_than_the_broker_takes(desk: ClientSession) -> None:
    link = connect(desk, receive_maximum=2)
    first, *_ = waiters = [Waiter(desk, str(number)) for number in range(5)]
    desk.subscribed(link, 2, [None] * 3)
    assert [desk.send(one.letter, 60) for one in waiters] == [1, 1, None, None, None]
    assert [desk.send(one.letter, 60) for one in waiters[2:]] == [None, None, None]
    for one in waiters:
        one.take()
    desk.acknowledged(link, 1, SUCCESS)
    assert [one.take() for one in waiters] == [[Acknowledged(0, "Success")], [], [Room()], [], []]
    desk.forget(waiters[2].letter)  # it gave up, so the room is the next one's
    assert waiters[3].take() == [Room()]
    assert desk.send(waiters[3].letter, 60) == 1
    desk.acknowledged(link, 2, SUCCESS)
    desk.acknowledged(link, 3, SUCCESS)
    assert waiters[4].take() == [Room()]
    assert first.take() == []


def test_room_is_not_offered_to_who_has_left(desk: ClientSession) -> None:
    link = connect(desk, receive_maximum=1)
    waiters = [Waiter(desk, str(number)) for number in range(3)]
    desk.subscribed(link, 2, [None] * 3)
    assert [desk.send(one.letter, 60) for one in waiters] == [1, None, None]
    desk.forget(waiters[1].letter)
    waiters[2].take()
    desk.acknowledged(link, 1, SUCCESS)
    assert waiters[2].take() == [Room()]


def test_a_letter_for_which_the_broker_hangs_up_is_found(desk: ClientSession) -> None:
    link = connect(desk, at_once=True)
    good, bad = Waiter(desk, "good"), Waiter(desk, "bad")
    link.at_once = False
    assert desk.send(bad.letter, 60) == desk.send(good.letter, 60) == 1
    desk.lost(REFUSED)
    link = connect(desk)
    desk.subscribed(link, 2, [None] * 3)
    assert (desk.send(bad.letter, 60), desk.send(good.letter, 60)) == (2, None)
    for one in (good, bad):
        one.take()
    desk.lost(REFUSED)
    assert good.take() == [Lost(2, REFUSED)]
    failed, _ = bad.take()
    assert isinstance(failed, Failed) and "Packet too large" in str(failed.error)
    desk.forget(bad.letter)
    link = connect(desk, at_once=True)
    assert desk.send(good.letter, 60) == 3


def test_what_is_larger_than_the_broker_takes_is_not_sent(desk: ClientSession) -> None:
    connect(desk, at_once=True, maximum_packet_size=50)
    one = Waiter(desk)
    with pytest.raises(TooLarge, match="the broker takes 50"):
        desk.send(one.letter, 60)


def test_a_connection_that_breaks_while_a_letter_is_handed_over(desk: ClientSession) -> None:
    link = connect(desk, at_once=True)
    one = Waiter(desk)
    link.is_broken = True
    assert desk.send(one.letter, 60) is None
    desk.lost(BROKEN)
    assert one.take() == [Ready(1), Lost(1, BROKEN)]
    assert desk.send(one.letter, 60) is None


def test_who_comes_while_there_is_no_connection_hears_why(desk: ClientSession) -> None:
    assert Waiter(desk).take() == []
    desk.lost(BROKEN)
    assert Waiter(desk, "80").take() == [Lost(0, BROKEN)]


def test_messages_find_their_letter(desk: ClientSession) -> None:
    link = connect(desk, at_once=True)
    one, two = Waiter(desk, "1"), Waiter(desk, "2")
    for waiter in (one, two):
        waiter.take()
    desk.received(link, message(REPLY_TO, b"a", b"1"))
    desk.received(link, message(f"{REPLY_TO}/stream", b"b", b"2", qos=0))
    desk.received(link, message(REPLY_TO, b"late", b"forgotten"))
    desk.received(link, message(REPLY_TO, b"without"))
    assert (one.take(), two.take()) == ([Answered(b"a")], [Piece(b"b")])
    assert link.acks == [7, 7, 7]


def test_the_node_s_state(desk: ClientSession) -> None:
    link = connect(desk, at_once=True)
    one = Waiter(desk)
    one.take()
    states = []
    for payload in (b"what", encode_state("starting", "b"), encode_state("online", "b"), b"what"):
        desk.received(link, message(TOPICS.state, payload))
        states.append((desk.node_state, one.take()))
    assert states == [(None, []), ("starting", []), ("online", [NodeUp()]), ("online", [])]


def test_after_close_nobody_waits(desk: ClientSession) -> None:
    connect(desk, at_once=True)
    one = Waiter(desk)
    one.take()
    desk.close(BrokerError("closed"))
    (failed,) = one.take()
    assert isinstance(failed, Failed)
    assert Waiter(desk, "80").take() == [failed]


def test_a_broker_without_mqtt_5(desk: ClientSession) -> None:
    connect(desk, mqtt5=False)
    with pytest.raises(BrokerError, match=r"only MQTT 3\.1\.1"):
        desk.wait_connected(0)
