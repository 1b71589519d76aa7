"""Ollama's dialect: chats, texts, embeddings and models, translated to and from the node's requests. Pure but
for the clock.

Source: Ollama's API reference (``docs/api`` in its repository).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from edgeslm.api.dialect import (
    ANY_OBJECT,
    Told,
    embed_questions,
    messages_of,
    number_of,
    question_of,
    refuse,
    schema_of,
    texts_of,
    tools_of,
)
from edgeslm.api.node import Offered, Question
from edgeslm.web.server import Refusal

_MADE = "1970-01-01T00:00:00Z"
MOST_TOKENS = 65536


@dataclass(frozen=True, slots=True)
class Asked:
    """A text that a client asks for; ``is_chat`` tells /api/chat from /api/generate."""

    model: str
    question: Question
    stream: bool
    is_chat: bool


@dataclass(frozen=True, slots=True)
class AskedEmbeddings:
    model: str
    questions: list[Question]


def error(sentence: str) -> dict[str, Any]:
    return {"error": sentence}


def tags(offered: Sequence[Offered]) -> dict[str, Any]:
    """The list of models."""
    return {"models": [_tag(one) for one in offered]}


def _tag(offered: Offered) -> dict[str, Any]:
    about = offered.about
    return {
        "name": offered.name,
        "model": offered.name,
        "modified_at": _MADE,
        "size": about.get("bytes", 0),
        "digest": str(about.get("digest", "")).removeprefix("sha256:"),
        "details": _details(offered),
    }


def _details(offered: Offered) -> dict[str, Any]:
    family = offered.about.get("family") or offered.kind
    return {
        "parent_model": offered.about.get("model", ""),
        "format": "onnx",
        "family": family,
        "families": [family],
        "parameter_size": "",
        "quantization_level": offered.about.get("recipe") or "",
    }


def show(offered: Offered) -> dict[str, Any]:
    """Details of a model."""
    can = {"embed": ["embedding"], "rerank": []}.get(offered.kind, ["completion"])
    if "tools" in offered.options:
        can.append("tools")
    family = offered.about.get("family") or offered.kind
    length = offered.about.get("context_length")
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": _details(offered),
        "model_info": {
            "general.architecture": family,
            **({f"{family}.context_length": length} if length else {}),
        },
        "capabilities": can,
        "modified_at": _MADE,
    }


def loaded(offered: Offered, *, is_chat: bool) -> dict[str, Any]:
    """The answer to a request by which clients load a model; here, a model is loaded when needed."""
    text: dict[str, Any] = {"response": ""}
    if is_chat:
        text = {"message": {"role": "assistant", "content": ""}}
    return {"model": offered.name, "created_at": _now(), **text, "done": True, "done_reason": "load"}


def is_load(body: Mapping[str, Any], name: str) -> bool:
    """Whether a request only loads a model, as one without messages or prompt does in Ollama."""
    return not body.get(name)


def read_chat(body: Mapping[str, Any], offered: Offered) -> Asked:
    """:raises Refusal: the request is wrong."""
    options = {**_options(body, offered), **({"tools": tools} if (tools := tools_of(body)) else {})}
    question = question_of(offered, messages_of(body), options)
    return Asked(offered.name, question, _streams(body), True)


def read_generate(body: Mapping[str, Any], offered: Offered) -> Asked:
    """:raises Refusal: the request is wrong, or asks for more than there is."""
    for name in ("images", "suffix", "raw"):
        if body.get(name):
            raise refuse(f"{name} isn't supported.")
    system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    messages = messages_of({"messages": [*system, {"role": "user", "content": body["prompt"]}]})
    question = question_of(offered, messages, _options(body, offered))
    return Asked(offered.name, question, _streams(body), False)


def _streams(body: Mapping[str, Any]) -> bool:
    return body.get("stream") is not False


def _options(body: Mapping[str, Any], offered: Offered) -> dict[str, Any]:
    given = body.get("options") or {}
    if not isinstance(given, Mapping):
        raise refuse("options must be an object.")
    most = number_of(given, "num_predict", -2, float("inf"))
    seed, stop = given.get("seed"), given.get("stop")
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise refuse("stop must be a text, or a list of texts.")
    return {
        "max_tokens": int(min(most, MOST_TOKENS)) if most is not None and most > 0 else None,
        "temperature": number_of(given, "temperature", 0, 2),
        "top_p": number_of(given, "top_p", 0, 1) or None,
        "repetition_penalty": number_of(given, "repeat_penalty", 0.1, 5),
        "seed": seed % 2**31 if isinstance(seed, int) and not isinstance(seed, bool) else None,
        "stop": list(dict.fromkeys(text for text in stop if text)) or None
        if isinstance(stop, list)
        else None,
        "schema": schema_of(offered, _schema(body.get("format")), "format"),
        "stream": True if _streams(body) else None,
    }


def _schema(given: Any) -> Mapping[str, Any] | None:
    if given is None or given == "":
        return None
    if given == "json":
        return ANY_OBJECT
    if isinstance(given, Mapping) and given:
        return given
    raise refuse('format must be "json" or a JSON Schema.')


def text(asked: Asked, told: Told) -> dict[str, Any]:
    """The answer to a request without ``stream``."""
    return {**_piece(asked, "" if told.calls else told.text, told.calls), **_end(told)}


def _piece(asked: Asked, text: str, calls: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    head = {"model": asked.model, "created_at": _now()}
    if not asked.is_chat:
        return {**head, "response": text, "done": False}
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [
            {"function": {"name": c["name"], "arguments": c["arguments"]}} for c in calls
        ]
    return {**head, "message": message, "done": False}


def _end(told: Told) -> dict[str, Any]:
    times = told.fields.get("timings_ms", {})
    prompt, completion = told.usage
    return {
        "done": True,
        "done_reason": "length" if told.is_cut else "stop",
        "total_duration": _ns(times.get("total")),
        "load_duration": 0,
        "prompt_eval_count": prompt,
        "prompt_eval_duration": _ns(times.get("prefill")),
        "eval_count": completion,
        "eval_duration": _ns(times.get("decode")),
        "edgeslm": {"status": told.fields["status"], "result": told.result},
    }


def _ns(milliseconds: float | None) -> int:
    return int((milliseconds or 0.0) * 1e6)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextStream:
    """Writes a text as lines of JSON."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._sent = ""

    def begin(self) -> bytes:
        return b""

    def piece(self, text: str) -> bytes:
        self._sent += text
        return _line(_piece(self._asked, text))

    def end(self, told: Told) -> bytes:
        """The rest of the text, and the last line."""
        lines = b""
        if told.calls:
            lines += _line(_piece(self._asked, "", told.calls))
        elif rest := told.rest_after(self._sent):
            lines += _line(_piece(self._asked, rest))
        return lines + _line({**_piece(self._asked, ""), **_end(told)})

    def error(self, refusal: Refusal) -> bytes:
        return _line(error(str(refusal)))


def _line(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def read_embed(body: Mapping[str, Any], offered: Offered, *, is_old: bool) -> AskedEmbeddings:
    """A request to /api/embed, or to /api/embeddings (``is_old``). :raises Refusal: the request is wrong."""
    texts = texts_of(body.get("prompt" if is_old else "input"))
    return AskedEmbeddings(offered.name, embed_questions(offered, texts))


def embeddings(asked: AskedEmbeddings, told: Sequence[Told], *, is_old: bool) -> dict[str, Any]:
    vectors = [one.result["vector"] for one in told]
    if is_old:
        return {"embedding": vectors[0]}
    return {
        "model": asked.model,
        "embeddings": vectors,
        "total_duration": sum(_ns(one.fields.get("timings_ms", {}).get("total")) for one in told),
        "load_duration": 0,
        "prompt_eval_count": sum(one.usage[0] for one in told),
    }
