"""Demo traffic: publishes messages for routes, sends requests, and collects the results."""

from __future__ import annotations

import json
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edgeslm.errors import BrokerError, EdgeslmError, ProtocolError
from edgeslm.messages import Result
from edgeslm.protocol.codec import Topics, encode_request, parse_result, parse_state

IN_FLIGHT = 16
"""Number of messages in flight while throughput is measured; latency is measured with one message in
flight."""
PATIENCE_S = 60.0
"""Timeout of the node's start and of a reload, in seconds."""


@dataclass(frozen=True, slots=True)
class DemoAnswer:
    """A result shown in the table: label, confidence, and milliseconds from publish to result."""

    number: int
    label: str
    confidence: float | None
    ms: float
    source: str | None = None
    """The document that an answer cites."""


class Traffic:
    """An MQTT 3.1.1 client, for any broker; request ids and reply topics are sent in the JSON payload.

    ``patience_s`` is the timeout for each result.
    """

    def __init__(self, url: str, node: str, *, patience_s: float) -> None:
        self._patience_s = patience_s
        self._topics = Topics(node)
        self._reply = f"{self._topics.base}/res/demo-app"
        self._arrived: queue.SimpleQueue[tuple[str, Result, float]] = queue.SimpleQueue()
        self._client = _client(url)
        self._client.on_message = self._on_message
        self._client.subscribe([(self._reply, 1), ("demo/+/+/+", 1)])
        self._client.loop_start()

    def __enter__(self) -> Traffic:
        return self

    def __exit__(self, *failure: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    @staticmethod
    def wait_online(url: str, node: str, process: subprocess.Popen[bytes]) -> None:
        """Waits until the node is online.

        :raises EdgeslmError: the node ended, or isn't online after a minute.
        """
        _wait_for(
            url, Topics(node).state, lambda payload: parse_state(payload).state == "online", process, "online"
        )

    @staticmethod
    def wait_taught(url: str, node: str, task: str, process: subprocess.Popen[bytes]) -> None:
        """Waits until the node's ``info`` no longer calls the task untaught.

        :raises EdgeslmError: the node ended, or has still the old task after a minute.
        """

        def is_taught(payload: bytes) -> bool:
            return "taught" not in json.loads(payload)["tasks"][task]

        _wait_for(url, Topics(node).info, is_taught, process, f"using what {task} has learned")

    def publish(self, topic: str, payload: str | Mapping[str, Any]) -> None:
        text = payload if isinstance(payload, str) else json.dumps(payload)
        self._client.publish(topic, text.encode(), qos=1)

    def through_route(
        self, messages: Sequence[tuple[str, Any]], output: str, in_flight: int = 1
    ) -> Iterator[DemoAnswer]:
        """Publishes messages for a route and yields the results in the order of the messages.

        ``output`` is a format string of the result's topic, in which ``{}`` stands for the message's topic
        and ``{name}`` for the field ``name`` of the message's payload.
        """
        return self._exchange(
            [
                (output.format(topic, **(payload if isinstance(payload, dict) else {})), topic, payload)
                for topic, payload in messages
            ],
            in_flight,
        )

    def requests(
        self,
        task: str,
        texts: Sequence[str],
        options: Sequence[Mapping[str, Any]] | None = None,
        in_flight: int = 1,
    ) -> Iterator[DemoAnswer]:
        """Sends requests and yields the results in the order of the requests."""
        sent = []
        for number, text in enumerate(texts):
            id = f"{task}-{number}"
            own = options[number] if options else None
            payload = encode_request(text, id=id, reply_to=self._reply, options=own)
            sent.append((id, self._topics.request(task), payload.decode()))
        return self._exchange(sent, in_flight)

    def _exchange(
        self, messages: Sequence[tuple[str, str, str | Mapping[str, Any]]], in_flight: int
    ) -> Iterator[DemoAnswer]:
        """Keeps ``in_flight`` messages in flight. Results may arrive in any order; they are yielded in the
        order of the messages.

        :param messages: for each message, a tuple of a key, the message's topic, and its payload. The key is
            the id of the request or the topic of the result; it tells which result belongs to the message.
        """
        sent: list[float] = []
        waiting: dict[str, list[int]] = {}
        ready: dict[int, DemoAnswer] = {}

        def send_next() -> None:
            if len(sent) < len(messages):
                key, topic, payload = messages[len(sent)]
                waiting.setdefault(key, []).append(len(sent))
                sent.append(time.perf_counter())
                self.publish(topic, payload)

        for _ in range(in_flight):
            send_next()
        for number in range(len(messages)):
            while number not in ready:
                key, result, at = self._next()
                if waiting.get(key):
                    which = waiting[key].pop(0)
                    ready[which] = _answer(which, result, (at - sent[which]) * 1000)
                    send_next()
            yield ready.pop(number)

    def _next(self) -> tuple[str, Result, float]:
        try:
            return self._arrived.get(timeout=self._patience_s)
        except queue.Empty:
            raise EdgeslmError(f"no result came within {self._patience_s:.0f} s") from None

    def _on_message(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:
        at = time.perf_counter()
        try:
            result = parse_result(bytes(message.payload))
        except ProtocolError:
            return  # a message for a route, which the subscription matches too
        self._arrived.put((result.id if message.topic == self._reply else message.topic, result, at))


def _wait_for(
    url: str, topic: str, is_it: Callable[[bytes], bool], process: subprocess.Popen[bytes], what: str
) -> None:
    """Waits for a message of the node.

    :param what: what the node then is, as a clause. :raises EdgeslmError: the node ended, or is late.
    """
    there = threading.Event()

    def on_message(client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:
        if is_it(bytes(message.payload)):
            there.set()

    client = _client(url)
    client.on_message = on_message
    client.subscribe(topic, qos=1)
    client.loop_start()
    deadline = time.monotonic() + PATIENCE_S
    try:
        while not there.wait(0.05):
            if process.poll() is not None:
                raise EdgeslmError(f"the daemon ended with status {process.returncode}")
            if time.monotonic() > deadline:
                raise EdgeslmError(f"the daemon is not {what} after {PATIENCE_S:.0f} s")
    finally:
        client.disconnect()
        client.loop_stop()


def _client(url: str) -> mqtt.Client:
    """A connected MQTT client. :raises BrokerError: the broker can't be reached."""
    parts = urlsplit(url)
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.max_inflight_messages_set(IN_FLIGHT)
    client.on_socket_open = _no_delay
    try:
        client.connect(parts.hostname or "127.0.0.1", parts.port or 1883)
    except OSError as error:
        raise BrokerError(f"the broker at {url} can't be reached: {error}") from None
    return client


def _no_delay(client: Any, userdata: Any, sock: Any) -> None:
    # Nagle's algorithm with delayed acknowledgements would cost 40 ms per message.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _answer(number: int, result: Result, ms: float) -> DemoAnswer:
    if result.error is not None:
        return DemoAnswer(number, f"error: {result.error.code}", None, ms)
    body = result.result or {}
    label = body.get("label") or body.get("text") or ", ".join(map(str, body.get("fields", {}).values()))
    sources = [str(one.get("source")) for one in body.get("citations", ())]
    return DemoAnswer(number, str(label), body.get("confidence"), ms, sources[0] if sources else None)
