"""Packets as paho would have written and read them."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from paho.mqtt._packet import decode_puback, decode_publish
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes

from edgeslm.bus.packets import SentProperties, make_properties, read_publish, read_success

TOPICS = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=200)
V5 = MQTTProtocolVersion.MQTTv5
NAMES = ("MessageExpiryInterval", "ResponseTopic", "CorrelationData", "SubscriptionIdentifier")
PLAIN = st.fixed_dictionaries(
    {},
    optional={
        "MessageExpiryInterval": st.integers(0, 2**32 - 1),
        "ResponseTopic": st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\ufeff")),
        "CorrelationData": st.binary(max_size=20_000),
        "SubscriptionIdentifier": st.lists(st.integers(1, 268_435_455), min_size=1, max_size=3),
        "PayloadFormatIndicator": st.integers(0, 1),
        "ContentType": st.from_regex(r"[ -~]{0,20}", fullmatch=True),
        "UserProperty": st.tuples(st.just("name"), st.from_regex(r"[ -~]{0,20}", fullmatch=True)),
    },
)


def publish_body(qos: int, topic: bytes, properties: dict[str, Any], payload: bytes) -> bytes:
    packed = make_properties(PacketTypes.PUBLISH, **properties).pack()  # type: ignore[no-untyped-call]
    mid = struct.pack("!H", 7) if qos else b""
    return struct.pack("!H", len(topic)) + topic + mid + bytes(packed) + payload


def read_by_paho(first: int, body: bytes) -> tuple[Any, ...] | None:
    try:
        read = decode_publish(first, body, V5)
    except MalformedPacket:
        return None
    values = {name: getattr(read.properties, name, None) for name in NAMES}
    return read.topic, read.mid, read.qos, read.dup, read.retain, values, read.payload


def read_here(first: int, body: bytes) -> tuple[Any, ...] | None:
    read = read_publish(first, bytearray(body))
    if read is None:
        return None
    values = {name: getattr(read.properties, name, None) for name in NAMES}
    return read._topic, read.mid, read.qos, read.dup, read.retain, values, read.payload


@given(st.none() | st.integers(0, 2**32 - 1), st.none() | TOPICS, st.none() | st.binary(max_size=300))
def test_sent_properties_are_those_of_paho(
    expiry_s: int | None, topic: str | None, correlation: bytes | None
) -> None:
    theirs = make_properties(
        PacketTypes.PUBLISH, MessageExpiryInterval=expiry_s, ResponseTopic=topic, CorrelationData=correlation
    )
    assert SentProperties(expiry_s, topic, correlation).pack() == theirs.pack()  # type: ignore[no-untyped-call]


def test_properties_can_be_shown() -> None:
    assert str(SentProperties(None, None, b"c")) == repr(b"\x04\x09\x00\x01c")
    read = read_publish(0x32, publish_body(1, b"a", {"CorrelationData": b"c"}, b""))
    assert read is not None
    assert "CorrelationData" in str(read.properties)


@given(st.sampled_from([0x30, 0x31, 0x32, 0x3A]), TOPICS, PLAIN, st.binary(max_size=50))
def test_a_plain_message_is_read_here_and_as_paho_reads_it(
    first: int, topic: str, properties: dict[str, Any], payload: bytes
) -> None:
    body = publish_body(first >> 1 & 3, topic.encode(), properties, payload)
    assert read_here(first, body) == read_by_paho(first, body)
    assert read_here(first, body) is not None


@given(
    st.sampled_from([0x30, 0x32, 0x34, 0x36]),
    PLAIN,
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    st.integers(0, 400),
)
@example(0x32, {"CorrelationData": b"abc"}, [(6, 0x80)], 400)
def test_whatever_the_bytes_are_paho_would_not_have_read_another_message(
    first: int, properties: dict[str, Any], changes: list[tuple[int, int]], length: int
) -> None:
    body = bytearray(publish_body(1, b"a/b", properties, b"payload"))
    for at, value in changes:
        body[at % len(body)] = value
    del body[length:]
    here = read_here(first, bytes(body))
    there = read_by_paho(first, bytes(body))
    # Texts that paho ends the connection for are read here; whoever uses them judges them.
    assert here is None or here == there or (there is None and changes)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (0x26, b"\0\1k\0\3\xef\xbb\xbf"),  # User Property: U+FEFF, which MQTT-1.5.4-3 allows
        (0x26, b"\0\1k\0\2\xff\xff"),
        (0x03, b"\0\3\xef\xbb\xbf"),  # Content Type
        (0x08, b"\0\3\xef\xbb\xbf"),  # Response Topic
        (0x08, b"\0\2\xff\xff"),
    ],
)
def test_no_text_of_a_sender_is_left_to_paho_which_would_hang_up(kind: int, value: bytes) -> None:
    properties = bytes([kind]) + value
    body = b"\0\1a\0\7" + bytes([len(properties)]) + properties + b"payload"
    assert read_by_paho(0x32, body) is None
    read = read_here(0x32, body)
    assert read is not None
    assert read[-1] == b"payload"


@given(st.binary(max_size=6))
def test_a_puback_without_a_reason_is_a_success(body: bytes) -> None:
    mid = read_success(bytearray(body))
    assert (mid is not None) == (len(body) == 2)
    if mid is not None:
        read = decode_puback(0x40, body, V5)
        assert (read.mid, read.reason.value) == (mid, 0)


@given(st.from_regex(r"[ -~]{1,80}", fullmatch=True))
def test_a_traceparent_is_written_as_paho_writes_it_and_read(value: str) -> None:
    by_paho = make_properties(PacketTypes.PUBLISH, UserProperty=("traceparent", value)).pack()  # type: ignore[no-untyped-call]
    assert SentProperties(None, None, None, value).pack() == by_paho
    read = read_publish(0x30, publish_body(0, b"t", {"UserProperty": ("traceparent", value)}, b""))
    assert read is not None and getattr(read.properties, "traceparent", None) == value


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ((b"other", b"x"), None),
        ((b"traceparent", b"first", b"traceparent", b"second"), "first"),
        ((b"traceparent", b"\xff"), None),
        ((b"traceparent", "é".encode()), None),
        ((b"Traceparent", b"x"), None),
    ],
)
def test_other_user_properties_are_no_traceparent(
    properties: tuple[bytes, ...], expected: str | None
) -> None:
    pairs = zip(properties[::2], properties[1::2], strict=True)
    packed = b"".join(
        b"\x26" + b"".join(struct.pack("!H", len(text)) + text for text in pair) for pair in pairs
    )
    read = read_publish(0x30, b"\0\1t" + bytes([len(packed)]) + packed)
    assert read is not None and getattr(read.properties, "traceparent", None) == expected
