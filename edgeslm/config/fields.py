"""Field types of the configuration: parsers of single values, with an error message for invalid values.

The parsers are pure: each returns a value or raises ValueError. The keys are defined in
``edgeslm.config.schema``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainValidator,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
)

from edgeslm.protocol.topic_filters import filter_fault, topic_name_fault


def topic_prefix(value: str) -> str:
    if fault := topic_name_fault(value):
        raise ValueError(fault)
    return value


def _filter(value: str) -> str:
    if fault := filter_fault(value):
        raise ValueError(fault)
    return value


def node_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]{1,64}", value):
        raise ValueError("may hold a-z, 0-9 and - only, 1 to 64 of them")
    if value == "pool":
        raise ValueError("pool is reserved for pools' topics: choose another name")
    return value


def stage_name(value: str) -> str:
    """Checks the form of a stage ``node:NODE/TASK``. Stages without ``node:`` are checked in
    ``edgeslm.config.validation``."""
    if value.startswith("node:"):
        node, slash, task = value.removeprefix("node:").partition("/")
        try:
            node_name(node)
        except ValueError as error:
            raise ValueError(f"{value!r} names a node that can't be: {error}") from None
        if not slash or topic_name_fault(task) or "/" in task:
            raise ValueError(f"{value!r} must be node:NODE/TASK, as node:hall-server/topic")
    return value


def _file(value: Path, info: ValidationInfo) -> Path:
    """Resolves a relative path against the configuration file's folder."""
    try:
        value = value.expanduser()
    except RuntimeError:
        raise ValueError("~ has no meaning here, as there is no home folder: write the whole path") from None
    folder = info.context.get("folder") if info.context else None
    return Path(folder) / value if folder is not None else value


def _threads(value: Any) -> Any:
    if value == "auto" or (type(value) is int and 1 <= value <= 1024):
        return value
    raise ValueError("must be auto or a whole number from 1 to 1024")


def _labels(value: Any) -> Mapping[str, str]:
    if isinstance(value, list):
        if not all(isinstance(label, str) for label in value):
            raise ValueError("must be texts: put numbers, true and false in quotes")
        if len(set(value)) < len(value):
            twice = next(label for label in value if value.count(label) > 1)
            raise ValueError(f"{twice!r} is there twice: keep one of them")
        value = dict.fromkeys(value, "")
    if not isinstance(value, dict):
        raise ValueError("must be a mapping from label to meaning, or a list of labels")
    for label, meaning in value.items():
        if not label.strip() or label != label.strip() or not label.isprintable() or len(label) > 200:
            raise ValueError(f"{label!r} is not a label: 1 to 200 printable characters, no space around them")
        if meaning is not None and not isinstance(meaning, str):
            raise ValueError(f"the meaning of {label!r} must be a text: put it in quotes")
    if len(value) < 2:
        raise ValueError("needs at least two labels to choose from")
    return {label: meaning or "" for label, meaning in value.items()}


def _label_bias(value: Any) -> str | Mapping[str, float]:
    if value in ("feedback", "none", "contextual"):
        return str(value)
    if not isinstance(value, dict) or not value:
        raise ValueError("must be feedback, none, contextual, or what edgeslm-export calibrate prints")
    for label, share in value.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise ValueError(f"the share of {label!r} must be a number above 0 and at most 1")
    return {str(label): float(share) for label, share in value.items()}


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate limit: at most ``count`` messages in any ``per_s`` seconds."""

    count: int
    per_s: float


MAX_RATE_COUNT = 10_000
_PERIODS = {"s": 1, "min": 60, "h": 3600}


def _rate(value: Any) -> Rate:
    sentence = "must be a number of messages a second, or a text such as 10/s, 6/min or 100/h"
    found = re.fullmatch(r"([0-9]{1,5}) ?/ ?(s|min|h)", value) if isinstance(value, str) else None
    if found:
        rate = Rate(int(found[1]), _PERIODS[found[2]])
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9:
        ratio = Fraction(value).limit_denominator(3600)
        rate = Rate(ratio.numerator, ratio.denominator)
    else:
        raise ValueError(sentence)
    if not 1 <= rate.count <= MAX_RATE_COUNT:
        raise ValueError(f"must allow between 1 and {MAX_RATE_COUNT} messages in its period")
    return rate


MAX_WINDOW = 5_000
"""Maximum value of a window's ``last`` and ``most``, in messages."""
USUAL_WINDOW = 500
"""Default value of a window's ``most``, in messages."""
_LONGEST_S = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Window:
    """Settings of a route's windows. A window collects up to ``most`` messages. It closes after ``last``
    messages, ``every_s`` seconds after its first message, or when a message arrives on a topic that matches
    ``on``."""

    last: int | None = None
    every_s: float | None = None
    on: str | None = None
    most: int = USUAL_WINDOW


def _window(value: Any) -> Window:
    if not isinstance(value, dict) or len(value.keys() & {"last", "every", "on"}) != 1:
        raise ValueError("must be one of {last: 50}, {every: 15 min} and {on: TOPIC}")
    if unknown := sorted(value.keys() - {"last", "every", "on", "most"}):
        raise ValueError(f"has no {unknown[0]}: there are last, every, on and most")
    if "last" in value:
        if "most" in value:
            raise ValueError("most has no effect with last; remove it")
        count = _count(value["last"], "last")
        return Window(last=count, most=count)
    most = _count(value["most"], "most") if "most" in value else USUAL_WINDOW
    if "every" in value:
        return Window(every_s=_duration(value["every"]), most=most)
    if not isinstance(value["on"], str):
        raise ValueError("on must be a topic")
    return Window(on=_filter(value["on"]), most=most)


