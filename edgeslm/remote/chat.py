"""Chat completions in OpenAI's format, as a client sends and reads them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from edgeslm.errors import EdgeslmError

LONGEST_ANSWER: Final = 4 * 1024 * 1024
"""Maximum size of a server's answer, in bytes."""


class RemoteError(EdgeslmError):
    """The server gives no usable answer. ``retry_after_s``: when the server wants the next request.
    ``is_of_server``: whether other requests would fail, too."""

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, is_of_server: bool = True
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.is_of_server = is_of_server


@dataclass(frozen=True, slots=True)
class Chat:
    """A request. ``messages`` and ``tools`` are in OpenAI's format, ``schema`` is the JSON Schema of the
    answer, and ``sampling`` has OpenAI's names."""

    messages: Sequence[Mapping[str, Any]]
    max_tokens: int
    schema: Mapping[str, Any] | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str | Mapping[str, Any] = "auto"
    sampling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """The server's answer. ``calls`` are ``(name, arguments)``. ``confidence`` is the model's probability of
    the text, None if the server gives no log-probabilities."""

    text: str
    calls: Sequence[tuple[str, Mapping[str, Any]]] = ()
    finish_reason: str = "stop"
    usage: Mapping[str, int] = field(default_factory=dict)
    confidence: float | None = None


def encode(chat: Chat, model: str, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The body of a request. ``without`` names fields that the server refuses; the newer name of
    ``max_tokens`` replaces it."""
    body: dict[str, Any] = {
        "model": model,
        "messages": list(chat.messages),
        "max_tokens": chat.max_tokens,
        **chat.sampling,
    }
    if chat.schema is not None:
        named = {"name": "answer", "schema": chat.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
        body["logprobs"] = True
    if chat.tools:
        body |= {"tools": list(chat.tools), "tool_choice": chat.tool_choice}
    if "max_tokens" in without:
        body["max_completion_tokens"] = body["max_tokens"]
    return {name: value for name, value in body.items() if name not in without}


def refused_field(answer: bytes, body: Mapping[str, Any]) -> str | None:
    """The optional field of the request that an error answer of status 400 complains about, if any."""
    text = answer[:10_000].decode("utf-8", "replace")
    optional = ("max_tokens", "logprobs", "response_format", "temperature", "top_p", "seed", "stop")
    return next((name for name in optional if name in body and name in text), None)


def read_reply(answer: bytes) -> Reply:
    """:raises RemoteError: the answer isn't a chat completion."""
    try:
        body = json.loads(answer)
        choice = body["choices"][0]
        message = choice["message"]
        text, calls = message.get("content") or "", message.get("tool_calls") or []
        if not isinstance(text, str):
            raise TypeError
        made = [(call["function"]["name"], _arguments(call["function"]["arguments"])) for call in calls]
        if not all(isinstance(name, str) for name, _ in made):
            raise TypeError
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise RemoteError("its answer is no chat completion") from None
    reason = choice.get("finish_reason")
    return Reply(
        text,
        made,
        reason if isinstance(reason, str) else "stop",
        _usage(body.get("usage")),
        _confidence(choice.get("logprobs")),
    )


def _arguments(written: Any) -> Mapping[str, Any]:
    found = json.loads(written) if isinstance(written, str) else written
    if not isinstance(found, dict):
        raise TypeError
    return found


def _usage(told: Any) -> Mapping[str, int]:
    names = ("prompt_tokens", "completion_tokens")
    if not isinstance(told, Mapping):
        return {}
    return {name: told[name] for name in names if type(told.get(name)) is int and told[name] >= 0}


def _confidence(told: Any) -> float | None:
    """Probability of the whole text: the product of its tokens' probabilities."""
    tokens = told.get("content") if isinstance(told, Mapping) else None
    if not isinstance(tokens, list) or not tokens:
        return None
    total = 0.0
    for token in tokens:
        value = token.get("logprob") if isinstance(token, Mapping) else None
        if not isinstance(value, int | float) or not value <= 0.001:  # NaN too
            return None
        total += value
    return min(1.0, math.exp(total))
