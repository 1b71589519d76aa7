"""The messages for Home Assistant; the real one reads them in tests/system/apps/test_home_assistant.py."""

from __future__ import annotations

import re
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.config.loader import parse_config
from edgeslm.config.task_kinds import ALLOWED
from edgeslm.protocol.topic_filters import filter_fault, matches, topic_name_fault
from edgeslm.telemetry.discovery import MOST_FIELDS, announcements, entity_filter, status_topic
from tests.support.config_texts import with_routes

KINDS = {f"a_{kind}": kind for kind in ALLOWED}
TOPIC = re.compile(r"homeassistant/(sensor|binary_sensor)/[a-zA-Z0-9_-]+/[a-zA-Z0-9_-]+/config")
"""As Home Assistant takes it (components/mqtt/discovery.py, TOPIC_MATCHER)."""


def told(
    *routes: dict[str, Any],
    kinds: dict[str, str] | None = None,
    schemas: dict[str, dict[str, Any]] | None = None,
    **top: Any,
) -> dict[str, Any]:
    config = parse_config(with_routes(*routes, discovery={"prefix": "homeassistant"}, **top))
    return announcements(config, kinds or {"triage": "classify"}, schemas or {})


def topic_of(name: str, **top: Any) -> str:
    (topic,) = (topic for topic in told(**top) if topic.endswith(f"/{name}/config"))
    return topic


def test_without_a_prefix_nothing_is_told() -> None:
    assert announcements(parse_config(with_routes()), {"triage": "classify"}, {}) == {}
    assert status_topic("homeassistant") == "homeassistant/status"


def test_a_task_and_a_route_and_the_node_are_told_as_one_device() -> None:
    found = told({"name": "doorbell", "from": "door/+"})
    names = {topic.split("/")[3] for topic in found}
    assert {"task_triage", "route_doorbell", "state", "alerts", "queue", "latency", "memory"} < names
    devices = [document["device"]["identifiers"] for document in found.values()]
    assert devices == [["edgeslm_press-hall-4"]] * len(found)
    assert all(document["origin"]["name"] == "edgeslm" for document in found.values())


def test_topics_and_ids_are_those_that_home_assistant_takes() -> None:
    found = told(
        {"name": "a.b", "from": "x"}, {"name": "a_b", "from": "y"}, kinds={"triage": "classify", **KINDS}
    )
    ids = [document["unique_id"] for document in found.values()]
    assert len(set(ids)) == len(ids)
    assert all(TOPIC.fullmatch(topic) for topic in found)


def test_ids_stay_the_same() -> None:
    """Home Assistant keeps names, rooms and history by them."""
    document = told()[topic_of("task_triage")]
    assert topic_of("task_triage") == "homeassistant/sensor/edgeslm_press-hall-4/task_triage/config"
    assert document["unique_id"] == "edgeslm_press-hall-4_task_triage"


def test_two_nodes_never_share_a_topic() -> None:
    nodes = [
        ("edgeslm", "a-b"),
        ("edgeslm-a", "b"),
        ("edgeslm/a", "b"),
        ("edgeslm_a", "b"),
        ("edgeslm.a", "b"),
    ]
    topics = [set(told(prefix=prefix, node=node)) for prefix, node in nodes]
    assert len(set.union(*topics)) == sum(map(len, topics))


@given(
    prefix=st.from_regex(r"[a-zé_./-]{1,12}", fullmatch=True).filter(lambda p: topic_name_fault(p) is None)
)
def test_what_is_told_can_be_published_and_is_within_the_filter_for_the_rights(prefix: str) -> None:
    config = parse_config(with_routes(prefix=prefix, discovery={"prefix": "homeassistant"}))
    for topic in announcements(config, KINDS, {}):
        assert TOPIC.fullmatch(topic)
        assert topic_name_fault(topic) is None
        assert matches(entity_filter("homeassistant", config.base), topic)


