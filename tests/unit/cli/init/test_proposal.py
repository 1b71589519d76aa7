"""The configuration that is proposed is valid, for each purpose and odd names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.cli.init.proposal import PURPOSES, Place, Purpose, Wish, parse_fields, parse_labels, write
from edgeslm.cli.init.traffic import Group, Traffic
from edgeslm.config.loader import parse_config

PLACE = Place("board-1", {"url": "mqtt://localhost"}, "/var/lib/x", "/bundles/small", "/bundles/minilm")


def group(
    topic: str = "building/+/note", payload: bytes = b"The basin in room 3 leaks", **fields: Any
) -> Group:
    traffic = Traffic()
    for name in ("1", "2") if "+" in topic else ("",):
        traffic.add(topic.replace("+", name), payload, **fields)
    return traffic.groups()[0]


def wish(purpose: Purpose) -> Wish:
    labels = {"repair": "something: is #broken", "yes": "", "other thing": '"quoted"'}
    return Wish(purpose, labels, {"machine": "string", "temperature_c": "number"})


@pytest.mark.parametrize("purpose", list(PURPOSES))
@pytest.mark.parametrize(
    "payload", [b"The basin in room 3 leaks", b'{"a": {"text": "The basin in room 3 leaks"}}']
)
def test_each_purpose_gives_a_valid_configuration(purpose: Purpose, payload: bytes) -> None:
    for place in (
        PLACE,
        Place("n", {"url": "mqtts://b", "username": "u", "password_file": "/p w"}, "/s", "/d", None),
    ):
        config = parse_config(write(group(payload=payload), wish(purpose), place))
        (route,) = config.routes
        assert route.source == "building/+/note"
        assert route.input == (None if payload.startswith(b"The") else "{{ payload.a.text }}")


def test_labels_and_output_are_those_of_the_user() -> None:
    config = parse_config(write(group(), wish("label"), PLACE))
    assert dict(config.tasks["label"].labels or {}) == dict(wish("label").labels)
    assert config.routes[0].to == "building/{{ topic[1] }}/note/label"
    assert parse_config(write(group("notes/+"), wish("digest"), PLACE)).routes[0].to is None


def test_messages_that_are_all_retained_are_read() -> None:
    for purpose in PURPOSES:
        assert parse_config(write(group(retained=True), wish(purpose), PLACE)).routes[0].accept_retained
    assert not parse_config(write(group(), wish("label"), PLACE)).routes[0].accept_retained


@given(st.text(alphabet="abc}% '\"\\:/-äß$", min_size=1, max_size=20))
def test_odd_topics_are_quoted(topic: str) -> None:
    topic = topic.lstrip("$").strip("/") or "x"
    for purpose in PURPOSES:
        config = parse_config(write(group(topic), wish(purpose), PLACE))
        assert config.routes[0].source == topic


@pytest.mark.parametrize("text", ["", "one", "a,a", "a=,=b"])
def test_labels_must_be_two_or_more(text: str) -> None:
    with pytest.raises(ValueError, match="label"):
        parse_labels(text)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("repair=something is broken; other", {"repair": "something is broken", "other": ""}),
        ("plumbing=water, electrical=light", {"plumbing": "water", "electrical": "light"}),
        (
            "a=belts, chains and damage, b=power, sensors",
            {"a": "belts, chains and damage", "b": "power, sensors"},
        ),
        ("a=belts, chains; b, c; d=x = y,", {"a": "belts, chains", "b": "", "c": "", "d": "x = y"}),
        ("normal, warning, critical=stop, now", {"normal": "", "warning": "", "critical": "stop, now"}),
        ("a=, x; b", {"a": "x", "b": ""}),
    ],
)
def test_a_comma_within_a_meaning_belongs_to_it(text: str, labels: dict[str, str]) -> None:
    assert parse_labels(text) == labels


def test_one_label_with_commas_tells_of_the_semicolon() -> None:
    with pytest.raises(ValueError, match="; ends it"):
        parse_labels("repair=something is broken, other")


@pytest.mark.parametrize("text", ["", "a b", "a:text", "a,a", "1a"])
def test_fields_have_names_and_types(text: str) -> None:
    with pytest.raises(ValueError, match=r"field|type"):
        parse_fields(text)
    assert parse_fields("machine, temperature_c:number") == {"machine": "string", "temperature_c": "number"}


@pytest.mark.parametrize("name", ["123456789012", "1e5", "null", "yes"])
def test_a_name_that_yaml_would_read_otherwise_is_quoted(name: str) -> None:
    assert parse_config(write(group(), wish("label"), replace(PLACE, node=name))).node == name


def test_what_only_remembers_loads_no_decoder() -> None:
    assert list(parse_config(write(group(), wish("remember"), PLACE)).models) == ["encoder"]


def test_a_task_with_labels_has_the_encoder_that_teaching_needs() -> None:
    assert list(parse_config(write(group(), wish("label"), PLACE)).models) == ["small", "encoder"]
    assert list(parse_config(write(group(), wish("fields"), PLACE)).models) == ["small"]
    bare = write(group(), wish("label"), replace(PLACE, encoder=None))
    assert list(parse_config(bare).models) == ["small"] and "# encoder: {bundle: FOLDER}" in bare
