"""Results in words, for ``edgeslm request`` and ``edgeslm try`` on a terminal; other programs get JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from edgeslm.cli.screen import say
from edgeslm.errors import plural
from edgeslm.messages import Result
from edgeslm.protocol.codec import encode_result
from edgeslm.telemetry.log_lines import printable

MOST_LINES = 5
"""Number of lines of a passage that are shown."""
OTHERS = 3
"""Number of further labels that are shown with their scores."""


def print_result(result: Result, *, as_json: bool) -> None:
    """Prints a result: in words on a terminal, otherwise as JSON, or if ``as_json``."""
    if as_json or not sys.stdout.isatty():
        say(encode_result(result).decode())
    else:
        say("\n".join(map(printable, in_words(result))))


def in_words(result: Result) -> Iterator[str]:
    """Lines that a person reads."""
    if result.error is not None:
        yield f"{result.error.code}: {result.error.message}"
        return
    found = result.result or {}
    unsure = "not sure: " if result.status == "abstained" else ""
    if "label" in found:
        yield unsure + _label(found)
    elif "fields" in found:
        yield from (f"{unsure}{name}: {_value(value)}" for name, value in found["fields"].items())
        if not found["fields"]:
            yield f"{unsure}no fields"
    elif "passages" in found and not found.get("text"):
        if result.task and "citations" in found:
            yield "no answer; the best passages:"
        yield from _passages(found["passages"])
    elif "vector" in found:
        yield f"a vector of {len(found['vector'])} numbers"
    else:
        yield from _text(found, unsure)
    yield _footer(result)


def _label(found: Mapping[str, Any]) -> str:
    sure = found.get("confidence")
    scores = sorted(found.get("scores", {}).items(), key=lambda item: -item[1])
    others = [f"{label} {score:.2f}" for label, score in scores if label != found["label"]][:OTHERS]
    told = "" if sure is None else f"  {sure:.2f}"
    return f"{found['label']}{told}" + (f"  ({', '.join(others)})" if others else "")


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _passages(passages: Any) -> Iterator[str]:
    for one in passages:
        heading = f" > {one['heading']}" if one["heading"] else ""
        yield f"{one['score']:.2f}  {one['source']}{heading}"
        lines = one["text"].splitlines()
        yield from (f"      {line}" for line in lines[:MOST_LINES])
        if len(lines) > MOST_LINES:
            yield f"      ... {plural(len(lines) - MOST_LINES, 'more line')}"


def _text(found: Mapping[str, Any], unsure: str) -> Iterator[str]:
    yield from (unsure + found.get("text", "")).splitlines() or [f"{unsure}no text"]
    for call in found.get("tool_calls", ()):
        yield f"call {call['name']}({json.dumps(call['arguments'], ensure_ascii=False)})"
    for one in found.get("citations", ()):
        yield f"  from {one['source']}, characters {one['start']} to {one['end']}"


def _footer(result: Result) -> str:
    """Who answered, and how long it took."""
    found = result.result or {}
    stage, model = found.get("stage"), result.model or ""
    parts = [None if stage is None or model.startswith(stage) else stage, model]
    parts.append(f"{result.timings_ms.get('total', 0.0):.0f} ms")
    parts += ["untrained: often wrong"] if found.get("taught") is False else []
    return f"  [{', '.join(part for part in parts if part)}]"
