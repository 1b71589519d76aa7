"""OpenAI's dialect: chat completions, embeddings and models, translated to and from the node's requests. Pure
but for clock and random ids.

Source: OpenAI's API reference, and openapi.yaml of openai-openapi.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeslm.api.dialect import (
    ANY_OBJECT,
    Told,
    embed_questions,
    logarithm,
    messages_of,
    number_of,
    own_options,
    question_of,
    refuse,
    schema_of,
    texts_of,
    tools_of,
)
from edgeslm.api.node import CODE, Offered, Question
from edgeslm.web.server import Refusal

MOST_TOKENS = 65536
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
CODES = {401: "invalid_api_key", 413: "request_too_large", 429: "rate_limit_exceeded"}
OWN_CODES = {
    "too_long": "context_length_exceeded",
    "unknown_task": "model_not_found",
    "busy": None,
    "too_large": None,
    "invalid_request": None,
}
"""Error codes of the protocol that have another name in this dialect; None for that of the status."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A chat completion that a client asks for."""

    model: str
    question: Question
    stream: bool = False
    with_usage: bool = False
    top_logprobs: int | None = None
    """Number of labels in ``logprobs``; None without them."""
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))


@dataclass(frozen=True, slots=True)
class AskedEmbeddings:
    model: str
    questions: list[Question]
    is_base64: bool


