"""A second look at what was found: each passage by the sentence of it that is nearest to the question.

A passage is about several things, and its vector is their mean; an answer is often one sentence of it. The
sentences of the first few passages are embedded when a question is asked, some sixty texts of a line each.
What embeds them is called outside: this module knows no engine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

from edgeslm.knowledge.search import Found

DEPTH: Final = 10
"""Passages that are looked at again; what comes behind them stays where it is."""
SENTENCE: Final = 0.3
"""Weight of the nearest sentence, as a share of the best one's, beside the score
(``benchmarks/LOG.md``)."""
MOST_CHARACTERS: Final = 600
"""Of a sentence that are embedded: a table without any end of a sentence is one."""

_END: Final = re.compile(r"(?<=[.!?:])\s+(?=[A-Z\"'(\[*-])|\n\s*\n")
_SPACE: Final = re.compile(r"\s+")


def sentences(found: Sequence[Found]) -> list[list[str]]:
    """Of each of the first passages, as they are embedded."""
    return [_sentences(passage.text) for passage in found[:DEPTH]]


def rerank(
    found: Sequence[Found], question: Sequence[float], vectors: Sequence[Sequence[Sequence[float]]]
) -> list[Found]:
    """The passages with ``sentence`` set, in their new order.

    :param question: its vector, of length 1 as all are.
    :param vectors: of each sentence of each passage, as :func:`sentences` has them.
    """
    nearest = [max((_dot(question, vector) for vector in own), default=0.0) for own in vectors]
    best = max(nearest, default=0.0)
    if best <= 0:
        return list(found)
    looked_at = [
        replace(passage, sentence=cosine, score=(passage.score + SENTENCE * cosine / best) / (1 + SENTENCE))
        for passage, cosine in zip(found, nearest, strict=False)
    ]
    looked_at.sort(key=lambda passage: -passage.score)
    # What wasn't looked at again comes behind, and its score says so.
    worst = looked_at[-1].score
    rest = [replace(one, score=min(one.score, worst)) for one in found[len(looked_at) :]]
    ordered = [*looked_at, *rest]
    margins = [one.score - after.score for one, after in pairwise(ordered)] + [ordered[-1].score]
    return [replace(one, margin=margin) for one, margin in zip(ordered, margins, strict=True)]


def _sentences(text: str) -> list[str]:
    parts = (_SPACE.sub(" ", part).strip() for part in _END.split(text))
    return [part[:MOST_CHARACTERS] for part in parts if part]


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
