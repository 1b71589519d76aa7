"""Question pairs for training readers and retrievers, with a tenth of their sources held out."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from edgeslm_export.data.rows import QuestionRow, bare_text

from edgeslm.errors import ExportError

FEWEST: Final = 20
"""Minimum number of answered questions for training, not counting the held-out ones."""
_ONE_IN: Final = 10
_ALIKE: Final = 0.6
"""Share of words in common above which two texts count as overlapping or nearly equal."""
_WORD: Final = re.compile(r"\w+")


def check_count(learned: int) -> None:
    """:raises ExportError: fewer than ``FEWEST`` answered questions."""
    if learned < FEWEST:
        raise ExportError(
            f"There are {learned} answered questions besides those held out; at least {FEWEST} are needed."
        )


def is_aside(row: QuestionRow) -> bool:
    """Whether a row is held out. The row's source decides, so that no source is used for both training and
    testing."""
    digest = hashlib.sha256(bare_text(source_of(row)).encode()).digest()
    return digest[0] % _ONE_IN == 0


def source_of(row: QuestionRow) -> str:
    """The row's source, or the row's text if it names no source."""
    return row.source or row.text


def words_of(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))


def may_overlap(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether two texts share most words of the shorter one, so that both may answer the same question."""
    return len(one & other) > _ALIKE * max(1, min(len(one), len(other)))


def nearly_equal(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether two texts share most words of the longer one."""
    return len(one & other) > _ALIKE * max(1, len(one), len(other))
