"""Commands over the bus, ``<base>/ctl/<command>``, and their results: protocol version 1. Pure.

A command is an empty payload, or a JSON object: its ``id``, which comes back, and its arguments.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgeslm.errors import InvalidRequest
from edgeslm.messages import ErrorBody
from edgeslm.protocol.strict_json import decode_text, parse_json

MOST_BYTES: Final = 64 * 1024
LONGEST_ID: Final = 256

Handler = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""Does what the arguments say; the result that goes back."""


@dataclass(frozen=True, slots=True)
class Command:
    """``name`` is that of the topic, such as ``models/stage``."""

    name: str
    arguments: Mapping[str, Any]
    id: str | None = None
    correlation: bytes | None = None


def parse_command(name: str, payload: bytes, correlation: bytes | None = None) -> Command:
    """:raises InvalidRequest: no such object."""
    if len(payload) > MOST_BYTES:
        raise InvalidRequest(f"A command has {MOST_BYTES} bytes at most.")
    text = decode_text(payload)
    if not text.strip():
        return Command(name, {}, correlation=correlation)
    value = parse_json(text)
    if not isinstance(value, dict):
        raise InvalidRequest("A command is a JSON object, or nothing at all.")
    id = value.pop("id", None)
    if id is not None and not (isinstance(id, str) and len(id) <= LONGEST_ID):
        raise InvalidRequest(f"The id of a command is a text of {LONGEST_ID} characters at most.")
    return Command(name, value, id, correlation)


def encode_answer(
    name: str, id: str | None, *, result: Mapping[str, Any] | None = None, error: ErrorBody | None = None
) -> bytes:
    """``result`` if it was done, ``error`` if not."""
    said: dict[str, Any] = {} if id is None else {"id": id}
    said["command"] = name
    if error is None:
        said |= {"status": "ok", "result": dict(result or {})}
    else:
        said |= {"status": "error", "error": {"code": error.code, "message": error.message}}
    return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def only(arguments: Mapping[str, Any], *names: str) -> None:
    """:raises InvalidRequest: there are others."""
    if unknown := sorted(arguments.keys() - set(names)):
        known = ", ".join(names) or "no arguments"
        raise InvalidRequest(f"The command has no argument {unknown[0]!r}; it has {known}.")


def text_argument(arguments: Mapping[str, Any], name: str) -> str:
    """:raises InvalidRequest: it is missing, or no text."""
    value = arguments.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f"The command needs {name!r}, a text.")
    return value
