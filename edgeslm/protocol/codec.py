"""Wire codec: conversion between MQTT payloads and the values of ``edgeslm.messages``.

Protocol version 1 (``docs/reference/mqtt.md``). Pure. The JSON field names are defined here and in
``request_options``. Parsing any bytes gives a value or an error of ``edgeslm.errors``.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgeslm.errors import InvalidRequest, ProtocolError, RequestError, TooLarge
from edgeslm.messages import Chunk, ErrorBody, Request, Result, Trace, Truncated
from edgeslm.protocol.delivery import Delivery
from edgeslm.protocol.request_options import read_options
from edgeslm.protocol.strict_json import decode_text, encode_json, parse_json, shown
from edgeslm.protocol.topics import Topics, check_reply_topic, sender_of
from edgeslm.protocol.versions import PROTOCOL_VERSION, is_newer

__all__ = [
    "MAX_ID_CHARACTERS",
    "PROTOCOL_VERSION",
    "Cancel",
    "Rejected",
    "State",
    "StateName",
    "Topics",
    "check_reply_topic",
    "encode_cancel",
    "encode_chunk",
    "encode_dead",
    "encode_document",
    "encode_request",
    "encode_result",
    "encode_state",
    "error_result",
    "parse_cancel",
    "parse_chunk",
    "parse_request",
    "parse_result",
    "parse_state",
]

MAX_ID_CHARACTERS = 256
MAX_CORRELATION_BYTES = 256
MAX_REPLY_TOPIC_BYTES = 1024
"""Maximum size of a reply topic in bytes. Reply topic and Correlation Data have small limits, because each
piece of a streamed answer repeats both."""
DIGITS = 6
"""Decimal places of probabilities and vectors on the wire."""

StateName = Literal["starting", "online", "draining", "stopped", "offline"]
_STATES: tuple[StateName, ...] = ("starting", "online", "draining", "stopped", "offline")
_FIELDS = ("input", "id", "reply_to", "options", "protocol")


@dataclass(frozen=True, slots=True)
class Rejected:
    """An invalid message on a request topic, with the error and the topic for the error.

    ``reply_to`` is always a topic to which this node may publish.
    """

    task: str
    id: str
    reply_to: str
    error: RequestError
    correlation: bytes | None = None
    trace: Trace | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """The request to cancel, identified by the ``id`` that the request's sender chose, or by the request's
    MQTT 5 Correlation Data."""

    id: str | None = None
    correlation: bytes | None = None

    def means(self, request: Request) -> bool:
        if self.correlation:
            return request.correlation == self.correlation
        return request.id == self.id


@dataclass(frozen=True, slots=True)
class State:
    """The life-cycle state of a node; each start of the daemon has a new ``boot_id``."""

    state: StateName
    boot_id: str


def error_result(id: str, task: str, error: RequestError) -> Result:
    """A result with status ``error``."""
    return Result(id, task, "error", error=ErrorBody.of(error))


# Requests


@dataclass(slots=True)
class _Sender:
    """Id and reply topic of the request that is being parsed, to which an error can be sent at any time.
    Fields that aren't parsed yet have default values."""

    id: str = ""
    named: bool = False
    reply_to: str = ""
    correlation: bytes | None = None
    fields: dict[str, Any] = field(default_factory=dict)


