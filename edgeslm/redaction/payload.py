"""Payloads whose texts are redacted: a plain text, or JSON, whose values are redacted while all else stays.

In JSON, a string keeps its quotes, and a number that is replaced becomes a string. Keys, other numbers,
spaces and the structure stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from edgeslm.errors import InvalidRequest
from edgeslm.redaction.patterns import PATTERNS, find_exact, replace

_TOKEN: Final = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)')
"""A string, with the colon after a key; or a number. Between them, valid JSON has no quotes and no digits."""
_PHONE_KEY: Final = re.compile(r"phone|telefon|mobil|(?<![a-z])(?:tel|cell|fax)(?![a-z])", re.IGNORECASE)
_PHONE_DIGITS: Final = re.compile(r"\d{7,15}")


@dataclass(frozen=True, slots=True)
class _Value:
    """A value of the payload between the offsets ``start`` and ``end``. ``text`` is what it says; ``key`` is
    the JSON key before it, if any."""

    start: int
    end: int
    text: str
    key: str = ""
    is_number: bool = False


def redact_payload(text: str, kinds: Collection[str]) -> str:
    """The payload with its data of these kinds replaced. :raises InvalidRequest: JSON that is nested too
    deeply."""
    is_json = _is_json(text)
    parts, before = list[str](), 0
    for value in _values(text) if is_json else [_Value(0, len(text), text)]:
        new = _redact_value(value, kinds)
        if new is not None:
            was = text[value.start : value.end]
            parts += [text[before : value.start], _dumps(new, was) if is_json else new]
            before = value.end
    return "".join([*parts, text[before:]])


def _redact_value(value: _Value, kinds: Collection[str]) -> str | None:
    """What the value says instead; None if nothing was found."""
    if value.is_number:
        kind = _kind_of_number(value, kinds)
        return None if kind is None else f"[{kind}]"
    spans = find_exact(value.text, kinds)
    return replace(value.text, spans, lambda span: f"[{span.kind}]") if spans else None


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_int=str, parse_float=str)  # NaN and numbers of any length, too
    except ValueError:
        return False
    except RecursionError:
        raise InvalidRequest("its JSON is nested too deeply to be redacted") from None
    return True


def _values(text: str) -> Iterator[_Value]:
    """The strings and numbers of a JSON text that aren't keys."""
    key = ""
    for match in _TOKEN.finditer(text):
        string, colon, number = match.groups()
        if number is not None:
            yield _Value(match.start(), match.end(), number, key, is_number=True)
        elif colon is not None:
            key = json.loads(string)
        else:
            yield _Value(match.start(), match.end(), json.loads(string), key)


def _kind_of_number(value: _Value, kinds: Collection[str]) -> str | None:
    """The kind of a JSON number; None if it stays. A phone number lacks its plus sign or its leading zero, so
    the key has to tell that it is one."""
    if "phone" in kinds and _PHONE_DIGITS.fullmatch(value.text) and _PHONE_KEY.search(value.key):
        return "phone"
    found = {span.kind for span in find_exact(value.text, kinds)}
    return next((kind for kind in PATTERNS if kind in found), None)


def _dumps(text: str, before: str) -> str:
    """A JSON string, in ASCII if ``before`` was. Lone surrogates, which only escapes can write, stay
    escapes."""
    written = json.dumps(text, ensure_ascii=before.isascii())
    try:
        written.encode()
    except UnicodeEncodeError:
        return json.dumps(text)
    return written
