"""The configuration file: routes, their rates, and loops."""

from __future__ import annotations

from typing import Any

import pytest

from edgeslm.config.fields import Rate, Window
from edgeslm.config.loader import parse_config
from tests.support.config_texts import problems, with_routes


def test_routes_get_a_name_each() -> None:
    text = with_routes({"from": "a"}, {"from": "b"}, {"from": "c", "name": "triage-2"}, {"from": "d"})
    names = [route.name for route in parse_config(text).routes]
    assert names == ["triage", "triage-3", "triage-2", "triage-4"]
    assert any(
        "routes[1].name: another route" in p for p in problems(with_routes(*[{"from": "a", "name": "x"}] * 2))
    )


@pytest.mark.parametrize(
    ("value", "rate"),
    [
        (5, Rate(5, 1)),
        (0.5, Rate(1, 2)),
        (2.5, Rate(5, 2)),
        ("10/s", Rate(10, 1)),
        ("6/min", Rate(6, 60)),
        ("100 / h", Rate(100, 3600)),
    ],
)
def test_rates(value: object, rate: Rate) -> None:
    assert parse_config(with_routes({"from": "a", "max_rate": value})).routes[0].max_rate == rate


@pytest.mark.parametrize(
    ("value", "window"),
    [
        ({"last": 50}, Window(last=50, most=50)),
        ({"every": "15 min"}, Window(every_s=900)),
        ({"every": 2.5, "most": 9}, Window(every_s=2.5, most=9)),
        ({"every": "8h"}, Window(every_s=28_800)),
        ({"on": "hall/+/end", "most": 5000}, Window(on="hall/+/end", most=5000)),
    ],
)
def test_windows(value: object, window: Window) -> None:
    assert parse_config(with_brief({"from": "a", "window": value})).routes[0].window == window


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (50, "must be one of"),
        ({}, "must be one of"),
        ({"last": 50, "on": "a"}, "must be one of"),
        ({"last": 1}, "last must be"),
        ({"last": True}, "last must be"),
        ({"last": 5001}, "last must be"),
        ({"last": 5, "most": 9}, "most has no effect"),
        ({"every": "soon"}, "every must be"),
        ({"every": "0 s"}, "every must be"),
        ({"every": "9999 h"}, "every must be"),
        ({"every": True}, "every must be"),
        ({"on": "a/#/b"}, "routes[0].window"),
        ({"on": 5}, "on must be"),
        ({"on": "a", "mots": 5}, "has no mots"),
        ({"on": "edgeslm/v1/press-hall-4/req/#"}, "own req topics"),
    ],
)
def test_no_windows(value: object, sentence: str) -> None:
    assert sentence in problems(with_brief({"from": "a", "window": value}))[0]


def test_a_window_needs_a_task_that_summarizes() -> None:
    assert "needs a task of kind summarize" in problems(with_routes({"from": "a", "window": {"last": 5}}))[0]


def with_brief(route: dict[str, Any]) -> str:
    """A file with a route whose task summarizes."""
    return with_routes({"task": "brief", **route}, tasks={"brief": {"kind": "summarize", "model": "small"}})


@pytest.mark.parametrize("value", [0, -1, True, "fast", "3/day", "0/s", "99999/s", [1], 1e-9, 1e300])
def test_no_rates(value: object) -> None:
    assert "routes[0].max_rate: must" in problems(with_routes({"from": "a", "max_rate": value}))[0]


