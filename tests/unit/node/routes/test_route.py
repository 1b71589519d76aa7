"""The logic of a route: work or a counted skip for each message, and which results are published."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.config.route_sections import Route
from edgeslm.messages import ErrorBody, Result
from edgeslm.node.routes.route import REMEMBERED_TOPICS, RouteReader, RouteWork, Skip, Unredacted

BASE = "edgeslm/v1/n"


def reader(**keys: Any) -> RouteReader:
    data = {"from": "factory/+/log", "task": "triage", **keys}
    return RouteReader(Route.model_validate_json(json.dumps(data)), BASE)


def consider(
    route: RouteReader, payload: Any, now: float = 0.0, retained: bool = False
) -> RouteWork | Unredacted | Skip:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return route.consider("factory/4/log", raw, retained, now)


def reason(outcome: RouteWork | Unredacted | Skip) -> str:
    assert isinstance(outcome, Skip), outcome
    assert outcome.sentence
    return outcome.reason


def label(text: str, status: Any = "ok") -> Result:
    return Result("1", "triage", status, {"label": text, "confidence": 0.9, "scores": {}})


def work(topic: str = "out") -> RouteWork:
    return RouteWork("triage", "x", topic, 1, False)


def test_by_default_the_whole_payload_is_read_and_the_result_is_an_event() -> None:
    outcome = consider(reader(), b'{"text": "hot"}')
    assert outcome == RouteWork("triage", '{"text": "hot"}', f"{BASE}/event/triage", 1, False)


def test_templates_choose_text_and_topic() -> None:
    route = reader(input="{{ payload.text }}", to="factory/{{ topic[1] }}/label", qos=0, retain=True)
    assert consider(route, {"text": "hot"}) == RouteWork("triage", "hot", "factory/4/label", 0, True)


def test_a_route_knows_its_topics() -> None:
    assert reader().matches("factory/4/log")
    assert not reader().matches("factory/4/log/label")


@pytest.mark.parametrize(
    ("keys", "payload", "why"),
    [
        ({}, b"\xff\xfe", "not_text"),
        ({}, b"", "empty"),
        ({}, b"  \n", "empty"),
        ({"input": "{{ payload.text }}"}, {"text": ""}, "empty"),
        ({"input": "{{ payload.text }}"}, b"plain text", "template"),
        ({"input": "{{ payload.text }}"}, {"txt": "x"}, "template"),
        ({"when": "payload.level > 3"}, {"level": 1}, "condition"),
        ({"when": "payload.level > 3"}, {"txt": 1}, "template"),
        ({"to": "a/{{ payload.room }}"}, {"room": "b/c"}, "template"),
        ({"to": "a/{{ payload.room }}"}, {"room": "#"}, "template"),
        ({"to": "{{ topic_name }}/{{ payload.room }}"}, {"room": 5, "x": 1}, None),
    ],
)
def test_messages_that_are_skipped(keys: dict[str, Any], payload: Any, why: str | None) -> None:
    outcome = consider(reader(**keys), payload)
    assert (reason(outcome) if why else None) == why


def test_retained_messages_are_skipped_unless_asked_for() -> None:
    assert reason(consider(reader(), "x", retained=True)) == "retained"
    assert isinstance(consider(reader(accept_retained=True), "x", retained=True), RouteWork)


def test_no_message_makes_a_route_write_to_the_node_s_own_topics() -> None:
    route = reader(**{"from": "#", "to": "{{ topic | join('/') }}"})
    raw = b"x"
    assert reason(route.consider(f"{BASE}/req/triage", raw, False, 0.0)) == "own_topic"
    assert isinstance(route.consider(f"{BASE}/event/a", raw, False, 0.0), RouteWork)
    assert isinstance(route.consider("a/b", raw, False, 0.0), RouteWork)


def test_max_rate_holds_in_every_window_and_counts_only_what_is_read() -> None:
    route = reader(max_rate="2/min", when="payload.level > 3", input="{{ payload.text }}")
    hot = {"level": 4, "text": "x"}
    assert reason(consider(route, {"level": 1}, 0.0)) == "condition"
    assert reason(consider(route, {"level": 4}, 0.0)) == "template"
    assert isinstance(consider(route, hot, 10.0), RouteWork)
    assert isinstance(consider(route, hot, 50.0), RouteWork)
    assert reason(consider(route, hot, 51.0)) == "rate"
    assert isinstance(consider(route, hot, 70.0), RouteWork)
    assert reason(consider(route, hot, 109.9)) == "rate"
    assert isinstance(consider(route, hot, 110.0), RouteWork)


@given(st.lists(st.floats(0, 30), min_size=1, max_size=60), st.integers(1, 4))
def test_max_rate_never_lets_more_through(gaps: list[float], count: int) -> None:
    route = reader(max_rate=f"{count}/min")
    now, taken = 0.0, []
    for gap in gaps:
        now += gap
        if isinstance(consider(route, "x", now), RouteWork):
            taken.append(now)
    for start in taken:
        assert sum(start <= time < start + 59.999 for time in taken) <= count


def test_without_on_change_every_result_is_published() -> None:
    route = reader()
    assert [route.wants(work(), label("a")) for _ in range(3)] == [True, True, True]


def test_with_on_change_only_what_differs_is_published_for_each_topic() -> None:
    route = reader(on_change=True)
    said = [("a", "x"), ("a", "x"), ("b", "x"), ("a", "y"), ("b", "x"), ("a", "x")]
    assert [route.wants(work(topic), label(text)) for topic, text in said] == [
        True,
        False,
        True,
        True,
        False,
        True,
    ]


def test_on_change_compares_fields_texts_statuses_and_codes_but_no_confidences() -> None:
    route = reader(on_change=True)
    error = ErrorBody("busy", "b")
    results = [
        (Result("1", "t", "ok", {"fields": {"a": 1, "b": 2}, "spans": {}}), True),
        (Result("2", "t", "ok", {"fields": {"b": 2, "a": 1}, "spans": {"a": [0, 1]}}), False),
        (Result("3", "t", "ok", {"text": "x", "finish_reason": "stop"}), True),
        (Result("4", "t", "ok", {"text": "x", "finish_reason": "length"}), False),
        (Result("5", "t", "ok", {"label": "a", "confidence": 0.9}), True),
        (Result("6", "t", "ok", {"label": "a", "confidence": 0.8}), False),
        (Result("7", "t", "abstained", {"label": "a", "confidence": 0.2}), True),
        (Result("8", "t", "error", error=error), True),
        (Result("9", "t", "error", error=error), False),
        (Result("10", "t", "error", error=ErrorBody("timeout", "t")), True),
    ]
    assert [route.wants(work(), result) for result, _ in results] == [wanted for _, wanted in results]


def test_on_change_remembers_a_bounded_number_of_topics() -> None:
    route = reader(on_change=True)
    for number in range(REMEMBERED_TOPICS + 1):
        assert route.wants(work(f"t/{number}"), label("a"))
    assert not route.wants(work(f"t/{REMEMBERED_TOPICS}"), label("a"))
    assert route.wants(work("t/0"), label("a")), "the oldest was forgotten"


@settings(deadline=None)
@given(st.binary() | st.text().map(str.encode), st.text(max_size=20), st.booleans())
def test_no_message_raises(payload: bytes, topic: str, retained: bool) -> None:
    route = reader(
        to="out/{{ payload.a }}",
        when="payload.b is undefined or payload.b > 1",
        input="{{ payload }} {{ topic[1] }}",
        accept_retained=True,
    )
    assert isinstance(route.consider(topic, payload, retained, 0.0), RouteWork | Skip)


@pytest.mark.parametrize(
    ("payload", "read"),
    [
        ({"text": "oil on the floor", "level": 3, "machine": "p 4"}, "oil on the floor"),
        ({"text": "oil on the floor", "note": "call the shift lead"}, None),
        ({"level": 3}, None),
    ],
)
def test_a_digest_reads_the_only_text_of_a_json_payload(payload: dict[str, Any], read: str | None) -> None:
    whole = json.dumps(payload)
    outcome = consider(reader(window={"last": 5}), payload)
    assert isinstance(outcome, RouteWork) and outcome.input == (whole if read is None else read)
    outcome = consider(reader(), payload)
    assert isinstance(outcome, RouteWork) and outcome.input == whole


@pytest.mark.parametrize(
    ("payload", "id"),
    [
        ({"id": 7}, "7"),
        ({"after": {"id": "a"}}, "a"),
        ({"id": "b", "after": {"id": "a"}}, "b"),
        ({"after": 3}, None),
    ],
)
def test_a_message_is_known_by_its_own_id(payload: dict[str, Any], id: str | None) -> None:
    outcome = consider(reader(), payload)
    assert isinstance(outcome, RouteWork) and outcome.id == id


def test_when_and_the_rate_read_the_message_as_it_came_and_the_rest_waits_for_redaction() -> None:
    keys = {"when": "payload.call == '0171 2345678'", "max_rate": "1/h", "redact": ["phone"]}
    route = reader(**keys, to="out/{{ payload.call }}", input="{{ payload.call }}")
    taken = consider(route, {"call": "0171 2345678"})
    assert isinstance(taken, Unredacted)
    assert reason(consider(route, {"call": "0171 2345678"})) == "rate"
    assert reason(consider(route, {"call": "x"})) == "condition"
    work = route.read_redacted("factory/4/log", taken.text.replace("0171 2345678", "[phone]"))
    assert isinstance(work, RouteWork)
    assert (work.input, work.topic) == ("[phone]", "out/[phone]")
    assert dict(route.counts) == {"read": 1, "rate": 1, "condition": 1}


def test_the_reason_of_a_skip_quotes_nothing_of_a_message_to_be_redacted() -> None:
    route = reader(when="payload.call > 3", redact=["phone"])
    found = consider(route, {"call": "0171 2345678"})
    assert isinstance(found, Skip)
    assert (found.reason, "0171" in found.sentence) == ("template", False)
