"""Payloads whose texts are redacted: a plain text, or JSON, whose values are redacted while all else stays.

In JSON, a string keeps its quotes, and a number that is replaced becomes a string. Keys, other numbers,
spaces and the structure stay.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from edgeslm.errors import InvalidRequest
from edgeslm.redaction.patterns import PATTERNS, Span, find_exact, merge, replace

_TOKEN: Final = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)')
"""A string, with the colon after a key; or a number. Between them, valid JSON has no quotes and no digits."""
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
"""Lone ones, which no frame to a model can have."""
_PHONE_KEY: Final = re.compile(
    r"(?i:phone|telefon|mobil|rufnummer|msisdn)|(?<![a-zA-Z])(?i:tel|cell|fax|handy)(?![a-z])"
    r"|(?<=[a-z])(?:Tel|Cell|Fax|Handy)(?![a-z])"
)
"""A key of phone numbers, also in camelCase."""
_PHONE_DIGITS: Final = re.compile(r"\+?\d(?:[ ()/.-]{0,3}\d){6,14}")


@dataclass(frozen=True, slots=True)
class _Value:
    """A value of the payload between the offsets ``start`` and ``end``. ``text`` is what it says; ``key`` is
    the JSON key before it, if any."""

    start: int
    end: int
    text: str
    key: str = ""
    is_number: bool = False


class Payload:
    """A payload, and its values that may be redacted. :raises InvalidRequest: JSON that is nested too
    deeply."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._is_json = _is_json(text)
        self._values = list(_values(text)) if self._is_json else [_Value(0, len(text), text)]

    def for_model(self) -> str:
        """What a model reads: a plain text as it is, and a line for each string of JSON, after its key."""
        return _SURROGATES.sub("\ufffd", "\n".join(text for text, _ in self._lines().values()))

    def redact(self, exact: Collection[str], found: Sequence[Span] = ()) -> str:
        """The payload with its data replaced.

        :param exact: kinds that have an exact form. :param found: spans in the text :meth:`for_model`.
        """
        spans = self._in_values(found) if found else {}
        parts, before = list[str](), 0
        for number, value in enumerate(self._values):
            new = self._redact_value(value, exact, spans.get(number, []))
            if new is not None:
                parts += [self._text[before : value.start], new]
                before = value.end
        return "".join([*parts, self._text[before:]])

    def _redact_value(self, value: _Value, exact: Collection[str], found: list[Span]) -> str | None:
        """What stands in the payload instead; None if nothing was found."""
        if value.is_number:
            kind = _kind_of_number(value, exact)
            return None if kind is None else json.dumps(f"[{kind}]", ensure_ascii=False)
        spans = [*find_exact(value.text, exact), *found]
        if "phone" in exact and _PHONE_KEY.search(value.key):
            spans += [Span(*match.span(), "phone") for match in _PHONE_DIGITS.finditer(value.text)]
        if not spans:
            return None
        new = replace(value.text, merge(spans), lambda span: f"[{span.kind}]")
        return _dumps(new, self._text[value.start : value.end]) if self._is_json else new

    def _lines(self) -> Mapping[int, tuple[str, int]]:
        """Number of each value that a model reads -> its line, and the offset of the value in it."""
        heads = {
            number: f"{value.key}: " if value.key else ""
            for number, value in enumerate(self._values)
            if not value.is_number
        }
        return {number: (head + self._values[number].text, len(head)) for number, head in heads.items()}

    def _in_values(self, found: Sequence[Span]) -> Mapping[int, list[Span]]:
        """Number of a value -> the spans of the model's text that are in it, with offsets in the value. A
        span over several values is in each of them."""
        numbers, starts, ends, at = list[int](), list[int](), list[int](), 0
        for number, (line, head) in self._lines().items():
            numbers.append(number)
            starts.append(at + head)
            at += len(line)
            ends.append(at)
            at += 1
        spans: dict[int, list[Span]] = {}
        for start, end, kind in found:
            for place in range(bisect_right(ends, start), len(numbers)):
                if starts[place] >= end:
                    break
                first, last = max(start, starts[place]), min(end, ends[place])
                if first < last:
                    inner = Span(first - starts[place], last - starts[place], kind)
                    spans.setdefault(numbers[place], []).append(inner)
        return spans


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


def _kind_of_number(value: _Value, exact: Collection[str]) -> str | None:
    """The kind of a JSON number; None if it stays. A phone number lacks its plus sign or its leading zero, so
    the key has to tell that it is one."""
    if "phone" in exact and _PHONE_KEY.search(value.key) and _PHONE_DIGITS.fullmatch(value.text):
        return "phone"
    found = {span.kind for span in find_exact(value.text, exact)}
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
