"""``generate``: writes free text, JSON or a tool call, for a prompt or a chat."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgeslm.config.json_schemas import make_validator
from edgeslm.engine.calls import Cost, Generate, Output, Prompt, Text, ToolCall, Turn
from edgeslm.errors import InvalidRequest
from edgeslm.messages import Request
from edgeslm.remote.chat import Chat, parse_object
from edgeslm.tasks.consulting import Consult, chat_messages, chat_tools
from edgeslm.tasks.extract import bounded, check_schema
from edgeslm.tasks.task import Ask, OnChunk, Outcome, Task, object_schema
from edgeslm.tasks.tools import ANY_OBJECT, check_tools, describe, is_valid, json_guide, read_calls, rule_of

STRING_CHARS = 2000
ARRAY_ITEMS = 64
"""Limits of strings and lists that have none in the request's schema, so that the JSON ends."""
ROLES = ("system", "user", "assistant", "tool")
OWN_OPTIONS = ("priority", "deadline_ms", "stream")
"""Options that aren't passed to another node."""


class GenerateText(Task):
    kind = "generate"

    def check_input(self, request: Request) -> None:
        self._chat(request)
        schema = request.options.get("schema")
        if schema is not None and schema != ANY_OBJECT:
            check_schema(schema)
        if "tools" in request.options:
            check_tools(request.options["tools"], self._choice(request))
        elif "tool_choice" in request.options:
            raise InvalidRequest("options.tool_choice needs options.tools")

    async def run(self, request: Request, ask: Ask, on_chunk: OnChunk | None) -> Outcome:
        options = request.options
        tools, schema, rule = options.get("tools", ()), options.get("schema"), rule_of(options)
        prompt = Prompt(self._chat(request), self.section.overflow, describe(tools))
        guide = None
        if schema is not None:
            guide = json_guide(schema if schema == ANY_OBJECT else bounded(schema, STRING_CHARS, ARRAY_ITEMS))
        call = Generate(
            prompt,
            self.option(request, "max_tokens"),
            self.sampling(request),
            guide,
            stop=tuple(self.option(request, "stop")),
            stream=bool(options.get("stream")),
            calls=rule,
        )
        output = await ask(call, on_chunk)
        # A call that is required may be made again, such as after an error.
        made = _made_calls(request.input) if self._choice(request) == "auto" else ()
        calls = read_calls(output.calls, tools, made)
        if output.calls and not calls and not output.text:  # all of them were made already
            output = _with_cost(await ask(replace(call, calls=None), on_chunk), output.cost)
        if calls:
            result = {"text": output.text, "finish_reason": "tool_calls", "tool_calls": calls}
            return Outcome.of(output, result)
        return Outcome.of(output, {"text": output.text, "finish_reason": output.finish_reason})

    def result_schema(self) -> dict[str, Any]:
        call = object_schema({"name": {"type": "string"}, "arguments": {"type": "object"}})
        return object_schema(
            {"text": {"type": "string"}, "finish_reason": {"enum": ["stop", "length", "tool_calls"]}},
            {"tool_calls": {"type": "array", "items": call}} if "tools" in self.section.allowed else None,
        )

    def may_refer(self, request: Request) -> bool:
        return True

    def refer(self, request: Request, found: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name: value for name, value in request.options.items() if name not in OWN_OPTIONS}

    def bring_back(
        self, request: Request, found: Mapping[str, Any], answer: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        """The other node's text or calls; None if a call doesn't fit the request's tools."""
        tools = request.options.get("tools", ())
        calls = answer.get("tool_calls", [])
        if not isinstance(answer.get("text"), str) or not isinstance(calls, list):
            return None
        is_sound = all(_is_call(call) and is_valid(call, tools) for call in calls)
        return answer if is_sound and (answer["text"] or calls) else None

    async def consult(
        self, request: Request, found: Mapping[str, Any], ask: Consult
    ) -> Mapping[str, Any] | None:
        """The server's text, JSON or calls; None if they don't fit the request's schema or tools."""
        tools, schema = request.options.get("tools", ()), request.options.get("schema")
        reply = await ask(
            Chat(
                chat_messages(request.input, self.section.instruction),
                self.option(request, "max_tokens"),
                schema,
                sampling=self.chat_sampling(request),
                **(chat_tools(tools, self._choice(request)) if tools else {}),
            )
        )
        calls = [{"name": name, "arguments": dict(arguments)} for name, arguments in reply.calls]
        if request.options.get("parallel_tool_calls") is False:
            calls = calls[:1]
        if not all(is_valid(call, tools) for call in calls) or not (reply.text or calls):
            return None
        if schema is not None and not calls:
            written = parse_object(reply.text)
            if written is None or not make_validator(schema).is_valid(written):
                return None
        reason = "length" if reply.finish_reason == "length" else "stop"
        result = {"text": reply.text, "finish_reason": "tool_calls" if calls else reason}
        return {**result, "tool_calls": calls} if calls else result

    @staticmethod
    def _choice(request: Request) -> str:
        choice: str = request.options.get("tool_choice", "auto")
        return choice

    def _chat(self, request: Request) -> tuple[Turn, ...]:
        """Chat turns: the task's instruction, if it has one, and the request's input.

        :raises InvalidRequest: the input isn't a text or ``{"messages": [{"role", "content"}, ...]}``.
        """
        own = (Turn("system", (self.section.instruction,)),) if self.section.instruction else ()
        if isinstance(request.input, str):
            return (*own, Turn("user", (Text(request.input, cut=True),)))
        if set(request.input) != {"messages"} or not isinstance(request.input["messages"], list):
            raise InvalidRequest('an input object of generate is {"messages": [{"role", "content"}, ...]}')
        messages = [_checked(number, item) for number, item in enumerate(request.input["messages"], 1)]
        if not messages or messages[-1]["role"] not in ("user", "tool"):
            raise InvalidRequest("the last message must be one of role user or tool")
        if any(item["role"] == "system" for item in messages[1:]):
            raise InvalidRequest("a system message can only be the first one")
        turns: list[Turn] = [*own]
        for item in messages:
            # Only the last message may be truncated.
            turn = _turn(item, cut=item is messages[-1])
            if turns and turn.role == turns[-1].role == "system":
                turn = Turn("system", (*turns.pop().parts, "\n\n", *turn.parts))
            turns.append(turn)
        return tuple(turns)


def _checked(number: int, item: Any) -> Mapping[str, Any]:
    """A chat message. :raises InvalidRequest: it isn't one."""
    if not isinstance(item, Mapping) or "role" not in item or "content" not in item:
        raise InvalidRequest(f"message {number} must have role and content")
    role, allowed = item["role"], {"role", "content"}
    if role not in ROLES:
        raise InvalidRequest(f"message {number}: role must be one of {', '.join(ROLES)}")
    if role == "assistant":
        allowed |= {"tool_calls"}
    if not item.keys() <= allowed:
        raise InvalidRequest(f"message {number} of role {role} may have {', '.join(sorted(allowed))} only")
    if not isinstance(item["content"], str):
        raise InvalidRequest(f"message {number}: content must be a text")
    calls = item.get("tool_calls", [])
    if not isinstance(calls, list) or not all(_is_call(call) for call in calls):
        raise InvalidRequest(f'message {number}: tool_calls must be a list of {{"name", "arguments"}}')
    return item


def _is_call(call: Any) -> bool:
    if not isinstance(call, Mapping) or set(call) != {"name", "arguments"}:
        return False
    return isinstance(call["name"], str) and isinstance(call["arguments"], Mapping)


def _turn(item: Mapping[str, Any], *, cut: bool) -> Turn:
    calls = tuple(
        ToolCall(call["name"], json.dumps(call["arguments"], ensure_ascii=False))
        for call in item.get("tool_calls", ())
    )
    return Turn(
        item["role"], (Text(item["content"], cut=cut),) if item["content"] or not calls else (), calls
    )


def _made_calls(input: str | Mapping[str, Any]) -> list[Any]:
    """The calls since the last message of the user."""
    messages: Sequence[Mapping[str, Any]] = input["messages"] if isinstance(input, Mapping) else ()
    made: list[Any] = []
    for item in reversed(messages):
        if item["role"] == "user":
            break
        made += item.get("tool_calls", ())
    return made


def _with_cost(output: Output, more: Cost) -> Output:
    return replace(output, cost=more + output.cost)
