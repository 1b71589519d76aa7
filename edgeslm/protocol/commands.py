"""Control commands on ``<base>/ctl/<command>`` and their results: parsing and encoding. Pure.

The payload is empty, or a JSON object with the arguments and an ``id``, which the result repeats.
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
"""Function that runs a command with its arguments and returns the result."""


@dataclass(frozen=True, slots=True)
class Command:
    """A control command; ``name`` is the end of the command's topic, such as ``models/stage``."""

    name: str
    arguments: Mapping[str, Any]
    id: str | None = None
    correlation: bytes | None = None


def parse_command(name: str, payload: bytes, correlation: bytes | None = None) -> Command:
    """:raises InvalidRequest: the payload is too long, or isn't a valid JSON object."""
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
    """Encodes the answer to a command, which has ``result`` on success and ``error`` otherwise."""
    answer: dict[str, Any] = {} if id is None else {"id": id}
    answer["command"] = name
    if error is None:
        answer |= {"status": "ok", "result": dict(result or {})}
    else:
        answer |= {"status": "error", "error": {"code": error.code, "message": error.message}}
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def only(arguments: Mapping[str, Any], *names: str) -> None:
    """:raises InvalidRequest: an argument is not among ``names``."""
    if unknown := sorted(arguments.keys() - set(names)):
        known = ", ".join(names) or "no arguments"
        raise InvalidRequest(f"The command has no argument {unknown[0]!r}; it has {known}.")


def text_argument(arguments: Mapping[str, Any], name: str) -> str:
    """:raises InvalidRequest: the argument is missing, blank or not a string."""
    value = arguments.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f"The command needs {name!r}, a text.")
    return value
