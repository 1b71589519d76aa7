"""Consulting a model on another server: requests of tasks as chats in OpenAI's format.

The server isn't trusted. Each kind of task checks an answer as if the engine's grammar had not been there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from edgeslm.engine.calls import Text, Turn
from edgeslm.remote.chat import Chat, Reply


class Consult(Protocol):
    """Sends a chat to the server. :raises EdgeslmError: there is no answer."""

    async def __call__(self, chat: Chat, /) -> Reply: ...


def as_messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Chat turns of a prompt as messages."""
    return [
        {
            "role": turn.role,
            "content": "".join(part.value if isinstance(part, Text) else part for part in turn.parts),
        }
        for turn in turns
    ]


def chat_messages(input: str | Mapping[str, Any], instruction: str | None) -> list[dict[str, Any]]:
    """A checked input of ``generate`` as messages. Calls get ids, by which their results refer to them."""
    own = [{"role": "system", "content": instruction}] if instruction else []
    if isinstance(input, str):
        return [*own, {"role": "user", "content": input}]
    messages: list[dict[str, Any]] = [*own]
    waiting: list[str] = []
    made = 0
    for item in input["messages"]:
        message: dict[str, Any] = {"role": item["role"], "content": item["content"]}
        if calls := item.get("tool_calls"):
            waiting = [f"call_{made + number}" for number in range(len(calls))]
            made += len(calls)
            message["tool_calls"] = [_called(id, call) for id, call in zip(waiting, calls, strict=True)]
        if item["role"] == "tool":
            message["tool_call_id"] = waiting.pop(0) if waiting else f"call_{max(0, made - 1)}"
        messages.append(message)
    return messages


def _called(id: str, call: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}


def chat_tools(tools: Sequence[Mapping[str, Any]], choice: str) -> dict[str, Any]:
    """A chat's fields for the tools."""
    is_name = choice not in ("auto", "none", "required")
    return {
        "tools": [{"type": "function", "function": tool} for tool in tools],
        "tool_choice": {"type": "function", "function": {"name": choice}} if is_name else choice,
    }
