"""The MQTT 5 properties of a message that is sent, as bytes; paho takes longer for them than for the rest.

paho makes its tables anew for each ``Properties`` and searches them by name. Pure.
"""

from __future__ import annotations

import struct

from paho.mqtt.properties import Properties, VariableByteIntegers

MESSAGE_EXPIRY_INTERVAL, RESPONSE_TOPIC, CORRELATION_DATA = 0x02, 0x08, 0x09
"""MQTT 5 section 2.2.2.2."""


class PublishProperties(Properties):
    """Can be sent, which is all that is asked of it; ``expiry_s`` is the Message Expiry Interval."""

    def __init__(self, expiry_s: int | None, response_topic: str | None, correlation: bytes | None) -> None:
        written = b""
        if expiry_s is not None:
            written += struct.pack("!BL", MESSAGE_EXPIRY_INTERVAL, expiry_s)
        if response_topic is not None:
            written += _prefixed(RESPONSE_TOPIC, response_topic.encode())
        if correlation is not None:
            written += _prefixed(CORRELATION_DATA, correlation)
        size: bytes = VariableByteIntegers.encode(len(written))  # type: ignore[no-untyped-call]
        object.__setattr__(self, "_packed", size + written)  # paho's own takes names of properties alone

    def pack(self) -> bytes:
        packed: bytes = object.__getattribute__(self, "_packed")
        return packed

    def __str__(self) -> str:
        return repr(self.pack())


def _prefixed(identifier: int, value: bytes) -> bytes:
    return struct.pack("!BH", identifier, len(value)) + value
