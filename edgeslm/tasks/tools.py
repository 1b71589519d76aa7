"""Tool calls of ``generate``: the model writes them in the format of its chat template, under a grammar made
of the functions' names and JSON Schemas.

A call therefore always names one of the request's tools, and its arguments always fit the schema. All texts
of a request are untrusted, descriptions of tools too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from edgeslm.config.json_schemas import PATTERN_SIZE, make_validator
from edgeslm.engine.calls import CallRule, Guide, Tool, ToolCall
from edgeslm.errors import InvalidRequest
from edgeslm.tasks.extract import (
    ARRAY_ITEMS,
    STRING_CHARS,
    bounded,
    check_schema,
)

MOST = sys.float_info.max
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
"""The schema of any JSON object."""
NOTHING: Mapping[str, Any] = {"type": "object", "additionalProperties": False}
"""The schema of an object without fields."""
MOST_CALLS = 8
"""Maximum number of calls in one answer."""
_SAYS_NOTHING = frozenset({"type", "additionalProperties", "description", "title", "$schema"})


def check_tools(tools: Sequence[Mapping[str, Any]], choice: str) -> None:
    """:raises InvalidRequest: a tool's parameters are no schema of named fields, or ``choice`` names none."""
    if len({tool["name"] for tool in tools}) < len(tools):
        raise InvalidRequest("options.tools: two tools have the same name")
    size = 0
    for tool in tools:
        if not takes_nothing(tool):
            size += _check_parameters(tool["name"], json.dumps(tool["parameters"]), PATTERN_SIZE - size)
    if choice not in ("auto", "none", "required") and all(tool["name"] != choice for tool in tools):
        raise InvalidRequest(f"options.tool_choice: there is no tool {choice!r} in options.tools")


@lru_cache(maxsize=256)  # assistants send the same tools with each request, and a check takes a millisecond
def _check_parameters(name: str, parameters: str, pattern_size: int) -> int:
    """The size of a tool's regular expressions, which ``pattern_size`` limits. :raises InvalidRequest: the
    JSON Schema is none of named fields, or too large."""
    return check_schema(json.loads(parameters), f"options.tools: {name}: parameters", pattern_size)


def takes_nothing(tool: Mapping[str, Any]) -> bool:
    """Whether a tool has no arguments: its schema, if any, allows an object and says no more of it."""
    parameters = tool.get("parameters", {})
    return parameters.get("type", "object") == "object" and not any(
        value for name, value in parameters.items() if name not in _SAYS_NOTHING
    )


def is_valid(call: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a call names one of the tools, with arguments that its schema allows."""
    tool = next((tool for tool in tools if tool["name"] == call["name"]), None)
    if tool is None:
        return False
    if takes_nothing(tool):
        return not call["arguments"]
    return make_validator(tool["parameters"]).is_valid(dict(call["arguments"]))


def describe(tools: Sequence[Mapping[str, Any]]) -> tuple[Tool, ...]:
    """The tools for the engine, with limits of strings and lists, so that arguments end."""
    return tuple(
        Tool(
            tool["name"],
            json.dumps(tool, ensure_ascii=False),
            json.dumps(
                NOTHING if takes_nothing(tool) else bounded(tool["parameters"], STRING_CHARS, ARRAY_ITEMS)
            ),
        )
        for tool in tools
    )


def rule_of(options: Mapping[str, Any]) -> CallRule | None:
    """Which tools an answer to a request may call; None for no tool."""
    tools, choice = options.get("tools", ()), options.get("tool_choice", "auto")
    if not tools or choice == "none":
        return None
    names = tuple(tool["name"] for tool in tools)
    most = MOST_CALLS if options.get("parallel_tool_calls", True) else 1
    return CallRule((choice,) if choice in names else names, most, or_text=choice == "auto")


def read_calls(
    calls: Sequence[ToolCall], tools: Sequence[Mapping[str, Any]], made: Sequence[Any]
) -> list[dict[str, Any]]:
    """The calls of an answer, each once, without those that the chat ``made`` already: a small model would
    repeat itself without end."""
    schemas = {tool["name"]: NOTHING if takes_nothing(tool) else tool["parameters"] for tool in tools}
    found: list[dict[str, Any]] = []
    for call in calls:
        written = json.loads(call.arguments, parse_float=_finite)
        one = {"name": call.name, "arguments": _without_empty(written, schemas[call.name])}
        if one not in found and one not in made and is_valid(one, tools):
            found.append(one)
    return found


def _finite(written: str) -> float:
    """A number of JSON; 1e999, which a grammar allows, becomes the largest one."""
    return max(-MOST, min(MOST, float(written)))


def _without_empty(arguments: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments without optional ones that are empty, if the schema allows that: small models fill in all
    that it has."""
    required = schema.get("required", ())
    kept = {
        name: value for name, value in arguments.items() if name in required or value not in ("", [], None)
    }
    return kept if make_validator(schema).is_valid(kept) else arguments


def json_guide(schema: Mapping[str, Any]) -> Guide:
    """The grammar of a JSON Schema, without spaces, as small models write JSON."""
    return Guide("json_schema", json.dumps({**schema, "x-guidance": {"whitespace_flexible": False}}))