def parse_request(
    delivery: Delivery, *, task: str, topics: Topics, allowed_replies: Iterable[str], packet_limit: int
) -> Request | Rejected:
    """Parses a message on ``<base>/req/<task>``; returns a :class:`Rejected` if the message is invalid.

    ``allowed_replies`` are topic filters; ``packet_limit`` is in bytes.

    The Response Topic takes precedence over ``reply_to``. The result's id is the ``id`` field, or else the
    Correlation Data, or else a random id. If the reply topic is invalid, the error goes to
    ``<base>/res/<task>``. The function doesn't check whether the task exists and accepts the request's
    options.
    """
    sender = _Sender(secrets.token_hex(8), reply_to=topics.result(task))
    correlation, response_topic = delivery.correlation, delivery.response_topic
    if correlation:
        sender.id, sender.named = _correlation_id(correlation), True
    too_long = len(correlation or b"")
    if too_long <= MAX_CORRELATION_BYTES:  # a longer one is not repeated
        sender.correlation = correlation
    try:
        if response_topic is not None:
            _check_reply_topic(response_topic, topics, allowed_replies)
            sender.reply_to = response_topic
        if too_long > MAX_CORRELATION_BYTES:
            raise InvalidRequest(
                f"The Correlation Data has {too_long} bytes and may have {MAX_CORRELATION_BYTES}; the result "
                "comes without it."
            )
        if delivery.size > packet_limit:
            raise TooLarge(
                f"The request has {delivery.size} bytes and this node takes {packet_limit}; send less text, "
                "or raise limits.packet_bytes in the node's configuration."
            )
        text = decode_text(delivery.payload)
        if not delivery.payload.lstrip().startswith(b"{"):
            return _make_request(sender, text, {}, task, topics, delivery)
        sender.fields = _parse_fields(text)
        _read_sender(sender, topics, allowed_replies, has_response_topic=response_topic is not None)
        unknown = [name for name in sender.fields if name not in _FIELDS]
        if not is_newer(sender.fields.get("protocol", PROTOCOL_VERSION)) and unknown:
            raise InvalidRequest(
                f"There is no field {shown(unknown[0])}; a request has {', '.join(_FIELDS)}."
            )
        if "input" not in sender.fields:
            raise InvalidRequest('The field "input" is missing; put the text there: {"input": "..."}.')
        options = read_options(sender.fields.get("options", {}))
        return _make_request(sender, sender.fields["input"], options, task, topics, delivery)
    except RequestError as error:
        return Rejected(task, sender.id, sender.reply_to, error, sender.correlation)


def _check_reply_topic(topic: str, topics: Topics, allowed: Iterable[str]) -> None:
    if (size := len(topic.encode(errors="replace"))) > MAX_REPLY_TOPIC_BYTES:
        raise InvalidRequest(f"The reply topic has {size} bytes and may have {MAX_REPLY_TOPIC_BYTES}.")
    check_reply_topic(topic, topics, allowed)


def _parse_fields(text: str) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except InvalidRequest as error:
        raise InvalidRequest(
            f"The payload begins with {{ but can't be read as a JSON object. {error} "
            'A text that begins with { is sent as {"input": "..."}.'
        ) from None
    if not isinstance(value, dict):  # unreachable for JSON that begins with a brace
        raise InvalidRequest('The payload must be a JSON object: {"input": "..."}.')
    return value


def _read_sender(
    sender: _Sender, topics: Topics, allowed: Iterable[str], *, has_response_topic: bool
) -> None:
    """Sets ``id`` and ``reply_to`` of the sender; the function checks both before it raises an error, so that
    the error can be sent to the right topic."""
    problem: InvalidRequest | None = None
    reply_to = sender.fields.get("reply_to")
    if not has_response_topic and isinstance(reply_to, str):
        try:
            _check_reply_topic(reply_to, topics, allowed)
            sender.reply_to = reply_to
        except InvalidRequest as error:
            problem = error
    elif "reply_to" in sender.fields and not isinstance(reply_to, str):
        problem = InvalidRequest('"reply_to" must be a string, the topic of the result.')
    if "id" in sender.fields:
        id_ = sender.fields["id"]
        if isinstance(id_, str) and 1 <= len(id_) <= MAX_ID_CHARACTERS and id_.isprintable():
            sender.id, sender.named = id_, True
        else:
            if isinstance(id_, int | float) and not isinstance(id_, bool):
                sender.id = str(id_)  # so that the sender of a number recognises the error
            problem = problem or InvalidRequest(
                f'"id" must be a string of 1 to {MAX_ID_CHARACTERS} printable characters.'
            )
    if problem:
        raise problem


def _make_request(
    sender: _Sender,
    input: Any,
    options: Mapping[str, Any],
    task: str,
    topics: Topics,
    delivery: Delivery,
) -> Request:
    if not isinstance(input, str | dict):
        raise InvalidRequest('"input" must be a string or an object.')
    if not (input.strip() if isinstance(input, str) else input):
        raise InvalidRequest("The input is empty; send some text.")
    now, expiry_s = delivery.received_at, delivery.expiry_s
    waits_s = [float(expiry_s)] if expiry_s is not None else []
    if "deadline_ms" in options:
        waits_s.append(options["deadline_ms"] / 1000)
    return Request(
        task=task,
        input=input,
        id=sender.id,
        reply_to=sender.reply_to,
        named=sender.named,
        options=options,
        correlation=sender.correlation,
        received_at=now,
        expires_at=now + min(waits_s) if waits_s else None,
        sender=sender_of(sender.reply_to, topics),
        pool=topics.pool,
        **({"priority": options["priority"]} if "priority" in options else {}),
    )