def _count(value: Any, name: str) -> int:
    if type(value) is not int or not 2 <= value <= MAX_WINDOW:
        raise ValueError(f"{name} must be a number of messages from 2 to {MAX_WINDOW}")
    return value


def _duration(value: Any) -> float:
    """Seconds."""
    found = re.fullmatch(r"([0-9]{1,6}) ?(s|min|h)", value) if isinstance(value, str) else None
    seconds = int(found[1]) * _PERIODS[found[2]] if found else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 1 <= seconds <= _LONGEST_S:
        raise ValueError("every must be seconds, or a text such as 30 s, 15 min or 8 h; a week at most")
    return float(seconds)


def broker_url(value: str) -> str:
    """Checks a broker URL. Error messages never quote the URL, since it may contain a password."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError("is not an address: write mqtt://HOST or mqtts://HOST:PORT") from None
    if "@" in value:
        raise ValueError("must not hold a user or password: use username and password_file")
    if parts.scheme not in ("mqtt", "mqtts"):
        raise ValueError("must begin with mqtt:// or, with TLS, mqtts://")
    if not parts.hostname or re.search(r"[\s\\]", value):
        raise ValueError("names no host: write mqtt://HOST or mqtts://HOST:PORT")
    if port == 0 or parts.path.strip("/") or parts.query or parts.fragment or "?" in value or "#" in value:
        raise ValueError("must be a host and a port from 1 to 65535 and nothing after them")
    return value


def http_url(value: str) -> str:
    """Checks an HTTP URL. User, password and query are refused, since they could be secrets."""
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError("is not an address: write http://HOST:PORT") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s\\]", value):
        raise ValueError("must be an address as http://HOST:PORT or https://HOST")
    if "@" in value or parts.query or parts.fragment:
        raise ValueError("must hold no user, password, query or fragment")
    return value


_LOOPBACK = "127.0.0.1"


def listen_address(value: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``, ``[IPv6]:PORT`` or ``PORT`` (on loopback)."""
    found = re.fullmatch(r"(?:(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):)?([0-9]{1,5})", value)
    if not found or not 0 < int(found[2]) < 65536:
        raise ValueError(f"must be a port, on {_LOOPBACK}, or HOST:PORT, as {_LOOPBACK}:9464")
    return (found[1] or _LOOPBACK).strip("[]"), int(found[2])


def _listen(value: str) -> str:
    host, port = listen_address(value)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", value):
        raise ValueError("must be a name such as hall.example.org, in small letters, without a port")
    return value


def _exported(value: Any) -> bool | tuple[str, ...]:
    if isinstance(value, bool):
        return value
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise ValueError("must be true, false, or a list of tasks, as in [triage, manual]")
    return tuple(value)


def network(value: str) -> str:
    """An IP address, or a network in CIDR notation, in its usual form."""
    try:
        return str(ip_network(value))
    except ValueError:
        sentence = "must be an IP address or a network of private addresses, as 172.30.32.2 or 172.30.32.0/23"
        raise ValueError(sentence) from None


def _example_output(value: Any) -> str | Mapping[str, Any]:
    if not isinstance(value, str | dict):
        raise ValueError("must be a text (numbers in quotes) or a mapping of fields")
    return value


FilePath = Annotated[Path, AfterValidator(_file)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
ReplyText = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
TopicFilter = Annotated[str, AfterValidator(_filter)]
ListenAddress = Annotated[str, AfterValidator(_listen)]
ExportedTasks = Annotated[
    bool | tuple[str, ...],
    PlainValidator(_exported),
    WithJsonSchema(
        {"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
    ),
]
Labels = Annotated[
    Mapping[str, str],
    PlainValidator(_labels),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "object", "additionalProperties": {"type": ["string", "null"]}, "minProperties": 2},
                {"type": "array", "items": {"type": "string"}, "minItems": 2, "uniqueItems": True},
            ]
        }
    ),
]
LabelBias = Annotated[
    Literal["feedback", "none", "contextual"] | Mapping[str, float],
    PlainValidator(_label_bias),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["feedback", "none", "contextual"]},
                {
                    "type": "object",
                    "additionalProperties": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
                    "minProperties": 2,
                },
            ]
        }
    ),
]
Threads = Annotated[
    int | Literal["auto"],
    BeforeValidator(_threads),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 1024}]}),
]
MaxRate = Annotated[
    Rate,
    PlainValidator(_rate),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0},
                {"type": "string", "pattern": r"^[0-9]{1,5} ?/ ?(s|min|h)$"},
            ]
        }
    ),
]
_WINDOW_COUNT = {"type": "integer", "minimum": 2, "maximum": MAX_WINDOW}
WindowField = Annotated[
    Window,
    PlainValidator(_window),
    WithJsonSchema(
        {
            "type": "object",
            "properties": {
                "last": _WINDOW_COUNT,
                "every": {
                    "anyOf": [
                        {"type": "number", "minimum": 1, "maximum": _LONGEST_S},
                        {"type": "string", "pattern": r"^[0-9]{1,6} ?(s|min|h)$"},
                    ]
                },
                "on": {"type": "string"},
                "most": _WINDOW_COUNT,
            },
            "additionalProperties": False,
            "oneOf": [{"required": ["last"]}, {"required": ["every"]}, {"required": ["on"]}],
        }
    ),
]
ExampleOutput = Annotated[
    str | Mapping[str, Any],
    PlainValidator(_example_output),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}]}),
]
