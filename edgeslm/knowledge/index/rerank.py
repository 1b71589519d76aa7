"""Reranking: each passage found is scored again, by its nearest sentence and by what a reader says.

A sentence is near to the question by its vector; a reader is given question and passage.

A passage is about several things, and its vector is their mean; an answer is often one sentence of it. The
sentences of the first few passages are embedded when a question is asked, some fifty texts of a line each.
What embeds and reads them is called outside: this module knows no engine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

from edgeslm.bundle.spans import Place, Run
from edgeslm.knowledge.documents.sentences import split_sentences
from edgeslm.knowledge.index.search import Found

DEPTH: Final = 10
"""Passages that are looked at again; what comes behind them stays where it is."""
SENTENCE: Final = 0.3
"""Weight of the nearest sentence, as a share of the best one's, beside the score
(``benchmarks/LOG.md``)."""
READ: Final = 0.05
"""Weight of what a reader says, beside the score (``benchmarks/LOG.md``)."""
MOST_SENTENCES: Final = 40
"""Of a passage; more than that is no prose, as a list of single words is none."""
MOST_CHARACTERS: Final = 600
"""Of a sentence that are embedded: a table without any end of a sentence is one."""

_SPACE: Final = re.compile(r"\s+")
_WORD: Final = re.compile(r"\S+")


def sentences(found: Sequence[Found]) -> list[list[str]]:
    """Of each of the first passages, as they are embedded."""
    return [
        [_squeezed(passage.text[slice(*place)]) for place in _places(passage)] for passage in found[:DEPTH]
    ]


def rerank(
    found: Sequence[Found], question: Sequence[float], vectors: Sequence[Sequence[Sequence[float]]]
) -> list[Found]:
    """The passages with ``sentences`` set, in their new order.

    :param question: its vector, of length 1 as all are.
    :param vectors: of each sentence of each passage, as :func:`sentences` has them.
    """
    seen = [
        replace(passage, sentences=_compared(passage, [_dot(question, vector) for vector in own]))
        for passage, own in zip(found, vectors, strict=False)
    ]
    best = max((passage.sentence or 0.0 for passage in seen), default=0.0)
    if best <= 0:
        return list(found)
    return _ordered(
        found,
        [
            replace(one, score=(one.score + SENTENCE * (one.sentence or 0.0) / best) / (1 + SENTENCE))
            for one in seen
        ],
    )


def readable(found: Sequence[Found]) -> list[str]:
    """The first passages with their headings, as a reader gets them."""
    return [_above(passage) + _SPACE.sub(" ", passage.text).strip() for passage in found[:DEPTH]]


def reread(found: Sequence[Found], read: Sequence[float], places: Sequence[Sequence[Run]]) -> list[Found]:
    """The passages with ``read`` and ``pointed`` set, in their new order.

    :param read: how likely each of the first passages answers the question.
    :param places: where in each of them, as they are :func:`readable`; none where nobody points.
    """
    seen = [
        replace(
            one,
            score=(one.score + READ * likely) / (1 + READ),
            read=likely,
            pointed=_runs_in(one, own),
        )
        for one, (likely, own) in zip(found, zip(read, places, strict=True), strict=False)
    ]
    return _ordered(found, seen) if seen else list(found)


def _above(passage: Found) -> str:
    return f"{passage.heading}\n" if passage.heading else ""


def _runs_in(passage: Found, runs: Sequence[Run]) -> tuple[Run, ...]:
    """Where runs of the readable passage stand in its text; those in its heading are left out."""
    origins: list[int] = []
    for word in _WORD.finditer(passage.text if runs else ""):
        origins += range(word.start(), word.end() + 1)  # with the one space that is left behind it
    above = len(_above(passage))
    return tuple(
        (origins[start - above], origins[end - above - 1] + 1, share)
        for start, end, share in runs
        if above <= start < end <= above + len(origins)
    )


def _ordered(found: Sequence[Found], seen: list[Found]) -> list[Found]:
    """Those that were looked at again by their new scores, then the others, with margins."""
    seen.sort(key=lambda passage: -passage.score)
    # What wasn't looked at again comes behind, and its score says so.
    rest = [replace(one, score=min(one.score, seen[-1].score)) for one in found[len(seen) :]]
    ordered = [*seen, *rest]
    margins = [one.score - after.score for one, after in pairwise(ordered)] + [ordered[-1].score]
    return [replace(one, margin=margin) for one, margin in zip(ordered, margins, strict=True)]


def _compared(passage: Found, cosines: Sequence[float]) -> tuple[Run, ...]:
    places = zip(_places(passage), cosines, strict=True)
    return tuple((start, end, cosine) for (start, end), cosine in places)


def _places(passage: Found) -> list[Place]:
    return split_sentences(passage.text)[:MOST_SENTENCES]


def _squeezed(sentence: str) -> str:
    return _SPACE.sub(" ", sentence).strip()[:MOST_CHARACTERS]


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
