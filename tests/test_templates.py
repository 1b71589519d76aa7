"""Templates of routes: what they come to, their sentences, and that no payload makes them dangerous."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.errors import TemplateError
from edgeslm.templates import OUTPUT_LIMIT, make_condition, make_input, make_topic, read_scope, topic_pattern
from edgeslm.topics import overlap, topic_name_fault

TOPIC = "factory/4/log"


def filled(source: str, payload: Any, topic: str = TOPIC) -> str:
    return make_input(source)(read_scope(topic, payload if isinstance(payload, str) else json.dumps(payload)))


def published(source: str, payload: Any, topic: str = TOPIC) -> str:
    return make_topic(source)(read_scope(topic, payload if isinstance(payload, str) else json.dumps(payload)))


def holds(source: str, payload: Any) -> bool:
    return make_condition(source)(
        read_scope(TOPIC, payload if isinstance(payload, str) else json.dumps(payload))
    )


@pytest.mark.parametrize(
    ("source", "payload", "text"),
    [
        ("{{ payload.text }}", {"text": "hello"}, "hello"),
        ("{{ payload }}", "plain text", "plain text"),
        ("{{ payload }}", {"a": [1, None, True, "ü"]}, '{"a": [1, null, true, "ü"]}'),
        (
            "{{ payload.a }} {{ payload.b }} {{ payload.c }}",
            {"a": True, "b": None, "c": 21.5},
            "true null 21.5",
        ),
        ("{{ payload['a b'][1].c }}", {"a b": [0, {"c": "x"}]}, "x"),
        ("{{ payload.items }} {{ payload.get }}", {"items": "i", "get": "g"}, "i g"),
        (
            "{% for k, v in payload.items() %}{{ k }} is {{ v }}. {% endfor %}",
            {"a": 1, "b": 2},
            "a is 1. b is 2. ",
        ),
        (
            "{% for k in payload %}{{ loop.index }}{{ k }}{{ ', ' if not loop.last }}{% endfor %}",
            ["x", "y"],
            "1x, 2y",
        ),
        ("{{ topic[1] }} of {{ topic_name }}", "", "4 of factory/4/log"),
        ("{{ payload.a | default('none') }}", {}, "none"),
        ("{{ payload.a | round(1) }} {{ payload.a | round | int }}", {"a": 21.46}, "21.5 21"),
        ("{{ payload.list | map(attribute='n') | join(', ') }}", {"list": [{"n": 1}, {"n": "b"}]}, "1, b"),
        ("{{ payload.a | replace('/', '-') | upper }}", {"a": "x/y"}, "X-Y"),
        ("{{ payload.a.split(',')[0].strip() }}", {"a": " x , y"}, "x"),
        ("{{ payload.a + payload.b * 2 ** 3 }}", {"a": 1, "b": 2}, "17"),
        ("{{ payload | tojson }}", {"a": "<ü>"}, '{"a": "<ü>"}'),
        ("{% if payload.a is defined %}yes{% else %}no{% endif %}", {"b": 1}, "no"),
        ("{{ payload }}", "21.50", "21.5"),
        ("{{ payload }}", "NaN", "NaN"),
        ("{{ payload }}", "9" * 5000, "9" * 5000),
        ("{{ payload }}", "[" * 100_000, "[" * 100_000),
        ("line\n", "", "line\n"),
    ],
)
def test_what_a_template_comes_to(source: str, payload: Any, text: str) -> None:
    assert filled(source, payload) == text


@pytest.mark.parametrize(
    ("source", "payload", "sentence"),
    [
        ("{{ payload.text }}", {"txt": 1}, "the payload has no field 'text'"),
        ("{{ payload.text }}", "plain", "the payload has no field 'text', as it is plain text there"),
        ("{{ payload.a.b }}", {"a": 5}, "the payload has no field 'b'"),
        ("{{ payload[3] }}", [1, 2], "there is no item 3 in a list of 2"),
        ("{{ topic[7] }}", "", "the topic has only 3 levels, so there is no topic[7]"),
        ("{{ payload.a > 3 }}", {"a": "x"}, "the template doesn't fit this message"),
        ("{{ payload.a.replace('x', 'y') }}", {"a": "x"}, ".replace can't be used in a template"),
        ("{{ payload.a() }}", {"a": 1}, "only methods of texts, lists and objects can be called"),
        ("{{ payload.a + 1 }}", {}, "the payload has no field 'a'"),
        ("{{ payload.a * 2 }}", {}, "the payload has no field 'a'"),
    ],
)
def test_a_message_that_doesn_t_fit_is_one_sentence(source: str, payload: Any, sentence: str) -> None:
    with pytest.raises(TemplateError) as caught:
        filled(source, payload)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ payload",
        "{% for x in payload %}",
        "{{ payload | center(9) }}",
        "{{ payload is nonsense }}",
        "{{ self }}",
        "{{ range(3) }}",
        "{{ lipsum() }}",
        "{{ namespace(a=1) }}",
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{% extends 'x' %}",
        "{% macro m() %}{% endmacro %}",
        "{% block b %}{% endblock %}",
        "{{ '(' * 500 }" + "(" * 500,
    ],
)
def test_templates_that_do_not_compile(source: str) -> None:
    with pytest.raises(TemplateError):
        make_input(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ payload.__class__ }}",
        "{{ payload.a.__class__.__mro__ }}",
        "{{ ''.__class__ }}",
        "{{ payload['__class__'] }}",
        "{{ payload.items.__globals__ }}",
        "{{ payload.a | map(attribute='__class__') | list }}",
        "{{ '{0.__class__}'.format(payload) }}",
        "{{ payload.a.format(payload) }}",
        "{{ payload.a.format_map(payload) }}",
        "{{ payload.update({'a': 1}) }}",
        "{{ payload.clear() }}",
        "{{ topic.__add__ }}",
    ],
)
def test_python_is_out_of_reach(source: str) -> None:
    with pytest.raises(TemplateError):
        filled(source, {"a": "{0.__class__}"})


BOMBS = [
    ("{{ payload.a * payload.n }}", {"a": "x", "n": 10**12}),
    ("{{ payload.a * payload.n }}", {"a": [1], "n": 10**12}),
    ("{{ payload.n ** payload.n }}", {"n": 10**9}),
    ("{{ '%*d' % (payload.n, 1) }}", {"n": 10**9}),
    ("{{ payload.a % payload.n }}", {"a": "%999999999d", "n": 1}),
    ("{{ payload.n | round(payload.p) }}", {"n": 5, "p": -(10**9)}),
    ("{{ payload.a | replace(payload.b, payload.c) }}", {"a": "x" * 30_000, "b": "x", "c": "y" * 30_000}),
    ("{{ payload.a | replace('', payload.c) }}", {"a": "x" * 30_000, "c": "y" * 30_000}),
    ("{{ payload.l | join(payload.c) }}", {"l": ["x"] * 30_000, "c": "y" * 30_000}),
    (
        "{% for a in payload %}{% for b in payload %}{{ b }}{% endfor %}{% endfor %}",
        [0] * 900,
    ),
    ("{% for a in payload %}{{ payload | sort | list | length }}{% endfor %}", [0] * 900 + [0] * 50_000),
    (
        "{% for a in payload.l %}{{ payload.a | upper | length }}{% endfor %}",
        {"l": [0] * 900, "a": "x" * 50_000},
    ),
    (
        "{% for a in payload.l %}{{ payload.a.upper() | length }}{% endfor %}",
        {"l": [0] * 900, "a": "x" * 50_000},
    ),
    ("{% for a in payload.l %}{{ payload.a }}{% endfor %}", {"l": [0] * 900, "a": "x" * 50_000}),
    (
        "{% for a in payload.l %}{% set b = payload | tojson %}{% endfor %}",
        {"l": [0] * 900, "a": "x" * 50_000},
    ),
]


@pytest.mark.parametrize(("source", "payload"), BOMBS)
def test_no_payload_makes_a_template_run_or_grow_without_bound(source: str, payload: Any) -> None:
    with pytest.raises(TemplateError):
        filled(source, payload)


def test_the_output_is_limited_but_a_large_payload_is_not_lost() -> None:
    assert len(filled("{{ payload }}", "x" * OUTPUT_LIMIT)) == OUTPUT_LIMIT
    with pytest.raises(TemplateError, match=f"more than {OUTPUT_LIMIT} characters"):
        filled("{{ payload }}{{ payload }}", "x" * OUTPUT_LIMIT)


def test_a_budget_is_fresh_for_every_message() -> None:
    render = make_input("{% for a in payload %}x{% endfor %}")
    scope = read_scope(TOPIC, json.dumps([0] * 900))
    assert [len(render(scope)) for _ in range(3)] == [900, 900, 900]


@pytest.mark.parametrize(
    ("source", "payload", "topic"),
    [
        ("factory/{{ topic[1] }}/label", "", "factory/4/label"),
        ("{{ topic_name }}/label", "", "factory/4/log/label"),
        ("{{ topic[1:] | join('/') }}", "", "4/log"),
        ("rooms/{{ payload.room }}/x", {"room": "hall 1"}, "rooms/hall 1/x"),
        ("rooms/{{ payload.room | replace('/', '-') }}", {"room": "a/b"}, "rooms/a-b"),
        ("{{ topic_name }}/{{ payload.n }}", {"n": 5}, "factory/4/log/5"),
        ("{{ 'a/b' if payload.hot else 'c/d' }}", {"hot": True}, "a/b"),
    ],
)
def test_topics_that_come_out(source: str, payload: Any, topic: str) -> None:
    assert published(source, payload) == topic


@pytest.mark.parametrize(
    ("source", "payload", "sentence"),
    [
        ("rooms/{{ payload.room }}", {"room": "a/b"}, "the value 'a/b' would add levels"),
        ("rooms/{{ payload.room }}", {"room": ["a/b"]}, "would add levels"),
        ("rooms/{% set r = payload.room %}{{ r }}", {"room": "../ctl"}, "would add levels"),
        ("rooms/{{ payload }}", "a/b", "would add levels"),
        ("rooms/{{ payload.room }}", {"room": "+"}, "wildcard"),
        ("rooms/{{ payload.room }}", {"room": "#"}, "wildcard"),
        ("rooms/{{ payload.room }}", {"room": "a\0b"}, "NUL"),
        ("rooms/{{ payload.room }}", {"room": ""}, "empty level"),
        ("rooms/{{ payload.room }}", {"room": "\ud800"}, "UTF-8"),
        ("{{ payload.room }}/x", {"room": "$SYS"}, "begins with $"),
        ("rooms/{{ payload.room }}", {}, "no field 'room'"),
        ("rooms/{{ payload.room }}", {"room": "x" * 70_000}, "longer than 65535 bytes"),
    ],
)
def test_topics_a_payload_may_not_choose(source: str, payload: Any, sentence: str) -> None:
    with pytest.raises(TemplateError) as caught:
        published(source, payload)
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("source", "payload", "expected"),
    [
        ("payload.level > 3", {"level": 4}, True),
        ("payload.level > 3", {"level": 3}, False),
        ("{{ payload.level > 3 }}", {"level": 4}, True),
        ("payload.a is defined and payload.a > 3", {}, False),
        ("topic[1] == '4' and payload", "x", True),
        ("payload.text", {"text": ""}, False),
        ("'error' in payload", "an error", True),
        ("payload.x in ['}}', 'b']", {"x": "b"}, True),
    ],
)
def test_conditions(source: str, payload: Any, expected: bool) -> None:
    assert holds(source, payload) is expected


def test_a_condition_on_a_field_that_is_missing_is_a_sentence() -> None:
    with pytest.raises(TemplateError, match="the payload has no field 'level'"):
        holds("payload.level > 3", {"text": "x"})
    with pytest.raises(TemplateError, match="the payload has no field 'level'"):
        holds("payload.level", {"text": "x"})


@pytest.mark.parametrize(
    "source", ["", "payload >", "{{ payload }} > {{ topic }}", "{% if payload %}", "foo", "a b"]
)
def test_conditions_that_do_not_compile(source: str) -> None:
    with pytest.raises(TemplateError):
        make_condition(source)


@pytest.mark.parametrize(
    ("source", "source_filter", "pattern"),
    [
        ("a/b", "x", ["a", "b"]),
        ("factory/{{ topic[1] }}/label", "factory/+/log", ["factory", "+", "label"]),
        ("{{ topic[0] }}/label", "factory/+/log", ["factory", "label"]),
        ("{{ topic[3] }}/label", "factory/#", ["+", "label"]),
        ("{{ topic_name }}/label", "factory/+/log", ["factory", "+", "log", "label"]),
        ("x/{{ topic_name }}", "factory/#", ["x", "factory", "#"]),
        ("a/{{ payload.b }}/c", "x", ["a", "+", "c"]),
        ("a/b-{{ payload.b }}", "x", ["a", "+"]),
        ("a/{{ topic | join('/') }}", "x", ["a", "+", "#"]),
        ("a/{{ 'b/c' if payload else 'd' }}", "x", ["a", "+", "#"]),
        ("a/{{ topic_name if payload else 'd' }}", "x", ["a", "+", "#"]),
        ("a{% if payload.x %}/b{% endif %}", "x", ["+", "#"]),
    ],
)
def test_patterns_of_topics(source: str, source_filter: str, pattern: list[str]) -> None:
    assert topic_pattern(source, source_filter) == pattern


SOURCES = [
    "a/{{ topic[1] }}/{{ payload.x }}",
    "{{ topic_name }}/{{ payload.x }}",
    "{{ topic | join('/') }}",
    "a{{ payload.x }}/{{ 'c/d' if payload.y else topic_name }}",
    "{% set t = topic_name %}b/{{ t }}",
    "{% for k in payload.y %}{{ k }}/{% endfor %}end",
    "{{ topic[0] }}/{{ topic[-1] }}",
]
PARTS = st.sampled_from(["a", "b", "c", "d"]) | st.text(max_size=3)


@settings(deadline=None)
@given(
    st.sampled_from(SOURCES),
    PARTS,
    st.lists(PARTS, max_size=2),
    st.lists(st.sampled_from("abcd"), min_size=2, max_size=4),
)
def test_a_topic_that_comes_out_is_within_its_pattern(
    source: str, x: str, y: list[str], levels: list[str]
) -> None:
    topic = "/".join(levels)
    try:
        made = published(source, {"x": x, "y": y}, topic)
    except TemplateError:
        return
    assert topic_name_fault(made) is None
    assert overlap(topic_pattern(source, topic), made.split("/"))
    assert overlap(topic_pattern(source, "#"), made.split("/"))


@settings(deadline=None)
@given(st.text() | st.text("{}%#'\"()[]| .payloadtopic0", max_size=30), st.text(max_size=20))
def test_no_template_raises_anything_but_its_error(source: str, payload: str) -> None:
    for make in (make_input, make_topic, make_condition):
        try:
            make(source)(read_scope(TOPIC, payload))
        except TemplateError as error:
            assert str(error)
