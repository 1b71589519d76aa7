"""Minimal MQTT 5 client: it costs so little that a benchmark measures the other end.

Bytes on a socket: a request is a template with a packet identifier and eight bytes of Correlation Data filled
in; all that one ``recv`` brings is answered by one ``sendall``. QoS 1 both ways, with Response Topic and
Correlation Data. No reconnect, no TLS.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK = 0x10, 0x20, 0x30, 0x40, 0x82, 0x90
QOS_1: Final = 0x02
MESSAGE_EXPIRY, RESPONSE_TOPIC, CORRELATION_DATA = 0x02, 0x08, 0x09
FAILURE = 0x80
TIMEOUT_S = 60.0

_SHORT = struct.Struct("!H")
_CORRELATION = struct.Struct("!Q")


@dataclass(frozen=True, slots=True)
class Run:
    """What a number of requests came to; ``latencies_s`` from publish to result, in the order of arrival."""

    seconds: float
    latencies_s: list[float]


@dataclass(frozen=True, slots=True)
class Message:
    """A PUBLISH that came in. ``mid`` is 0 for QoS 0."""

    mid: int
    correlation: bytes
    payload: bytes


class BareClient:
    """A connection to the broker on this machine; results come on ``reply_topic``."""

    def __init__(self, port: int, reply_topic: str) -> None:
        self._reply_topic = reply_topic
        self._number = 0
        self._mid = 0
        self._received = bytearray()
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Version 5, clean start, no keep-alive, no properties.
        self._socket.sendall(packet(CONNECT, text("MQTT") + b"\x05\x02\x00\x00\x00" + text("bare-client")))
        _check("the connection", next(self._bodies(CONNACK))[1])
        self.subscribe(reply_topic)

    def close(self) -> None:
        self._socket.sendall(b"\xe0\x00")
        self._socket.close()

    def subscribe(self, topic: str) -> None:
        self._mid += 1
        self._socket.sendall(packet(SUBSCRIBE, _SHORT.pack(self._mid) + b"\x00" + text(topic) + b"\x01"))
        _check(f"the subscription to {topic}", next(self._bodies(SUBACK))[-1])

    def wait_for(self, topic: str, piece: bytes) -> None:
        """Waits for a message on ``topic`` that holds ``piece``; a retained one will do."""
        self._mid += 1
        self._socket.sendall(packet(SUBSCRIBE, _SHORT.pack(self._mid) + b"\x00" + text(topic) + b"\x01"))
        for body in self._bodies(PUBLISH):
            message = read_message(PUBLISH | QOS_1, body)
            self._socket.sendall(puback(message.mid))
            if piece in message.payload:
                return

    def run(self, topic: str, payloads: Sequence[bytes], in_flight: int) -> Run:
        """Sends each payload once, ``in_flight`` at a time, and ends when each has its result.

        A result that isn't ``ok`` ends the benchmark; a second copy of a result is allowed.
        """
        requests = iter([self._template(topic, payload) for payload in payloads])
        sent: dict[bytes, float] = {}
        latencies: list[float] = []
        started = now = time.perf_counter()
        out = [self._fill_in(next(requests), sent, now) for _ in range(min(in_flight, len(payloads)))]
        while len(latencies) < len(payloads):
            self._socket.sendall(b"".join(out))
            out.clear()
            arrived = self._receive()
            now = time.perf_counter()
            for kind, body in arrived:
                if kind & 0xF0 == PUBACK:
                    _check("a request", body[2] if len(body) > 2 else 0)
                    continue
                message = read_message(kind, body)
                out.append(puback(message.mid))
                if message.correlation not in sent:
                    continue
                if b'"status": "ok"' not in message.payload:
                    raise SystemExit(f"a request failed: {message.payload.decode(errors='replace')}")
                latencies.append(now - sent.pop(message.correlation))
                if (request := next(requests, None)) is not None:
                    out.append(self._fill_in(request, sent, now))
        self._socket.sendall(b"".join(out))
        return Run(now - started, latencies)

    def _template(self, topic: str, payload: bytes) -> tuple[bytes, bytes, bytes]:
        """A request in three pieces; the packet identifier and the Correlation Data go between them."""
        properties = bytes([RESPONSE_TOPIC]) + text(self._reply_topic)
        properties += bytes([CORRELATION_DATA]) + _SHORT.pack(_CORRELATION.size)
        middle = variable_integer(len(properties) + _CORRELATION.size) + properties
        name = text(topic)
        size = len(name) + _SHORT.size + len(middle) + _CORRELATION.size + len(payload)
        return bytes([PUBLISH | QOS_1]) + variable_integer(size) + name, middle, payload

    def _fill_in(self, template: tuple[bytes, bytes, bytes], sent: dict[bytes, float], now: float) -> bytes:
        head, middle, payload = template
        self._number += 1
        self._mid = self._mid % 65535 + 1
        correlation = _CORRELATION.pack(self._number)
        sent[correlation] = now
        return b"".join((head, _SHORT.pack(self._mid), middle, correlation, payload))

    def _bodies(self, wanted: int) -> Iterator[bytes]:
        """The packets of one kind, as they come; others are dropped."""
        while True:
            yield from (body for kind, body in self._receive() if kind & 0xF0 == wanted)

    def _receive(self) -> list[tuple[int, bytes]]:
        """The packets that the next ``recv`` completes, maybe none."""
        data = self._socket.recv(262_144)
        if not data:
            raise SystemExit("the broker closed the connection")
        self._received += data
        packets, used = split(self._received)
        del self._received[:used]
        return packets


def text(value: str) -> bytes:
    """A string as MQTT writes it: its length and its UTF-8 bytes (MQTT 5 section 1.5.4)."""
    encoded = value.encode()
    return _SHORT.pack(len(encoded)) + encoded


def variable_integer(value: int) -> bytes:
    """Seven bits a byte, the lowest first (MQTT 5 section 1.5.5)."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_variable_integer(data: bytes | bytearray, start: int) -> tuple[int, int] | None:
    """The value and the position behind it; None if it isn't all there."""
    value = shift = 0
    for position in range(start, len(data)):
        value |= (data[position] & 127) << shift
        if data[position] < 128:
            return value, position + 1
        shift += 7
    return None


