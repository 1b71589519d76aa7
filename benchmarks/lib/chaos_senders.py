"""Clients of both protocol versions, and the ledger of their requests.

A sender is an ordinary paho client with a persistent session. What paho does about a lost PUBACK: it keeps
each message of QoS 1 in memory until its PUBACK came, and after every reconnect sends all that are left
again, with DUP if they had been sent before, whether or not the broker still has the session. The broker
doesn't compare: a message whose PUBACK was lost is queued a second time, under another packet identifier. So
a request counts as sent when its first PUBACK came, none is given up, and it is the node that must tell the
copies.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgeslm.mqtt.paho_client import send_small_packets_at_once
from edgeslm.protocol.codec import Topics, parse_result

NODE = "chaos"
TASK = "triage"
TOPICS = Topics(NODE)
KEEPALIVE_S = 2
"""So that a black hole is noticed within the run."""
SESSION_S = 7 * 24 * 3600
"""The clock is stepped by days."""
PRIORITIES: tuple[int | None, ...] = (None, None, None, 9, 0)
"""What the requests state, in turns, with ``--priorities``."""


@dataclass(slots=True)
class Entry:
    """One request: when it was sent and acknowledged first (monotonic seconds), and what came back."""

    sent_at: float
    acknowledged_at: float | None = None
    answered_at: float | None = None
    codes: list[str] = field(default_factory=list)
    is_dead: bool = False

    @property
    def is_answered(self) -> bool:
        return self.answered_at is not None


class Ledger:
    """All requests by number. Every method fits any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.entries: dict[int, Entry] = {}
        self.answered = 0
        self.acknowledged = 0
        self.unrouted = 0
        """Acknowledged with "no matching subscribers": the broker has no session of the node."""
        self.refused: Counter[str] = Counter()
        self.strays = 0
        self.twice_at: list[float] = []
        """When each result came that its request already had."""
        self.redelivered = 0
        """Those of them that the broker brought twice, as DUP says: the node had sent them once."""
        self.busy_at = -math.inf
        """When a request was refused last since the node had no room (monotonic seconds)."""
        self._acknowledged_unanswered = 0
        self.last_news_at = time.monotonic()

    @property
    def unanswered(self) -> int:
        return len(self.entries) - self.answered

    @property
    def in_flight(self) -> int:
        """Requests that the broker has acknowledged and that have no result yet."""
        return self._acknowledged_unanswered

    @property
    def is_settled(self) -> bool:
        """Whether every request has been acknowledged and answered."""
        return self.answered == self.acknowledged == len(self.entries)

    def begin(self, number: int) -> None:
        with self._changed:
            self.entries[number] = Entry(time.monotonic())

    def acknowledge(self, number: int, reason: Any) -> None:
        with self._changed:
            entry = self.entries[number]
            if reason.is_failure:
                self.refused[reason.getName()] += 1
                return
            self.unrouted += reason.value == 0x10
            if entry.acknowledged_at is None:
                entry.acknowledged_at = time.monotonic()
                self.acknowledged += 1
                self._acknowledged_unanswered += not entry.is_answered
            self._news()

    def answer(self, name: str, code: str, *, dup: bool = False, is_dead: bool = False) -> None:
        """A result, or an entry on ``dead``, which counts as the answer if no result comes."""
        with self._changed:
            entry = self.entries.get(int(name)) if name.isdecimal() else None
            if entry is None:
                self.strays += 1
                return
            if is_dead:
                entry.is_dead = True
            else:
                if entry.codes:
                    self.twice_at.append(time.monotonic())
                    self.redelivered += dup
                entry.codes.append(code)
                if code == "busy":
                    self.busy_at = time.monotonic()
            if not entry.is_answered:
                entry.answered_at = time.monotonic()
                self.answered += 1
                self._acknowledged_unanswered -= entry.acknowledged_at is not None
            self._news()

    def wait_for(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(holds, timeout_s)

    def wait_while_news(self, holds: Callable[[], bool], quiet_s: float) -> bool:
        """Waits until ``holds``, as long as something happens at least every ``quiet_s``; whether it does."""
        while not self.wait_for(holds, 0.5):
            if time.monotonic() - self.last_news_at > quiet_s:
                return False
        return True

    def _news(self) -> None:
        self.last_news_at = time.monotonic()
        self._changed.notify_all()


@dataclass(slots=True)
class _Open:
    """What a sender repeats: ``wait_s`` after its last acknowledgement, so at ``due_at`` (monotonic)."""

    payload: bytes
    wait_s: float
    due_at: float = math.inf


class Sender:
    """One client. ``repeat_s``: an acknowledged request without a result is sent again after that long, then
    after twice as long, and so on."""

    def __init__(
        self,
        port: int,
        name: str,
        ledger: Ledger,
        *,
        mqtt5: bool,
        repeat_s: float | None = None,
        priorities: bool = False,
        topics: Topics = TOPICS,
    ) -> None:
        self._topics = topics
        self.reply_to = f"{topics.result(TASK)}/{name}"
        self._mqtt5 = mqtt5
        self._ledger = ledger
        self._repeat_s = repeat_s
        self._priorities = PRIORITIES if priorities else (None,)
        self._lock = threading.RLock()
        self._numbers: dict[int, int] = {}
        self._early: dict[int, Any] = {}
        self._open: dict[int, _Open] = {}
        self.repeats = 0
        self._client = make_client(f"chaos-{name}", mqtt5)
        self._client.on_connect = self._on_connect
        self._client.on_publish = self._on_publish
        self._client.on_message = self._on_message
        self._subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        start_client(self._client, port, mqtt5)
        if not self._subscribed.wait(30):
            raise SystemExit("the broker did not confirm a subscription")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def send(self, number: int) -> None:
        payload = self._payload(number)
        self._ledger.begin(number)
        self._publish(number, payload)

    def repeat_late(self) -> None:
        """Sends again, byte for byte, what was acknowledged and has had no result for too long."""
        if self._repeat_s is None or not self._client.is_connected():
            return
        with self._lock:
            late = [(number, one) for number, one in self._open.items() if time.monotonic() > one.due_at]
        for number, one in late:
            self.repeats += 1
            one.wait_s *= 2
            self._publish(number, one.payload)

    def _payload(self, number: int) -> bytes:
        fields: dict[str, Any] = {"input": f"press {number % 7}: note {number}"}
        priority = self._priorities[number % len(self._priorities)]
        if priority is not None:
            fields["options"] = {"priority": priority}
        if not self._mqtt5:
            fields |= {"id": str(number), "reply_to": self.reply_to}
        return json.dumps(fields).encode()

    def _publish(self, number: int, payload: bytes) -> None:
        properties = None
        if self._mqtt5:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.ResponseTopic = self.reply_to
            properties.CorrelationData = str(number).encode()
        with self._lock:
            if self._repeat_s is not None:
                one = self._open.setdefault(number, _Open(payload, self._repeat_s))
                one.due_at = math.inf  # paho repeats it until it is acknowledged
        mid = self._client.publish(self._topics.request(TASK), payload, qos=1, properties=properties).mid
        with self._lock:
            reason = self._early.pop(mid, None)
            if reason is None:
                self._numbers[mid] = number
                return
        self._acknowledged(number, reason)

    def _acknowledged(self, number: int, reason: Any) -> None:
        with self._lock:
            if (one := self._open.get(number)) is not None:
                one.due_at = time.monotonic() + one.wait_s
        self._ledger.acknowledge(number, reason)

    # paho's callbacks, on its thread

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        client.subscribe(self.reply_to, qos=1)  # the broker may have lost the session

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        with self._lock:
            number = self._numbers.pop(mid, None)
            if number is None:
                self._early[mid] = reason
                return
        self._acknowledged(number, reason)

    def _on_message(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:
        result = parse_result(bytes(message.payload))
        correlation = getattr(message.properties, "CorrelationData", None)
        name = correlation.decode() if correlation is not None else result.id
        with self._lock:
            if name.isdecimal():
                self._open.pop(int(name), None)
        code = result.error.code if result.error else result.status
        self._ledger.answer(name, code, dup=message.dup)


class Watcher:
    """Listens, without the proxies, to what the node says of itself and to mosquitto's count of ``drops``."""

    def __init__(
        self, port: int, ledger: Ledger, topics: Topics = TOPICS, *, mqtt5: bool = True, drops: bool = True
    ) -> None:
        self._ledger = ledger
        self._topics = topics
        self._changed = threading.Condition()
        self._latest: dict[str, tuple[int, Any]] = {}
        self._drops = (DROPPED,) if drops else ()
        self._client = make_client("chaos-watcher", mqtt5)
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        start_client(self._client, port, mqtt5)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def latest(self, topic: str) -> Any:
        return self._latest.get(topic, (0, None))[1]

    def count(self, topic: str) -> int:
        """How many messages came on the topic."""
        return self._latest.get(topic, (0, None))[0]

    def wait_for(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(holds, timeout_s)

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        topics = (self._topics.state, self._topics.health, self._topics.dead, *self._drops)
        client.subscribe([(topic, 1) for topic in topics])

    def _on_message(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:
        value = json.loads(message.payload)
        if message.topic == self._topics.dead:
            self._ledger.answer(value["id"], "dead", is_dead=True)
        with self._changed:
            self._latest[message.topic] = (self.count(message.topic) + 1, value)
            self._changed.notify_all()


DROPPED = "$SYS/broker/publish/messages/dropped"


def make_client(name: str, mqtt5: bool) -> mqtt.Client:
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        client_id=name,
        clean_session=None if mqtt5 else False,
        protocol=mqtt.MQTTv5 if mqtt5 else mqtt.MQTTv311,
    )
    client.max_inflight_messages_set(1000)
    client.reconnect_delay_set(1, 1)
    client.on_socket_open = send_small_packets_at_once
    return client


def start_client(client: mqtt.Client, port: int, mqtt5: bool) -> None:
    """Connects with a persistent session and lets paho's thread keep it up."""
    properties = None
    if mqtt5:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = SESSION_S
        properties.ReceiveMaximum = 1000
        client.connect_async("127.0.0.1", port, KEEPALIVE_S, clean_start=False, properties=properties)
    else:
        client.connect_async("127.0.0.1", port, KEEPALIVE_S)
    client.loop_start()
