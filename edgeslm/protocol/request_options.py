"""Request options: one table of types, ranges, JSON Schemas and descriptions. Pure.

The configuration (``allow``) decides which options a task accepts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgeslm.errors import InvalidRequest
from edgeslm.protocol.strict_json import shown

MAX_LABELS = 100
MAX_STOPS = 16
MAX_TOOLS = 64
TOOL_NAME = "[A-Za-z0-9_.-]{1,64}"
"""Pattern of a tool's name, which is OpenAI's with a point."""
MAX_PATTERN = 256
"""Maximum length, in characters, of the pattern in the option ``sources``; the limit is low, since the name
of each document is matched against the pattern."""
MAX_DEADLINE_MS = 7 * 24 * 3600 * 1000
LATEST = 10_000_000_000
"""Latest time, in seconds since 1970, that ``since`` and ``until`` accept; it is in the year 2286. With this
limit, a time in milliseconds is refused."""


@dataclass(frozen=True, slots=True)
class Option:
    """A request option. ``wanted`` completes the error message "must be ..."; ``schema`` expresses the same
    rule as JSON Schema.

    ``read`` normalizes a value. It returns None if the value is invalid, or raises ``InvalidRequest`` if it
    can say more than ``wanted``.
    """

    name: str
    wanted: str
    meaning: str
    schema: Mapping[str, Any]
    read: Callable[[Any], Any]


def _integer(name: str, low: int, high: int, meaning: str) -> Option:
    def read(value: Any) -> int | None:
        # JSON has one number type: some encoders write the integer 5 as 5.0.
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        whole = isinstance(value, int) and not isinstance(value, bool)
        return value if whole and low <= value <= high else None

    schema = {"type": "integer", "minimum": low, "maximum": high}
    return Option(name, f"a whole number from {low} to {high}", meaning, schema, read)


def _number(name: str, low: float, high: float, meaning: str, *, above: bool = False) -> Option:
    def read(value: Any) -> float | None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        return float(value) if low <= value <= high and not (above and value == low) else None

    wanted = f"a number above {low:g}, at most {high:g}" if above else f"a number from {low:g} to {high:g}"
    schema = {"type": "number", "exclusiveMinimum" if above else "minimum": low, "maximum": high}
    return Option(name, wanted, meaning, schema, read)


def _names(value: Any, most: int) -> list[str] | None:
    """A list of 1 to ``most`` distinct non-empty strings; None for anything else."""
    if not isinstance(value, list) or not 1 <= len(value) <= most:
        return None
    if not all(isinstance(item, str) and item for item in value) or len(set(value)) != len(value):
        return None
    return value


def _read_stop(value: Any) -> list[str] | None:
    return _names([value] if isinstance(value, str) else value, MAX_STOPS)


def _read_labels(value: Any) -> dict[str, str] | None:
    if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
        names, labels = list(value), value
    elif isinstance(value, list):
        names = value
        labels = dict.fromkeys(value, "") if _names(value, MAX_LABELS) else {}
    else:
        return None
    return labels if len(names) >= 2 and _names(names, MAX_LABELS) else None


def _read_tools(value: Any) -> list[dict[str, Any]] | None:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_TOOLS:
        return None
    for number, tool in enumerate(value, 1):
        if fault := _tool_fault(tool):
            name = tool.get("name") if isinstance(tool, dict) else None
            which = f"number {number} ({shown(name)})" if isinstance(name, str) else f"number {number}"
            raise InvalidRequest(f"Option 'tools': tool {which}: {fault}.")
    return value


def _tool_fault(tool: Any) -> str | None:
    if not isinstance(tool, dict):
        return "it must be an object"
    if not isinstance(tool.get("name"), str) or not re.fullmatch(TOOL_NAME, tool["name"]):
        return "`name` must have 1 to 64 letters, digits, _, - or ., and no blanks"
    if unknown := tool.keys() - {"name", "description", "parameters"}:
        return f"{shown(min(unknown))} isn't one of name, description and parameters"
    if not isinstance(tool.get("description", ""), str):
        return "`description` must be a text"
    if not isinstance(tool.get("parameters", {}), dict):
        return "`parameters` must be an object, a JSON Schema"
    return None


_TIMES = "only files changed, and messages received, at"
_STRING = {"type": "string", "minLength": 1}
_TOOL = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": f"^{TOOL_NAME}$"},
        "description": {"type": "string"},
        "parameters": {"type": "object"},
    },
    "required": ["name"],
    "additionalProperties": False,
}

OPTIONS: dict[str, Option] = {
    option.name: option
    for option in (
        _integer("max_tokens", 1, 65536, "maximum of new tokens"),
        _number("temperature", 0, 2, "sampling temperature; 0 always takes the likeliest token"),
        _number("top_p", 0, 1, "sample from the likeliest tokens that sum to this probability", above=True),
        _number("repetition_penalty", 0.1, 5, "above 1 makes repeating less likely"),
        Option(
            "stop",
            f"a string, or a list of 1 to {MAX_STOPS} different strings, none empty",
            "end the answer before the first of these strings",
            {
                "oneOf": [
                    _STRING,
                    {
                        "type": "array",
                        "items": _STRING,
                        "minItems": 1,
                        "maxItems": MAX_STOPS,
                        "uniqueItems": True,
                    },
                ]
            },
            _read_stop,
        ),
        _integer("seed", 0, 2**31 - 1, "makes sampling repeatable on one machine"),
        Option(
            "stream",
            "true or false",
            "stream the text to `<reply topic>/stream`",
            {"type": "boolean"},
            lambda value: value if isinstance(value, bool) else None,
        ),
        _integer("priority", 0, 9, "a higher number goes first"),
        _integer("deadline_ms", 1, MAX_DEADLINE_MS, "milliseconds after which the request is abandoned"),
        Option(
            "labels",
            f"2 to {MAX_LABELS} labels: a list of names, or an object of names and descriptions",
            "classify: the labels to choose from",
            {
                "oneOf": [
                    {
                        "type": "array",
                        "items": _STRING,
                        "minItems": 2,
                        "maxItems": MAX_LABELS,
                        "uniqueItems": True,
                    },
                    {
                        "type": "object",
                        "additionalProperties": {"type": "string"},
                        "propertyNames": {"minLength": 1},
                        "minProperties": 2,
                        "maxProperties": MAX_LABELS,
                    },
                ]
            },
            _read_labels,
        ),
        Option(
            "schema",
            "an object that is a JSON Schema",
            "extract, generate: the JSON Schema of the fields, or of the text",
            {"type": "object", "minProperties": 1},
            lambda value: value if isinstance(value, dict) and value else None,
        ),
        Option(
            "tools",
            f"a list of 1 to {MAX_TOOLS} tools, each with `name`, and if you like "
            "`description` and `parameters`, a JSON Schema of type object",
            "generate: the functions that the model may call",
            {"type": "array", "items": _TOOL, "minItems": 1, "maxItems": MAX_TOOLS},
            _read_tools,
        ),
        Option(
            "tool_choice",
            "`auto`, `none`, `required` or the name of one of the tools",
            "generate: whether the model calls a tool, and which",
            {"type": "string", "pattern": f"^{TOOL_NAME}$"},
            lambda value: value if isinstance(value, str) and re.fullmatch(TOOL_NAME, value) else None,
        ),
        Option(
            "parallel_tool_calls",
            "true or false",
            "generate: whether one answer may call tools several times; by default it may",
            {"type": "boolean"},
            lambda value: value if isinstance(value, bool) else None,
        ),
        Option(
            "knowledge",
            "a list of 1 to 16 names of document collections",
            "answer, search: which of the task's collections to search",
            {"type": "array", "items": _STRING, "minItems": 1, "maxItems": 16, "uniqueItems": True},
            lambda value: _names(value, 16),
        ),
        Option(
            "context",
            "a string that isn't blank",
            "answer: the text to answer from",
            _STRING,
            lambda value: value if isinstance(value, str) and value.strip() else None,
        ),
        Option(
            "sources",
            f"a string of 1 to {MAX_PATTERN} characters",
            "answer, search: only documents with a matching name; `*` is any text (`press/*`)",
            {**_STRING, "maxLength": MAX_PATTERN},
            lambda value: value if isinstance(value, str) and 1 <= len(value) <= MAX_PATTERN else None,
        ),
        _number("since", 0, LATEST, f"answer, search: {_TIMES} this time or later (seconds since 1970)"),
        _number("until", 0, LATEST, f"answer, search: {_TIMES} this time or earlier (seconds since 1970)"),
    )
}


def read_options(values: Any) -> dict[str, Any]:
    """Validates and normalizes the options of a request.

    ``stop`` becomes a list, and ``labels`` a dict of names and descriptions ("" by default). Integers become
    ``int``, and other numbers ``float``.

    :raises InvalidRequest: an option is invalid; the error's text names the first invalid option.
    """
    if not isinstance(values, dict):
        raise InvalidRequest('"options" must be an object, such as {"max_tokens": 64}.')
    read: dict[str, Any] = {}
    for name, value in values.items():
        option = OPTIONS.get(name)
        if option is None:
            raise InvalidRequest(f"There is no option {shown(name)}; the options are {', '.join(OPTIONS)}.")
        read[name] = option.read(value)
        if read[name] is None:
            raise InvalidRequest(f"Option {name!r} must be {option.wanted}.")
    return read
