"""Topic names and filters against the rules of the MQTT specification, section 4.7."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.protocol.topic_filters import base_topic, filter_fault, matches, overlap, topic_name_fault

LEVELS = st.sampled_from(["a", "b", "$x", ""])
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)
FILTERS = st.builds(
    lambda levels, end: "/".join([*levels, *end]),
    st.lists(LEVELS | st.just("+"), max_size=3),
    st.sampled_from([["#"], ["a"], ["+"]]),
)


def reference_matches(topic_filter: str, topic: str) -> bool:
    """The specification's rules as one regular expression."""
    if topic.startswith("$") and topic_filter[0] in "+#":
        return False
    if topic_filter == "#":
        return True
    pattern = re.escape(topic_filter).replace(r"\+", "[^/]*")
    if pattern.endswith(r"/\#"):
        pattern = pattern[:-3] + "(/.*)?"
    return re.fullmatch(pattern, topic, re.DOTALL) is not None


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "$SYS/broker", False),
        ("+/monitor/Clients", "$SYS/monitor/Clients", False),
        ("$SYS/#", "$SYS/broker", True),
        ("a/b", "a/b/c", False),
    ],
)
def test_the_examples_of_the_specification(topic_filter: str, topic: str, expected: bool) -> None:
    assert matches(topic_filter, topic) is expected


@given(FILTERS, TOPICS)
def test_matching_agrees_with_the_reference(topic_filter: str, topic: str) -> None:
    assert matches(topic_filter, topic) == reference_matches(topic_filter, topic)


UNIVERSE = [
    "/".join(levels) for size in (1, 2, 3, 4) for levels in product(["a", "b", "$x", "c"], repeat=size)
]


@given(FILTERS, FILTERS)
def test_filters_overlap_when_a_topic_matches_both(one: str, other: str) -> None:
    # empty levels are outside the universe, so only filters without them can be compared both ways
    found = any(matches(one, topic) and matches(other, topic) for topic in UNIVERSE)
    assert overlap(one.split("/"), other.split("/")) >= found
    if "" not in one.split("/") + other.split("/"):
        assert overlap(one.split("/"), other.split("/")) == found


def test_a_pattern_may_have_many_levels_in_the_middle() -> None:
    assert overlap(["a", "+", "#", "z"], ["a", "b", "c", "z"])
    assert overlap(["a", "+", "#", "z"], ["a", "+", "z"])
    assert not overlap(["a", "+", "#", "z"], ["a", "z"])
    assert not overlap(["a", "+", "#", "z"], ["b", "#"])


@pytest.mark.parametrize(
    "topic", ["a", "a/b", "a b/ü", "edgeslm/v1/n/res/t", "a/$b", "x" * 65535, "~\xa0\ufdcf\ufdf0\ufffd"]
)
def test_names_that_may_be_published_to(topic: str) -> None:
    assert topic_name_fault(topic) is None


@pytest.mark.parametrize(
    ("topic", "fault"),
    [
        ("", "empty"),
        ("a/+", "wildcard"),
        ("a#", "wildcard"),
        ("a\0b", "NUL"),
        ("$SYS/a", "begins with $"),
        ("/a", "empty level"),
        ("a/", "empty level"),
        ("a//b", "empty level"),
        ("a\nb", "control character"),
        ("a\x85", "control character"),
        ("a\x1f", "control character"),
        ("a\x7f", "control character"),
        ("a\x9f", "control character"),
        ("a\ufdd0", "invalid code point"),
        ("a\ufdef", "invalid code point"),
        ("a\ufffe", "invalid code point"),
        ("a\U0001ffff", "invalid code point"),
        ("a\U0010fffe", "invalid code point"),
        ("a/" * 200 + "a", "more than 200 levels"),
        ("a\ud800", "UTF-8"),
        ("ü" * 40_000, "longer than"),
    ],
)
def test_names_that_may_not_be_published_to(topic: str, fault: str) -> None:
    assert fault in (topic_name_fault(topic) or "")


@pytest.mark.parametrize("topic_filter", ["#", "+", "a/+/b/#", "/a", "a//+", "$SYS/#", "+/+"])
def test_valid_filters(topic_filter: str) -> None:
    assert filter_fault(topic_filter) is None


@pytest.mark.parametrize(
    "topic_filter", ["", "a#", "a/#/b", "#/", "a+", "a/b+/c", "\0", "a\x01", "$share/g/a"]
)
def test_invalid_filters(topic_filter: str) -> None:
    assert filter_fault(topic_filter)


@given(st.text())
def test_any_text_gets_a_verdict(text: str) -> None:
    if topic_name_fault(text) is None:
        assert filter_fault(text) is None
        assert matches(text, text)


def test_the_base_of_a_node() -> None:
    assert base_topic("edgeslm", "press-hall-4") == "edgeslm/v1/press-hall-4"
