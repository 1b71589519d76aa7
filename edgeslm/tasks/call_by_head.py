"""Tool calls by a trained head, in milliseconds: the first stage of a ``generate`` task with ``learned``.

The head finds the fields of the user's message. The field ``intent`` names a tool, and the other fields are
its arguments. If the head isn't sure, or its fields fit none of the request's tools, the outcome is
``abstained``, and the next stage, a decoder or another node, answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeslm.engine.calls import Cost
from edgeslm.messages import Request
from edgeslm.tasks.generate import GenerateText
from edgeslm.tasks.task import PROBABILITY, Ask, OnChunk, Outcome, Task
from edgeslm.tasks.tools import is_valid, takes_nothing

if TYPE_CHECKING:
    from edgeslm.bundle.manifest import Bundle
    from edgeslm.config.loader import Task as TaskSection
    from edgeslm.tasks.task import Documents

PREFIX_END = "__"
"""Ends the part of a tool's name that says where the tool is from, as in Home Assistant and MCP clients."""
INTENT = "intent"
"""The field that names the tool."""


class CallByHead(GenerateText):
    """:param finder: the ``extract`` task of the head."""

    def __init__(
        self,
        name: str,
        section: TaskSection,
        bundle: Bundle | None,
        documents: Documents | None,
        context_length: int | None,
        *,
        finder: Task,
    ) -> None:
        super().__init__(name, section, bundle, documents, context_length)
        self._finder = finder

    async def run(self, request: Request, ask: Ask, on_chunk: OnChunk | None) -> Outcome:
        tools, choice = request.options.get("tools", ()), request.options.get("tool_choice", "auto")
        text, made, told = last_turn(request)
        reply = self.section.error_reply if any(map(is_failure, told)) else self.section.reply
        if not tools or choice == "none" or (made and reply is None):
            return _unsure(Cost())
        found = await self._finder.run(replace(request, input=text, options={}), ask, None)
        call = call_of(found.result["fields"], tools, choice) if found.status == "ok" else None
        if call is None:
            return replace(_unsure(found.cost), distance=found.distance)
        result: dict[str, Any] = {"text": "", "finish_reason": "tool_calls", "tool_calls": [call]}
        if made:
            if made != [call]:  # the calls of other stages are for them to word
                return _unsure(found.cost)
            result = {"text": reply, "finish_reason": "stop"}
        return replace(found, result={**result, "confidence": found.result["confidence"]})

    def result_schema(self) -> dict[str, Any]:
        schema = super().result_schema()
        return {**schema, "properties": {**schema["properties"], "confidence": PROBABILITY}}


def _unsure(cost: Cost) -> Outcome:
    return Outcome("abstained", {"text": "", "finish_reason": "stop", "confidence": 0.0}, cost)


def last_turn(request: Request) -> tuple[str, list[Any], list[str]]:
    """The last text of the user, and the calls and results that follow it."""
    if isinstance(request.input, str):
        return request.input, [], []
    made: list[Any] = []
    told: list[str] = []
    for message in reversed(request.input["messages"]):
        if message["role"] == "user":
            return message["content"], made, told
        if message["role"] == "tool":
            told.append(message["content"])
        made += message.get("tool_calls", ())
    return "", made, told


def is_failure(content: str) -> bool:
    """Whether a tool's result is an error: a JSON object with an ``error``, as programs send it."""
    try:
        told = json.loads(content)
    except ValueError:
        return False
    return isinstance(told, dict) and bool(told.get("error"))


def call_of(
    fields: Mapping[str, Any], tools: Sequence[Mapping[str, Any]], choice: str
) -> dict[str, Any] | None:
    """The call of a tool with a head's fields; None if no tool has this name, or its schema doesn't allow the
    arguments. A tool's name may have a prefix, as in ``intent__HassTurnOn``. A value may stand for a list of
    one, and digits for a number."""
    intent = str(fields.get(INTENT))
    named = {tool["name"]: tool for tool in tools if choice in ("auto", "required", tool["name"])}
    tool = named.get(intent) or next(
        (tool for name, tool in named.items() if name.rpartition(PREFIX_END)[2] == intent), None
    )
    if tool is None:
        return None
    properties = {} if takes_nothing(tool) else tool["parameters"].get("properties", {})
    arguments = {}
    for name, value in fields.items():
        if name == INTENT or value is None:
            continue
        if not isinstance(properties.get(name), Mapping):
            return None
        arguments[name] = _fitted(value, properties[name].get("type"))
    call = {"name": tool["name"], "arguments": arguments}
    return call if is_valid(call, tools) else None


def _fitted(value: Any, kind: Any) -> Any:
    """The value as the JSON type ``kind``, if it can be."""
    if kind == "array" and not isinstance(value, list):
        return [value]
    if kind in ("integer", "number") and isinstance(value, str):
        try:
            return int(value) if kind == "integer" else float(value)
        except ValueError:
            return value
    return value
