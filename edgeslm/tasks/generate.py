"""``generate``: writes free text, JSON or a tool call, for a prompt or a chat."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgeslm.config.json_schemas import make_validator
from edgeslm.engine.calls import Generate, Prompt, Text, Turn
from edgeslm.errors import InvalidRequest
from edgeslm.messages import Request
from edgeslm.remote.chat import Chat, parse_object
from edgeslm.tasks.consulting import Consult, chat_messages, chat_tools
from edgeslm.tasks.extract import bounded, check_schema
from edgeslm.tasks.task import Ask, OnChunk, Outcome, Task, object_schema
from edgeslm.tasks.tools import ANY_OBJECT, check_tools, choose_call, is_valid, json_guide, with_tools

STRING_CHARS = 2000
ARRAY_ITEMS = 64
"""Limits of strings and lists that have none in the request's schema, so that the JSON ends."""
ROLES = ("system", "user", "assistant", "tool")
OWN_OPTIONS = ("priority", "deadline_ms", "stream")
"""Options that aren't passed to another node."""
CALL = "<tool_call>"
"""Begins an earlier call in the chat, as Qwen, SmolLM and Hermes were trained; ends a text that the model
writes."""


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
        chat, tools = self._chat(request), request.options.get("tools", ())
        choice, stop = self._choice(request), tuple(self.option(request, "stop"))
        prompt = Prompt(with_tools(chat, tools) if tools else chat, overflow=self.section.overflow)
        max_tokens, sampling = self.option(request, "max_tokens"), self.sampling(request)
        cost = None
        if tools and choice != "none":
            call, cost = await choose_call(prompt, tools, choice, ask, max_tokens, sampling)
            if call is not None and call.arguments is None:
                return Outcome("ok", {"text": "", "finish_reason": "length"}, cost)
            if (
                call is not None
                and call.arguments is not None
                and not _was_made(call.name, call.arguments, request.input)
            ):
                called = {"name": call.name, "arguments": dict(call.arguments)}
                result = {"text": "", "finish_reason": "tool_calls", "tool_calls": [called]}
                return Outcome("ok", result, cost)
        schema = request.options.get("schema")
        guide = None
        if schema is not None:
            guide = json_guide(schema if schema == ANY_OBJECT else bounded(schema, STRING_CHARS, ARRAY_ITEMS))
        stream = bool(request.options.get("stream"))
        stop = (*stop, CALL) if tools and guide is None else stop
        output = await ask(Generate(prompt, max_tokens, sampling, guide, stop=stop, stream=stream), on_chunk)
        if cost is not None:
            output = replace(output, cost=cost + output.cost)
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
        was_told = False
        for item in messages:
            # Only the last message may be truncated.
            turn = _turn(item, cut=item is messages[-1])
            is_told = item["role"] == "tool"
            if turns and turn.role == turns[-1].role and (turn.role == "system" or is_told or was_told):
                turn = Turn(
                    turn.role, (*turns.pop().parts, "\n\n" if turn.role == "system" else "\n", *turn.parts)
                )
            turns.append(turn)
            was_told = is_told
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
    if item["role"] == "tool":
        return Turn("user", ("<tool_response>\n", Text(item["content"], cut=cut), "\n</tool_response>"))
    parts: list[str | Text] = (
        [Text(item["content"], cut=cut)] if item["content"] or not item.get("tool_calls") else []
    )
    for call in item.get("tool_calls", ()):
        shown = json.dumps({"name": call["name"], "arguments": call["arguments"]}, ensure_ascii=False)
        parts += ["\n" if parts else "", f"{CALL}\n", Text(shown), "\n</tool_call>"]
    return Turn(item["role"], tuple(part for part in parts if part != ""))


def _was_made(name: str, arguments: Mapping[str, Any], input: str | Mapping[str, Any]) -> bool:
    """Whether the chat has the same call since its last user message: a small model would call without
    end."""
    messages: Sequence[Mapping[str, Any]] = input["messages"] if isinstance(input, Mapping) else ()
    for item in reversed(messages):
        if item["role"] == "user":
            return False
        if any(call == {"name": name, "arguments": arguments} for call in item.get("tool_calls", ())):
            return True
    return False
