"""What the dialects of OpenAI and Ollama share: requests and results of a node's tasks as chats. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from edgeslm.api.node import CODE, Answer, Offered, Question
from edgeslm.errors import InvalidRequest
from edgeslm.messages import ErrorBody
from edgeslm.protocol.strict_json import parse_json
from edgeslm.web.server import Refusal

STATUS: Mapping[str, int] = {
    "invalid_request": 400,
    "too_long": 400,
    "unknown_task": 404,
    "cancelled": 409,
    "too_large": 413,
    "busy": 429,
    "internal": 500,
    "poisoned": 500,
    "model_unavailable": 503,
    "no_memory": 503,
    "expired": 504,
    "timeout": 504,
}
"""HTTP status of each error code of the protocol."""
NO_REPEAT = frozenset({"cancelled", "expired", "internal", "poisoned", "timeout"})
"""Errors that a repeat wouldn't help: OpenAI's clients repeat by the HTTP status unless they are told."""
SAMPLING = ("max_tokens", "temperature", "top_p", "repetition_penalty", "seed", "stop")
"""Options that are left out if the task doesn't let senders set them, since most programs always send
some."""
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
"""JSON Schema of requests that ask for JSON alone."""
MOST_TEXTS = 256
"""Maximum number of texts in one request for embeddings."""


@dataclass(frozen=True, slots=True)
class Told:
    """A result of the node, which isn't an error: ``fields`` are those over MQTT."""

    fields: Mapping[str, Any]

    @property
    def result(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.fields["result"]
        return found

    @property
    def usage(self) -> tuple[int, int]:
        """Prompt tokens and completion tokens."""
        usage = self.fields.get("usage", {})
        return usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)

    @property
    def calls(self) -> Sequence[Mapping[str, Any]]:
        """The functions that the model calls, with ``name`` and ``arguments``."""
        calls: Sequence[Mapping[str, Any]] = self.result.get("tool_calls", ())
        return calls

    @property
    def refusal(self) -> str | None:
        """Why a task abstained, as a sentence; None if it answered."""
        if self.fields["status"] != "abstained":
            return None
        if "label" in self.result:
            sure = self.result.get("confidence", 0.0)
            return f"Not sure enough: {self.result['label']} with a confidence of {sure:.2f}."
        if "fields" in self.result:
            return "Not sure enough of the fields."
        if "finish_reason" in self.result:
            return "Not sure what to do."
        return "The documents don't answer this."

    @property
    def text(self) -> str:
        """The answer as one text: a label, JSON, or words. An abstaining task says why."""
        result = self.result
        if self.refusal is not None:
            return self.refusal
        if "label" in result:
            return str(result["label"])
        if "fields" in result:
            return _json(result["fields"])
        if "text" in result:
            return str(result["text"])
        return _json(result)

    def rest_after(self, sent: str) -> str:
        """The end of the text, after what was streamed.

        :raises Refusal: the text doesn't begin with this, as after a crash of the engine.
        """
        if not self.text.startswith(sent):
            raise Refusal(502, "The engine ended in the middle, and the text is another one; ask again.")
        return self.text[len(sent) :]

    @property
    def is_cut(self) -> bool:
        """Whether the model reached the maximum of new tokens."""
        return self.result.get("finish_reason") == "length"


async def result_of(answer: Answer) -> Told:
    """The result at the end of an answer. :raises Refusal: the result is an error."""
    async with aclosing(answer):
        async for told in answer:
            if not isinstance(told, str):
                return told_or_refused(told)
    raise Refusal(502, "The node gave no result.")


