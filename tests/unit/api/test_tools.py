from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from edgeslm.api.tools import ARGUMENTS, LONGEST_INSTRUCTION, describe_tool
from edgeslm.config.loader import Task as TaskSection
from edgeslm.config.task_kinds import POSSIBLE
from edgeslm.tasks import make_task

NAMED = {
    "type": "object",
    "properties": {"name": {"$ref": "#/$defs/name"}},
    "$defs": {"name": {"type": "string"}},
}


def tool(**section: Any) -> dict[str, Any]:
    task = make_task("task", TaskSection.model_validate(section))
    return describe_tool("task", task, task.result_schema(), is_open=False)


@pytest.mark.parametrize(
    ("section", "sentence", "arguments"),
    [
        ({"kind": "classify", "labels": ["a", "b"]}, "Classifies a text with one of the labels: a, b.", []),
        ({"kind": "extract", "schema": NAMED}, "Extracts fields from a text: name.", ["max_tokens"]),
        (
            {"kind": "answer"},
            "Answers a question from documents, with citations.",
            ["context", "sources", "since", "until", "max_tokens"],
        ),
        (
            {"kind": "search", "knowledge": ("kb", "log")},
            "Finds the passages of documents that match a question.\nDocument collections: kb, log.",
            ["sources", "since", "until"],
        ),
        ({"kind": "summarize"}, "Summarizes a text.", ["max_tokens"]),
        ({"kind": "embed"}, "Computes the embedding vector of a text.", []),
        (
            {"kind": "generate", "instruction": "Be brief.", "allow": ("seed", "tools")},
            "Answers a message with a language model.\nIts instruction: Be brief.",
            [],
        ),
    ],
)
def test_a_tool_of_each_kind(section: dict[str, Any], sentence: str, arguments: list[str]) -> None:
    found = tool(**section)
    assert found["description"] == sentence
    assert list(found["input"]["properties"]) == ["input", *arguments]
    for name in ("input", "output"):
        Draft202012Validator.check_schema(found[name])


def test_a_schema_with_references_is_left_out() -> None:
    """They would refer to the root of the tool's schema, and clients would fail on them."""
    assert tool(kind="extract", schema=NAMED)["output"]["properties"]["result"] == {"type": "object"}
    plain = {"type": "object", "properties": {"name": {"type": "string"}}}
    result = tool(kind="extract", schema=plain)["output"]["properties"]["result"]
    assert result["properties"]["fields"] == plain


def test_a_long_instruction_is_cut() -> None:
    assert len(tool(kind="summarize", instruction="x" * 20_000)["description"]) < LONGEST_INSTRUCTION + 100


def test_arguments_are_options() -> None:
    assert set(ARGUMENTS) <= {option for options in POSSIBLE.values() for option in options}
