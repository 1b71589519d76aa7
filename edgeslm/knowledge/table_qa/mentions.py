"""Mentions: the columns, cells, operations, numbers and dates that a question may refer to.

The longest match wins, so ``temp max`` is a column rather than an operation ``max``. A mention may have
several meanings, all of which are kept. If a word has no meaning in a table, that table has no answer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import PurePath
from typing import Protocol

from edgeslm.knowledge.documents.cells import CellKind, Column
from edgeslm.knowledge.documents.dates import find_moments
from edgeslm.knowledge.index.table_terms import (
    BEHIND,
    COMPARATIVES,
    COMPARISONS,
    COUNTING,
    DAYS,
    DENIALS,
    EMPTY_COMPARISONS,
    FUNCTION,
    INTRODUCING,
    NEUTRAL,
    PHRASES,
    ROWS,
    SUPERLATIVES,
    UNITS,
    Comparator,
    Measure,
    Operation,
    alike,
    fold,
    parse_name,
    singular,
)
from edgeslm.knowledge.table_qa.names import read_names

MOST_WORDS = 48
"""Maximum number of words in a table question; a longer message is not a table question."""
_LONGEST = 12
"""Maximum number of words that name a cell or column in a question."""

_TOKEN = re.compile(
    r"(?P<own>(?<=\w)['’](?:s|d|m|re|ve|ll)\b)|(?:(?<![\w.,)])[-−](?=\d))?\d+(?:[.,]\d+)*|[^\W\d_]+|[%°€$£<>≥≤]"
)
_GROUPED = re.compile(r"-?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")
_PLAIN = re.compile(r"-?\d+(?:[.,]\d+)?")
_SHORTEST_MISSPELT = 6
"""Minimum length of an operation's word, such as ``average``, for which misspellings are corrected. For the
words of column names, the minimum is higher (``_SHORTEST_NAME_MISSPELT``), since ``county`` is not always a
misspelt ``country``."""
_SHORTEST_NAME_MISSPELT = 9


@dataclass(frozen=True, slots=True)
class Token:
    """A word, number or symbol in a question, at characters ``start`` to ``end``."""

    text: str
    """The word without case and accents, with corrected spelling."""
    raw: str
    start: int
    end: int

    @property
    def plural(self) -> bool:
        return self.text[-1] == "s" and singular(self.text) != self.text


@dataclass(frozen=True, slots=True)
class Named:
    """A column that the question names. ``whole`` is true if the question has all words of the column's name.
    ``row`` is true if the word is also in the document's file name, so that the word may mean a row instead
    of the column."""

    place: int
    whole: bool
    plural: bool
    row: bool


@dataclass(frozen=True, slots=True)
class Cells:
    """All cells of a text column with the same normalised key."""

    place: int
    cells: frozenset[str]


@dataclass(frozen=True, slots=True)
class Number:
    value: Decimal


@dataclass(frozen=True, slots=True)
class Date:
    moment: str
    """The date in the format of ``DateMention`` (``knowledge.documents.dates``)."""


@dataclass(frozen=True, slots=True)
class Unit:
    unit: str


@dataclass(frozen=True, slots=True)
class Asks:
    operation: Operation
    counting: bool = False
    """Whether the word is in ``table_terms.COUNTING``."""


@dataclass(frozen=True, slots=True)
class Compares:
    comparison: Comparator
    measure: Measure | None = None
    empty: bool = False
    """Whether the comparison is ignored if no value follows."""
    behind: bool = False
    """Whether the comparison follows its value, as in ``5 bar or more``."""


@dataclass(frozen=True, slots=True)
class Superlative:
    measure: Measure


@dataclass(frozen=True, slots=True)
class Noun:
    """A word that means rows of the table, such as ``press`` for a file ``presses.csv``. ``days`` is true for
    words such as ``day``, which mean the rows of a table with one row per day. ``bare`` is true for general
    words such as ``row``."""

    days: bool
    plural: bool
    bare: bool


@dataclass(frozen=True, slots=True)
class Or:
    """The word ``or`` between two values."""


Meaning = Named | Cells | Number | Date | Unit | Asks | Compares | Superlative | Noun | Or


@dataclass(frozen=True, slots=True)
class Mention:
    """Tokens ``first`` to ``last`` (exclusive) of the question, and their possible meanings."""

    first: int
    last: int
    said: str
    meanings: tuple[Meaning, ...]


class Lookup(Protocol):
    """Looks up cells by normalised key: key -> column index -> cells."""

    def __call__(self, keys: Collection[str], /) -> dict[str, dict[int, set[str]]]: ...


def read_tokens(question: str) -> list[Token]:
    return [
        Token(fold(match[0]), match[0], *match.span())
        for match in _TOKEN.finditer(question)
        if not match["own"] and fold(match[0])
    ]


def find_mentions(
    question: str, source: str, columns: Sequence[Column], lookup: Lookup
) -> tuple[list[Mention], list[str]]:
    """Mentions in a question, in order, and the words of the question that have no meaning in the table.

    :param source: source of the document, whose file name may describe a row.
    """
    reader = _MentionReader(question, source, columns, lookup)
    mentions: list[Mention] = []
    unknown: list[str] = []
    at = 0
    while at < len(reader.tokens):
        mention = reader.longest(at)
        if mention is not None:
            mentions.append(mention)
            at = mention.last
            continue
        if not reader.is_ignorable(at):
            unknown.append(reader.tokens[at].raw)
        at += 1
    return mentions, unknown


class _MentionReader:
    def __init__(self, question: str, source: str, columns: Sequence[Column], lookup: Lookup) -> None:
        self.question, self._names = question, read_names(columns)
        self._long_names = [word for word in self._names.words if len(word) >= _SHORTEST_NAME_MISSPELT]
        self._is_date = [column.kind is CellKind.DATE for column in columns]
        self._nouns = {alike(word) for word in parse_name(PurePath(source).name.split(".")[0])}
        tokens = read_tokens(question)
        shouted = question.isupper()
        self.tokens = tokens
        self._cells = lookup({key for first in range(len(tokens)) for key in self._keys(first)})
        self.tokens = [self._corrected(token) for token in tokens]
        # "IT" may be a department and "A" a hall, except as the first word.
        self._capitals = [
            token.raw.isupper() and not shouted and (len(token.raw) > 1 or (at > 0 and token.raw != "I"))
            for at, token in enumerate(tokens)
        ]
        self._dates = self._find_dates()

    def is_ignorable(self, at: int) -> bool:
        word = self.tokens[at].text
        if word in FUNCTION or word in NEUTRAL:
            return not self._capitals[at]
        if word not in INTRODUCING:
            return False
        after = self.longest(at + 1) if at + 1 < len(self.tokens) else None
        return after is not None and any(isinstance(meaning, Cells) for meaning in after.meanings)

    def longest(self, first: int) -> Mention | None:
        for last in range(min(len(self.tokens), first + _LONGEST), first, -1):
            meanings = tuple(dict.fromkeys(self._meanings(first, last)))
            if any(isinstance(meaning, Named) and not self._is_date[meaning.place] for meaning in meanings):
                # "Presses" are not rows if the table has a column "press".
                meanings = tuple(each for each in meanings if not isinstance(each, Noun) or each.days)
            if meanings:
                said = self.question[self.tokens[first].start : self.tokens[last - 1].end]
                return Mention(first, last, said, meanings)
        return None

    def _meanings(self, first: int, last: int) -> Iterator[Meaning]:
        words = [token.text for token in self.tokens[first:last]]
        phrase = " ".join(words)
        content = [word for word in words if word not in FUNCTION]
        yield from self._named(first, last, content)
        if self._capitals[first] or any(word not in _NO_CELLS for word in content):
            for place, cells in self._cells.get(_key(words), {}).items():
                yield Cells(place, frozenset(cells))
        yield from self._operations(phrase)
        if (first, last) in self._dates:
            yield Date(self._dates[first, last])
        if last - first > 1:
            return
        token = self.tokens[first]
        if (number := _number(token.text)) is not None:
            yield Number(number)
        if token.text in UNITS and self._may_be_unit(first):
            yield Unit(UNITS[token.text])
        if token.text in ROWS:
            yield Noun(False, token.plural, True)
        elif alike(token.text) in self._nouns and token.text not in FUNCTION:
            yield Noun(False, token.plural, False)
        if token.text in DAYS:
            yield Noun(True, token.plural, False)
        if token.text == "or":
            yield Or()

    def _may_be_unit(self, at: int) -> bool:
        """Whether a word may be a unit; a single letter is a unit only after a number, ``°`` or ``in``."""
        text = self.tokens[at].text
        if (len(text) > 1 and text not in FUNCTION and text != "min") or not text.isalpha():
            return True
        before = self.tokens[at - 1].text if at else ""
        return _number(before) is not None or before in ("°", "in")

    def _named(self, first: int, last: int, content: Sequence[str]) -> Iterator[Named]:
        ends = (self.tokens[first].text, self.tokens[last - 1].text)
        if not any(map(str.isalpha, content)):  # a number alone is no column name
            return
        if any(word in FUNCTION or not word[0].isalnum() for word in ends):
            return
        asked = frozenset(map(alike, content))
        if len(asked) < len(content) or (ends[0] == "number" and len(content) < last - first):
            return  # "number of parts" counts them
        for place, whole in self._names.find(asked):
            if whole or ends[0] not in NEUTRAL:
                yield Named(place, whole, self.tokens[last - 1].plural, alike(content[-1]) in self._nouns)

    def _operations(self, phrase: str) -> Iterator[Meaning]:
        if phrase in PHRASES:
            yield Asks(PHRASES[phrase], phrase in COUNTING)
        if phrase in COMPARISONS:
            comparison = COMPARISONS[phrase]
            yield Compares(comparison, empty=phrase in EMPTY_COMPARISONS)
        if phrase in BEHIND:
            yield Compares(BEHIND[phrase], behind=True)
        if phrase.endswith(" than") and (measure := COMPARATIVES.get(phrase.removesuffix(" than"))):
            up = measure.most is Operation.LARGEST
            yield Compares(Comparator.ABOVE if up else Comparator.BELOW, measure)
        if phrase in SUPERLATIVES:
            yield Superlative(SUPERLATIVES[phrase])

    def _keys(self, first: int) -> Iterator[str]:
        """Normalised keys of all word sequences that begin with token ``first``."""
        words = [token.text for token in self.tokens[first : first + _LONGEST]]
        for last in range(len(words), 0, -1):
            yield _key(words[:last])

    def _find_dates(self) -> dict[tuple[int, int], str]:
        """The question's dates, by their range of tokens."""
        starts = {token.start: place for place, token in enumerate(self.tokens)}
        ends = {token.end: place for place, token in enumerate(self.tokens, 1)}
        return {
            (starts[said.start], ends[end]): said.moment
            for said in find_moments(self.question)
            if said.start in starts
            and (end := next((end for end in (said.end, said.end - 1) if end in ends), -1)) in ends
        }

    def _corrected(self, token: Token) -> Token:
        """Corrects an unknown word that is one letter away from a column's name or an operation."""
        if len(token.text) < _SHORTEST_MISSPELT or not token.text.isalpha() or self._knows(token.text):
            return token
        near = {
            word
            for word in (*self._long_names, *_VOCABULARY)
            if word[0] == token.text[0] and _is_near(word, token.text)
        }
        return replace(token, text=near.pop()) if len({alike(word) for word in near}) == 1 else token

    def _knows(self, word: str) -> bool:
        return (
            word in _KNOWN
            or alike(word) in self._nouns
            or self._names.has(alike(word))
            or any(singular(word) in key.split() for key in self._cells)
        )


