"""Minimal nodes that only answer, so that the broker is measured: sockets in one thread.

Each is a node for the broker: a connection with a last will, the retained messages of a node, a subscription
to its requests and to its pool's, results at QoS 1, and a request acknowledged after its result. The rest is
left out: no journal, no checks, one queue, one answer after the given time.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.lib.bare_client import (
    CONNACK,
    CONNECT,
    CORRELATION_DATA,
    MESSAGE_EXPIRY,
    PUBACK,
    PUBLISH,
    QOS_1,
    RESPONSE_TOPIC,
    SUBSCRIBE,
    packet,
    puback,
    read_variable_integer,
    split,
    text,
    variable_integer,
)

HEALTH_EVERY_S: Final = 30.0
RETAIN: Final = 0x01
DISCONNECT: Final = b"\xe0\x00"
RECEIVE_MAXIMUM: Final = b"\x21\x01\x00"
"""256, as ``limits.queue`` of a node."""
_SHORT = struct.Struct("!H")


@dataclass(frozen=True, slots=True)
class Profile:
    """What a node is to the broker. ``retained`` is topic -> payload of what it says of itself."""

    name: str
    service_s: float
    filters: tuple[str, ...]
    state_topic: str
    retained: dict[str, bytes]


@dataclass(slots=True)
class Asked:
    """A request: its packet identifier, where its answer goes, and when it came."""

    mid: int
    reply_to: str
    correlation: bytes
    at: float


@dataclass(slots=True, eq=False)
class ThinNode:
    """One connection. ``busy`` is what it computes; what waits is behind it."""

    profile: Profile
    sock: socket.socket
    received: bytearray = field(default_factory=bytearray)
    waiting: deque[Asked] = field(default_factory=deque)
    busy: Asked | None = None
    under_way: dict[int, int] = field(default_factory=dict)
    """Results that the broker has not acknowledged: their packet identifier, and that of the request."""
    mid: int = 0
    unsent: bytearray = field(default_factory=bytearray)

    def send(self, data: bytes) -> None:
        if not self.unsent:
            with contextlib.suppress(BlockingIOError):
                data = data[self.sock.send(data) :]
        self.unsent += data

    def publish(self, topic: str, payload: bytes, properties: bytes = b"", flags: int = QOS_1) -> int:
        self.mid = self.mid % 65535 + 1
        props = variable_integer(len(properties)) + properties
        self.send(packet(PUBLISH | flags, text(topic) + _SHORT.pack(self.mid) + props + payload))
        return self.mid


class ThinNodes:
    """Serves all of ``profiles`` until ``stop`` says so; ``on_ready`` is called when all are connected."""

    def __init__(self, port: int, profiles: Sequence[Profile], keepalive_s: int = 30) -> None:
        self._port = port
        self._profiles = profiles
        self._keepalive_s = keepalive_s
        self._selector = selectors.DefaultSelector()
        self._done: list[tuple[float, int, ThinNode]] = []
        self._number = 0
        self.nodes: list[ThinNode] = []

    def serve(self, stop: Callable[[], bool], on_ready: Callable[[], None] = lambda: None) -> None:
        for profile in self._profiles:
            self.nodes.append(self._connect(profile))
        on_ready()
        said = time.monotonic()
        turn = deque(self.nodes)
        while not stop():
            now = time.monotonic()
            while turn and now - said > HEALTH_EVERY_S / len(
                turn
            ):  # each once in the interval, spread over it
                turn.rotate(-1)
                self._say_health(turn[0])
                said += HEALTH_EVERY_S / len(turn)
            wait_s = min(0.05, max(0.0, self._done[0][0] - now)) if self._done else 0.05
            for key, events in self._selector.select(wait_s):
                self._turn(key.data, events)
            now = time.monotonic()
            while self._done and self._done[0][0] <= now:
                self._finish(heapq.heappop(self._done)[2], now)
        for node in self.nodes:
            node.sock.setblocking(True)
            state = node.profile.state_topic
            node.publish(state, node.profile.retained[state].replace(b"online", b"stopped"), flags=3)
            node.send(DISCONNECT)
            node.sock.close()

    def _connect(self, profile: Profile) -> ThinNode:
        sock = socket.create_connection(("127.0.0.1", self._port), 30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        state = profile.state_topic
        will = b"\x00" + text(state) + _long_text(profile.retained[state].replace(b"online", b"offline"))
        flags = bytes([0x02 | 0x04 | 0x08 | 0x20])  # clean start; a will, QoS 1, retained
        head = text("MQTT") + b"\x05" + flags + _SHORT.pack(self._keepalive_s)
        properties = variable_integer(len(RECEIVE_MAXIMUM)) + RECEIVE_MAXIMUM
        sock.sendall(packet(CONNECT, head + properties + text(f"thin-{profile.name}") + will))
        answer = sock.recv(4096)
        if not answer or answer[0] != CONNACK or answer[3]:
            raise SystemExit(f"the broker refuses {profile.name}")
        node = ThinNode(profile, sock)
        node.sock.setblocking(False)
        filters = b"".join(text(one) + b"\x01" for one in profile.filters)
        node.send(packet(SUBSCRIBE, _SHORT.pack(65535) + b"\x00" + filters))
        for topic, payload in profile.retained.items():
            node.publish(topic, payload, flags=QOS_1 | RETAIN)
        self._selector.register(sock, selectors.EVENT_READ, node)
        return node

    def _turn(self, node: ThinNode, events: int) -> None:
        if events & selectors.EVENT_WRITE and node.unsent:
            with contextlib.suppress(BlockingIOError):
                del node.unsent[: node.sock.send(node.unsent)]
        if events & selectors.EVENT_READ:
            data = node.sock.recv(262_144)
            if not data:
                raise SystemExit(f"the broker closed the connection of {node.profile.name}")
            node.received += data
            packets, used = split(node.received)
            del node.received[:used]
            now = time.monotonic()
            for kind, body in packets:
                self._take(node, kind, body, now)
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if node.unsent else 0)
        if self._selector.get_key(node.sock).events != wanted:
            self._selector.modify(node.sock, wanted, node)

    def _take(self, node: ThinNode, kind: int, body: bytes, now: float) -> None:
        if kind & 0xF0 == PUBACK:
            request = node.under_way.pop(_SHORT.unpack_from(body)[0], None)
            if request is not None:
                node.send(puback(request))
        elif kind & 0xF0 == PUBLISH:
            node.waiting.append(read_request(body, now))
            if node.busy is None:
                self._begin(node, now)

    def _begin(self, node: ThinNode, now: float) -> None:
        node.busy = node.waiting.popleft()
        self._number += 1
        heapq.heappush(self._done, (now + node.profile.service_s, self._number, node))

    def _finish(self, node: ThinNode, now: float) -> None:
        asked, node.busy = node.busy, None
        if asked is None:
            return
        properties = bytes([CORRELATION_DATA]) + _SHORT.pack(len(asked.correlation)) + asked.correlation
        mid = node.publish(asked.reply_to, result(asked, node.profile, now), properties)
        node.under_way[mid] = asked.mid
        if node.waiting:
            self._begin(node, now)

    def _say_health(self, node: ThinNode) -> None:
        topic = next(one for one in node.profile.retained if one.endswith("/health"))
        health = json.loads(node.profile.retained[topic])
        health |= {"queue": len(node.waiting), "in_flight": int(node.busy is not None)}
        node.publish(topic, json.dumps(health).encode(), flags=QOS_1 | RETAIN)


def read_request(body: bytes, now: float) -> Asked:
    """A PUBLISH of QoS 1 with Response Topic and Correlation Data."""
    at = _SHORT.size + _SHORT.unpack_from(body)[0]
    (mid,) = _SHORT.unpack_from(body, at)
    size = read_variable_integer(body, at + 2)
    if size is None:
        raise SystemExit("the broker sent half a message")
    at, end = size[1], size[1] + size[0]
    found = {RESPONSE_TOPIC: b"", CORRELATION_DATA: b""}
    while at < end:
        if body[at] == MESSAGE_EXPIRY:
            at += 5
            continue
        if body[at] not in found:
            raise SystemExit(f"a message has property 0x{body[at]:02x}, which this node can't read")
        start = at + 3
        stop = start + _SHORT.unpack_from(body, at + 1)[0]
        found[body[at]] = body[start:stop]
        at = stop
    return Asked(mid, found[RESPONSE_TOPIC].decode(), found[CORRELATION_DATA], now)


def result(asked: Asked, profile: Profile, now: float) -> bytes:
    """As long as a classify's, and with the same times."""
    service_ms = profile.service_s * 1000
    total_ms = (now - asked.at) * 1000
    queue_ms = total_ms - service_ms
    return (
        f'{{"id": "{asked.correlation.hex()}", "task": "triage", "status": "ok", "result": {{"label": '
        '"critical", "confidence": 0.9, "scores": {"critical": 0.9, "normal": 0.05, "warning": 0.05}, '
        '"stage": "small"}, "model": "small@sha256:000000000000", "timings_ms": {"queue": '
        f'{queue_ms:.1f}, "prefill": {service_ms:.1f}, "decode": 0.0, "total": {total_ms:.1f}}}, '
        '"usage": {"prompt_tokens": 7, "completion_tokens": 3}}'
    ).encode()


def _long_text(value: bytes) -> bytes:
    return _SHORT.pack(len(value)) + value
