"""PUBLISH filter: removes unused string properties from incoming MQTT 5 packets. The module does no I/O.

paho validates every string of a packet and disconnects if a string contains the character U+FEFF, although
MQTT allows this character (MQTT-1.5.4-3) and mosquitto forwards it. The broker then redelivers the message on
the next connection, so that one message with U+FEFF would keep a node offline for good. Before paho parses a
packet, the filter therefore removes the Content Type, the Payload Format Indicator, and all User Properties
except ``traceparent``. A Response Topic that paho would reject becomes empty, which is invalid for a request.
"""

from __future__ import annotations

import struct
from typing import Final

PUBLISH: Final = 0x30
KIND: Final = 0xF0
"""Mask of the packet type in a packet's first byte (MQTT 5 section 2.1.2)."""

PAYLOAD_FORMAT_INDICATOR: Final = 0x01
MESSAGE_EXPIRY_INTERVAL: Final = 0x02
CONTENT_TYPE: Final = 0x03
RESPONSE_TOPIC: Final = 0x08
CORRELATION_DATA: Final = 0x09
SUBSCRIPTION_IDENTIFIER: Final = 0x0B
TOPIC_ALIAS: Final = 0x23
USER_PROPERTY: Final = 0x26
"""This and the constants above are all the properties that a PUBLISH may have (MQTT 5 section 2.2.2.2)."""

TRACEPARENT: Final = "traceparent"
"""Name of the only User Property in use, from W3C Trace Context for MQTT."""

_FIXED_BYTES: Final = {PAYLOAD_FORMAT_INDICATOR: 1, MESSAGE_EXPIRY_INTERVAL: 4, TOPIC_ALIAS: 2}
_SHORT: Final = struct.Struct("!H")
_NO_RESPONSE_TOPIC: Final = bytes([RESPONSE_TOPIC, 0, 0])


class PublishFilter:
    """Filters a broker's byte stream packet by packet."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> bytes:
        """:return: the filtered packets that ``data`` completes; empty if no packet is complete yet."""
        self._rest += data
        passed: list[bytes] = []
        at = 0
        while at + 1 < len(self._rest):
            try:
                size, body_at = _read_variable(self._rest, at + 1)
            except IndexError:
                break
            except ValueError:  # an invalid length: paho refuses it
                passed.append(bytes(self._rest[at:]))
                at = len(self._rest)
                break
            end = body_at + size
            if end > len(self._rest):
                break
            if self._rest[at] & KIND == PUBLISH:
                passed.append(filter_publish(bytes(self._rest[at:end]), body_at - at))
            else:
                passed.append(bytes(self._rest[at:end]))
            at = end
        del self._rest[:at]
        return b"".join(passed)


def filter_publish(packet: bytes, body_at: int) -> bytes:
    """The filtered packet. A malformed packet is returned unchanged, so that paho refuses it.

    :param body_at: offset of the packet's variable header.
    """
    try:
        topic_end = body_at + 2 + _SHORT.unpack_from(packet, body_at)[0]
        properties_at = topic_end + (2 if packet[0] & 0x06 else 0)
        size, start = _read_variable(packet, properties_at)
        end = start + size
        kept = _filter_properties(packet, start, end)
    except (struct.error, IndexError, ValueError):
        return packet
    if kept is None:
        return packet
    body = packet[body_at:properties_at] + _variable(len(kept)) + kept + packet[end:]
    return packet[:1] + _variable(len(body)) + body


def _filter_properties(packet: bytes, at: int, end: int) -> bytes | None:
    """The properties to keep; None if all are kept. :raises ValueError: the properties are malformed."""
    kept: list[bytes] = []
    is_changed = has_traceparent = False
    while at < end:
        kind, begins = packet[at], at
        at = _property_end(packet, at)
        one = packet[begins:at]
        if kind == USER_PROPERTY and not has_traceparent and _is_traceparent(one):
            has_traceparent = True
        elif kind in (USER_PROPERTY, CONTENT_TYPE, PAYLOAD_FORMAT_INDICATOR):
            is_changed = True
            continue
        elif kind == RESPONSE_TOPIC and not _is_readable(one[3:]):
            is_changed, one = True, _NO_RESPONSE_TOPIC
        kept.append(one)
    if at != end or end > len(packet):
        raise ValueError
    return b"".join(kept) if is_changed else None


def _property_end(packet: bytes, at: int) -> int:
    kind = packet[at]
    at += 1
    if kind in _FIXED_BYTES:
        return at + _FIXED_BYTES[kind]
    if kind == SUBSCRIPTION_IDENTIFIER:
        return _read_variable(packet, at)[1]
    if kind not in (CONTENT_TYPE, RESPONSE_TOPIC, CORRELATION_DATA, USER_PROPERTY):
        raise ValueError
    at += 2 + _SHORT.unpack_from(packet, at)[0]
    return at + 2 + _SHORT.unpack_from(packet, at)[0] if kind == USER_PROPERTY else at


def _is_traceparent(user_property: bytes) -> bool:
    key_end = 3 + _SHORT.unpack_from(user_property, 1)[0]
    value = user_property[key_end + 2 :]
    return user_property[3:key_end] == TRACEPARENT.encode() and value.isascii() and b"\0" not in value


def _is_readable(text: bytes) -> bool:
    """Whether paho accepts ``text`` as a string."""
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        return False
    return "\0" not in decoded and "\ufeff" not in decoded


def _read_variable(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """A Variable Byte Integer and the offset of its end. :raises IndexError: the integer is incomplete."""
    value, shift = data[at] & 127, 7
    while data[at] > 127:
        if shift == 28:
            raise ValueError
        at += 1
        value |= (data[at] & 127) << shift
        shift += 7
    return value, at + 1


def _variable(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)
