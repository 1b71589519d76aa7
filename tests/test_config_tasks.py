"""The configuration file: tasks, and what is said of those that can't be."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import yaml

from edgeslm.bus.options import OPTIONS
from edgeslm.config import Option, parse_config
from tests.config_texts import SMALL, problems, with_task


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        ({}, "kind: missing: add one of classify, extract, answer, summarize, generate, embed"),
        ({"kind": "search", "model": "small"}, "kind: must be one of classify"),
        ({"kind": "classify", "model": "small"}, "labels: missing"),
        ({"kind": "classify", "labels": ["a", "b"]}, "model: missing"),
        (
            {"kind": "classify", "model": "smal", "labels": ["a", "b"]},
            "model: no model is called 'smal': did you",
        ),
        ({"kind": "classify", "model": "small", "labels": ["a"]}, "labels: needs at least two labels"),
        ({"kind": "classify", "model": "small", "labels": ["a", "a"]}, "labels: 'a' is there twice"),
        ({"kind": "classify", "model": "small", "labels": ["a", " b"]}, "labels: ' b' is no label"),
        (
            {"kind": "classify", "model": "small", "labels": {"a": 1, "b": ""}},
            "labels: the meaning of 'a' must",
        ),
        ({"kind": "classify", "model": "small", "labels": "a, b"}, "labels: must be a mapping"),
        ({"kind": "generate", "model": "small", "labels": ["a", "b"]}, "labels: means nothing to generate"),
        ({"kind": "embed", "model": "small", "instruction": "x"}, "instruction: means nothing to embed"),
        (
            {"kind": "embed", "model": "small", "mode": "quote"},
            "mode: means nothing to embed (only to answer)",
        ),
        ({"kind": "embed", "model": "small", "allow": ["stream"]}, "allow: stream means nothing to embed"),
        ({"kind": "generate", "learned": "/x"}, "learned: means nothing to generate (only to classify)"),
        ({"learned": "/x", "allow": ["labels"]}, "allow: labels can't be set by senders here"),
        ({"kind": "embed", "model": "small", "adapter": "/x"}, "adapter: means nothing to embed"),
        ({"learned": "/x", "adapter": "/y"}, "adapter: means nothing here: a learned head"),
        ({"kind": "generate", "model": "small", "allow": ["strem"]}, "allow[0]: must be one of max_tokens"),
        ({"kind": "generate", "model": "small", "threshold": 1.5}, "threshold: must be at most 1"),
        ({"kind": "generate", "model": "small", "top_p": 0}, "top_p: must be more than 0"),
        (
            {"kind": "generate", "model": "small", "overflow": "tial"},
            "overflow: must be one of error, head, tail",
        ),
        ({"kind": "generate", "model": "small", "stages": ["a"]}, "stages: unknown key"),
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
            "schema.properties.a.pattern: not JSON Schema",
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