def _correlation_id(correlation: bytes) -> str:
    """Converts Correlation Data to a result's id, which is the text if printable, or else hexadecimal
    digits."""
    try:
        text = correlation.decode()
    except UnicodeDecodeError:
        text = ""
    return text if 1 <= len(text) <= MAX_ID_CHARACTERS and text.isprintable() else correlation[:128].hex()


def encode_request(
    input: str | Mapping[str, Any],
    *,
    options: Mapping[str, Any] | None = None,
    id: str | None = None,
    reply_to: str | None = None,
) -> bytes:
    """Encodes a request. Only MQTT 3.1.1 needs ``id`` and ``reply_to``, since MQTT 5 has the properties
    Correlation Data and Response Topic."""
    fields = {"input": input, "id": id, "reply_to": reply_to, "options": options or None}
    return encode_json({name: value for name, value in fields.items() if value is not None})


def encode_cancel(id: str) -> bytes:
    return encode_json({"id": id})


def parse_cancel(payload: bytes, correlation: bytes | None = None) -> Cancel:
    """Parses a message on ``<base>/cancel``. Correlation Data takes precedence over ``id``; a message with
    Correlation Data may have an empty payload.

    :raises InvalidRequest: the message names no request.
    """
    if correlation:
        return Cancel(correlation=correlation)
    value = parse_json(decode_text(payload))
    id_ = value.get("id") if isinstance(value, dict) else None
    if not isinstance(id_, str) or not 1 <= len(id_) <= MAX_ID_CHARACTERS:
        raise InvalidRequest('A cancel message needs Correlation Data, or the payload {"id": "..."}.')
    return Cancel(id=id_)


# Results


def encode_result(result: Result) -> bytes:
    """Encodes a result as UTF-8 JSON. Probabilities and vectors are rounded to 6 decimals, and times in
    milliseconds to one decimal.

    Infinity and NaN become null; a lone surrogate becomes U+FFFD.
    """
    fields: dict[str, Any] = {"id": result.id, "task": result.task, "status": result.status}
    if result.topic is not None:
        fields["topic"] = result.topic
    if result.result is not None:
        fields["result"] = _round_result(result.result)
    if result.error is not None:
        fields["error"] = {"code": result.error.code, "message": result.error.message}
        if result.error.retry_after_ms is not None:
            fields["error"]["retry_after_ms"] = result.error.retry_after_ms
    if result.model is not None:
        fields["model"] = result.model
    if result.timings_ms:
        fields["timings_ms"] = {name: _rounded(value, 1) for name, value in result.timings_ms.items()}
    if result.usage:
        fields["usage"] = dict(result.usage)
    if result.truncated is not None:
        fields["truncated"] = {"kept": result.truncated.kept, "of": result.truncated.of}
    return encode_json(fields)


def _round_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """Rounds the probabilities and vectors in the fields ``confidence``, ``score``, ``scores`` and ``vector``
    of a result and of its passages. Extracted values come from the text and aren't rounded."""
    rounded = dict(result)
    for name in ("confidence", "score"):
        if isinstance(rounded.get(name), float):
            rounded[name] = _rounded(rounded[name], DIGITS)
    if isinstance(rounded.get("scores"), Mapping):
        rounded["scores"] = {label: _rounded(value, DIGITS) for label, value in rounded["scores"].items()}
    if isinstance(rounded.get("vector"), list | tuple):
        rounded["vector"] = [_rounded(value, DIGITS) for value in rounded["vector"]]
    if isinstance(rounded.get("passages"), list | tuple):
        rounded["passages"] = [_round_result(passage) for passage in rounded["passages"]]
    return rounded


def _rounded(value: float, digits: int) -> float | None:
    return round(value, digits) if math.isfinite(value) else None


