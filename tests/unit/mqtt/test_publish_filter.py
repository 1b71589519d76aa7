"""PUBLISH packets as paho gets to see them: nothing that it would end the connection for."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from paho.mqtt._packet import decode_publish
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes

from edgeslm.mqtt.paho_client import make_properties
from edgeslm.mqtt.publish_filter import PublishFilter

V5 = MQTTProtocolVersion.MQTTv5
TOPICS = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=200)
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


def variable(value: int) -> bytes:
    written = b""
    while value > 127:
        written += bytes([value & 127 | 128])
        value >>= 7
    return written + bytes([value])


def packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + variable(len(body)) + body


def publish(first: int, topic: bytes, packed: bytes, payload: bytes) -> bytes:
    mid = struct.pack("!H", 7) if first & 6 else b""
    return packet(first, struct.pack("!H", len(topic)) + topic + mid + packed + payload)


def pack(properties: dict[str, Any]) -> bytes:
    return bytes(make_properties(PacketTypes.PUBLISH, **properties).pack())  # type: ignore[no-untyped-call]


def read(data: bytes) -> tuple[Any, ...] | None:
    """What paho makes of a packet; None where it would end the connection."""
    at = 1
    while data[at] > 127:
        at += 1
    try:
        message = decode_publish(data[0], data[at + 1 :], V5)
    except MalformedPacket:
        return None
    values = {name: getattr(message.properties, name, None) for name in NAMES}
    return message.topic, message.mid, message.qos, message.dup, message.retain, values, message.payload


@given(st.sampled_from([0x30, 0x31, 0x32, 0x3A]), TOPICS, PLAIN, st.binary(max_size=50))
def test_a_message_is_read_as_it_was_sent(
    first: int, topic: str, properties: dict[str, Any], payload: bytes
) -> None:
    sent = publish(first, topic.encode(), pack(properties), payload)
    passed = PublishFilter().feed(sent)
    assert read(passed) == read(sent)
    if not {"ContentType", "PayloadFormatIndicator", "UserProperty"} & set(properties):
        assert passed == sent


@given(
    st.lists(st.tuples(st.sampled_from([0x30, 0x32, 0x40, 0xD0, 0x90]), PLAIN, st.binary(max_size=300))),
    st.lists(st.integers(1, 400)),
)
def test_packets_come_through_in_any_pieces(
    sent: list[tuple[int, dict[str, Any], bytes]], cuts: list[int]
) -> None:
    packets = [
        publish(first, b"a/b", pack(properties), payload) if first < 0x40 else packet(first, payload)
        for first, properties, payload in sent
    ]
    stream, whole = b"".join(packets), PublishFilter().feed(b"".join(packets))
    pieces, by_pieces = PublishFilter(), b""
    for size in cuts:
        by_pieces += pieces.feed(stream[:size])
        stream = stream[size:]
    assert by_pieces + pieces.feed(stream) == whole


@given(
    st.sampled_from([0x30, 0x32, 0x34, 0x36]),
    PLAIN,
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
)
@example(0x32, {"CorrelationData": b"abc"}, [(6, 0x80)])
def test_whatever_the_bytes_no_other_message_is_read(
    first: int, properties: dict[str, Any], changes: list[tuple[int, int]]
) -> None:
    body = bytearray(struct.pack("!H", 3) + b"a/b" + (b"\0\7" if first & 6 else b"") + pack(properties))
    for at, value in changes:
        body[at % len(body)] = value
    sent = packet(first, bytes(body) + b"payload")
    passed, direct = read(PublishFilter().feed(sent)), read(sent)
    assert passed == direct or (direct is None and changes)


@given(st.binary(max_size=300))
def test_any_bytes_are_taken(data: bytes) -> None:
    PublishFilter().feed(data)


@pytest.mark.parametrize(
    "properties",
    [
        b"\x26\0\1k\0\3\xef\xbb\xbf",  # User Property: U+FEFF, which MQTT-1.5.4-3 allows
        b"\x26\0\3\xef\xbb\xbf\0\1v",
        b"\x26\0\1k\0\2\xff\xff",
        b"\x03\0\3\xef\xbb\xbf",  # Content Type
        b"\x08\0\3\xef\xbb\xbf",  # Response Topic
        b"\x08\0\2\xff\xff",
        b"\x08\0\1\0",
    ],
)
@pytest.mark.parametrize("first", [0x30, 0x32, 0x34])
def test_no_text_of_a_stranger_ends_the_connection(first: int, properties: bytes) -> None:
    sent = publish(first, b"a", bytes([len(properties)]) + properties, b"payload")
    assert read(sent) is None
    message = read(PublishFilter().feed(sent))
    assert message is not None and message[-1] == b"payload"
    assert message[5]["ResponseTopic"] in (None, "")


@given(st.from_regex(r"[ -~]{1,80}", fullmatch=True))
def test_a_traceparent_is_left(value: str) -> None:
    sent = publish(0x30, b"t", pack({"UserProperty": ("traceparent", value)}), b"")
    assert PublishFilter().feed(sent) == sent


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ((b"other", b"x"), None),
        ((b"traceparent", b"first", b"traceparent", b"second"), "first"),
        ((b"traceparent", b"\xff"), None),
        ((b"traceparent", b"a\0"), None),
        ((b"traceparent", "é".encode()), None),
        ((b"Traceparent", b"x"), None),
    ],
)
def test_other_user_properties_are_left_out(properties: tuple[bytes, ...], expected: str | None) -> None:
    pairs = zip(properties[::2], properties[1::2], strict=True)
    packed = b"".join(
        b"\x26" + b"".join(struct.pack("!H", len(text)) + text for text in pair) for pair in pairs
    )
    passed = PublishFilter().feed(publish(0x30, b"t", bytes([len(packed)]) + packed, b""))
    message = decode_publish(passed[0], passed[2:], V5)
    wanted = [] if expected is None else [("traceparent", expected)]
    assert getattr(message.properties, "UserProperty", []) == wanted
