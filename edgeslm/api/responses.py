"""OpenAI's Responses dialect, translated to and from chat completions. Pure but for clock and random ids.

Nothing is stored: ``previous_response_id`` is refused, and clients send the whole chat.
Source: OpenAI's API reference, Responses.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeslm.api import openai
from edgeslm.api.dialect import Told, refuse
from edgeslm.api.node import Offered, Question
from edgeslm.web.server import Refusal


@dataclass(frozen=True, slots=True)
class Asked:
    """A response that a client asks for."""

    model: str
    question: Question
    stream: bool
    id: str = field(default_factory=lambda: f"resp_{secrets.token_hex(16)}")
    item: str = field(default_factory=lambda: f"msg_{secrets.token_hex(16)}")
    created: int = field(default_factory=lambda: int(time.time()))


def read(body: Mapping[str, Any], offered: Offered) -> Asked:
    """:raises Refusal: the request is wrong, or asks for more than there is."""
    for name in ("previous_response_id", "conversation", "prompt", "background"):
        if body.get(name):
            raise refuse(f"{name} isn't supported: nothing is stored. Send the whole chat.")
    text = body.get("text") or {}
    if not isinstance(text, Mapping):
        raise refuse("text must be an object.")
    most_tokens = body.get("max_output_tokens")
    if most_tokens is not None and (type(most_tokens) is not int or most_tokens < 1):
        raise refuse("max_output_tokens must be a whole number of at least 1.")
    chat: dict[str, Any] = {
        "messages": _messages(body),
        "tools": _tools(body.get("tools")),
        "response_format": _format(text.get("format")),
        "max_tokens": most_tokens,
        **{name: body.get(name) for name in ("temperature", "top_p", "stream", "parallel_tool_calls")},
    }
    choice = body.get("tool_choice")
    if isinstance(choice, Mapping):
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    chat |= {"tool_choice": choice, **({"options": body["options"]} if "options" in body else {})}
    asked = openai.read_chat(chat, offered, "text.format")
    return Asked(asked.model, asked.question, asked.stream)


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    given, instructions = body.get("input"), body.get("instructions")
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise refuse("input must be a text, or a list with at least one item.")
    messages: list[dict[str, Any]] = []
    if isinstance(instructions, str):
        messages.append({"role": "system", "content": instructions})
    for number, item in enumerate(given, 1):
        if not isinstance(item, Mapping):
            raise refuse(f"Item {number} of input must be an object.")
        kind = item.get("type", "message")
        if kind == "message":
            messages.append({"role": item.get("role"), "content": item.get("content")})
        elif kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"type": "function", "function": function}
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif kind == "function_call_output":
            messages.append({"role": "tool", "content": item.get("output")})
        elif kind != "reasoning":
            raise refuse(f"Item {number} of input has the type {str(kind)[:40]!r}, which isn't supported.")
    return messages


def _tools(given: Any) -> list[dict[str, Any]]:
    if given is None:
        return []
    if not isinstance(given, list):
        raise refuse("tools must be a list.")
    tools = []
    for number, tool in enumerate(given, 1):
        if not isinstance(tool, Mapping) or tool.get("type", "function") != "function":
            raise refuse(f"Tool {number} must have the type function; there are no built-in tools.")
        tools.append({"type": "function", "function": dict(tool)})
    return tools


def _format(given: Any) -> dict[str, Any] | None:
    if given is None:
        return None
    kind, schema = (given.get("type"), given.get("schema")) if isinstance(given, Mapping) else (None, None)
    if kind not in ("text", "json_object", "json_schema"):
        raise refuse("text.format.type must be text, json_object or json_schema.")
    if kind == "json_schema" and not (isinstance(schema, Mapping) and schema):
        raise refuse("text.format.schema must be a JSON Schema.")
    return {"type": kind, "json_schema": {"schema": schema}}


def response(asked: Asked, told: Told) -> dict[str, Any]:
    """The answer to a request without ``stream``."""
    prompt, completion = told.usage
    usage = {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + completion,
    }
    status = "incomplete" if told.is_cut else "completed"
    whole = _begun(asked, status)
    if told.is_cut:
        whole["incomplete_details"] = {"reason": "max_output_tokens"}
    return {**whole, "output": _output(asked, told), "usage": usage, "edgeslm": openai.details_of(told)}


def _begun(asked: Asked, status: str) -> dict[str, Any]:
    return {
        "id": asked.id,
        "object": "response",
        "created_at": asked.created,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": asked.model,
        "output": [],
        "parallel_tool_calls": False,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": None,
    }


def _output(asked: Asked, told: Told) -> list[dict[str, Any]]:
    if told.calls:
        return [_call(call) for call in told.calls]
    return [_message(asked, [_part(told)], "completed")]


def _message(asked: Asked, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
    return {"id": asked.item, "type": "message", "role": "assistant", "status": status, "content": content}


def _part(told: Told) -> dict[str, Any]:
    if told.refusal is not None:
        return {"type": "refusal", "refusal": told.refusal}
    notes = [{"type": "url_citation", **note["url_citation"]} for note in openai.annotations_of(told)]
    return {"type": "output_text", "text": told.text, "annotations": notes, "logprobs": []}


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": f"fc_{secrets.token_hex(16)}",
        "type": "function_call",
        "call_id": f"call_{secrets.token_hex(12)}",
        "name": call["name"],
        "arguments": json.dumps(call["arguments"], ensure_ascii=False),
        "status": "completed",
    }


class ResponseStream:
    """Writes a response as server-sent events."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._sent = ""
        self._number = 0
        self._is_open = False

    def begin(self) -> bytes:
        begun = _begun(self._asked, "in_progress")
        return self._event("response.created", response=begun) + self._event(
            "response.in_progress", response=begun
        )

    def piece(self, text: str) -> bytes:
        self._sent += text
        return self._open() + self._place("response.output_text.delta", delta=text, logprobs=[])

    def end(self, told: Told) -> bytes:
        """The rest of the text or the calls, and the last events."""
        whole = response(self._asked, told)
        events = b""
        for number, item in enumerate(whole["output"]):
            events += self._calls(number, item) if told.calls else self._text(told, item)
        kind = "response.incomplete" if told.is_cut else "response.completed"
        return events + self._event(kind, response=whole)

    def error(self, refusal: Refusal) -> bytes:
        about = openai.error(refusal.status, str(refusal), refusal.headers)["error"]
        return self._event("error", code=about["code"], message=about["message"], param=None)

    def _text(self, told: Told, item: Mapping[str, Any]) -> bytes:
        part = item["content"][0]
        if part["type"] == "refusal":
            added = self._event("response.output_item.added", output_index=0, item=item)
            refused = self._place("response.refusal.done", refusal=part["refusal"])
            return added + refused + self._event("response.output_item.done", output_index=0, item=item)
        events = self._open()
        if rest := told.rest_after(self._sent):
            events += self._place("response.output_text.delta", delta=rest, logprobs=[])
        events += self._place("response.output_text.done", text=told.text, logprobs=[])
        events += self._place("response.content_part.done", part=part)
        return events + self._event("response.output_item.done", output_index=0, item=item)

    def _calls(self, number: int, item: Mapping[str, Any]) -> bytes:
        empty = {**item, "arguments": "", "status": "in_progress"}
        place = {"item_id": item["id"], "output_index": number}
        arguments = item["arguments"]
        return (
            self._event("response.output_item.added", output_index=number, item=empty)
            + self._event("response.function_call_arguments.delta", **place, delta=arguments)
            + self._event(
                "response.function_call_arguments.done", **place, name=item["name"], arguments=arguments
            )
            + self._event("response.output_item.done", output_index=number, item=item)
        )

    def _open(self) -> bytes:
        """The events before the first piece of a text."""
        if self._is_open:
            return b""
        self._is_open = True
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        item = _message(self._asked, [], "in_progress")
        return self._event("response.output_item.added", output_index=0, item=item) + self._place(
            "response.content_part.added", part=part
        )

    def _place(self, kind: str, **fields: Any) -> bytes:
        return self._event(kind, item_id=self._asked.item, output_index=0, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        return f"event: {kind}\ndata: {text}\n\n".encode()
