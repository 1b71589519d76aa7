"""Chat completions in OpenAI's format, as a client sends and reads them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from edgeslm.errors import EdgeslmError, InvalidRequest
from edgeslm.protocol.strict_json import decode_text, parse_json

LONGEST_ANSWER: Final = 4 * 1024 * 1024
"""Maximum size of a server's answer, in bytes."""


MOST_TOKENS: Final = 10**9
"""Token counts above this aren't believed."""
_REFUSED: Final = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed|extra",
    re.IGNORECASE,
)


class RemoteError(EdgeslmError):
    """The server gives no usable answer.

    :param status: HTTP status of the answer, if any. :param retry_after_s: when the server wants the next
        request. :param is_timeout: whether the time was over.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
        is_timeout: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        self.is_timeout = is_timeout

    @property
    def is_of_server(self) -> bool:
        """Whether other requests would fail, too; these statuses say something of the request."""
        return self.status not in (400, 413, 422)


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
    """The server's answer. ``calls`` are ``(name, arguments)``. ``tokens`` are the text's tokens with their
    log-probabilities, if the server gives any."""

    text: str
    calls: Sequence[tuple[str, Mapping[str, Any]]] = ()
    finish_reason: str = "stop"
    usage: Mapping[str, int] = field(default_factory=dict)
    tokens: Sequence[tuple[str, float]] = ()

    def probability_of(self, part: str) -> float | None:
        """The probability of the first ``part`` in the text, given what is before it; None if unknown.

        Of JSON only the value counts: servers tell probabilities without their grammar, by which the form
        alone is often unlikely.
        """
        start = "".join(token for token, _ in self.tokens).find(part)
        if start < 0 or not part:
            return None
        total, at = 0.0, 0
        for token, logprob in self.tokens:
            if at < start + len(part) and at + len(token) > start:
                total += logprob
            at += len(token)
        return min(1.0, math.exp(total))


def encode(chat: Chat, model: str, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The body of a request. ``without`` names fields that the server refuses; the newer name of
    ``max_tokens`` replaces it."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [_encode_message(message) for message in chat.messages],
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


def _encode_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message whose calls have their arguments as JSON text."""
    if "tool_calls" not in message:
        return dict(message)
    calls = []
    for call in message["tool_calls"]:
        arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        calls.append({**call, "function": {**call["function"], "arguments": arguments}})
    return {**message, "tool_calls": calls}


def refused_field(answer: bytes, body: Mapping[str, Any]) -> str | None:
    """The optional field of the request that an error answer calls unsupported, if any."""
    text = answer[:10_000].decode("utf-8", "replace")
    optional = ("max_tokens", "logprobs", "response_format", "temperature", "top_p", "seed", "stop")
    named = (name for name in optional if name in body and re.search(rf"\b{name}\b", text))
    return next(named, None) if _REFUSED.search(text) else None


def read_reply(answer: bytes) -> Reply:
    """:raises RemoteError: the answer isn't a chat completion."""
    try:
        body = parse_json(decode_text(answer))
        choice = body["choices"][0]
        message = choice["message"]
        text, calls = message.get("content") or "", message.get("tool_calls") or []
        if not isinstance(text, str):
            raise TypeError
        made = [(call["function"]["name"], _arguments(call["function"]["arguments"])) for call in calls]
        if not all(isinstance(name, str) for name, _ in made):
            raise TypeError
        reason = choice.get("finish_reason")
        return Reply(
            text,
            made,
            reason if isinstance(reason, str) else "stop",
            _usage(body.get("usage")),
            _tokens(choice.get("logprobs")),
        )
    except (InvalidRequest, ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
        raise RemoteError("its answer is no chat completion") from None


def parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object of an answer, also within a code block; None if there is none."""
    text = text.strip()
    if text.startswith("```"):
        text = text.strip("`").removeprefix("json")
    try:
        found = parse_json(text)
    except InvalidRequest:
        return None
    return found if isinstance(found, dict) else None


def _arguments(written: Any) -> Mapping[str, Any]:
    found = parse_json(written) if isinstance(written, str) else written
    if not isinstance(found, dict):
        raise TypeError
    return found


def _usage(told: Any) -> Mapping[str, int]:
    names = ("prompt_tokens", "completion_tokens")
    if not isinstance(told, Mapping):
        return {}
    counts = {name: told.get(name) for name in names}
    return {name: n for name, n in counts.items() if type(n) is int and 0 <= n <= MOST_TOKENS}


def _tokens(told: Any) -> Sequence[tuple[str, float]]:
    """The tokens with their log-probabilities; none if one of them is invalid."""
    tokens = told.get("content") if isinstance(told, Mapping) else None
    found = []
    for one in tokens if isinstance(tokens, list) else ():
        token, value = (one.get("token"), one.get("logprob")) if isinstance(one, Mapping) else (None, None)
        if not isinstance(token, str) or not isinstance(value, int | float) or isinstance(value, bool):
            return ()
        if not -1e6 < value <= 0.001:  # NaN too
            return ()
        found.append((token, float(value)))
    return found
