"""The packets that make up the traffic, written and read without paho's tables. Pure.

paho makes its tables of properties anew for each packet and searches them by name: 26 us to write a result's
properties, 80 us to read a request and the acknowledgement of its result. What isn't plain here is left to
paho, so that there is one judge of what is malformed.

A sender's texts are not judged while they are read: paho ends the connection over a U+FEFF in a User
Property, and the broker, which may pass it on, delivers the message again on the next connection, for ever.
"""

from __future__ import annotations

import struct
from typing import Any

from paho.mqtt.client import MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties, VariableByteIntegers

MESSAGE_EXPIRY_INTERVAL, RESPONSE_TOPIC, CORRELATION_DATA, SUBSCRIPTION_IDENTIFIER = 0x02, 0x08, 0x09, 0x0B
PAYLOAD_FORMAT_INDICATOR, CONTENT_TYPE, USER_PROPERTY = 0x01, 0x03, 0x26
"""MQTT 5 section 2.2.2.2."""

TRACEPARENT = "traceparent"
"""The one User Property that is read: W3C Trace Context for MQTT."""

_NAMES = {
    MESSAGE_EXPIRY_INTERVAL: "MessageExpiryInterval",
    RESPONSE_TOPIC: "ResponseTopic",
    CORRELATION_DATA: "CorrelationData",
}
_SHORT = struct.Struct("!H")
_LONG = struct.Struct("!L")


def make_properties(packet_type: int, **values: Any) -> Properties:
    """MQTT 5 properties by paho's names; None leaves one out."""
    properties = Properties(packet_type)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        if value is not None:
            setattr(properties, name, value)
    return properties


class SentProperties(Properties):
    """Properties of a message that can be sent, which is all that is asked of them.

    ``expiry_s`` is the Message Expiry Interval, ``traceparent`` the value of a User Property of that name.
    """

    def __init__(
        self,
        expiry_s: int | None,
        response_topic: str | None,
        correlation: bytes | None,
        traceparent: str | None = None,
    ) -> None:
        written = b""
        if expiry_s is not None:
            written += struct.pack("!BL", MESSAGE_EXPIRY_INTERVAL, expiry_s)
        if response_topic is not None:
            written += _prefixed(RESPONSE_TOPIC, response_topic.encode())
        if correlation is not None:
            written += _prefixed(CORRELATION_DATA, correlation)
        if traceparent is not None:
            written += _prefixed(USER_PROPERTY, TRACEPARENT.encode())
            written += _SHORT.pack(len(traceparent)) + traceparent.encode("ascii")
        size: bytes = VariableByteIntegers.encode(len(written))  # type: ignore[no-untyped-call]
        object.__setattr__(self, "_packed", size + written)  # paho's own takes names of properties alone

    def pack(self) -> bytes:
        packed: bytes = object.__getattribute__(self, "_packed")
        return packed

    def __str__(self) -> str:
        return repr(self.pack())


def _prefixed(identifier: int, value: bytes) -> bytes:
    return struct.pack("!BH", identifier, len(value)) + value


class ReceivedProperties(Properties):
    """Properties of a message that came in, by paho's names; one that isn't there has no attribute."""

    packetType = PacketTypes.PUBLISH  # noqa: N815  (paho's name)

    def __init__(self, values: dict[str, object]) -> None:
        self.__dict__.update(values)

    def __str__(self) -> str:
        return repr(self.__dict__)


def read_publish(first: int, body: bytes | bytearray) -> MQTTMessage | None:
    """The message of a PUBLISH packet of MQTT 5, from its first byte and what follows its length.

    None for one that is left to paho: QoS 2, malformed, without a topic, or with a property that no broker
    sends unasked. Payload Format Indicator, Content Type and User Properties are passed over, but for the
    first ``traceparent``.
    """
    qos = first >> 1 & 3
    if qos > 1:
        return None
    try:
        at = 2 + _SHORT.unpack_from(body)[0]
        topic = bytes(body[2:at])
        mid = 0
        if qos:
            (mid,) = _SHORT.unpack_from(body, at)
            at += 2
        values, end = _read_properties(body, at)
    except (struct.error, IndexError, ValueError):
        return None
    if not topic or end > len(body):
        return None
    message = MQTTMessage(mid, topic)
    message.dup, message.qos, message.retain = bool(first & 8), qos, bool(first & 1)
    message.properties = ReceivedProperties(values)
    message.payload = bytes(memoryview(body)[end:])
    return message


def _read_properties(body: bytes | bytearray, at: int) -> tuple[dict[str, object], int]:
    """The properties at ``at``, by paho's names, and where they end.

    ValueError, IndexError or struct.error: they are malformed, or others than are known here.
    """
    size, at = _read_variable(body, at)
    end = at + size
    values: dict[str, object] = {}
    identifiers: list[int] = []
    while at < end:
        kind = body[at]
        if kind == SUBSCRIPTION_IDENTIFIER:
            identifier, at = _read_variable(body, at + 1)
            identifiers.append(identifier)
            values["SubscriptionIdentifier"] = identifiers
            continue
        if kind == PAYLOAD_FORMAT_INDICATOR:
            at += 2
            continue
        if kind == CONTENT_TYPE:
            at += 3 + _SHORT.unpack_from(body, at + 1)[0]
            continue
        if kind == USER_PROPERTY:
            key, at = _read_bytes(body, at + 1)
            value, at = _read_bytes(body, at)
            if key == TRACEPARENT.encode() and value.isascii():
                values.setdefault(TRACEPARENT, value.decode())
            continue
        name = _NAMES.get(kind)
        if name is None or name in values:
            raise ValueError
        if kind == MESSAGE_EXPIRY_INTERVAL:
            (values[name],) = _LONG.unpack_from(body, at + 1)
            at += 5
            continue
        start = at + 3
        at = start + _SHORT.unpack_from(body, at + 1)[0]
        value = bytes(body[start:at])
        values[name] = _topic(value) if kind == RESPONSE_TOPIC else value
    if at > end:
        raise ValueError
    return values, end


def _read_bytes(body: bytes | bytearray, at: int) -> tuple[bytes, int]:
    """What stands behind a length of two bytes, and where it ends."""
    end = at + 2 + _SHORT.unpack_from(body, at)[0]
    return bytes(body[at + 2 : end]), end


def _read_variable(body: bytes | bytearray, at: int) -> tuple[int, int]:
    """A Variable Byte Integer, of at most four bytes, and where it ends."""
    value, shift = body[at] & 127, 7
    while body[at] > 127:
        if shift == 28:
            raise ValueError
        at += 1
        value |= (body[at] & 127) << shift
        shift += 7
    return value, at + 1


def _topic(text: bytes) -> str:
    """A Response Topic, for others to judge; empty, which none may be, if it is no text."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return ""


def read_success(body: bytes | bytearray) -> int | None:
    """The packet identifier of a PUBACK that says nothing but success; None for any other.

    MQTT 5 section 3.4.2.1 lets a broker leave out a reason of 0 and empty properties; 3.1.1 has neither.
    """
    return _SHORT.unpack(body)[0] if len(body) == _SHORT.size else None
