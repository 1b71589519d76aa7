"""Client of ``soak.py``: an endless mixture of requests, a fixed number in flight.

A request depends on its number alone. The app connects to the broker directly; only the node's connection is
cut.
"""

from __future__ import annotations

import json
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgeslm.mqtt.paho_client import send_small_packets_at_once
from edgeslm.protocol.codec import Topics, parse_result

NODE = "soak"
TOPICS = Topics(NODE)
REPLY = f"{TOPICS.base}/res/soak/app"
IN_FLIGHT = 32
WAIT_S = 120.0
QUIET_S = 1.0
FILLERS = 1_000_000_000
"""Numbers of requests from here on fill the daemon before anything counts."""
WORDS = [
    "spindle",
    "press",
    "coolant",
    "oil",
    "burnt",
    "smells",
    "of",
    "lathe",
    "guard",
    "open",
    "3",
    "E42",
    "low",
]


@dataclass(slots=True)
class Plan:
    """One request. ``named`` means by ``id`` and ``reply_to`` in the payload, as MQTT 3.1.1 does."""

    task: str
    payload: bytes
    named: bool = False
    cancel: bool = False
    again: bool = False


def text(pick: random.Random, most: int) -> str:
    return " ".join(pick.choices(WORDS, k=pick.randint(3, most)))


def make_plan(number: int, folder: Path, *, real: bool) -> Plan:
    """The request of that number; those of the fake engine may hold one of its orders."""
    pick = random.Random(number)
    way = pick.random()
    options: dict[str, Any] = {}
    task, body = "triage", text(pick, 40)
    if way < 0.05:
        body = text(pick, 60 if real else 10_000)  # up to 60 kB
    elif way < 0.15:
        task, options = "say", {"stream": pick.random() < 0.5}
    elif way < 0.20:
        task = "fields"
    elif way < 0.25 and real:
        task = "vector"
    elif way < 0.29:
        wrong = ("{", '{"input": 5}', '{"input": "a", "options": {"colour": 1}}', '{"input": ""}')
        return Plan(pick.choice(("triage", "no-such-task")), pick.choice(wrong).encode())
    elif way < 0.30 and not real:
        body = f"fail {pick.choice(('too_long', 'internal', 'no_memory'))}"
    elif way < 0.32:
        # A fake engine holds it until it is cancelled, a real one has 64 tokens to make.
        task, body = "tell", body if real else f"hold {folder / 'never'}"
        return Plan(task, json.dumps({"input": body}).encode(), cancel=True)
    fields: dict[str, Any] = {"input": body, "options": options}
    named = number % 10 == 0
    if named:
        fields |= {"id": str(number), "reply_to": REPLY}
    return Plan(task, json.dumps(fields).encode(), named, again=pick.random() < 0.03)


class Load:
    """The app. ``folder`` is where a fake engine looks for what it waits for."""

    def __init__(self, port: int, folder: Path, *, real: bool) -> None:
        self._folder = folder
        self._real = real
        self._arrived: queue.SimpleQueue[tuple[str, bytes, bytes | None]] = queue.SimpleQueue()
        self._open: dict[int, Plan] = {}
        self._statuses: Counter[str] = Counter()
        self._extra = 0
        self.sent = 0
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.max_inflight_messages_set(1000)
        self._client.on_socket_open = send_small_packets_at_once
        self._client.on_message = self._on_message
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        _connect(self._client, port)
        self._client.subscribe(
            [(REPLY, 1), (TOPICS.stream(REPLY), 0), (TOPICS.result("+"), 1), (TOPICS.state, 1)]
        )
        self._client.loop_start()
        if not subscribed.wait(WAIT_S):
            raise SystemExit("the broker did not confirm a subscription")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def wait_for(self, is_it: Callable[[bytes], bool], topic: str, within_s: float) -> None:
        give_up_at = time.monotonic() + within_s
        while (left := give_up_at - time.monotonic()) > 0:
            try:
                heard, payload, _ = self._arrived.get(timeout=left)
            except queue.Empty:
                break
            if heard == topic and is_it(payload):
                return
        raise SystemExit(f"nothing that was waited for came on {topic}")

    def send_until(self, number: int) -> None:
        """Sends requests until so many were sent, at most :data:`IN_FLIGHT` without an answer."""
        while self.sent < number:
            while self.sent < number and len(self._open) < IN_FLIGHT:
                self._send(self.sent)
                self.sent += 1
            self._take(WAIT_S)

    def fill(self, count: int) -> None:
        """Embeddings, which cost an engine little, until what the daemon keeps of requests is full."""
        for number in range(FILLERS, FILLERS + count):
            pick = random.Random(number)
            words = text(pick, 400 if number % 20 == 0 else 20)
            self._open[number] = Plan("vector", json.dumps({"input": words}).encode())
            self._publish(number, self._open[number])
            while len(self._open) >= IN_FLIGHT:
                self._take(WAIT_S)
        self.settle()
        self._statuses.clear()

    def settle(self) -> None:
        """Until all is answered and nothing more comes."""
        while self._open:
            self._take(WAIT_S)
        while self._take(QUIET_S, must=False):
            pass

    def counts(self) -> dict[str, Any]:
        return {"statuses": dict(self._statuses.most_common()), "twice": self._extra, "lost": len(self._open)}

    def _send(self, number: int) -> None:
        plan = make_plan(number, self._folder, real=self._real)
        self._open[number] = plan
        self._publish(number, plan)
        if plan.cancel:
            properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.CorrelationData = str(number).encode()
            self._client.publish(TOPICS.cancel, b"", qos=1, properties=properties)

    def _publish(self, number: int, plan: Plan) -> None:
        properties: Any = None
        if not plan.named:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.ResponseTopic = REPLY
            properties.CorrelationData = str(number).encode()
        self._client.publish(TOPICS.request(plan.task), plan.payload, qos=1, properties=properties)

    def _take(self, wait_s: float, *, must: bool = True) -> bool:
        """The next message; false if none came, which ends the soak if one ``must``."""
        try:
            topic, payload, correlation = self._arrived.get(timeout=wait_s)
        except queue.Empty:
            if must:
                raise SystemExit(f"{len(self._open)} requests have had no answer for {wait_s:g} s") from None
            return False
        if topic in (TOPICS.state, TOPICS.stream(REPLY)):
            return True
        result = parse_result(payload)
        number = int(correlation or result.id)
        plan = self._open.pop(number, None)
        if plan is None:
            self._extra += 1
            return True
        self._statuses[result.error.code if result.error else result.status] += 1
        if plan.again:  # a repeat: the node sends the stored result
            self._publish(number, plan)
        return True

    def _on_message(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:
        correlation = getattr(message.properties, "CorrelationData", None)
        self._arrived.put((message.topic, bytes(message.payload), correlation))


def _connect(client: mqtt.Client, port: int) -> None:
    """Waits for a broker that has just been started."""
    give_up_at = time.monotonic() + WAIT_S
    while True:
        try:
            client.connect("127.0.0.1", port)
            return
        except ConnectionRefusedError:
            if time.monotonic() > give_up_at:
                raise SystemExit("the broker doesn't start") from None
            time.sleep(0.05)