def parse_result(payload: bytes) -> Result:
    """Parses a result; ignores unknown fields.

    :raises ProtocolError: the payload isn't a result.
    """
    fields = _parse_object(payload, "result")
    status, result, error = fields.get("status"), fields.get("result"), fields.get("error")
    if (
        not isinstance(fields.get("id"), str)
        or not isinstance(fields.get("task"), str)
        or status not in ("ok", "abstained", "error")
        or not isinstance(error if status == "error" else result, dict)
    ):
        raise ProtocolError("The message isn't a result: id, task, status, and result or error are missing.")
    return Result(
        id=fields["id"],
        task=fields["task"],
        status=status,
        result=result if status != "error" else None,
        error=_read_error(error) if status == "error" else None,
        model=fields["model"] if isinstance(fields.get("model"), str) else None,
        timings_ms=_numbers(fields.get("timings_ms")),
        usage=_counts(fields.get("usage")),
        truncated=_read_truncated(fields.get("truncated")),
        topic=fields["topic"] if isinstance(fields.get("topic"), str) else None,
    )


def _read_error(fields: Any) -> ErrorBody:
    code, message, retry = fields.get("code"), fields.get("message"), fields.get("retry_after_ms")
    if not isinstance(code, str) or not isinstance(message, str):
        raise ProtocolError("The message isn't a result: its error has no code and message.")
    return ErrorBody(code, message, retry if isinstance(retry, int) and not isinstance(retry, bool) else None)


def _numbers(value: Any) -> dict[str, float]:
    items = value.items() if isinstance(value, dict) else ()
    return {name: n for name, n in items if isinstance(n, int | float) and not isinstance(n, bool)}


def _counts(value: Any) -> dict[str, int]:
    """Returns the numeric fields of a JSON object as integers; leaves out fields with other values, and
    numbers such as 1e308 that need more than 64 bits."""
    return {name: int(n) for name, n in _numbers(value).items() if abs(n) < 2**63}


def _read_truncated(value: Any) -> Truncated | None:
    counts = _counts(value)
    return Truncated(counts["kept"], counts["of"]) if {"kept", "of"} <= counts.keys() else None


def encode_chunk(chunk: Chunk) -> bytes:
    fields: dict[str, Any] = {"id": chunk.id, "seq": chunk.seq, "text": chunk.text}
    if chunk.done is not None:
        fields["progress"] = {"done": chunk.done, "of": chunk.of}
    return encode_json(fields)


def parse_chunk(payload: bytes) -> Chunk:
    """Parses a piece of a streamed answer.

    :raises ProtocolError: the payload isn't a piece of an answer.
    """
    fields = _parse_object(payload, "chunk")
    id_, seq, text = fields.get("id"), fields.get("seq"), fields.get("text")
    if not isinstance(id_, str) or not isinstance(text, str) or not isinstance(seq, int) or seq is True:
        raise ProtocolError("The message isn't a chunk: id, seq and text are missing.")
    progress = _counts(fields.get("progress"))
    known = {"done": progress["done"], "of": progress["of"]} if {"done", "of"} <= progress.keys() else {}
    return Chunk(id_, int(seq), text, **known)


# The node itself


def encode_state(state: StateName, boot_id: str) -> bytes:
    return encode_json({"state": state, "boot_id": boot_id})


def parse_state(payload: bytes) -> State:
    """Parses the retained state of a node.

    :raises ProtocolError: the payload isn't a state.
    """
    fields = _parse_object(payload, "state")
    if fields.get("state") not in _STATES or not isinstance(fields.get("boot_id"), str):
        raise ProtocolError(f"The message isn't a node's state: one of {', '.join(_STATES)}, and a boot_id.")
    return State(fields["state"], fields["boot_id"])


def encode_dead(*, id: str, task: str, reply_to: str, error: ErrorBody) -> bytes:
    """Encodes a dead letter for ``<base>/dead``; the letter doesn't contain the request's text."""
    return encode_json(
        {"id": id, "task": task, "reply_to": reply_to, "reason": error.code, "message": error.message}
    )


def encode_document(fields: Mapping[str, Any]) -> bytes:
    """Encodes ``info`` or ``health`` as JSON; numbers that aren't finite become null."""
    return encode_json(fields)


def _parse_object(payload: bytes, what: str) -> dict[str, Any]:
    try:
        value = parse_json(decode_text(payload))
    except InvalidRequest as error:
        raise ProtocolError(f"The message isn't a {what}. {error}") from None
    if not isinstance(value, dict):
        raise ProtocolError(f"The message isn't a {what}: it is not a JSON object.")
    return value
