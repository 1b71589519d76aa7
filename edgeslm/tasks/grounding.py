"""Whether a question to collections can be answered: judged by figures of the search, no model is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from edgeslm.knowledge.search import Found
from edgeslm.tasks.support import content_words, split_sentences

THRESHOLD: Final = 0.5
CHARACTERS_PER_TOKEN: Final = 3.5
BUDGET: Final = 1200
"""Tokens of passages that a model reads for one question."""


def confidence(question: str, found: Sequence[Found]) -> float:
    if not found:
        return 0.0
    best = found[0]
    return 1 / (1 + math.exp(-(10 * ((best.cosine or 0.0) - 0.4))))


def fitting(passages: Sequence[Found], budget: int = BUDGET) -> list[Found]:
    """The best passages that together have about as many tokens as the budget, the first one in any case."""
    kept: list[Found] = []
    left = budget * CHARACTERS_PER_TOKEN
    for passage in passages:
        left -= len(sources_of(passage))
        if left < 0 and kept:
            break
        kept.append(passage)
    return kept


def sources_of(passage: Found) -> str:
    """What a passage says, with the titles above it."""
    return f"{passage.heading}\n{passage.text}" if passage.heading else passage.text


def most_like(sentence: str, text: str) -> tuple[int, int]:
    """Start and end of the sentence of a text that has most of the words of another one."""
    wanted = set(content_words(sentence))
    return max(
        split_sentences(text),
        key=lambda place: len(wanted & set(content_words(text[slice(*place)]))),
        default=(0, len(text)),
    )
