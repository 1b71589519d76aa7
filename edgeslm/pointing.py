"""Fields found by pointing: each stands in the message, or has a value that was taught, or is missing.

How values and places in a text belong together: the same for the rows that are learned from and for the
messages that are asked. Pure: knows no model and no schema but the types of a field.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

NUMBER: Final = re.compile(r"[-+]?\d+(?:[.,]\d+)?")
_NUMERIC: Final = frozenset({"integer", "number"})

Place = tuple[int, int]
"""Offsets of characters: from, and up to but not with."""


def types_of(field: Mapping[str, Any]) -> frozenset[str]:
    """The JSON types that a field's schema names, without ``null``."""
    named = field.get("type", ())
    return frozenset({named} if isinstance(named, str) else named) - {"null"}


def find_places(message: str, value: Any, types: Collection[str]) -> list[Place]:
    """Where ``value`` stands in the message as whole words, or as a number; empty where it doesn't."""
    if isinstance(value, str):
        found = re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", message) if value.strip() else ()
        return [match.span() for match in found]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return []
    return [match.span() for match in NUMBER.finditer(message) if read_place(match[0], types) == value]


def read_place(text: str, types: Collection[str]) -> str | int | float | None:
    """What a place in the message says as a value of one of ``types``; None where it says no such value."""
    if "string" in types:
        return text
    if _NUMERIC.isdisjoint(types) or NUMBER.fullmatch(text) is None:
        return None
    number = float(text.replace(",", "."))
    if number.is_integer():
        return int(number)
    return number if "number" in types else None


def bare_offsets(message: str, offsets: Iterable[Place]) -> Iterator[Place]:
    """Token offsets without the space that some tokenizers count with the word behind it."""
    for start, end in offsets:
        bare = message[start:end]
        left = len(bare) - len(bare.lstrip())
        yield (start + left, start + len(bare.rstrip())) if bare.strip() else (start, start)
