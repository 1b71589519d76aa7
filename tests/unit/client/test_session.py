"""Who waits for what, with a link that is none: acknowledgements come when the test says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from paho.mqtt.client import MQTTMessage, MQTTMessageInfo
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
    Piece,
    Ready,
    Room,
)
from edgeslm.client.session import ClientSession
from edgeslm.errors import BrokerError, TooLarge
from edgeslm.mqtt.connection import BrokerLink, Sent
from edgeslm.mqtt.diagnostics import Problem, Welcome
from edgeslm.protocol.codec import encode_state
from edgeslm.protocol.delivery import OutgoingMessage, Subscription
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

    def __init__(self, session: ClientSession, at_once: bool = False) -> None:
        self.session = session
        self.at_once = at_once
        self.subscribed: dict[int, list[str]] = {}
        self.published: dict[int, OutgoingMessage] = {}
        self.acks: list[int] = []
        self.is_broken = False

    def subscribe(self, subscriptions: Sequence[Subscription]) -> int | None:
        mid = len(self.subscribed) + 1
        self.subscribed[mid] = [one.filter for one in subscriptions]
        if self.at_once:
            self.session.subscribed(self, mid, [None] * len(subscriptions))
        return mid

    def publish(self, message: OutgoingMessage) -> Sent | None:
        if self.is_broken:
            return None
        assert (message.qos, message.retain, message.payload) == (1, False, b"{}")
        mid = len(self.published) + 1
        self.published[mid] = message
        if self.at_once:
            self.session.acknowledged(self, mid, SUCCESS)
        return MQTTMessageInfo(mid)

    def ack(self, mid: int) -> None:
        self.acks.append(mid)


class Waiter:
    """Somebody with a message, and what was told to them."""

    def __init__(self, session: ClientSession, name: str = "7f", task: str = "say") -> None:
        self.events: list[Event] = []
        topic, reply_to = TOPICS.request(task), session.reply_topic(task)
        self.outgoing = OutgoingMessage(
            topic, b"{}", response_topic=reply_to, correlation=name.encode(), expiry_s=60
        )
        session.enlist(task, self.outgoing, self.events.append)

    def take(self) -> list[Event]:
        events = list(self.events)
        self.events.clear()
        return events


@pytest.fixture
def session() -> ClientSession:
    return ClientSession(TOPICS, "app")


def connect(session: ClientSession, *, at_once: bool = False, **granted: Any) -> FakeLink:
    link = FakeLink(session, at_once)
    session.welcomed(link, welcome(**granted))
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
def test_a_letter_goes_when_its_reply_topic_is_confirmed(session: ClientSession, at_once: bool) -> None:
    link = connect(session, at_once=at_once)
    one = Waiter(session)
    assert link.subscribed[2] == [REPLY_TO, f"{REPLY_TO}/stream", "edgeslm/v1/hall/res/say"]
    if not at_once:
        assert one.take() == [] and session.send(one.outgoing) is None
        session.subscribed(link, 2, [None, None, None])
    assert one.take() == [Ready(1)]
    assert session.send(one.outgoing) == 1
    assert list(link.published.values()) == [one.outgoing]
    if not at_once:
        session.acknowledged(link, 1, SUCCESS)
    assert one.take() == [Acknowledged(0, "Success")]
    two = Waiter(session, "80")
    assert two.take() == [Ready(1)] and len(link.subscribed) == 2


def test_state_and_info_are_subscribed_before_any_request_can_be_sent() -> None:
    session = ClientSession(TOPICS, "app")
    connected: list[bool] = []

    class Watched(FakeLink):
        def subscribe(self, subscriptions: Sequence[Subscription]) -> int | None:
            try:
                session.wait_connected(0.0)
                connected.append(True)
            except BrokerError:
                connected.append(False)
            return super().subscribe(subscriptions)

    link = Watched(session)
    session.welcomed(link, welcome())
    assert (connected, link.subscribed) == ([False], {1: [TOPICS.state, TOPICS.info]})
    session.wait_connected(0.0)


def test_subscriptions_are_renewed_on_each_connection_before_anything_is_sent(session: ClientSession) -> None:
    link = connect(session, at_once=True)
    one = Waiter(session)
    session.send(one.outgoing)
    session.lost(BROKEN)
    link = connect(session)
    assert link.subscribed == {
        1: [TOPICS.state, TOPICS.info],
        2: [REPLY_TO, f"{REPLY_TO}/stream", TOPICS.result("say")],
    }
    session.subscribed(link, 1, [None])
    assert session.send(one.outgoing) is None
    one.take()
    session.subscribed(link, 2, [None, None, None])
    assert one.take() == [Ready(2)]
    assert session.send(one.outgoing) == 2


def test_a_refused_subscription_ends_what_waits_for_it_and_may_be_tried_again(session: ClientSession) -> None:
    link = connect(session)
    one, other = Waiter(session), Waiter(session, "80", "other")
    session.subscribed(link, 2, ["Not authorized", None, None])
    (event,) = one.take()
    assert isinstance(event, Failed)
    assert str(event.error) == f"The broker refuses the subscription to {REPLY_TO} (Not authorized)."
    assert other.take() == []
    session.forget(one.outgoing)
    Waiter(session)
    assert link.subscribed[4] == link.subscribed[2]


def test_no_more_is_under_way_than_the_broker_takes(session: ClientSession) -> None:
    link = connect(session, receive_maximum=2)
    first, *_ = waiters = [Waiter(session, str(number)) for number in range(5)]
    session.subscribed(link, 2, [None] * 3)
    assert [session.send(one.outgoing) for one in waiters] == [1, 1, None, None, None]
    assert [session.send(one.outgoing) for one in waiters[2:]] == [None, None, None]
    for one in waiters:
        one.take()
    session.acknowledged(link, 1, SUCCESS)
    assert [one.take() for one in waiters] == [[Acknowledged(0, "Success")], [], [Room()], [], []]
    session.forget(waiters[2].outgoing)  # it gave up, so the room is the next one's
    assert waiters[3].take() == [Room()]
    assert session.send(waiters[3].outgoing) == 1
    session.acknowledged(link, 2, SUCCESS)
    session.acknowledged(link, 3, SUCCESS)
    assert waiters[4].take() == [Room()]
    assert first.take() == []


def test_room_is_not_offered_to_who_has_left(session: ClientSession) -> None:
    link = connect(session, receive_maximum=1)
    waiters = [Waiter(session, str(number)) for number in range(3)]
    session.subscribed(link, 2, [None] * 3)
    assert [session.send(one.outgoing) for one in waiters] == [1, None, None]
    session.forget(waiters[1].outgoing)
    waiters[2].take()
    session.acknowledged(link, 1, SUCCESS)
    assert waiters[2].take() == [Room()]


def test_a_letter_for_which_the_broker_hangs_up_is_found(session: ClientSession) -> None:
    link = connect(session, at_once=True)
    good, bad = Waiter(session, "good"), Waiter(session, "bad")
    link.at_once = False
    assert session.send(bad.outgoing) == session.send(good.outgoing) == 1
    session.lost(REFUSED)
    link = connect(session)
    session.subscribed(link, 2, [None] * 3)
    assert (session.send(bad.outgoing), session.send(good.outgoing)) == (2, None)
    for one in (good, bad):
        one.take()
    session.lost(REFUSED)
    assert good.take() == [Lost(2, REFUSED)]
    failed, _ = bad.take()
    assert isinstance(failed, Failed) and "Packet too large" in str(failed.error)
    session.forget(bad.outgoing)
    link = connect(session, at_once=True)
    assert session.send(good.outgoing) == 3


def test_what_is_larger_than_the_broker_takes_is_not_sent(session: ClientSession) -> None:
    connect(session, at_once=True, maximum_packet_size=50)
    one = Waiter(session)
    with pytest.raises(TooLarge, match="the broker takes 50"):
        session.send(one.outgoing)


def test_a_connection_that_breaks_while_a_letter_is_handed_over(session: ClientSession) -> None:
    link = connect(session, at_once=True)
    one = Waiter(session)
    link.is_broken = True
    assert session.send(one.outgoing) is None
    session.lost(BROKEN)
    assert one.take() == [Ready(1), Lost(1, BROKEN)]
    assert session.send(one.outgoing) is None


def test_who_comes_while_there_is_no_connection_hears_why(session: ClientSession) -> None:
    assert Waiter(session).take() == []
    session.lost(BROKEN)
    assert Waiter(session, "80").take() == [Lost(0, BROKEN)]


def test_messages_find_their_letter(session: ClientSession) -> None:
    link = connect(session, at_once=True)
    one, two = Waiter(session, "1"), Waiter(session, "2")
    for waiter in (one, two):
        waiter.take()
    session.received(link, message(REPLY_TO, b"a", b"1"))
    session.received(link, message(f"{REPLY_TO}/stream", b"b", b"2", qos=0))
    session.received(link, message(REPLY_TO, b"late", b"forgotten"))
    session.received(link, message(REPLY_TO, b"without"))
    assert (one.take(), two.take()) == ([Answered(b"a")], [Piece(b"b")])
    assert link.acks == [7, 7, 7]


def test_the_node_s_state(session: ClientSession) -> None:
    link = connect(session, at_once=True)
    one = Waiter(session)
    one.take()
    states = []
    for payload in (b"what", encode_state("starting", "b"), encode_state("online", "b"), b"what"):
        session.received(link, message(TOPICS.state, payload))
        states.append((session.node_state, one.take()))
    assert states == [(None, []), ("starting", []), ("online", [NodeUp()]), ("online", [])]


def test_after_close_nobody_waits(session: ClientSession) -> None:
    connect(session, at_once=True)
    one = Waiter(session)
    one.take()
    session.close(BrokerError("closed"))
    (failed,) = one.take()
    assert isinstance(failed, Failed)
    assert Waiter(session, "80").take() == [failed]


def test_a_broker_without_mqtt_5(session: ClientSession) -> None:
    connect(session, mqtt5=False)
    with pytest.raises(BrokerError, match=r"only MQTT 3\.1\.1"):
        session.wait_connected(0)