def error(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """An error object of OpenAI."""
    code = (headers or {}).get(CODE)
    code = OWN_CODES.get(code or "", code) or CODES.get(status)
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": sentence, "type": kind, "param": None, "code": code}}


def model(offered: Offered) -> dict[str, Any]:
    about = {
        name: value for name, value in offered.about.items() if name not in ("name", "options", "reranker")
    }
    return {"id": offered.name, "object": "model", "created": 0, "owned_by": "edgeslm", "edgeslm": about}


def model_list(offered: Sequence[Offered]) -> dict[str, Any]:
    return {"object": "list", "data": [model(one) for one in offered]}


def read_chat(body: Mapping[str, Any], offered: Offered, format_field: str = "response_format") -> Asked:
    """A request for a chat completion, whose answer's format the client gave in ``format_field``.

    :raises Refusal: the request is wrong, or asks for more than there is.
    """
    if body.get("n") not in (None, 1):
        raise refuse("n must be 1.")
    stream = _flag(body, "stream")
    options: dict[str, Any] = {
        "max_tokens": _max_tokens(body),
        "temperature": number_of(body, "temperature", 0, 2),
        "top_p": number_of(body, "top_p", 0, 1) or None,
        "seed": _seed(body.get("seed")),
        "stop": _stop(body.get("stop")),
        "schema": schema_of(offered, _schema(body.get("response_format")), format_field),
        "stream": True if stream else None,
        **_tools(body),
    }
    options |= own_options(body)
    top_logprobs = None
    if _flag(body, "logprobs"):
        top_logprobs = int(number_of(body, "top_logprobs", 0, 20) or 0)
    with_usage = isinstance(body.get("stream_options"), Mapping) and bool(
        body["stream_options"].get("include_usage")
    )
    question = question_of(offered, messages_of(body), options)
    return Asked(offered.name, question, stream, with_usage, top_logprobs)


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value not in (None, True, False):
        raise refuse(f"{name} must be true or false.")
    return bool(value)


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = number_of(body, name, 1, float("inf"))
        if value is not None:
            return int(min(value, MOST_TOKENS))
    return None


def _seed(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise refuse("seed must be a whole number.")
    return value % 2**31


def _stop(value: Any) -> list[str] | None:
    if value is None or value == []:
        return None
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise refuse("stop must be a text, or a list of texts.")
    return list(dict.fromkeys(text for text in stops if text)) or None


def _schema(given: Any) -> Mapping[str, Any] | None:
    """The JSON Schema of ``response_format``; None for a text."""
    if given is None:
        return None
    kind = given.get("type") if isinstance(given, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return ANY_OBJECT
    if kind == "json_schema":
        about = given.get("json_schema")
        schema = about.get("schema") if isinstance(about, Mapping) else None
        if isinstance(schema, Mapping) and schema:
            return schema
        raise refuse("response_format.json_schema.schema must be a JSON Schema.")
    raise refuse("response_format.type must be text, json_object or json_schema.")


def _tools(body: Mapping[str, Any]) -> dict[str, Any]:
    tools, choice = tools_of(body), body.get("tool_choice")
    if not tools:
        return {}
    if isinstance(choice, Mapping):
        function = choice.get("function")
        choice = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(choice, str):
            raise refuse("tool_choice.function.name must be the name of a tool.")
    elif choice not in (None, "auto", "none", "required"):
        raise refuse("tool_choice must be auto, none, required, or name a function.")
    found: dict[str, Any] = {"tools": tools, "tool_choice": choice}
    if body.get("parallel_tool_calls") is not None:
        found["parallel_tool_calls"] = _flag(body, "parallel_tool_calls")
    return found


def chat_completion(asked: Asked, told: Told) -> dict[str, Any]:
    """The answer to a request without ``stream``."""
    choice = {
        "index": 0,
        "message": _message(told),
        "logprobs": _logprobs(asked, told),
        "finish_reason": _finish_reason(told),
    }
    return {
        **_head(asked, "chat.completion"),
        "choices": [choice],
        "usage": _usage(told),
        "edgeslm": details_of(told),
    }


def _head(asked: Asked, kind: str) -> dict[str, Any]:
    return {"id": asked.id, "object": kind, "created": asked.created, "model": asked.model}


def _message(told: Told) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": told.text, "refusal": told.refusal}
    if told.calls:
        message |= {"content": None, "tool_calls": [_call(call) for call in told.calls]}
    if notes := annotations_of(told):
        message["annotations"] = notes
    return message


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(call["arguments"], ensure_ascii=False)
    function = {"name": call["name"], "arguments": arguments}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


def annotations_of(told: Told) -> list[dict[str, Any]]:
    """Citations of an answer. OpenAI has annotations of web pages alone: here, ``url`` is the document's
    name."""
    text, found = told.text, []
    for citation in told.result.get("citations", ()) if told.refusal is None else ():
        at = text.find(citation["quote"])
        if at < 0:  # the answer words it otherwise; the quote is in the result
            continue
        place = {"start_index": at, "end_index": at + len(citation["quote"])}
        about = {"url": citation["source"], "title": citation.get("heading", citation["source"]), **place}
        found.append({"type": "url_citation", "url_citation": about})
    return found


def _logprobs(asked: Asked, told: Told) -> dict[str, Any] | None:
    """The labels of a classify task as the likeliest tokens. Generated text has no ``logprobs``."""
    scores = told.result.get("scores")
    if asked.top_logprobs is None or not isinstance(scores, Mapping):
        return None
    ranked = sorted(scores.items(), key=lambda item: -item[1])
    top = [_token(label, share) for label, share in ranked[: asked.top_logprobs]]
    label = told.result["label"]
    return {"content": [{**_token(label, scores[label]), "top_logprobs": top}], "refusal": None}


def _token(label: str, probability: float) -> dict[str, Any]:
    return {"token": label, "logprob": logarithm(probability), "bytes": list(label.encode())}


def _finish_reason(told: Told) -> str:
    return "tool_calls" if told.calls else "length" if told.is_cut else "stop"


def _usage(told: Told) -> dict[str, int]:
    prompt, completion = told.usage
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def details_of(told: Told) -> dict[str, Any]:
    """The result as over MQTT, without a text that the answer has already."""
    fields = {name: value for name, value in told.fields.items() if name not in ("usage", "result", "task")}
    kept = {
        name: value
        for name, value in told.result.items()
        if name not in ("text", "tool_calls", "finish_reason")
    }
    return {**fields, "result": kept} if kept else fields


class ChatStream:
    """Writes a chat completion as server-sent events."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._sent = ""

    def begin(self) -> bytes:
        return self._event({"role": "assistant", "content": ""})

    def piece(self, text: str) -> bytes:
        self._sent += text
        return self._event({"content": text})

    def end(self, told: Told) -> bytes:
        """The rest of the text, and the last events."""
        events = b""
        if told.calls:
            for number, call in enumerate(told.calls):  # some clients read only the first call of an event
                events += self._event({"tool_calls": [{"index": number, **_call(call)}]})
        elif rest := told.rest_after(self._sent):
            events += self._event({"content": rest})
        last: dict[str, Any] = {}
        if told.refusal is not None:
            last["refusal"] = told.refusal
        if notes := annotations_of(told):
            last["annotations"] = notes
        more = {"edgeslm": details_of(told)}
        logprobs = _logprobs(self._asked, told)
        events += self._event(last, finish_reason=_finish_reason(told), logprobs=logprobs, **more)
        if self._asked.with_usage:
            head = _head(self._asked, "chat.completion.chunk")
            events += _sse({**head, "choices": [], "usage": _usage(told)})
        return events + b"data: [DONE]\n\n"

    def error(self, refusal: Refusal) -> bytes:
        return _sse(error(refusal.status, str(refusal), refusal.headers)) + b"data: [DONE]\n\n"

    def _event(
        self, delta: Mapping[str, Any], *, finish_reason: str | None = None, logprobs: Any = None, **more: Any
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return _sse({**_head(self._asked, "chat.completion.chunk"), "choices": [choice], **more})


def _sse(data: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def read_embeddings(body: Mapping[str, Any], offered: Offered) -> AskedEmbeddings:
    """:raises Refusal: the request is wrong, or asks for more than there is."""
    form = body.get("encoding_format", "float")
    if form not in ("float", "base64"):
        raise refuse("encoding_format must be float or base64.")
    if body.get("dimensions") is not None:
        raise refuse("dimensions can't be chosen.")
    questions = embed_questions(offered, texts_of(body.get("input")))
    return AskedEmbeddings(offered.name, questions, form == "base64")


def embeddings(asked: AskedEmbeddings, told: Sequence[Told]) -> dict[str, Any]:
    data = []
    for number, one in enumerate(told):
        vector: Any = one.result["vector"]
        if asked.is_base64:
            vector = base64.b64encode(_floats(vector)).decode()
        data.append({"object": "embedding", "index": number, "embedding": vector})
    tokens = sum(one.usage[0] for one in told)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": asked.model, "usage": usage}


def _floats(vector: Sequence[float]) -> bytes:
    """float32, little-endian."""
    values = array("f", vector)
    if array("H", [1]).tobytes()[0] == 0:
        values.byteswap()
    return values.tobytes()
