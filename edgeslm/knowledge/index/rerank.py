"""Reranking: rescores found passages by the sentence nearest to the question, and by a reader
(cross-encoder).

A passage's vector averages all topics of the passage, but the answer is often in one sentence. Therefore,
each sentence of the best passages is compared with the question, in total about fifty sentences. The caller
runs the encoder and the reader.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

from edgeslm.bundle.spans import Place, Run
from edgeslm.knowledge.documents.sentences import split_sentences
from edgeslm.knowledge.index.queries import Found

DEPTH: Final = 10
"""Number of passages, best first, that are rescored; the passages after them keep their order."""
SENTENCE: Final = 0.3
"""Weight of a passage's sentence score; see ``benchmarks/LOG.md``. The sentence score is the highest cosine
between a sentence of the passage and the question, divided by the highest such cosine in all rescored
passages."""
READ: Final = 0.05
"""Weight, in a passage's score, of the reader's probability that the passage answers the question; see
``benchmarks/LOG.md``."""
MOST_SENTENCES: Final = 40
"""Maximum number of sentences that are embedded for a passage. A passage of prose has fewer sentences; a list
of words may have more."""
MOST_CHARACTERS: Final = 600
"""Maximum number of characters embedded for a sentence; a table without punctuation is one long sentence."""

_SPACE: Final = re.compile(r"\s+")
_WORD: Final = re.compile(r"\S+")


def sentences(found: Sequence[Found]) -> list[list[str]]:
    """Sentences of the first :data:`DEPTH` passages, as texts to embed."""
    return [
        [_squeezed(passage.text[slice(*place)]) for place in _places(passage)] for passage in found[:DEPTH]
    ]


def rerank(
    found: Sequence[Found], question: Sequence[float], vectors: Sequence[Sequence[Sequence[float]]]
) -> list[Found]:
    """Reorders passages by a score that includes how near each passage's best sentence is to the question.
    Sets ``Found.sentences``.

    :param question: unit vector of the question.
    :param vectors: unit vector of each sentence of each passage, in the order of :func:`sentences`.
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
    """The first :data:`DEPTH` passages with their headings, as input for a reader."""
    return [_above(passage) + _SPACE.sub(" ", passage.text).strip() for passage in found[:DEPTH]]


def reread(found: Sequence[Found], read: Sequence[float], places: Sequence[Sequence[Run]]) -> list[Found]:
    """Reorders passages by a score that includes the reader's probability that a passage answers the
    question. Sets ``Found.read`` and ``Found.pointed``.

    :param read: for each of the first passages, the probability that it answers the question.
    :param places: answer spans in each :func:`readable` text; empty if the reader finds no spans.
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
    """Maps spans of a :func:`readable` text to the passage's text; drops spans in the heading."""
    origins: list[int] = []
    for word in _WORD.finditer(passage.text if runs else ""):
        origins += range(word.start(), word.end() + 1)  # and the blank after it
    above = len(_above(passage))
    return tuple(
        (origins[start - above], origins[end - above - 1] + 1, share)
        for start, end, share in runs
        if above <= start < end <= above + len(origins)
    )


def _ordered(found: Sequence[Found], seen: list[Found]) -> list[Found]:
    """Sorts the rescored passages by score, appends the other passages, and sets ``Found.margin`` of all
    passages."""
    seen.sort(key=lambda passage: -passage.score)
    # The others come after, so their scores must not be higher.
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