def told_or_refused(result: Mapping[str, Any]) -> Told:
    """:raises Refusal: the result is an error."""
    error = result.get("error")
    if error is None:
        return Told(result)
    body = ErrorBody(error["code"], error["message"], error.get("retry_after_ms"))
    headers = {CODE: body.code}
    if body.code in NO_REPEAT:
        headers["X-Should-Retry"] = "false"
    if body.retry_after_ms is not None:
        headers["Retry-After"] = str(max(1, -(-body.retry_after_ms // 1000)))
    elif body.code == "busy":
        headers["Retry-After"] = "1"
    raise Refusal(STATUS.get(body.code, 500), sentence_of(body.message), headers)


def sentence_of(message: str) -> str:
    """An error's text as a sentence; names of options stay as they are."""
    first = message.partition(" ")[0]
    if first.isalpha():
        message = message[:1].upper() + message[1:]
    return message if message.endswith((".", "!", "?")) else f"{message}."


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def refuse(sentence: str) -> Refusal:
    return Refusal(400, sentence)


def messages_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The chat of a request, with texts as contents; system messages are joined to one, at the beginning.

    :raises Refusal: a message is wrong, or has an image or a sound.
    """
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise refuse("messages must be a list with at least one message.")
    system: list[str] = []
    messages: list[dict[str, Any]] = []
    for number, item in enumerate(given, 1):
        if not isinstance(item, Mapping):
            raise refuse(f"Message {number} must be an object.")
        role = item.get("role")
        if role not in ("system", "developer", "user", "assistant", "tool", "function"):
            raise refuse(
                f"Message {number}: role must be system, developer, user, assistant, tool or function."
            )
        text = _content(number, item)
        if role in ("system", "developer"):
            system.append(text)
            continue
        message: dict[str, Any] = {"role": "tool" if role == "function" else role, "content": text}
        if role == "assistant" and item.get("tool_calls"):
            message["tool_calls"] = [_call(number, call) for call in _list(number, item["tool_calls"])]
        messages.append(message)
    joined = "\n\n".join(text for text in system if text)
    return [{"role": "system", "content": joined}, *messages] if joined else messages


def _list(number: int, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise refuse(f"Message {number}: tool_calls must be a list.")
    return value


def _content(number: int, item: Mapping[str, Any]) -> str:
    content = item.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        if item.get("images"):
            raise refuse(f"Message {number} has images, which these models can't read.")
        return content
    if not isinstance(content, list):
        raise refuse(f"Message {number}: content must be a text or a list of parts.")
    texts = []
    for part in content:
        given = part if isinstance(part, Mapping) else {}
        text = given.get("text", given.get("refusal"))
        if not isinstance(text, str):
            kind = str(given.get("type"))[:40]
            raise refuse(f"Message {number} has a part of type {kind!r}; only text can be read.")
        texts.append(text)
    return "\n".join(texts)


def _call(number: int, call: Any) -> dict[str, Any]:
    """A call of an earlier message; OpenAI's arguments are a JSON text, Ollama's an object."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise refuse(f"Message {number}: a tool call must have function.name and function.arguments.")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = parse_json(arguments)
        except InvalidRequest:
            arguments = None
    if not isinstance(arguments, Mapping):
        raise refuse(f"Message {number}: the arguments of a tool call must be a JSON object.")
    return {"name": function["name"], "arguments": dict(arguments)}


def tools_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The functions that the model may call. :raises Refusal: a tool is no function."""
    given = body.get("tools") or []
    if not isinstance(given, list):
        raise refuse("tools must be a list.")
    tools = []
    for number, tool in enumerate(given, 1):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise refuse(f"Tool {number} must have the type function, and function.name.")
        one: dict[str, Any] = {"name": function["name"]}
        for name in ("description", "parameters"):
            if function.get(name):
                one[name] = function[name]
        tools.append(one)
    return tools


def schema_of(offered: Offered, schema: Mapping[str, Any] | None, field: str) -> Mapping[str, Any] | None:
    """The JSON Schema that a request's ``field`` asks for, if the task needs it: ``extract`` and ``search``
    answer with a JSON object anyway.

    :raises Refusal: the task's answer is no JSON, or senders may not set its schema.
    """
    if offered.kind in ("extract", "search") and schema == ANY_OBJECT:
        return None
    if schema is None or "schema" in offered.options or offered.kind in ("embed", "rerank"):
        return schema
    what = "answers with its own fields" if offered.kind == "extract" else "takes no JSON Schema"
    raise refuse(f"{offered.name} is of kind {offered.kind} and {what}; leave out {field}.")


def own_options(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Options of edgeslm, such as ``labels``, which OpenAI's dialect has no word for."""
    given = body.get("options", {})
    if not isinstance(given, Mapping):
        raise refuse('options must be an object, such as {"priority": 9}.')
    return given


def question_of(offered: Offered, messages: list[dict[str, Any]], options: Mapping[str, Any]) -> Question:
    """A request to a task: the whole chat for ``generate``, the last message of the user for other kinds.
    Half of the model's context is left to the chat, whatever maximum of new tokens the request has.

    :raises Refusal: the task can't answer a chat.
    """
    kept = {
        name: value
        for name, value in options.items()
        if value is not None and (name not in SAMPLING or name in offered.options)
    }
    if offered.kind == "embed":
        raise refuse(f"{offered.name} makes embeddings; ask it at the path for embeddings.")
    if offered.kind == "rerank":
        raise refuse(f"{offered.name} ranks documents; ask it at /v1/rerank.")
    if offered.kind != "generate":  # the text of others may change until its end
        kept.pop("stream", None)
    if "tools" not in offered.options and kept.get("tool_choice", "auto") in ("auto", "none"):
        for name in ("tools", "tool_choice", "parallel_tool_calls"):  # no model has to call one
            kept.pop(name, None)
    length = offered.about.get("context_length")
    if length and isinstance(kept.get("max_tokens"), int):
        kept["max_tokens"] = max(1, min(kept["max_tokens"], length // 2))
    if offered.kind != "generate":
        pass
    elif len(messages) == 1 and messages[0]["role"] == "user":
        return Question(offered.name, messages[0]["content"], kept)
    else:
        return Question(offered.name, {"messages": messages}, kept)
    users = [item["content"] for item in messages if item["role"] == "user"]
    if not users:
        raise refuse("One of the messages must be of role user.")
    return Question(offered.name, users[-1], kept)


def texts_of(value: Any) -> list[str]:
    """The texts to embed. :raises Refusal: there is none, too many, or something else than texts."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise refuse("input must be a text, or a list of texts.")
    if len(texts) > MOST_TEXTS:
        raise refuse(f"input has {len(texts)} texts; send {MOST_TEXTS} at most.")
    return texts


def embed_questions(offered: Offered, texts: Iterable[str]) -> list[Question]:
    """:raises Refusal: the task makes no embeddings."""
    if offered.kind != "embed":
        raise refuse(f"{offered.name} makes no embeddings: it is of kind {offered.kind}.")
    return [Question(offered.name, text) for text in texts]


def number_of(body: Mapping[str, Any], name: str, low: float, high: float) -> float | None:
    """A number of a request; None if it has none. :raises Refusal: it isn't a number of this range."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise refuse(f"{name} must be a number from {low:g} to {high:g}.")
    return value


def logarithm(probability: float) -> float:
    """Natural logarithm of a probability, which JSON can hold."""
    return math.log(probability) if probability > 0 else -9999.0