@pytest.mark.parametrize(
    ("route", "problem"),
    [
        ({"from": ""}, "from: is empty"),
        ({"from": "a+/b"}, "from: has a + that is not a whole level"),
        ({"from": "edgeslm/v1/press-hall-4/req/triage"}, "from: would read this node's own req topics"),
        ({"from": "edgeslm/v1/+/res/#"}, "from: would read this node's own res topics"),
        ({"from": "#"}, "from: would read this node's own state topics"),
        ({"from": "a", "to": "b/+"}, "to: the topic holds a wildcard"),
        ({"from": "a", "to": "b//{{ topic[0] }}"}, "to: the topic has an empty level"),
        ({"from": "a", "to": "$SYS/{{ topic[0] }}"}, "to: the topic begins with $"),
        ({"from": "a", "to": ""}, "to: the topic is empty"),
        ({"from": "a", "to": "{{ topic[0 }}"}, "to: the template doesn't compile"),
        ({"from": "a", "to": "{{ text }}"}, "to: there is no variable text: write payload.text"),
        (
            {"from": "a", "to": "edgeslm/v1/press-hall-4/req/triage"},
            "to: would write to the node's own topics",
        ),
        ({"from": "a", "to": "edgeslm/v1/press-hall-4/{{ topic[0] }}"}, "to: would write to the node's own"),
        ({"from": "a", "input": "{{ payload.text"}, "input: the template doesn't compile"),
        ({"from": "a", "input": "{{ range(9) }}"}, "input: there is no variable range"),
        ({"from": "a", "input": "{% include 'x' %}"}, "input: the template doesn't compile: include"),
        ({"from": "a", "when": "payload.x >"}, "when: the template doesn't compile"),
        ({"from": "a", "when": "{{ payload.x }} > 3"}, "when: must be one expression"),
        ({"from": "a", "retain": "yes"}, "retain: must be true or false"),
        ({"from": "a", "windows": 5}, "windows: unknown key"),
        ({"from": "a", "task": "triag"}, "task: no task is called 'triag': did you mean triage?"),
        ({"from": "a/b", "to": "a/b"}, "to: a loop"),
        ({"from": "a", "remember": "log"}, "remember: no collection is called 'log'"),
        ({"from": "a", "keep_s": 5}, "keep_s: is for what is remembered"),
        ({"from": "a", "redact": ["person"]}, "redact: 'person' has no exact form, as card, "),
        ({"from": "a", "redact": ["a: b"]}, "redact[0]: no kind of data: use words"),
        ({"from": "a", "redact": ["E-Mails"]}, "redact: 'E-Mails' is no exact form: did you mean email?"),
        (
            {"from": "a", "redact": ["person"], "redact_model": "names"},
            "redact_model: no model is called",
        ),
        (
            {"from": "a", "redact": ["ip"], "redact_model": "small"},
            "redact_model: redact names no kind",
        ),
        ({"from": "a", "redact": ["ip"], "redact_threshold": 0.3}, "redact_threshold: is for a redact_model"),
    ],
)
def test_a_fault_of_a_route_says_what_to_change(route: dict[str, Any], problem: str) -> None:
    found = problems(with_routes(route))
    assert any(f": routes[0].{problem}" in line for line in found), found


LOOPS = [
    [("a/#", "a/{{ topic[1] }}/label")],
    [("a/+", "a/{{ payload.room }}")],
    [("a/+", "{{ payload.room }}/b")],
    [("a/+/+", "{{ topic_name }}/../x"), ("a/+/+/+/+", "a/b/c")],
    [("a/b", "{% if payload.x %}a/b{% else %}c{% endif %}")],
    [("a/b", "{{ topic[0] }}/b")],
    [("a/b", "b"), ("b", "c"), ("c", "a/{{ payload }}")],
    [("a", None), ("edgeslm/v1/press-hall-4/event/triage", "a")],
]


@pytest.mark.parametrize("routes", LOOPS)
def test_routes_that_feed_themselves_are_errors(routes: list[tuple[str, str | None]]) -> None:
    found = problems(with_routes(*({"from": f, **({"to": t} if t else {})} for f, t in routes)))
    assert len(found) == 1, found
    assert ": a loop: " in found[0]


NO_LOOPS = [
    [("factory/+/log", "factory/{{ topic[1] }}/log/label")],
    [("sensors/+/raw", "{{ topic_name }}/label")],
    [("a/+", "b/{{ payload.room }}"), ("b/+", "c/{{ topic[1] }}")],
    [("a/b", "{{ topic[0] }}/c")],
    [("a/+", "a/{{ topic[1] }}/{{ payload.room }}")],
    [("a", None), ("edgeslm/v1/press-hall-4/event/triage", "b")],
    [("$SYS/broker/log/#", "{{ payload.a }}/x/y/z/w")],
]


@pytest.mark.parametrize("routes", NO_LOOPS)
def test_routes_that_feed_others_are_fine(routes: list[tuple[str, str | None]]) -> None:
    parse_config(with_routes(*({"from": f, **({"to": t} if t else {})} for f, t in routes)))


def test_a_broken_route_does_not_make_loops_of_others_up() -> None:
    found = problems(with_routes({"from": 5, "to": "{{ topic_name }}"}, {"from": "a/b", "to": "c", "qos": 9}))
    assert [problem.split(": ")[1] for problem in found] == ["routes[0].from", "routes[1].qos"]


def test_there_is_an_end_to_routes_and_levels() -> None:
    assert any("routes: must have at most 256" in p for p in problems(with_routes(*[{"from": "a"}] * 257)))
    assert any("more than 200 levels" in p for p in problems(with_routes({"from": "a/" * 200 + "b"})))


