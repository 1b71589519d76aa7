"""Exact forms: personal and secret data that an expression and a check find in a text.

Matching takes linear time. The expressions find what has the form of an address or a number; names of persons
and places aren't found.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Final, NamedTuple


class Span(NamedTuple):
    """Part of a text, by its character offsets, and the kind of data that it is."""

    start: int
    end: int
    kind: str


_PARTS: Final = re.compile(r"[ .-]")
Check = Callable[[str], int]
"""Length of the longest beginning of a match that is what it looks like; 0 if there is none. An expression
may take the next words, too."""


def _ends(text: str) -> list[int]:
    """Where a match may end: before a separator, or at its end; the longest first."""
    return [len(text), *reversed([found.start() for found in _PARTS.finditer(text)])]


def _card_length(text: str) -> int:
    """Luhn's check of a card number. Times in milliseconds and microseconds begin with 1, and of the card
    numbers only those of UATP do, which have 15 digits."""
    ends, found = set(_ends(text)), 0
    sums, count, first = [0, 0], 0, text[0]
    for at, one in enumerate(text, 1):
        if not one.isdigit():
            continue
        digit = int(one)
        twice = 2 * digit if digit < 5 else 2 * digit - 9
        sums[count % 2] += twice  # the last digit counts once, the one before it twice, and so on
        sums[1 - count % 2] += digit
        count += 1
        is_card = 13 <= count <= 19 and first != "0" and (first != "1" or count == 15)
        if is_card and at in ends and sums[count % 2] % 10 == 0:
            found = at
    return found


def _iban_length(text: str) -> int:
    """The check of ISO 7064 (modulo 97), with the first four characters moved to the end."""
    ends, found = set(_ends(text)), 0
    head, body, count = "", 0, 0
    for at, one in enumerate(text, 1):
        if one in " -":
            continue
        value = int(one, 36)
        count += 1
        if count <= 4:
            head += str(value)
            continue
        body = (body * (10 if value < 10 else 100) + value) % 97
        if 15 <= count <= 34 and at in ends and (body * 10 ** len(head) + int(head)) % 97 == 1:
            found = at
    return found


def _phone_length(text: str) -> int:
    digits = 0
    ends = set(_ends(text))
    found = 0
    for at, one in enumerate(text, 1):
        digits += one.isdigit()
        if at in ends and 7 <= digits <= 16:
            found = at
    return found


def _ip_length(text: str) -> int:
    for end in _ends(text):
        for address in (text[:end], text[:end].removesuffix(":")):  # "fe80::1: link is down"
            with suppress(ValueError):
                ipaddress.ip_address(address)
                return len(address)
    return 0


def _after(characters: str) -> str:
    """An expression for the beginning of a word, which doesn't follow ``characters``. In JSON text, ``\\n``
    before a word is an escaped line break."""
    return rf"(?:(?<![\\{characters}])|(?<=\\[nrt])|(?<=\\)(?![nrt]))"


_START: Final = _after(r"\w")
_SPACE: Final = " \u00a0\u2009\u202f\u2010-\u2014"
PATTERNS: Final[Mapping[str, tuple[re.Pattern[str], Check | None]]] = {
    "url": (
        re.compile(_START + r"(?:[a-z][a-z0-9+.-]{1,20}://|www\.)[^\s<>\"'\\]+", re.IGNORECASE),
        None,
    ),
    "email": (
        re.compile(_after(r"\w.+%&~-") + r"(?<!\w')(?:[\w.+%&~-]|(?<=\w)'(?=\w))+@[\w-]+(?:\.[\w-]+)*"),
        None,
    ),
    "mac": (
        re.compile(
            "(?:" + _after(r"\w:-") + r"|(?<=[A-Za-z]{3}[:=-]))"  # also after mac:
            r"(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}(?![\w:-])"
        ),
        None,
    ),
    "ip": (
        re.compile(
            _after(r"\w.") + r"\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)"
            rf"|{_START}(?:[0-9A-Fa-f]{{0,4}}:){{2,7}}[0-9A-Fa-f]{{0,4}}(?:\.\d{{1,3}}){{0,3}}(?!\w)"
        ),
        _ip_length,
    ),
    "iban": (
        re.compile(
            _START + r"[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,3})?(?!\w)",
            re.ASCII | re.IGNORECASE,
        ),
        _iban_length,
    ),
    "card": (  # also after visa-
        re.compile("(?:" + _after(r"\w-") + r"|(?<=[A-Za-z]-))\d(?:[ .-]?\d){12,22}(?!\w)"),
        _card_length,
    ),
    "phone": (
        re.compile(
            rf"(?:{_START}\+\d{{1,3}}"
            rf"|{_START}(?<!\d[.,:-])(?:00\d{{1,3}}|\(0?\d{{2,5}}\)|0\d{{1,5}}"
            r"|(?:1[-. ])?\d{3}(?=[-. ]\d{3}[-. ]\d{4})))"
            rf"(?:[{_SPACE}()/.-]{{0,3}}\d){{4,14}}(?!\w)"
        ),
        _phone_length,
    ),
    "number": (re.compile(_START + r"\w*\d{4}\w*"), None),
}
"""Kind -> expression, and a check of what it matches. They are applied in this order."""
_HINTS: Final[Mapping[str, tuple[re.Pattern[str], ...]]] = {
    "url": (re.compile("://"), re.compile(r"[Ww][Ww][Ww]\.")),
    "email": (re.compile("@"),),
    "mac": (re.compile("[0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-]"),),
    "ip": (re.compile(r"\d\.\d"), re.compile("[:][0-9A-Fa-f]{0,4}:")),
    "iban": (re.compile(r"[A-Za-z]{2}\d{2}"),),
    "card": (re.compile(r"\d(?:[ .-]?\d){12}"),),
    "phone": (re.compile(rf"\d(?:[{_SPACE}()/.-]{{0,3}}\d){{6}}"),),
    "number": (re.compile(r"\d{4}"),),
}
"""Kind -> fast expressions, one of which is in each text with data of that kind."""
_LATER: Final = re.compile(r"[ .-](?=\w{4})")
"""Before a part of a match at which a card or an IBAN may begin. Shorter parts would take too long."""
_TAILS: Final = {"phone": re.compile(rf"(?:[{_SPACE}()/.-]{{0,3}}\d)*")}
"""Kind -> what follows a match and goes with it: digits before a number, such as a date, may have taken the
place of its last digits."""
_HIDDEN: Final = "<"
"""Stands for each character that an earlier expression has found; no expression matches it."""


def find_exact(text: str, kinds: Collection[str]) -> list[Span]:
    """Spans of the ``kinds`` that have an exact form, in their order; they don't overlap."""
    found: list[Span] = []
    for kind, (pattern, check) in PATTERNS.items():
        if kind not in kinds or not any(hint.search(text) for hint in _HINTS[kind]):
            continue
        parts, before = list[str](), 0
        for start, end in _matches(text, pattern, check, _TAILS.get(kind)):
            found.append(Span(start, end, kind))
            parts += [text[before:start], _HIDDEN * (end - start)]
            before = end
        text = "".join([*parts, text[before:]])
    return sorted(found)


