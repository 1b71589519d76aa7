"""Templates of routes: what they come to, their sentences, and that no payload makes them dangerous."""

from __future__ import annotations

import ast
import inspect
import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

import edgeslm.config.sandbox
import edgeslm.config.templates
from edgeslm.config.sandbox import MAX_SECONDS, Sandbox, _Charging, prove_limits
from edgeslm.config.templates import (
    OUTPUT_LIMIT,
    make_condition,
    make_input,
    make_topic,
    read_scope,
    topic_pattern,
)
from edgeslm.errors import TemplateError
from edgeslm.protocol.topic_filters import overlap, topic_name_fault

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
        ("{% set a %}<{{ payload.n }}>{% endset %}{{ a }}{{ a }}", {"n": 1}, "<1><1>"),
        ("{% set a | upper %}x{{ payload.t }}{% endset %}{{ a }}", {"t": "y"}, "XY"),
        (
            "{% filter upper %}{% for a in payload %}{{ a }}, {% endfor %}{% endfilter %}",
            ["x", "y"],
            "X, Y, ",
        ),
        ("{% set a = payload.n + 1 %}{{ a ~ '/' ~ payload.t }}", {"n": 1, "t": "y"}, "2/y"),
        ("{{ payload | sum }} {{ payload | unique | list }}", [1, 2, 2], "5 [1, 2]"),
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
        "{% call payload() %}{% endcall %}",
        "{% autoescape true %}{% endautoescape %}",
        "{{ payload | _capture }}",
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
    ("{{ payload.l | map('default', payload.a) | list }}", {"l": [0] * 900, "a": "x" * 50_000}),
    ("{{ payload.l | select('in', payload.m) | list | length }}", {"l": [0] * 50_000, "m": [1] * 50_000}),
    ("{{ payload | sum(start=[]) | length }}", [[1]] * 200_000),
    # All of them have the same hash.
    ("{{ payload | unique | list | length }}", [n * (2**61 - 1) for n in range(40_000)]),
]


@pytest.mark.parametrize(("source", "payload"), BOMBS)
def test_no_payload_makes_a_template_run_or_grow_without_bound(source: str, payload: Any) -> None:
    with pytest.raises(TemplateError):
        filled(source, payload)


CAPTURES = [
    "{% set y %}{% for a in payload.l %}{{ payload.t }}{% endfor %}{% endset %}{{ y | length }}",
    "{% set y | length %}{% for a in payload.l %}{{ payload.t }}{% endfor %}{% endset %}{{ y }}",
    "{% filter upper | length %}{% for a in payload.l %}{{ payload.t }}{% endfor %}{% endfilter %}",
    "{% set y %}{% for a in payload.l %}" + "x" * 100_000 + "{% endfor %}{% endset %}{{ y | length }}",
    "{{ (" + " ~ ".join(["payload.t"] * 900) + ") | length }}",
    "{% for a in payload.l %}{{ (payload.t ~ payload.t) | length }}{% endfor %}",
    "{% set y %}{% if payload.l %}{% for a in payload.l %}{{ payload }}{% endfor %}{% endif %}{% endset %}",
]


@pytest.mark.parametrize("source", CAPTURES)
def test_text_that_a_block_keeps_is_limited_too(source: str) -> None:
    render, payload = make_input(source), json.dumps({"t": "x" * 500_000, "l": [0] * 900})
    tracemalloc.start()
    try:
        with pytest.raises(TemplateError, match="work too long"):
            render(read_scope(TOPIC, payload))
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("owner", "hook"),
    [
        (Sandbox, "call"),
        (Sandbox, "call_binop"),
        (Sandbox, "intercepted_binops"),
        (Sandbox, "is_safe_attribute"),
        (_Charging, "visit_For"),
        (_Charging, "visit_Output"),
        (_Charging, "visit_AssignBlock"),
        (_Charging, "visit_FilterBlock"),
        (_Charging, "visit_Concat"),
        (_Charging, "visit"),
    ],
)
def test_a_jinja2_that_asks_other_hooks_is_refused_at_the_start(
    owner: type, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook that isn't overridden is what one looks like that Jinja2 calls by another name."""
    monkeypatch.delattr(owner, hook)
    prove_limits.cache_clear()
    try:
        with pytest.raises(TemplateError, match="can't be held to the limits of templates"):
            make_input("{{ payload }}")
    finally:
        prove_limits.cache_clear()


def test_no_private_name_of_jinja2_is_used() -> None:
    for module in (edgeslm.config.sandbox, edgeslm.config.templates):
        tree = ast.parse(inspect.getsource(module))
        own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        own |= {"_environment", "_captures", "__init__", "__self__", "__name__"}
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not {name for name in used - own if name.startswith("_")}
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        methods = {item.name for node in classes for item in node.body if isinstance(item, ast.FunctionDef)}
        inherited = {name for base in (ImmutableSandboxedEnvironment, StrictUndefined) for name in dir(base)}
        assert not {name for name in methods & inherited if name.startswith("_") and name[:2] != "__"}


def test_the_output_is_limited_but_a_large_payload_is_not_lost() -> None:
    assert len(filled("{{ payload }}", "x" * OUTPUT_LIMIT)) == OUTPUT_LIMIT
    with pytest.raises(TemplateError, match=f"exceeds {OUTPUT_LIMIT} characters"):
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
    "source",
    ["", "payload >", "{{ payload }} > {{ topic }}", "{% if payload %}", "foo", "a b", "payload) %}1{# "],
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


PIECES = st.recursive(
    st.sampled_from(
        [
            "text",
            "{{ payload.t }}",
            "{{ payload }}",
            "{{ payload.l | join(payload.t) }}",
            "{{ payload.t | replace('x', payload.t) | upper }}",
            "{{ payload.l ~ payload.t ~ payload.n }}",
            "{{ (payload.l + payload.l) | map('default', payload.t) | unique | list | tojson }}",
            "{{ payload.l | sort | reverse | first | default(payload.n ** 9) }}",
        ]
    ),
    lambda inner: st.builds(
        "".join,
        st.tuples(
            st.sampled_from(["{% for a in payload.l %}", "{% for a in payload.t %}"]),
            inner,
            inner,
            st.just("{% endfor %}"),
        )
        | st.tuples(st.just("{% set y %}"), inner, inner, st.just("{% endset %}{{ y }}{{ y }}"))
        | st.tuples(st.just("{% filter trim %}"), inner, inner, st.just("{% endfilter %}")),
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(PIECES, st.integers(0, 200_000), st.integers(0, 5_000), st.integers(0, 10**30))
def test_no_template_goes_beyond_its_output_and_its_time(source: str, text: int, items: int, n: int) -> None:
    render = make_input(source)
    scope = read_scope(TOPIC, json.dumps({"t": "x" * text, "l": list(range(items)), "n": n}))
    began = time.thread_time()
    try:
        assert len(render(scope)) <= OUTPUT_LIMIT
    except TemplateError as error:
        assert str(error)
    assert time.thread_time() - began < 5 * MAX_SECONDS


@settings(deadline=None)
@given(st.text() | st.text("{}%#'\"()[]| .payloadtopic0", max_size=30), st.text(max_size=20))
def test_no_template_raises_anything_but_its_error(source: str, payload: str) -> None:
    for make in (make_input, make_topic, make_condition):
        try:
            make(source)(read_scope(TOPIC, payload))
        except TemplateError as error:
            assert str(error)