_PHRASE_WORDS = frozenset(
    word
    for phrases in (PHRASES, COMPARISONS, SUPERLATIVES, COMPARATIVES)
    for phrase in phrases
    for word in phrase.split()
)
_KNOWN = _PHRASE_WORDS | FUNCTION | NEUTRAL | DENIALS | ROWS | DAYS | UNITS.keys()
_VOCABULARY = frozenset(word for word in _PHRASE_WORDS if len(word) >= _SHORTEST_MISSPELT)


_NO_CELLS = DENIALS | {"or"}
"""Words that name a cell only in capitals, such as ``NO`` for Norway."""


def _key(words: Sequence[str]) -> str:
    """Normalised key as from ``table_terms.key_of``, without minus signs and symbols."""
    return " ".join(singular(bare) for word in words if (bare := word.lstrip("-−")) and bare[0].isalnum())


def _number(text: str) -> Decimal | None:
    text = text.replace("−", "-")
    if _GROUPED.fullmatch(text):
        return Decimal(text.replace(",", ""))
    return Decimal(text.replace(",", ".")) if _PLAIN.fullmatch(text) and len(text) <= 30 else None


def _is_near(one: str, other: str) -> bool:
    """Whether words have edit distance 1, with transpositions (Damerau, 1964)."""
    if abs(len(one) - len(other)) > 1 or one == other:
        return False
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    rest, other_rest = one[start:], other[start:]
    return (
        rest[1:] == other_rest[1:]
        or rest[1:] == other_rest
        or rest == other_rest[1:]
        or (rest[:2] == other_rest[1::-1] and len(rest) > 1 and rest[2:] == other_rest[2:])
    )
