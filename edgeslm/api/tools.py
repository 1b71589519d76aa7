"""Tasks as tools of MCP clients: descriptions, and JSON Schemas of arguments and results. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgeslm.protocol.request_options import OPTIONS
from edgeslm.tasks import Task

ARGUMENTS = ("context", "knowledge", "sources", "since", "until", "labels", "schema", "max_tokens")
"""Options that are arguments of a tool, if the task lets senders set them. A model that calls the tool has no
use for others, such as ``seed``."""
LONGEST_INSTRUCTION = 1000
"""Maximum length of a task's instruction in its description, in characters."""


def describe_tool(
    name: str, task: Task, result_schema: Mapping[str, Any], *, is_open: bool
) -> dict[str, Any]:
    """The tool's ``name``, ``description``, ``input`` and ``output`` (schemas), its ``collections``, and
    whether it may ask another server (``is_open``)."""
    properties: dict[str, Any] = {"input": {"type": "string", "description": _INPUTS[task.kind]}}
    required = ["input"]
    for option in ARGUMENTS:
        if option not in task.section.allowed or (option == "context" and task.section.knowledge):
            continue
        meaning = OPTIONS[option].meaning.rpartition(": ")[2]  # without the kinds that it is for
        properties[option] = {**OPTIONS[option].schema, "description": meaning[:1].upper() + meaning[1:]}
        if option == "context":
            required.append(option)
    return {
        "name": name,
        "description": _description(task),
        "input": {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        },
        "output": _output(result_schema),
        "is_open": is_open,
        "collections": list(task.section.knowledge),
    }


_INPUTS: Mapping[str, str] = {
    "classify": "The text to classify",
    "extract": "The text to read the fields from",
    "answer": "The question",
    "summarize": "The text to summarize",
    "generate": "The message to answer",
    "embed": "The text to embed",
    "search": "The question or words to search for",
}


def _description(task: Task) -> str:
    sentences = [_what(task)]
    if task.section.instruction:
        sentences.append(f"Its instruction: {task.section.instruction[:LONGEST_INSTRUCTION]}")
    if task.section.knowledge:
        sentences.append(f"Document collections: {', '.join(task.section.knowledge)}.")
    return "\n".join(sentences)


def _what(task: Task) -> str:
    if task.kind == "classify":
        labels = [f"{name} ({meaning})" if meaning else name for name, meaning in _labels(task).items()]
        return f"Classifies a text with one of the labels: {', '.join(labels)}."
    if task.kind == "extract":
        fields = ", ".join((task.section.output_schema or {}).get("properties", ()))
        return f"Extracts fields from a text: {fields}." if fields else "Extracts fields from a text."
    return {
        "answer": "Answers a question from documents, with citations.",
        "summarize": "Summarizes a text.",
        "generate": "Answers a message with a language model.",
        "embed": "Computes the embedding vector of a text.",
        "search": "Finds the passages of documents that match a question.",
    }[task.kind]


def _labels(task: Task) -> Mapping[str, str]:
    return task.section.labels or {}


def _output(result: Mapping[str, Any]) -> dict[str, Any]:
    """Schema of the whole result, as over MQTT."""
    if '"$ref"' in json.dumps(result):  # it would refer to the root of a larger schema
        result = {"type": "object"}
    return {
        "type": "object",
        "properties": {
            "status": {"enum": ["ok", "abstained"], "description": "abstained: not sure enough"},
            "result": result,
            "model": {"type": "string"},
        },
        "required": ["status", "result"],
    }