def test_what_a_route_gathers_under_has_a_name_that_stays() -> None:
    text = """\
node: hall
broker: {url: mqtt://localhost}
models: {m: {bundle: /m}}
tasks: {brief: {kind: summarize, model: m}}
routes: [{from: a/+, task: brief}, {from: b/+, task: brief, window: {last: 5}}]
"""
    (told,) = problems(text)
    assert told == "c.yaml:5: routes: number 2 has a window and no name, and brief is taken: give it a name"
    assert parse_config(text.replace("from: b/+", "from: b/+, name: b")).routes[1].name == "b"
    assert parse_config(text.replace("{from: a/+, task: brief}, ", "")).routes[0].name == "brief"


def test_a_route_may_only_remember() -> None:
    text = """\
node: hall
broker: {url: mqtt://localhost}
tasks: {find: {kind: search, knowledge: [log]}}
knowledge: {log: {path: kb}}
routes: [{from: a/+, remember: log, keep_s: 60}, {from: b/+, remember: log}]
"""
    config = parse_config(text)
    assert [route.name for route in config.routes] == ["log", "log-2"]
    assert [route.task for route in config.routes] == [None, None]
    told = problems(text.replace("keep_s: 60", "qos: 0, to: x"))
    assert any("routes[0].to: without a task nothing is published" in line for line in told)
    assert any("routes[0].qos: without a task nothing is published" in line for line in told)
    told = problems(text.replace("remember: log, keep_s: 60", "input: x"))
    assert any("routes[0].task: missing: name the task" in line for line in told)


def test_a_route_that_remembers_needs_no_task_beside_another_error() -> None:
    text = """\
node: hall
broker: {url: mqtt://localhost}
log_levl: info
tasks: {find: {kind: search, knowledge: [log]}}
knowledge: {log: {path: kb}}
routes: [{from: a/+, remember: log}, {from: b/+}]
"""
    found = [line.partition(": ")[2] for line in problems(text)]
    assert [line for line in found if line.startswith("routes[0]")] == []
    assert any(line.startswith("log_levl") for line in found)


def test_collections_of_one_task_have_one_encoder() -> None:
    text = """\
node: hall
broker: {url: mqtt://localhost}
models: {minilm: {bundle: /m}, other: {bundle: /o}}
tasks: {find: {kind: search, knowledge: [log, manuals, log]}}
knowledge: {log: {path: a, encoder: minilm}, manuals: {path: b, encoder: other}}
"""
    told = problems(text)
    assert any("tasks.find.knowledge: log and manuals have different encoders" in line for line in told)
    assert any("tasks.find.knowledge[2]: log is named already" in line for line in told)


@pytest.mark.parametrize("wrong", ["encoder: minlm", "encodr: minilm", "encoder: [minilm]"])
def test_a_mistake_in_an_encoder_is_told_once(wrong: str) -> None:
    text = f"""\
node: hall
broker: {{url: mqtt://localhost}}
models: {{minilm: {{bundle: /m}}}}
tasks: {{find: {{kind: search, knowledge: [log, manuals]}}}}
knowledge: {{log: {{path: a, encoder: minilm}}, manuals: {{path: b, {wrong}}}}}
"""
    (told,) = problems(text)
    assert "knowledge.manuals.encod" in told


def test_collections_of_one_task_have_one_reader() -> None:
    text = """\
node: hall
broker: {url: mqtt://localhost}
models: {reader: {bundle: /m}}
tasks: {find: {kind: search, knowledge: [log, manuals]}}
knowledge: {log: {path: a, reader: reader}, manuals: {path: b}, other: {path: c, reader: raeder}}
"""
    told = problems(text)
    assert any("tasks.find.knowledge: log and manuals have different readers" in line for line in told)
    assert any("knowledge.other.reader: no model is called 'raeder'" in line for line in told)


def test_a_collection_has_one_name() -> None:
    text = """\
node: hall
broker: {url: mqtt://localhost}
tasks: {find: {kind: search, knowledge: [log]}}
knowledge: {log: {path: kb}, manuals: {path: kb.sqlite}}
"""
    told = problems(text)
    assert any("knowledge.manuals.path: is the file of log" in line for line in told)


def test_a_route_does_not_read_the_requests_to_the_nodes_own_pool() -> None:
    pool = {"name": "hands", "tasks": ["triage"]}
    reads = {"from": "edgeslm/v1/pool/+/req/#", "to": "out/x"}
    (problem,) = problems(with_routes(reads, pool=pool))
    assert problem.endswith(
        "routes[0].from: would read requests to this node's pool once more: watch something narrower"
    )
    other = {"from": "edgeslm/v1/pool/feet/res/#", "to": "out/x"}
    assert parse_config(with_routes(other, pool=pool)).pool is not None
