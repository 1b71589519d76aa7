"""Tests of ``brokers.py conformance``: exchanges with a running broker, which say why an answer is no."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.lib.broker_peer import Peer
from edgeslm.config.loader import parse_config
from edgeslm.mqtt.connection import SESSION_EXPIRY_S
from edgeslm.mqtt.probe import probe_broker

COUNT: Final = 100
WINDOW: Final = 256
"""The node's default for ``limits.queue``, and so its Receive Maximum."""
HOLD_S: Final = 35.0
"""Longer than the 30 s after which some brokers repeat what isn't acknowledged."""
RECONNECTS: Final = 25
"""More than the 20 deliveries after which RabbitMQ's quorum queues drop a message by default."""
DEEP: Final = 1500
"""More than mosquitto's default of 1,000 queued messages."""
LARGE: Final = 1_000_000
KILLS: Final = 3
AGE_S: Final = 5.0
"""Age of a session at a kill: by then each broker here has saved it."""


@dataclass
class Subject:
    """A running broker and how it is spoken to."""

    broker: Any
    mqtt5: bool
    numbers: int = 0

    def peer(self, name: str, **how: Any) -> Peer:
        return Peer(self.broker.port, name, mqtt5=self.mqtt5, **how)

    def topic(self) -> str:
        """A topic and client id that no other test has."""
        self.numbers += 1
        return f"edgeslm/v1/test-{self.numbers}/req/triage"


Test = Callable[[Subject], str]
"""Returns why the answer is no, or an empty text."""


def missing(wanted: Sequence[str], got: Sequence[str], what: str = "lost") -> str:
    gone = len(set(wanted) - set(got))
    return f"{gone} of {len(wanted)} {what}" if gone else ""