def packet(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + variable_integer(len(body)) + body


def puback(mid: int) -> bytes:
    """Empty for a message of QoS 0, which has no packet identifier."""
    return packet(PUBACK, _SHORT.pack(mid)) if mid else b""


def split(data: bytes | bytearray) -> tuple[list[tuple[int, bytes]], int]:
    """The whole packets at the beginning of ``data``, each its first byte and its body, and their bytes."""
    packets: list[tuple[int, bytes]] = []
    start = 0
    while (size := read_variable_integer(data, start + 1)) is not None and size[1] + size[0] <= len(data):
        end = size[1] + size[0]
        packets.append((data[start], bytes(data[size[1] : end])))
        start = end
    return packets, start


def read_message(kind: int, body: bytes) -> Message:
    """A PUBLISH; of its properties only the Correlation Data matters.

    :raises SystemExit: it has a property that a node's messages don't have.
    """
    at = _SHORT.size + _SHORT.unpack_from(body)[0]
    mid = 0
    if kind & 0x06:
        (mid,) = _SHORT.unpack_from(body, at)
        at += _SHORT.size
    size = read_variable_integer(body, at)
    if size is None:
        raise SystemExit("the broker sent half a message")
    at, end = size[1], size[1] + size[0]
    correlation = b""
    while at < end:
        if body[at] == CORRELATION_DATA:
            start = at + 3
            at = start + _SHORT.unpack_from(body, at + 1)[0]
            correlation = body[start:at]
        elif body[at] == MESSAGE_EXPIRY:
            at += 5
        else:
            raise SystemExit(f"a message has property 0x{body[at]:02x}, which this client can't read")
    return Message(mid, correlation, body[end:])


def _check(what: str, reason: int) -> None:
    if reason >= FAILURE:
        raise SystemExit(f"the broker refuses {what}: reason 0x{reason:02x}")
