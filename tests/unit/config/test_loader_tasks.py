"""The configuration file: tasks, and what is said of those that can't be."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import yaml

from edgeslm.config.loader import parse_config
from edgeslm.config.task_kinds import Option
from edgeslm.errors import ConfigError
from edgeslm.protocol.request_options import OPTIONS
from tests.support.config_texts import SMALL, problems, with_task


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        ({}, "kind: missing: add one of classify, extract, answer, summarize, generate, embed, search"),
        ({"kind": "find", "model": "small"}, "kind: must be one of classify"),
        (
            {"kind": "answer", "model": "small", "escalate": "node:b/c"},
            "escalate: is for questions to documents",
        ),
        ({"kind": "answer", "model": "small", "escalate": "large"}, "escalate: must be node:NODE/TASK"),
        (
            {"kind": "answer", "model": "small", "escalate": "node:press-hall-4/c"},
            "escalate: is this node itself",
        ),
        ({"kind": "search"}, "knowledge: missing: name what is searched"),
        ({"kind": "search", "knowledge": ["manual"]}, "knowledge[0]: no collection is called 'manual'"),
        ({"kind": "search", "model": "small"}, "model: has no effect for search"),
        ({"kind": "answer"}, "model: missing"),
        ({"kind": "answer", "knowledge": ["a"], "mode": "compose"}, "model: missing"),
        ({"kind": "answer", "knowledge": ["a"], "stop": ["."]}, "stop: has no effect without a model"),
        (
            {"kind": "answer", "knowledge": ["a"], "instruction": "x"},
            "instruction: has no effect without a model",
        ),
        ({"kind": "embed", "model": "small", "knowledge": ["a"]}, "knowledge: has no effect for embed"),
        ({"kind": "classify", "model": "small"}, "labels: missing"),
        ({"kind": "classify", "labels": ["a", "b"]}, "model: missing"),
        (
            {"kind": "classify", "model": "smal", "labels": ["a", "b"]},
            "model: no model is called 'smal': did you",
        ),
        ({"kind": "classify", "model": "small", "labels": ["a"]}, "labels: needs at least two labels"),
        ({"kind": "classify", "model": "small", "labels": ["a", "a"]}, "labels: 'a' is there twice"),
        ({"kind": "classify", "model": "small", "labels": ["a", " b"]}, "labels: ' b' is not a label"),
        (
            {"kind": "classify", "model": "small", "labels": {"a": 1, "b": ""}},
            "labels: the meaning of 'a' must",
        ),
        ({"kind": "classify", "model": "small", "labels": "a, b"}, "labels: must be a mapping"),
        (
            {"kind": "classify", "model": "small", "labels": ["a", "b"], "calibration": "batch"},
            "calibration: must be feedback, none, contextual, or what edgeslm-export calibrate prints",
        ),
        (
            {"kind": "classify", "model": "small", "labels": ["a", "b"], "calibration": {"a": 0.5, "b": 0}},
            "calibration: the share of 'b' must be a number above 0",
        ),
        (
            {"kind": "classify", "model": "small", "labels": ["a", "b"], "calibration": {"a": 0.5}},
            "calibration: must name each of the labels",
        ),
        (
            {
                "kind": "classify",
                "stages": ["small", "large"],
                "threshold": 0.5,
                "labels": ["a", "b"],
                "calibration": {"a": 0.5, "b": 0.5},
            },
            "calibration: belongs to one model",
        ),
        ({"kind": "generate", "model": "small", "labels": ["a", "b"]}, "labels: has no effect for generate"),
        ({"kind": "embed", "model": "small", "instruction": "x"}, "instruction: has no effect for embed"),
        (
            {"kind": "embed", "model": "small", "mode": "quote"},
            "mode: has no effect for embed (only for answer)",
        ),
        ({"kind": "embed", "model": "small", "allow": ["stream"]}, "allow: stream has no effect for embed"),
        (
            {"kind": "summarize", "model": "small", "learned": "/x"},
            "learned: has no effect for summarize (only for classify, extract, generate)",
        ),
        ({"learned": "/x", "allow": ["labels"]}, "allow: labels can't be set by senders here"),
        ({"kind": "embed", "model": "small", "adapter": "/x"}, "adapter: has no effect for embed"),
        ({"learned": "/x", "adapter": "/y"}, "adapter: has no effect with learned, unless"),
        ({"kind": "generate", "model": "small", "allow": ["strem"]}, "allow[0]: must be one of max_tokens"),
        ({"kind": "generate", "model": "small", "threshold": 1.5}, "threshold: must be at most 1"),
        ({"kind": "generate", "model": "small", "top_p": 0}, "top_p: must be more than 0"),
        (
            {"kind": "generate", "model": "small", "overflow": "tial"},
            "overflow: must be one of error, head, tail",
        ),
        ({"kind": "generate", "model": "small", "stage": ["a"]}, "stage: unknown key: did you mean stages?"),
        ({"kind": "generate", "model": "small", "stop": [""]}, "stop[0]: must have at least 1 character"),
        ({"kind": "extract", "model": "small"}, "schema: missing"),
        ({"kind": "extract", "model": "small", "schema": {}}, "schema.type: must be object"),
        ({"kind": "extract", "model": "small", "schema": {"type": "array"}}, "schema.type: must be object"),
        (
            {"kind": "extract", "model": "small", "schema": {"type": "object", "required": 1}},
            "schema.required: not",
        ),
        (
            {
                "kind": "extract",
                "model": "small",
                "schema": {"type": "object", "properties": {"a": {"type": "strin"}}},
            },
            "schema.properties.a.type: not JSON Schema",
        ),
        (
            {
                "kind": "extract",
                "model": "small",
                "schema": {"type": "object", "properties": {"a": {"pattern": "("}}},
            },
            "schema.properties.a.pattern: '(' can't be matched here: unclosed group",
        ),
        (
            {
                "kind": "extract",
                "model": "small",
                "schema": {"type": "object", "$ref": "https://x.example/s"},
            },
            "schema.$ref: 'https://x.example/s' points to nothing inside this schema",
        ),
        (
            {"kind": "extract", "model": "small", "schema": {"type": "object", "$ref": "#/$defs/a"}},
            "schema.$ref: '#/$defs/a' points to nothing inside this schema",
        ),
        (
            {
                "kind": "classify",
                "model": "small",
                "labels": ["ab", "cd"],
                "examples": [{"input": "x", "output": "ac"}],
            },
            "examples[0].output: 'ac' is none of the labels",
        ),
        (
            {"kind": "summarize", "model": "small", "examples": [{"input": "x", "output": 5}]},
            "examples[0].output: must be a text (numbers in quotes) or a mapping",
        ),
        (
            {
                "kind": "extract",
                "model": "small",
                "schema": {"type": "object"},
                "examples": [{"input": "x", "output": "y"}],
            },
            "examples[0].output: must be a mapping of the fields",
        ),
    ],
)
def test_a_fault_of_a_task_says_what_to_change(task: dict[str, Any], problem: str) -> None:
    found = problems(with_task(**task))
    assert any(f": tasks.triage.{problem}" in line for line in found), found


LABELS = {"kind": "classify", "labels": ["a", "b"]}


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        (
            {"learned": "/x", "stop": ["."]},
            "stop: has no effect for classify or extract (only for answer, summarize, generate); remove it",
        ),
        (
            {"learned": "/x", "allow": ["stream"]},
            "allow: stream has no effect for classify; possible are priority, deadline_ms, labels",
        ),
        (
            {"kind": "embed", "learned": "/x"},
            "learned: has no effect for embed (only for classify, extract, generate); remove it",
        ),
        (
            {"kind": "extract", "learned": "/x", "schema": {"type": "array"}},
            "schema.type: must be object",
        ),
        (
            {"kind": "classify", "learned": "/x", "max_error": 0.1, "threshold": 0.5},
            "threshold: max_error sets the threshold; remove one of them",
        ),
        (
            {**LABELS, "model": "small", "max_error": 0.1},
            "max_error: needs a task that edgeslm-export tune has trained: set a threshold instead",
        ),
        (
            {"kind": "answer", "model": "small", "adapter": "/x", "max_error": 0.1},
            "max_error: has no effect for answer (only for classify, extract, generate); remove it",
        ),
        (
            {"kind": "extract", "learned": "/x", "max_error": 0.1, "threshold": 0.5},
            "threshold: max_error sets the threshold; remove one of them",
        ),
        (
            {"kind": "extract", "model": "small", "schema": {"type": "object"}, "max_error": 0.1},
            "max_error: needs a task that edgeslm-export tune has trained: set a threshold instead",
        ),
        ({"learned": "/x", "max_error": 0}, "max_error: must be more than 0"),
        ({"learned": "/x", "max_error": 1.5}, "max_error: must be at most 1"),
        ({"learned": "/x", "max_error": "5 %"}, "max_error: must be a number"),
    ],
)
def test_a_fault_of_a_learned_task_says_what_to_change(task: dict[str, Any], problem: str) -> None:
    found = problems(with_task(**task))
    assert any(f": tasks.triage.{problem}" in line for line in found), found


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        (
            {**LABELS, "learned": "/x", "stages": ["small"]},
            "stages: learned is none of them: name it, or remove learned",
        ),
        (
            {**LABELS, "model": "small", "stages": ["small"]},
            "model: the stages name the models; remove it",
        ),
        (
            {**LABELS, "stages": ["small", "small"]},
            "stages[1]: small is asked already: name each stage once",
        ),
        (
            {**LABELS, "stages": ["learned", "small"]},
            "stages[0]: nothing was learned: give the folder that edgeslm-export tune wrote in learned",
        ),
        (
            {**LABELS, "stages": ["node:hall/topic", "small"]},
            "stages[0]: another node or server can only be the last stage",
        ),
        (
            {**LABELS, "stages": ["node:hall/topic"]},
            "stages[0]: a stage on this node comes first: name what was learned, or a model",
        ),
        (
            {**LABELS, "stages": ["small", "node:press-hall-4/triage"]},
            "stages[1]: is this node itself: name another one",
        ),
        ({**LABELS, "stages": ["smal"]}, "stages[0]: no model is called 'smal': did you mean small?"),
        (
            {"kind": "generate", "stages": ["small"]},
            "stages: of generate begin with learned, which calls tools: name it first",
        ),
        ({**LABELS, "stages": "small"}, "stages: must be a list"),
        ({**LABELS, "stages": [f"m{number}" for number in range(9)]}, "stages: must have at most 8"),
        (
            {**LABELS, "stages": ["node:hall"]},
            "stages[0]: 'node:hall' must be node:NODE/TASK, as node:hall-server/topic",
        ),
        ({**LABELS, "stages": ["node:hall/"]}, "stages[0]: 'node:hall/' must be node:NODE/TASK"),
        ({**LABELS, "stages": ["node:hall/a/b"]}, "stages[0]: 'node:hall/a/b' must be node:NODE/TASK"),
        ({**LABELS, "stages": ["node:hall/+"]}, "stages[0]: 'node:hall/+' must be node:NODE/TASK"),
        ({**LABELS, "stages": ["node:/topic"]}, "stages[0]: 'node:/topic' names a node that can't be"),
        (
            {**LABELS, "stages": ["node:Hall/topic"]},
            "stages[0]: 'node:Hall/topic' names a node that can't be",
        ),
        (
            {**LABELS, "stages": ["node:pool/topic"]},
            "stages[0]: 'node:pool/topic' names a node that can't be",
        ),
    ],
)
def test_a_fault_of_a_stage_says_what_to_change(task: dict[str, Any], problem: str) -> None:
    found = problems(with_task(**task))
    assert any(f": tasks.triage.{problem}" in line for line in found), found


def test_a_stage_with_a_fault_is_the_only_fault() -> None:
    """Its task has stages all the same: no model is missing."""
    (problem,) = problems(with_task(**LABELS, stages=["node:hall", "small"]))
    assert "stages[0]" in problem


@pytest.mark.parametrize(
    "task",
    [
        {"learned": "/x", "max_error": 0.05},
        {"learned": "/x", "stages": ["learned", "small"], "max_error": 0.05},
        {"learned": "/x", "stages": ["learned", "small"], "adapter": "/y", "threshold": 0.5},
        {"learned": "/x", "stages": ["small", "learned", "node:hall-server/topic"], "threshold": 0.5},
        {"kind": "extract", "learned": "/x", "verbatim": True, "max_tokens": 50},
        {"kind": "extract", "learned": "/x", "max_error": 0.05},
        {"kind": "extract", "learned": "/x", "threshold": 0.5},
        {"kind": "extract", "model": "small", "adapter": "/x"},
        {**LABELS, "model": "small", "adapter": "/x", "max_error": 0.05},
        {**LABELS, "stages": ["small", "node:hall-server/topic"], "threshold": 0.5},
    ],
)
def test_what_learned_tasks_and_stages_may_be(task: dict[str, Any]) -> None:
    assert parse_config(with_task(**task))


def test_a_learned_task_needs_nothing_else() -> None:
    task = parse_config(with_task(learned="/srv/topic")).tasks["triage"]
    assert (task.kind, task.model, task.labels) == (None, None, None)
    assert task.allowed == {"priority", "deadline_ms"}


def test_a_schema_may_refer_to_its_own_definitions() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/a"}},
        "$defs": {"a": {"type": "string"}},
    }
    assert parse_config(with_task(kind="extract", model="small", schema=schema))


@pytest.mark.parametrize("name", ["a b", "a/b", "+", "", "-a", "x" * 65])
def test_names_no_task_may_have(name: str) -> None:
    data = yaml.safe_load(SMALL)
    data["tasks"][name] = data["tasks"].pop("triage")
    assert "no name: use letters" in problems(yaml.safe_dump(data))[0]


def test_allow_replaces_the_options_of_the_kind() -> None:
    answer = parse_config(with_task(kind="answer", model="small")).tasks["triage"]
    assert {"context", "stream", "max_tokens"} <= answer.allowed
    assert not answer.allowed & {"labels", "schema"}
    task = parse_config(with_task(kind="answer", model="small", allow=["stream"])).tasks["triage"]
    assert task.allowed == {"stream"}
    assert parse_config(with_task(kind="answer", model="small", allow=[])).tasks["triage"].allowed == set()


def test_every_option_that_a_task_can_allow_is_one_that_requests_can_carry() -> None:
    assert set(get_args(Option)) <= set(OPTIONS)


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        ('openai: {url: "https://a/v1", model: m, foo: 1}', "foo: unknown key; known here: "),
        ("node: x", "stages[1].node: unknown key"),
        ("openai: null", "stages[1].openai"),
        ('openai: {url: "https://a/v1/chat/completions", model: m}', "must end before /chat/completions"),
        ('openai: {url: "http://a/v1", model: m, key_file: /k}', "without TLS the key can be read"),
        ('openai: {url: "https://a/v1", model: m, only: "a b"}', "only: "),
        ('openai: {url: "https://a/v1", model: m, redact: [names]}', "redact[0]"),
    ],
)
def test_a_stage_on_a_server_is_checked(stage: str, sentence: str) -> None:
    text = (
        "node: n\nbroker: {url: mqtt://localhost}\nmodels: {small: {bundle: /b}}\ntasks:\n"
        "  t:\n    kind: classify\n    labels: [a, b]\n    threshold: 0.9\n"
        f"    stages:\n      - small\n      - {stage}\n"
    )
    with pytest.raises(ConfigError) as error:
        parse_config(text)
    assert any(sentence in line for line in error.value.problems), error.value.problems
    assert not any("instruction" in line for line in error.value.problems)
