"""Properties of a message as paho would have written them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgeslm.bus.network import make_properties
from edgeslm.bus.publish_properties import PublishProperties

TOPICS = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=200)


@given(st.none() | st.integers(0, 2**32 - 1), st.none() | TOPICS, st.none() | st.binary(max_size=300))
def test_the_bytes_are_those_of_paho(
    expiry_s: int | None, topic: str | None, correlation: bytes | None
) -> None:
    theirs: Properties = make_properties(
        PacketTypes.PUBLISH, MessageExpiryInterval=expiry_s, ResponseTopic=topic, CorrelationData=correlation
    )
    assert PublishProperties(expiry_s, topic, correlation).pack() == theirs.pack()  # type: ignore[no-untyped-call]


def test_they_can_be_shown() -> None:
    assert str(PublishProperties(None, None, b"c")) == repr(b"\x04\x09\x00\x01c")
