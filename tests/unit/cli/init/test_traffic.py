"""Groups of topics by what passes."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edgeslm.cli.init import traffic as traffics
from edgeslm.cli.init.traffic import Traffic


def heard(*messages: tuple[str, Any]) -> Traffic:
    traffic = Traffic()
    for topic, payload in messages:
        traffic.add(topic, payload.encode() if isinstance(payload, str) else json.dumps(payload).encode())
    return traffic


def test_topics_that_differ_in_one_level_are_one_group() -> None:
    note = "The basin in room 3 leaks"
    groups = heard(("b/1/note", note), ("b/2/note", note), ("b/2/temp", "21.5"), ("c/x", note)).groups()
    assert [(one.filter, one.topics, one.count, one.kind) for one in groups] == [
        ("b/+/note", 2, 2, "text"),
        ("c/x", 1, 1, "text"),
        ("b/2/temp", 1, 1, "number"),
    ]


def test_the_text_of_a_json_payload_is_the_field_with_the_most_words() -> None:
    payload = {"id": "a b c", "at": 3, "after": {"note": "oil on the floor again", "level": 2}}
    (group,) = heard(("m/1", payload), ("m/2", payload)).groups()
    assert (group.filter, group.text) == ("m/+", "after.note")
    assert set(group.fields) == {"id", "at", "after.note", "after.level"}
    assert group.texts() == ["oil on the floor again"] * 2


def test_payloads_without_language_have_no_text() -> None:
    payloads: list[Any] = [{"state": "ON"}, {"temperature": 21.5}, "ON", "21", [1, 2]]
    groups = heard(*((f"d{number}/x", one) for number, one in enumerate(payloads))).groups()
    assert {one.text for one in groups} == {None}


def test_a_field_that_most_payloads_lack_isnt_the_text() -> None:
    messages = [("m/1", {"level": number}) for number in range(5)]
    (group,) = heard(*messages, ("m/1", {"note": "oil on the floor"})).groups()
    assert group.text is None


def test_retained_messages_are_counted_and_own_topics_left_out() -> None:
    traffic = Traffic()
    traffic.add("a", b"The basin leaks again", True)
    for topic in ("$SYS/x", "edgeslm/v1/hall/state", "homeassistant/sensor/x/config", "a/{{ x }}"):
        traffic.add(topic, b"The basin leaks again")
    traffic.add("b", b"")
    (group,) = traffic.groups()
    assert (group.filter, group.retained, traffic.count) == ("a", 1, 1)


def test_a_flood_of_topics_is_bounded() -> None:
    traffic = Traffic()
    for number in range(traffics.MOST_TOPICS + 5):
        traffic.add(f"t/{number}", b"1")
    assert (traffic.count, traffic.left_out) == (traffics.MOST_TOPICS, 5)
    assert len(traffic.groups()) == 1


def test_a_large_payload_is_counted_but_not_kept() -> None:
    (group,) = heard(("a", "word " * 5000)).groups()
    assert (group.count, list(group.samples)) == (1, [])


@given(st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=30)), max_size=12))
def test_any_traffic_has_groups(messages: list[tuple[str, bytes]]) -> None:
    traffic = Traffic()
    for topic, payload in messages:
        traffic.add(topic, payload)
    groups = traffic.groups()
    assert sum(one.count for one in groups) == traffic.count
    assert all(isinstance(one.example, str) for one in groups)