def test_an_entity_goes_with_the_node_but_for_its_state() -> None:
    for topic, document in told().items():
        gone = document.get("availability", [{}])[0].get("topic")
        assert gone == (None if "/state/" in topic else "edgeslm/v1/press-hall-4/state")


@pytest.mark.parametrize(
    ("to", "shown"),
    [
        (None, "edgeslm/v1/press-hall-4/event/door"),
        ("door/label", "door/label"),
        ("door/{{ topic[1] }}/label", "door/+/label"),
        ("door/{{ payload.room }}/label", "door/+/label"),
        ("door/x{{ topic[1] }}/label", "door/+/label"),
        ("door/{{ topic | join }}/label", "door/+/#"),
        ("{{ topic_name }}/label", "bell/+/x/label"),
        ("{{ payload.room }}/label", None),
    ],
)
def test_a_route_is_shown_by_all_topics_that_it_may_publish_to(to: str | None, shown: str | None) -> None:
    route = {"name": "door", "from": "bell/+/x", **({"to": to} if to else {})}
    documents = [one for topic, one in told(route).items() if "/route_door/" in topic]
    assert [one["state_topic"] for one in documents] == ([shown] if shown else [])
    assert all(filter_fault(one["state_topic"]) is None for one in documents)


def test_a_route_that_only_remembers_has_no_entity() -> None:
    config = parse_config(
        with_routes({"name": "log", "from": "x"}, discovery={"prefix": "homeassistant"}),
    )
    assert not [topic for topic in announcements(config, {}, {}) if "/route_" in topic or "/task_" in topic]


PRESS = {
    "type": "object",
    "properties": {
        "machine": {"type": "string"},
        "temperature_c": {"type": ["number", "null"]},
        "urgency": {"enum": ["low", "high", None]},
        "is_stopped": {"type": "boolean"},
        "parts": {"type": "array", "items": {"type": "string"}},
        "where": {"type": "object"},
    },
}


def fields_of(schema: dict[str, Any], *routes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Documents of the entities of single fields, by the entity's name."""
    found = told(*routes, kinds={"triage": "extract"}, schemas={"triage": schema})
    plain = told(*routes, kinds={"triage": "extract"})
    return {one["name"]: {**one, "topic": topic} for topic, one in found.items() if topic not in plain}


def test_fields_that_can_be_states_have_entities() -> None:
    found = fields_of(PRESS)
    assert list(found) == [
        f"Task triage {name}" for name in ("machine", "temperature_c", "urgency", "is_stopped")
    ]
    assert all(one["state_topic"] == "edgeslm/v1/press-hall-4/res/triage" for one in found.values())
    assert all(TOPIC.fullmatch(one["topic"]) for one in found.values())
    number, choice = found["Task triage temperature_c"], found["Task triage urgency"]
    assert (number["unit_of_measurement"], number["device_class"], number["state_class"]) == (
        *("°C", "temperature"),
        "measurement",
    )
    assert (choice["device_class"], choice["options"]) == ("enum", ["low", "high"])
    assert found["Task triage is_stopped"]["topic"].startswith("homeassistant/binary_sensor/")


def test_a_route_of_an_extract_task_has_them_too() -> None:
    found = fields_of(PRESS, {"name": "log", "from": "press/+", "to": "press/{{ topic[1] }}/fields"})
    assert found["Route log machine"]["state_topic"] == "press/+/fields"
    assert len(found) == 8


def test_ids_of_fields_are_those_of_nothing_else() -> None:
    schemas = {
        "a": {"properties": {"b_c": {"type": "string"}}},
        "a_b": {"properties": {"c": {"type": "string"}}},
    }
    kinds = dict.fromkeys(("a", "a_b", "a_b_c", "a.b_c"), "extract")
    found = told(kinds=kinds, schemas=schemas)
    ids = [document["unique_id"] for document in found.values()]
    assert len(set(ids)) == len(ids) == len(told(kinds=kinds)) + 2


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("temperature_c", "°C"),
        ("oilTemperatureC", "°C"),
        ("temp_f", "°F"),
        ("fill_percent", "%"),
        ("pressure_bar", "bar"),
        ("crossbar", None),
        ("phase_c", None),
        ("count", None),
        ("", None),
    ],
)
def test_the_unit_is_in_the_name(name: str, unit: str | None) -> None:
    (document,) = fields_of({"properties": {name: {"type": "integer"}}}).values()
    assert document.get("unit_of_measurement") == unit