def numbered(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def later(one: Peer, wanted: Sequence[str]) -> str:
    """What doesn't come at once, and whether it comes within HOLD_S."""
    late = missing(wanted, one.take(len(wanted), 3.0), "not at once")
    if not late:
        return ""
    gone = missing(wanted, one.take(len(wanted), HOLD_S), f"lost after {HOLD_S:g} s")
    return gone or f"{late}, all within {HOLD_S:g} s"


def mqtt5(subject: Subject) -> str:
    with Peer(subject.broker.port, "asks-5"):
        return ""


def check(subject: Subject) -> str:
    """What ``edgeslm check --connect`` says."""
    config = parse_config(
        f"node: probe\nbroker: {{url: 'mqtt://127.0.0.1:{subject.broker.port}'}}\n"
        "models: {small: {bundle: /srv/small}}\n"
        "tasks: {triage: {kind: classify, model: small, labels: [a, b]}}\n"
    )
    return " ".join(probe_broker(config).problems)


def absent(
    subject: Subject, count: int = COUNT, meanwhile: Callable[[], None] = lambda: None, age_s: float = 0.0
) -> tuple[str, list[str]]:
    """What comes of messages to a client that is away while ``meanwhile`` happens; its session is ``age_s``
    old when they are sent."""
    topic = subject.topic()
    with subject.peer(topic, keep=True) as one:
        one.subscribe(topic)
    time.sleep(age_s)
    with subject.peer("sender") as sender:
        sender.publish_all(topic, numbered(count))
    meanwhile()
    with subject.peer(topic, keep=True) as one:
        got = one.take(count, 3.0)
        return ("" if one.resumed else "the session is gone; ") + missing(numbered(count), got), got


def session(subject: Subject) -> str:
    return absent(subject)[0]


def deep_queue(subject: Subject) -> str:
    return absent(subject, DEEP)[0]


def restart(subject: Subject) -> str:
    def again() -> None:
        subject.broker.stop()
        subject.broker.start()

    return absent(subject, meanwhile=again)[0]


def kill(subject: Subject) -> str:
    return _kills(subject, lambda again: absent(subject, meanwhile=again, age_s=AGE_S)[0])


def kill_young(subject: Subject) -> str:
    """A session that was made just before; its messages are sent at once."""
    return _kills(subject, lambda again: absent(subject, meanwhile=again)[0])


def kill_held(subject: Subject) -> str:
    """Messages that a connected client has and hasn't acknowledged."""

    def once(again: Callable[[], None]) -> str:
        topic = subject.topic()
        with subject.peer(topic, keep=True, acks=False) as one, subject.peer("sender") as sender:
            one.subscribe(topic)
            time.sleep(AGE_S)
            sender.publish_all(topic, numbered(COUNT))
            one.take(COUNT)
            again()
        with subject.peer(topic, keep=True) as one:
            return later(one, numbered(COUNT))

    return _kills(subject, once)


def _kills(subject: Subject, once: Callable[[Callable[[], None]], str]) -> str:
    def again() -> None:
        subject.broker.kill()
        subject.broker.start()

    said = [one for one in (once(again) for _ in range(KILLS)) if one]
    return f"{len(said)} of {KILLS} kills: {said[0]}" if said else ""


@contextmanager
def unacknowledged(subject: Subject, topic: str) -> Iterator[Peer]:
    """Context manager: a client with a session that has got ten messages and acknowledged none."""
    with subject.peer(topic, keep=True, acks=False) as one, subject.peer("sender") as sender:
        one.subscribe(topic)
        sender.publish_all(topic, numbered(10))
        one.take(10)
        yield one


def redelivery(subject: Subject) -> str:
    """Unacknowledged messages come again at each connect."""
    topic = subject.topic()
    with unacknowledged(subject, topic):
        pass
    for number in range(RECONNECTS):
        with subject.peer(topic, keep=True, acks=False) as one:
            if said := later(one, numbered(10)):
                return f"reconnect {number + 1}: {said}"
            if not all(message.dup for message in one.messages):
                return "without the DUP flag"
            one.drop()
    return ""


def one_copy(subject: Subject) -> str:
    """Nothing comes twice on a connection that lives."""
    with unacknowledged(subject, subject.topic()) as one:
        time.sleep(HOLD_S)
        more = len(one.messages) - 10
        return f"{more} more copies within {HOLD_S:g} s" if more else ""


def order(subject: Subject) -> str:
    topic = subject.topic()
    with subject.peer(topic, keep=True) as one, subject.peer("sender") as sender:
        one.subscribe(topic)
        sender.publish_all(topic, numbered(1000))
        got = one.take(1000)
    if got != numbered(1000):
        return missing(numbered(1000), got) or "out of order to a connected client"
    _, got = absent(subject)
    return "" if got == numbered(COUNT) else "out of order after an absence"


def window(subject: Subject) -> str:
    """Receive Maximum 5: no more than 5 unacknowledged messages come."""
    topic = subject.topic()
    with subject.peer(topic, acks=False, receive_maximum=5) as one, subject.peer("sender") as sender:
        one.subscribe(topic)
        sender.publish_all(topic, numbered(20))
        got = len(one.drain())
        return "" if got == 5 else f"{got} came"


def wide_window(subject: Subject) -> str:
    topic = subject.topic()
    with subject.peer(topic, keep=True, acks=False, receive_maximum=WINDOW) as one:
        with subject.peer("sender") as sender:
            one.subscribe(topic)
            sender.publish_all(topic, numbered(WINDOW + 20))
            got = len(one.drain())
        return "" if got >= WINDOW else f"only {got} came"


def share(subject: Subject) -> str:
    """Each message goes to one of two members, and both get some."""
    topic = subject.topic()
    with subject.peer("member-1") as one, subject.peer("member-2") as two, subject.peer("sender") as sender:
        one.subscribe(f"$share/pool/{topic}")
        two.subscribe(f"$share/pool/{topic}")
        sender.publish_all(topic, numbered(COUNT))
        got = [one.drain(), two.drain()]
    both = got[0] + got[1]
    if len(both) != COUNT or set(both) != set(numbered(COUNT)):
        return f"{len(both)} copies of {len(set(both))} of {COUNT} messages"
    return "" if all(got) else "one member gets all"


def share_dead(subject: Subject) -> str:
    """What a member had when its connection and session ended goes to the other one."""
    return _share_gone(subject, keep=False)


def share_away(subject: Subject) -> str:
    """What is sent while a member is away with a living session goes to the other one."""
    return _share_gone(subject, keep=True)


def _share_gone(subject: Subject, *, keep: bool) -> str:
    topic, name = subject.topic(), f"away-{subject.numbers}"
    with subject.peer("member-2") as two, subject.peer("sender") as sender:
        one = subject.peer(name, keep=keep, acks=False).__enter__()
        one.subscribe(f"$share/pool/{topic}")
        two.subscribe(f"$share/pool/{topic}")
        if keep:
            one.close()
        sender.publish_all(topic, numbered(COUNT))
        if not keep:
            one.drain()
            one.drop()
        return missing(numbered(COUNT), two.drain(3.0), "never came to it")


def expiry(subject: Subject) -> str:
    topic = subject.topic()
    with subject.peer(topic, keep=True) as one:
        one.subscribe(topic)
    with subject.peer("sender") as sender:
        sender.publish(topic, "short", MessageExpiryInterval=1)
        sender.publish(topic, "long", MessageExpiryInterval=600)
        time.sleep(2.5)
    with subject.peer(topic, keep=True) as one:
        got = one.drain()
        if got != ["long"]:
            return f"came: {', '.join(got) or 'nothing'}"
        left = getattr(one.messages[0].properties, "MessageExpiryInterval", None)
        return "" if left is not None and 590 <= left <= 599 else f"of 600 s, {left} are left after 2.5 s"


def retained(subject: Subject) -> str:
    return _retained(subject, lambda topic: topic)


def retained_wildcard(subject: Subject) -> str:
    """As ``edgeslm top`` and the clients find nodes."""
    return _retained(subject, lambda topic: topic.replace(topic.split("/")[2], "+"))


def _retained(subject: Subject, filter_of: Callable[[str], str]) -> str:
    topic = subject.topic()
    with subject.peer("sender") as sender:
        sender.publish(topic, "online", retain=True)
    with subject.peer(f"{topic}-late") as late:
        late.subscribe(filter_of(topic))
        got = late.take(1, 3.0)
    with subject.peer("sender") as sender:
        sender.publish(topic, "", retain=True)
    return "" if "online" in got else "it didn't come"


def retained_kill(subject: Subject) -> str:
    """A retained message that is three seconds old."""
    topic = subject.topic()
    with subject.peer("sender") as sender:
        sender.publish(topic, "online", retain=True)
    time.sleep(3.0)
    subject.broker.kill()
    subject.broker.start()
    with subject.peer(f"{topic}-late") as late:
        late.subscribe(topic)
        return "" if late.take(1, 3.0) == ["online"] else "it is gone"


def will(subject: Subject) -> str:
    topic = subject.topic()
    with subject.peer(f"{topic}-watch") as watch:
        watch.subscribe(topic)
        subject.peer(topic, will=(topic, "offline")).__enter__().drop()
        return "" if watch.take(1, 5.0) == ["offline"] else "it didn't come"


def will_delay(subject: Subject) -> str:
    """It comes after the delay, and not if the client is back by then."""
    topic = subject.topic()
    with subject.peer(f"{topic}-watch") as watch:
        watch.subscribe(topic)
        how = {"keep": True, "will": (topic, "offline"), "will_delay_s": 3}
        subject.peer(topic, **how).__enter__().drop()
        with subject.peer(topic, **how):
            time.sleep(4.5)
        if watch.texts:
            return "it came although the client was back"
        subject.peer(topic, **how).__enter__().drop()
        began_at = time.monotonic()
        if watch.take(1, 10.0) != ["offline"]:
            return "it didn't come"
        waited_s = time.monotonic() - began_at
        return "" if waited_s > 2.0 else f"it came after {waited_s:.1f} s of 3"


def properties(subject: Subject) -> str:
    return _forwarded(
        subject,
        {"ResponseTopic": "edgeslm/v1/a/res/b", "CorrelationData": bytes(range(64)), "ContentType": "text"},
    )


def user_property(subject: Subject) -> str:
    return _forwarded(subject, {"UserProperty": [("traceparent", "00-1"), ("traceparent", "00-2")]})


def _forwarded(subject: Subject, sent: dict[str, Any]) -> str:
    topic = subject.topic()
    with subject.peer(topic) as one, subject.peer("sender") as sender:
        one.subscribe(topic)
        sender.publish(topic, "asks", **sent)
        if one.take(1) != ["asks"]:
            return "the message didn't come"
        came = one.messages[0].properties
        wrong = [name for name, value in sent.items() if getattr(came, name, None) != value]
        return f"changed or missing: {', '.join(wrong)}" if wrong else ""


def large(subject: Subject) -> str:
    topic = subject.topic()
    with subject.peer(topic) as one, subject.peer("sender") as sender:
        one.subscribe(topic)
        sender.publish(topic, b"x" * LARGE)
        one.take(1)
        return "" if one.messages and len(one.messages[0].payload) == LARGE else "it didn't come"


def packet_limit(subject: Subject) -> str:
    """A client's Maximum Packet Size: larger messages aren't sent to it, and it stays connected."""
    topic = subject.topic()
    with subject.peer(topic, maximum_packet=2000) as one, subject.peer("sender") as sender:
        one.subscribe(topic)
        sender.publish(topic, b"large" * 1000)
        sender.publish(topic, "small")
        got = one.drain()
        return "" if got == ["small"] else f"came: {[text[:5] for text in got]}; {one.lost}".rstrip("; ")


def nobody(subject: Subject) -> str:
    """The PUBACK says that no subscription matches."""
    with subject.peer("sender") as sender:
        reason = sender.publish(subject.topic(), "anybody?")
        return "" if reason == 0x10 else f"reason 0x{reason:02x}"


def week(subject: Subject) -> str:
    with subject.peer("week", keep=True, session_s=SESSION_EXPIRY_S) as one:
        granted = getattr(one.granted, "SessionExpiryInterval", SESSION_EXPIRY_S)
    return "" if granted >= SESSION_EXPIRY_S else f"{granted} s"


def takeover(subject: Subject) -> str:
    """A second client with the same id ends the connection of the first."""
    with subject.peer("same", keep=True) as one, subject.peer("same", keep=True):
        give_up_at = time.monotonic() + 5.0
        while not one.lost and time.monotonic() < give_up_at:
            time.sleep(0.02)
        return "" if one.lost else "both stay connected"


TESTS: Final[dict[str, tuple[str, Test, bool]]] = {
    "mqtt5": ("MQTT 5", mqtt5, False),
    "check": ("`edgeslm check --connect` finds no problem", check, False),
    "session": ("a session keeps QoS 1 messages of an absent client", session, False),
    "week": ("for 7 days", week, True),
    "deep_queue": (f"{DEEP:,} of them", deep_queue, False),
    "restart": ("over a restart of the broker", restart, False),
    "kill": ("over `kill -9` of the broker", kill, False),
    "kill_held": ("`kill -9`: also what a connected client hasn't acknowledged", kill_held, False),
    "kill_young": ("`kill -9`: a session that was made just before", kill_young, False),
    "redelivery": (f"unacknowledged messages come again at each of {RECONNECTS} connects", redelivery, False),
    "one_copy": (f"and not on a connection that lives ({HOLD_S:g} s)", one_copy, False),
    "order": ("order", order, False),
    "window": ("Receive Maximum is honoured", window, True),
    "wide_window": (f"up to {WINDOW} unacknowledged messages", wide_window, False),
    "share": ("shared subscription", share, False),
    "share_dead": ("a dead member's messages go to another", share_dead, False),
    "share_away": ("messages for an absent member go to another", share_away, False),
    "expiry": ("Message Expiry", expiry, True),
    "retained": ("retained messages", retained, False),
    "retained_wildcard": ("retained messages, by wildcard", retained_wildcard, False),
    "retained_kill": ("retained messages over `kill -9`", retained_kill, False),
    "will": ("last will", will, False),
    "will_delay": ("Will Delay", will_delay, True),
    "properties": ("Response Topic and Correlation Data", properties, True),
    "user_property": ("User Property", user_property, True),
    "large": ("messages of 1 MB", large, False),
    "packet_limit": ("a client's Maximum Packet Size is honoured", packet_limit, True),
    "nobody": ("PUBACK 0x10 without a subscriber", nobody, True),
    "takeover": ("a second client with the same id ends the first", takeover, False),
}
"""What each is, its function, and whether only MQTT 5 has it."""
