"""Tool calls of ``generate``: the model chooses a function by scored labels, in one pass, and writes its
arguments under a grammar made of the function's JSON Schema.

A call therefore always names one of the request's tools, and its arguments always fit the schema. All texts
of a request are untrusted, descriptions of tools too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeslm.config.json_schemas import make_validator
from edgeslm.engine.calls import Cost, Generate, Guide, Prompt, Sampling, Score, Text, Turn
from edgeslm.errors import InvalidRequest
from edgeslm.tasks.extract import (
    ARRAY_ITEMS,
    STRING_CHARS,
    TIGHT_ARRAY_ITEMS,
    TIGHT_STRING_CHARS,
    bounded,
    check_schema,
)
from edgeslm.tasks.task import Ask

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
"""The schema of any JSON object."""
NO_CALL = "none"
"""The label that stands for an answer in words."""
_SAYS_NOTHING = frozenset({"type", "additionalProperties", "description", "title", "$schema"})
_BEFORE = "You may call one of these functions. Each line has the JSON of one function.\n"
_CHOOSE = "\n\nWhich function answers this message? Answer with its name, or with none if no function fits."
_CHOOSE_ONE = "\n\nWhich function answers this message? Answer with its name and nothing else."


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model chose; ``arguments`` are None if they were cut off."""

    name: str
    arguments: Mapping[str, Any] | None


def check_tools(tools: Sequence[Mapping[str, Any]], choice: str) -> None:
    """:raises InvalidRequest: a tool's parameters are no schema of named fields, or ``choice`` names none."""
    if len({tool["name"] for tool in tools}) < len(tools):
        raise InvalidRequest("options.tools: two tools have the same name")
    for tool in tools:
        if not takes_nothing(tool):
            check_schema(tool["parameters"], f"options.tools: {tool['name']}: parameters")
    if choice not in ("auto", "none", "required") and all(tool["name"] != choice for tool in tools):
        raise InvalidRequest(f"options.tool_choice: there is no tool {choice!r} in options.tools")
    if choice == "auto" and any(tool["name"] == NO_CALL for tool in tools):
        raise InvalidRequest(f"options.tools: a tool can't be called {NO_CALL!r}")


def takes_nothing(tool: Mapping[str, Any]) -> bool:
    """Whether a tool has no arguments: its schema, if any, allows an object and says no more of it."""
    parameters = tool.get("parameters", {})
    return not any(value for name, value in parameters.items() if name not in _SAYS_NOTHING)


def is_valid(call: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a call names one of the tools, with arguments that its schema allows."""
    tool = next((tool for tool in tools if tool["name"] == call["name"]), None)
    if tool is None:
        return False
    if takes_nothing(tool):
        return not call["arguments"]
    return make_validator(tool["parameters"]).is_valid(dict(call["arguments"]))


def with_tools(turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]]) -> tuple[Turn, ...]:
    """The chat with a description of the tools at the end of its system message, where the prefix cache keeps
    it for later requests with the same tools."""
    lines = Text("\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    if turns and turns[0].role == "system":
        return (Turn("system", (*turns[0].parts, "\n\n", _BEFORE, lines)), *turns[1:])
    return (Turn("system", (_BEFORE, lines)), *turns)


async def choose_call(
    prompt: Prompt,
    tools: Sequence[Mapping[str, Any]],
    choice: str,
    ask: Ask,
    max_tokens: int,
    sampling: Sampling,
) -> tuple[ToolCall | None, Cost]:
    """The function that the model calls, None if it answers in words, and the cost. ``prompt`` has the tools.
    If the arguments don't fit ``max_tokens``, the call has none.
    """
    names = [tool["name"] for tool in tools]
    name, cost = (choice, Cost()) if choice in names else await _choose_name(prompt, names, choice, ask)
    if name == NO_CALL:
        return None, cost
    tool = next(tool for tool in tools if tool["name"] == name)
    if takes_nothing(tool):
        return ToolCall(name, {}), cost
    schema = tool["parameters"]
    asked = ("\n\nWrite the arguments of the function ", Text(name), " as a JSON object.")
    for chars, items in ((STRING_CHARS, ARRAY_ITEMS), (TIGHT_STRING_CHARS, TIGHT_ARRAY_ITEMS)):
        guide = json_guide(bounded(schema, chars, items))
        output = await ask(Generate(_asking(prompt, asked), max_tokens, sampling, guide))
        cost += output.cost
        try:
            return ToolCall(name, _without_empty(json.loads(output.text), schema)), cost
        except ValueError:
            continue
    return ToolCall(name, None), cost


def _without_empty(arguments: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments without optional ones that are empty, if the schema allows that: small models fill in all
    that it has."""
    required = schema.get("required", ())
    kept = {
        name: value for name, value in arguments.items() if name in required or value not in ("", [], None)
    }
    return kept if make_validator(schema).is_valid(kept) else arguments


async def _choose_name(prompt: Prompt, names: Sequence[str], choice: str, ask: Ask) -> tuple[str, Cost]:
    is_free = choice == "auto"
    labels = (*names, NO_CALL) if is_free else tuple(names)
    if len(labels) == 1:
        return labels[0], Cost()
    output = await ask(Score(_asking(prompt, (_CHOOSE if is_free else _CHOOSE_ONE,)), labels))
    best = max(range(len(labels)), key=output.probabilities.__getitem__)
    return labels[best], output.cost


def _asking(prompt: Prompt, question: tuple[str | Text, ...]) -> Prompt:
    """The prompt with a question at the end of its last message."""
    *before, last = prompt.turns
    return Prompt((*before, Turn(last.role, (*last.parts, *question))), prompt.overflow)


def json_guide(schema: Mapping[str, Any]) -> Guide:
    """The grammar of a JSON Schema, without spaces, as small models write JSON."""
    return Guide("json_schema", json.dumps({**schema, "x-guidance": {"whitespace_flexible": False}}))
