"""Spans: fields found by pointing. Each stands in the message, or has a taught value, or is missing.

How values and places in a text belong together: the same for the rows that are learned from and for the
messages that are asked. Pure: knows no model and no schema but the types of a field.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

NUMBER: Final = re.compile(
    r"(?<![\w.,])[-+\u2212]?\d+(?:\.\d+|,(?!\d{3}(?!\d))\d+)?(?![.,]?\d)(?!e[-+]?\d)", re.IGNORECASE
)
"""Neither that of ``M3`` or ``v2.0`` nor a part of ``192.0.2.1``, ``1e5`` or ``1,234``, which may mean one or
thousands; the line in ``press-4`` is no sign."""
_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff"
)
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese are written without spaces, and Korean glues particles to
its words: any two letters may part."""
_LETTER: Final = rf"[^\W{_UNSPACED}]"
_INSIDE_WORD: Final = re.compile(rf"{_LETTER}{{2}}")
_NUMERIC: Final = frozenset({"integer", "number"})

Place = tuple[int, int]
"""Offsets of characters: from, and up to but not with."""
Run = tuple[int, int, float]
"""A place and a figure: how likely it is among all runs of tokens, or a cosine."""


def types_of(field: Mapping[str, Any] | bool) -> frozenset[str]:
    """The JSON types that a field's schema names, without ``null``; true and false are schemas too."""
    named = () if isinstance(field, bool) else field.get("type", ())
    return frozenset({named} if isinstance(named, str) else named) - {"null"}


def is_fixed(field: Mapping[str, Any] | bool) -> bool:
    """Whether a field's schema lists its values."""
    return not isinstance(field, bool) and bool(field.keys() & {"enum", "const"})


def find_places(message: str, value: Any, types: Collection[str]) -> list[Place]:
    """Where ``value`` stands in the message as whole words, or as a number; empty where it doesn't."""
    if isinstance(value, str):
        bare = value.strip()
        found = re.finditer(re.escape(bare), message) if bare else ()
        return [match.span() for match in found if is_whole(message, *match.span())]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return []
    places = [match.span() for match in NUMBER.finditer(message)]
    return [place for place in places if read_place(message, place, types) == value]


def is_whole(message: str, start: int, end: int) -> bool:
    """Whether a place parts no word, at its start or at its end."""
    edges = (message[max(0, edge - 1) : edge + 1] for edge in (start, end))
    return not any(_INSIDE_WORD.fullmatch(edge) for edge in edges)


def read_place(message: str, place: Place, types: Collection[str]) -> str | int | float | None:
    """What a place in the message says as a value of one of ``types``; None where it says no such value, or
    parts a word or a number."""
    start, end = place
    if "string" in types:
        return message[start:end] if is_whole(message, start, end) else None
    number = None if _NUMERIC.isdisjoint(types) else NUMBER.match(message, start)
    if number is None or number.end() != end:
        return None
    plain = number[0].replace(",", ".").replace("\u2212", "-")
    read = float(plain)
    if not math.isfinite(read):
        return None
    if read.is_integer():
        return int(read) if "." in plain else int(Decimal(plain))  # long ones have more digits than floats
    return read if "number" in types else None


def bare_offsets(message: str, offsets: Iterable[Place]) -> Iterator[Place]:
    """Token offsets without the space that some tokenizers count with the word behind it."""
    for start, end in offsets:
        bare = message[start:end]
        left = len(bare) - len(bare.lstrip())
        yield (start + left, start + len(bare.rstrip())) if bare.strip() else (start, start)
