"""Question pairs: questions to texts, which teach readers and retrievers; some sources are kept aside."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from edgeslm_export.data.rows import QuestionRow, bare_text

from edgeslm.errors import ExportError

FEWEST: Final = 20
"""Questions that are answered, beside those that are kept aside."""
_ONE_IN: Final = 10
_ALIKE: Final = 0.6
"""Share of the words of the shorter of two texts from which on they count as the same."""
_WORD: Final = re.compile(r"\w+")


def check_count(learned: int) -> None:
    """:raises ExportError: fewer than ``FEWEST`` questions that are answered."""
    if learned < FEWEST:
        raise ExportError(
            f"There are {learned} questions that their texts answer, beside those that are kept aside; at "
            f"least {FEWEST} are needed."
        )


def is_aside(row: QuestionRow) -> bool:
    """By its source, so that nothing of a source that is tested with was learned from."""
    digest = hashlib.sha256(bare_text(source_of(row)).encode()).digest()
    return digest[0] % _ONE_IN == 0


def source_of(row: QuestionRow) -> str:
    """A text that names none is a source of its own."""
    return row.source or row.text


def words_of(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))


def much_alike(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether one of two texts, by its words, is much the same as a part of the other: what the one answers,
    the other may."""
    return len(one & other) > _ALIKE * max(1, min(len(one), len(other)))


def say_the_same(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether two texts, by their words, say much the same and not much more."""
    return len(one & other) > _ALIKE * max(1, len(one), len(other))
