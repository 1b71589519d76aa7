"""Contradictions: passages that answer a question with different numbers or names, or with yes and no.

Two sentences of different passages contradict each other if they share many words but differ in the number
before the same unit, in a name, or in polarity (one affirms, the other denies). Contradictions that
use different words are not detected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Final

from edgeslm.knowledge.documents.sentences import split_sentences
from edgeslm.knowledge.index.queries import BETWEEN, Found
from edgeslm.tasks.support import FUNCTION_WORDS, content_words

ALIKE: Final = 0.4
"""The numbers of two sentences are compared only if the word overlap of the sentences is at least this high.

The overlap is the Jaccard index of the words, without numbers and names.
"""
CLOSE: Final = 0.5
"""The names and polarity of two sentences are compared only if the word overlap of the sentences is at least
this high.

This limit is higher than :data:`ALIKE` because names and polarity are weaker evidence than numbers.
"""
ASKED: Final = 0.5
"""Minimum share of the question's words in a sentence and its heading; other sentences are not compared."""

Side = tuple[Found, int, int]
"""A sentence: its passage, and its start and end in the passage's ``text``."""


@dataclass(frozen=True, slots=True)
class Conflict:
    one: Side
    other: Side


def find_conflict(question: str, passages: Sequence[Found]) -> Conflict | None:
    """The first two sentences that contradict each other about the question.

    Sentences of the same section are not compared, since different values there belong to different things.
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
    """A sentence as sets of words. ``numbers`` and ``names`` exclude numbers and names of the question."""

    side: Side
    words: frozenset[str]
    """Content words of the sentence and its heading, without numbers and names."""
    numbers: frozenset[tuple[str, str]]
    """Numbers, each with the word that it counts, such as ``("40", "hour")``."""
    names: frozenset[str]
    subjects: frozenset[tuple[str, str]]
    """Numbered things in the sentence or its heading, such as ``("press", "4")``."""
    poles: frozenset[tuple[int, int]]
    """Antonyms that occur in the sentence or its heading. A word is represented by the index of its pair in
    ``_OPPOSITES`` and its index within the pair (0 or 1).
    """
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
        # Both antonyms count as the same word, since the sentences are about the same.
        words = frozenset(
            f"pair {_POLES[word][0]}" if word in _POLES else word
            for word in told
            if word not in names and not word[0].isdigit()
        )
        denies = _NEGATION.search(text) is not None
        subjects = frozenset(_subjects(f"{passage.heading}\n{text}"))
        yield _Statement((passage, start, end), words, numbers, names, subjects, poles, denies)


def _is_about_others(asked: frozenset[tuple[str, str]], one: _Statement, other: _Statement) -> bool:
    """Whether one of the two sentences is about another thing than the question: for example, the question
    names press 4, and the sentence names only press 5."""
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
    if opposed != (one.denies != other.denies):  # an antonym and a negation cancel out
        return True
    return bool(one.names) and bool(other.names) and not one.names & other.names


def _words(text: str) -> frozenset[str]:
    """Content words in lower case, so that capitalised words are treated like others."""
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
"""Matches a numbered thing, such as ``P7``, ``X-200`` or ``press 4``."""
_NAME: Final = re.compile(r"(?<=[\w,;] )[A-Z]\w+")
"""Matches a capitalised word that doesn't begin a sentence."""
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