def test_the_number_of_fields_is_bounded() -> None:
    many = {f"f{number}": {"type": "string"} for number in range(1000)}
    assert len(fields_of({"properties": many})) == MOST_FIELDS
    for odd in ({}, {"properties": True}, {"properties": {"a": True, "b": {"enum": [1, "x"]}, "c": {}}}):
        assert fields_of(odd) == {}


def test_a_topic_of_a_route_has_an_entity_where_one_is_wanted() -> None:
    route = {
        "name": "severity",
        "from": "cameras",
        "to": "cameras/{{ payload.camera }}/severity/{{ payload.id }}",
    }
    wanted = {"prefix": "homeassistant", "topics": ["cameras/gate/severity/+", "cameras/door/severity/+"]}
    config = parse_config(with_routes(route, {"name": "other", "from": "x"}, discovery=wanted))
    schema = {"properties": {"level": {"enum": ["low", "high"]}}}
    found = announcements(config, {"triage": "extract"}, {"triage": schema})
    shown = {one["name"]: one["state_topic"] for topic, one in found.items() if "/topic_" in topic}
    assert shown == {
        "Route severity gate": "cameras/gate/severity/+",
        "Route severity gate level": "cameras/gate/severity/+",
        "Route severity door": "cameras/door/severity/+",
        "Route severity door level": "cameras/door/severity/+",
    }
    assert all(TOPIC.fullmatch(topic) for topic in found)
    assert "Route severity" in {one["name"] for one in found.values()}


@pytest.mark.parametrize(
    ("to", "wanted", "name"),
    [
        ("door/label", "door/label", "door/label"),
        ("door/{{ topic | join }}/label", "door/3/label", "door/3/label"),
        ("{{ payload.room }}/label", "hall/label", "hall"),
        (None, "edgeslm/v1/press-hall-4/event/door", "edgeslm/v1/press-hall-4/event/door"),
    ],
)
def test_the_name_of_a_topic_is_short(to: str | None, wanted: str, name: str) -> None:
    route = {"name": "door", "from": "bell/+/x", **({"to": to} if to else {})}
    config = parse_config(with_routes(route, discovery={"prefix": "homeassistant", "topics": [wanted]}))
    (document,) = (
        one for topic, one in announcements(config, {"triage": "classify"}, {}).items() if "/topic_" in topic
    )
    assert document["name"] == f"Route door {name}"


@pytest.mark.parametrize("name", ["a b", 'a "b"', "}} {% x %}", "ä😀", "a\\b", "items", "a'b"])
def test_a_field_of_any_name_is_read(name: str) -> None:
    schema = {"properties": {name: {"enum": [name, "other"]}}}
    (document,) = fields_of(schema).values()
    template = jinja2.Template(document["value_template"])

    def shown(**message: Any) -> str:
        told = {"task": "triage", "status": "ok", **message}
        return str(template.render(value_json=told, this={"state": "other"}))

    assert shown(result={"fields": {name: name}}) == name
    assert shown(result={"fields": {name: "x"}}) == shown(result={"fields": {}}) == "None"
    unread: list[dict[str, Any]] = [{"task": "x"}, {"status": "abstained"}, {"result": []}, {"result": None}]
    for other in unread:
        assert shown(**{"result": {"fields": {name: name}}, **other}) == "other"
