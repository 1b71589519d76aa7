"""Spans: character ranges of field values in a message, for training rows and requests alike. Pure.

The functions find the spans of a value, and read the text of a span as a value of a JSON type.
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
"""Pattern of a number in a text. The pattern doesn't match anything in ``M3``, ``v2.0``, ``192.0.2.1`` or
``1e5``, nor in ``1,234``, which is ambiguous. The hyphen in ``press-4`` isn't matched as a sign."""
_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff"
)
"""Letters of scripts in which a word may end between two letters, without a space. Thai, Lao, Burmese, Khmer,
Japanese and Chinese don't separate words by spaces, and Korean attaches particles to words."""
_LETTER: Final = rf"[^\W{_UNSPACED}]"
_INSIDE_WORD: Final = re.compile(rf"{_LETTER}{{2}}")
_NUMERIC: Final = frozenset({"integer", "number"})

Place = tuple[int, int]
"""Start and end of a span as character offsets; the end is exclusive."""
Run = tuple[int, int, float]
"""Start and end of a span, and its score: the span's probability, or the cosine of a sentence to the
question."""


def types_of(field: Mapping[str, Any] | bool) -> frozenset[str]:
    """The JSON types in a field's schema, without ``null``. A schema may also be a boolean, which names no
    types."""
    named = () if isinstance(field, bool) else field.get("type", ())
    return frozenset({named} if isinstance(named, str) else named) - {"null"}


def span_types(field: Mapping[str, Any] | bool) -> frozenset[str]:
    """The JSON types that a span may be read as: those in the field's schema or, if it names none and lists
    texts alone as allowed values, a text."""
    if (types := types_of(field)) or isinstance(field, bool):
        return types
    listed = field.get("enum", [field["const"]] if "const" in field else [])
    return frozenset({"string"} if listed and all(isinstance(value, str) for value in listed) else ())


def is_fixed(field: Mapping[str, Any] | bool) -> bool:
    """Whether a field's schema lists the allowed values."""
    return not isinstance(field, bool) and bool(field.keys() & {"enum", "const"})


def find_places(message: str, value: Any, types: Collection[str]) -> list[Place]:
    """All spans of the message that contain ``value``, as whole words or as a number."""
    if isinstance(value, str):
        bare = value.strip()
        found = re.finditer(re.escape(bare), message) if bare else ()
        return [match.span() for match in found if is_whole(message, *match.span())]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return []
    places = [match.span() for match in NUMBER.finditer(message)]
    return [place for place in places if read_place(message, place, types) == value]


def negate(value: Any) -> str | int | float | None:
    """A number with the other sign, as it was given: as a text or a number. None for 0 and anything else."""
    if isinstance(value, str) and NUMBER.fullmatch(value):
        bare = value.lstrip("-+\u2212")
        return (bare if value[0] in "-\u2212" else f"-{bare}") if float(bare.replace(",", ".")) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return -value or None


def is_whole(message: str, start: int, end: int) -> bool:
    """Whether a span starts and ends at word boundaries."""
    edges = (message[max(0, edge - 1) : edge + 1] for edge in (start, end))
    return not any(_INSIDE_WORD.fullmatch(edge) for edge in edges)


def read_place(message: str, place: Place, types: Collection[str]) -> str | int | float | None:
    """Converts the text of a span to a value of one of the JSON types in ``types``; returns None if the text
    has none of these types, or is only part of a word or number."""
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
        return int(read) if "." in plain else int(Decimal(plain))  # a float would lose digits
    return read if "number" in types else None


def bare_offsets(message: str, offsets: Iterable[Place]) -> Iterator[Place]:
    """Yields the token offsets, shortened by the spaces that some tokenizers include before a word."""
    for start, end in offsets:
        bare = message[start:end]
        left = len(bare) - len(bare.lstrip())
        yield (start + left, start + len(bare.rstrip())) if bare.strip() else (start, start)