def _matches(
    text: str, pattern: re.Pattern[str], check: Check | None, tail: re.Pattern[str] | None
) -> Iterator[tuple[int, int]]:
    """Matches of an expression that pass the check, with their tails. An expression may take the words before
    and after what it should find, so parts of a match are tried too."""
    at = 0
    while (match := pattern.search(text, at)) is not None:
        start, at = match.span()
        if check is None:
            yield start, at
        elif length := check(match[0]):
            at = start + length
            if tail is not None and (more := tail.match(text, at)) is not None:
                at = more.end()
            yield start, at
        elif (later := _LATER.search(match[0])) is not None:
            at = start + later.end()


def merge(spans: Iterable[Span]) -> list[Span]:
    """The spans in their order, those that overlap as one span with the kind of the longest."""
    merged: list[Span] = []
    longest = 0
    for span in sorted(spans, key=lambda one: (one.start, -one.end)):
        length = span.end - span.start
        if not merged or span.start >= merged[-1].end:
            merged.append(span)
            longest = length
            continue
        last = merged[-1]
        kind, longest = (span.kind, length) if length > longest else (last.kind, longest)
        merged[-1] = Span(last.start, max(last.end, span.end), kind)
    return merged


def replace(text: str, spans: Iterable[Span], name: Callable[[Span], str]) -> str:
    """The text with each span replaced by its ``name``. The spans are in order and don't overlap."""
    parts, before = list[str](), 0
    for span in spans:
        parts += [text[before : span.start], name(span)]
        before = span.end
    return "".join([*parts, text[before:]])
