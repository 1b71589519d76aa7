"""Conflicting passages: they answer one question with different values (numbers, names, yes and no).

Two sentences of different passages contradict each other if they are about the same, by their words, and
what differs is a number of the same thing, a name, or that one says yes where the other says no. What is said
in other words altogether isn't found: nothing is inferred.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Final

from edgeslm.knowledge.documents.sentences import split_sentences
from edgeslm.knowledge.index.collection import BETWEEN
from edgeslm.knowledge.index.search import Found
from edgeslm.tasks.support import FUNCTION_WORDS, content_words

ALIKE: Final = 0.4
"""Share of the words of two sentences, values aside, that both must have where numbers differ."""
CLOSE: Final = 0.5
"""The same where a name or yes and no differ, which say less than a number."""
ASKED: Final = 0.5
"""Share of the question's words that a sentence must have, with its heading."""

Side = tuple[Found, int, int]
"""A sentence of a passage, by its characters in ``text``."""


@dataclass(frozen=True, slots=True)
class Conflict:
    one: Side
    other: Side


def find_conflict(question: str, passages: Sequence[Found]) -> Conflict | None:
    """The first two sentences that contradict each other in what the question asks about.

    A section isn't held against itself: where it has several values, they are of several things.
    """
    asked = _words(question)
    subjects = frozenset(_subjects(question))
    statements = [(passage, list(_statements(asked, passage))) for passage in passages]
    for (passage, ones), (against, others) in combinations(statements, 2):
        if (passage.source, passage.heading) == (against.source, against.heading):
            continue
        for one, other in product(ones, others):
            if not _is_about_others(subjects, one, other) and _contradict(one, other):
                return Conflict(one.side, other.side)
    return None


@dataclass(frozen=True, slots=True)
class _Statement:
    """A sentence by its words. Values that the question brings are no values of the sentence."""

    side: Side
    words: frozenset[str]
    """With those of its heading, without values."""
    numbers: frozenset[tuple[str, str]]
    """Each with the word that it counts: ``("40", "hour")``."""
    names: frozenset[str]
    subjects: frozenset[tuple[str, str]]
    """What is told from others of its kind by a number, with its heading: ``("press", "4")``."""
    poles: frozenset[tuple[int, int]]
    """Of the pairs of opposites that it has a word of: the pair, and which of the two."""
    denies: bool


def _statements(asked: frozenset[str], passage: Found) -> Iterator[_Statement]:
    title = _words(passage.heading.rpartition(BETWEEN)[2])
    for start, end in split_sentences(passage.text):
        text = passage.text[start:end]
        told = _words(text) | title
        if not asked or len(asked & told) < ASKED * len(asked):
            continue
        numbers = frozenset(pair for pair in _numbers(text) if pair[0] not in asked)
        names = _words(" ".join(_NAME.findall(text))) - asked - title
        poles = frozenset(_POLES[word] for word in told if word in _POLES)
        # Of two opposites the pair counts as a word, since both sentences are about it.
        words = frozenset(
            f"pair {_POLES[word][0]}" if word in _POLES else word
            for word in told
            if word not in names and not word[0].isdigit()
        )
        denies = _NEGATION.search(text) is not None
        subjects = frozenset(_subjects(f"{passage.heading}\n{text}"))
        yield _Statement((passage, start, end), words, numbers, names, subjects, poles, denies)


def _is_about_others(asked: frozenset[tuple[str, str]], one: _Statement, other: _Statement) -> bool:
    """Whether the question asks about press 4, and one of them is about press 5 instead."""
    kinds = {kind for kind, _ in asked}
    return any(
        not asked & side.subjects and any(kind in kinds for kind, _ in side.subjects) for side in (one, other)
    )


def _contradict(one: _Statement, other: _Statement) -> bool:
    both = len(one.words & other.words)
    alike = both / max(1, len(one.words | other.words))
    if alike < ALIKE or both < 2:
        return False
    for counted in {unit for _, unit in one.numbers} & {unit for _, unit in other.numbers}:
        mine, theirs = ({number for number, unit in s.numbers if unit == counted} for s in (one, other))
        if not mine & theirs:
            return True
    if alike < CLOSE:
        return False
    opposed = any((pair, 1 - pole) in other.poles for pair, pole in one.poles - other.poles)
    if opposed != (one.denies != other.denies):  # both together say the same again
        return True
    return bool(one.names) and bool(other.names) and not one.names & other.names


def _words(text: str) -> frozenset[str]:
    """Of content, in small letters: what is a name is told by its place here."""
    return frozenset(content_words(text.casefold()))


def _subjects(text: str) -> Iterator[tuple[str, str]]:
    for kind, number in _SUBJECT.findall(text.casefold()):
        if kind not in FUNCTION_WORDS:
            yield kind, number


def _numbers(text: str) -> Iterator[tuple[str, str]]:
    for match in _NUMBER.finditer(text):
        sign, number, unit = match.groups()
        counted = content_words(unit.casefold()) if unit and unit != "%" else [unit or (sign or "").strip()]
        yield number.replace(",", ""), "".join(counted)


_NUMBER: Final = re.compile(r"([$€£]\s?)?(?<![\w.-])(\d[\d,]*(?:\.\d+)?)\s*(%|[^\W\d_]+)?")
_SUBJECT: Final = re.compile(r"\b([^\W\d_]{1,40})[ -]?(\d{1,6})\b(?![.,]\d)")
"""``P7``, ``X-200``, ``press 4``."""
_NAME: Final = re.compile(r"(?<=[\w,;] )[A-Z]\w+")
"""A word that is written large inside of a sentence."""
_NEGATION: Final = re.compile(
    r"\b(?:not?|never|none|nor|neither|without|cannot|unable|lacks?|fails? to|failed to)\b|n['’]t\b",
    re.IGNORECASE,
)
_OPPOSITES: Final = (
    (
        "increase increases rise rises rose risen grow grew raise higher",
        "decrease fall fell drop decline lower",
    ),
    ("safe harmless", "unsafe dangerous harmful"),
    ("effective", "ineffective"),
    ("allow permit", "forbid prohibit ban disallow"),
    ("enable enabled", "disable disabled"),
    ("true correct", "false incorrect wrong"),
    ("support", "oppose"),
    ("accept approve", "reject deny refuse"),
    ("open", "close"),
    ("minimum least", "maximum most"),
    ("beneficial benefit", "harmful harm"),
    ("improve better", "worsen worse"),
    ("profit gain", "loss"),
    ("possible", "impossible"),
    ("legal", "illegal"),
    ("on", "off"),
)
_POLES: Final = {
    word: (number, side)
    for number, pair in enumerate(_OPPOSITES)
    for side, words in enumerate(pair)
    for word in content_words(words)
}
