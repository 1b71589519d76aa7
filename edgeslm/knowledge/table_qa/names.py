"""Column names: splits names into words and unit, and matches them with a question's words.

A question may shorten a name to its head word, such as ``release`` for ``release_date`` or ``temperature``
for ``oil_temp_c``. The head is the last word that isn't a unit, a type (``date``) or an extreme (``max``).
Words that are not in a column's name prevent a match, so ``oil temperature`` doesn't match ``temp_c``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeslm.knowledge.documents.cells import CellKind, Column
from edgeslm.knowledge.index.table_terms import FUNCTION, GENERIC, MINUTES_OF, UNITS, alike, fold, parse_name

_EXTREMES = frozenset({"max", "min", "avg", "total", "sum"})
_GENERIC = frozenset(map(alike, GENERIC))
_BRACKETS = re.compile(r"[(\[]\s*([^)\]]{1,12}?)\s*[)\]]\s*$")


@dataclass(frozen=True, slots=True)
class Name:
    """The parsed name of a column."""

    words: frozenset[str]
    """Words normalised by ``table_terms.alike``, without the unit and function words."""
    whole: tuple[frozenset[str], ...]
    """Two sets: the words of the whole name, and the words without the unit."""
    head: str
    """Head word, which a shortened name must contain; "" if there is none."""
    unit: str
    """Unit, as a value of ``table_terms.UNITS``; "" if there is none."""


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """Names of all columns of a table, in order."""

    all: tuple[Name, ...]
    words: frozenset[str]
    """All words of the names, not normalised by ``table_terms.alike``."""

    def has(self, word: str) -> bool:
        return any(word in name.words for name in self.all)

    def find(self, words: frozenset[str]) -> Iterator[tuple[int, bool]]:
        """Yields the index of each best matching column, and whether the column's name matches completely."""
        levels = [_nearness(words, name) for name in self.all]
        best = max(levels, default=0)
        if best:
            for place, level in enumerate(levels):
                if level == best:
                    yield place, level == _WHOLE

    def of(self, dimensions: frozenset[str]) -> list[int]:
        """Indices of the columns whose head word is one of ``dimensions``."""
        return [place for place, name in enumerate(self.all) if name.head in dimensions]


_WHOLE, _KIND, _PART = 3, 2, 1


def _nearness(words: frozenset[str], name: Name) -> int:
    """How well a question's words match a column's name, as ``_WHOLE``, ``_KIND``, ``_PART``, or 0 for no
    match."""
    if words in name.whole:
        return _WHOLE
    kinds, others = words & _GENERIC, name.words & _GENERIC
    if kinds and others and kinds != others:  # a country's name is not its code
        return 0
    said, there = words - _GENERIC, name.words - _GENERIC
    if not said or not there or len(kinds) > 1:
        return 0
    if said == there:
        return _KIND
    return _PART if said < there and name.head in said else 0


def read_names(columns: Sequence[Column]) -> ColumnNames:
    split = [_without_unit(column) for column in columns]
    # If only the unit, or what looks like one, distinguishes two columns, it is part of the name.
    alike_words = Counter(frozenset(words) for words, _ in split)
    names = []
    for column, (words, unit) in zip(columns, split, strict=True):
        every = [alike(word) for word in parse_name(column.name)]
        if alike_words[frozenset(words)] > 1:
            words = every
        about = [word for word in words if word not in FUNCTION] or words
        names.append(Name(frozenset(about), (frozenset(every), frozenset(words)), _head(about), unit))
    return ColumnNames(
        tuple(names), frozenset(word for column in columns for word in parse_name(column.name))
    )


def _without_unit(column: Column) -> tuple[list[str], str]:
    """Normalised words of a column's name without its unit, and the unit."""
    name, unit = column.name, UNITS.get(fold(column.unit), "")
    if (inside := _BRACKETS.search(name)) and (found := UNITS.get(fold(inside[1]).replace(" ", ""))):
        name, unit = name[: inside.start()], found
    words = parse_name(name)
    if column.kind is CellKind.NUMBER and len(words) > 1 and words[-1] in UNITS:
        rest = [alike(word) for word in words[:-1]]
        if words[-1] != "min" or MINUTES_OF & set(rest):
            words, unit = words[:-1], UNITS[words[-1]]
            if len(words) > 1 and words[-1] == "in":
                words = words[:-1]
    return [alike(word) for word in words], unit


def _head(words: Sequence[str]) -> str:
    said = [word for word in words if word not in _GENERIC and word not in _EXTREMES]
    return (said or [*words] or [""])[-1]
