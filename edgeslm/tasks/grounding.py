"""Grounding gate: decides by search scores whether collections can answer a question.

A logistic model of the scores of the best passage, alone and compared with the others, gives the confidence
that it is from the right section. No score depends on the size of the collection.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Final

from edgeslm.bundle.spans import Place
from edgeslm.knowledge.documents.dates import parse_moment
from edgeslm.knowledge.documents.kinds import CELLS, TABULAR, find_kind
from edgeslm.knowledge.documents.sentences import ITEM, PARAGRAPH, split_sentences
from edgeslm.knowledge.index.search import Found
from edgeslm.knowledge.index.words import parse_words, shares
from edgeslm.tasks.support import content_words

CHARACTERS_PER_TOKEN: Final = 3.5
MOST_QUOTED: Final = 600
"""Longest sentence quoted as a whole, in characters; a table without punctuation is one sentence."""
LIKENESS: Final = 4.0
"""Weight of a sentence's cosine to the question, added to the log of the reader's probability
(``benchmarks/LOG.md``). Tuned for MiniLM; encoders with more similar cosines need a higher one."""
BUDGET: Final = 1200
"""Token budget of the passages shown to a model."""


PROSE: Final = 7
"""Cells with at least this many words are prose."""
SENTENCE: Final = 4
"""The same for cells that end like a sentence; ``Bolt & Co.`` is shorter."""
_ENDS: Final = (".", "?", "!")
_FIGURE: Final = re.compile(r"(?:\W*|[A-Z]{3} )\d")
_WORD: Final = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Gate:
    """Coefficients of a logistic model by feature, and the confidence threshold for an answer."""

    intercept: float
    weights: Mapping[str, float]
    threshold: float

    def confidence(self, figures: Mapping[str, float]) -> float:
        total = self.intercept + sum(weight * figures[name] for name, weight in self.weights.items())
        return 1 / (1 + math.exp(-total))


# Fitted by python benchmarks/quality/documents.py gate, on development data only.
GATE: Final = Gate(
    -3.68,
    {
        "cosine": 2.55,
        "sentence": 0.94,
        "margin": 2.83,
        "coverage": 1.48,
        "matched": 0.26,
        "coverage_margin": 1.82,
        "agreement": 0.76,
    },
    0.36,
)
WORDS_GATE: Final = Gate(
    -1.86, {"coverage": 2.08, "matched": 0.37, "coverage_margin": 2.04, "agreement": 1.71}, 0.36
)
"""For passages without vectors."""


READ_GATE: Final = Gate(0.36, {"read": 0.54, "coverage_margin": 3.34}, 0.39)
"""For passages scored by a reader trained as in ``benchmarks/LOG.md``. The other features don't distinguish
answers from passages on the same topic, and are left out."""


def gate_for(found: Sequence[Found]) -> Gate:
    if any(passage.read is not None for passage in found):
        return READ_GATE
    return WORDS_GATE if all(passage.cosine is None for passage in found) else GATE


def confidence(question: str, found: Sequence[Found]) -> float:
    """Probability that the best passage is from the right section."""
    return gate_for(found).confidence(figures_of(question, found)) if found else 0.0


MOST_MARGIN: Final = 0.3
"""Larger margins carry no more information."""
SUREST: Final = 1e-3
"""The reader's probability is clipped to this distance from 0 and 1."""
ALONE: Final = 0.1
"""Typical margin, used if there is only one passage, so that it has no effect."""


def figures_of(question: str, found: Sequence[Found]) -> dict[str, float]:
    """Features of the gate.

    - ``cosine``, ``sentence``: of the best passage, and of its sentence nearest to the question; each
      replaces the other if that is unknown.
    - ``coverage``: share of the question's words that it contains.
    - ``matched``: log of the number of the question's words that it contains: all of many words are stronger
      evidence than all of few.
    - ``margin``, ``coverage_margin``: its score minus the next one's, and its coverage minus the best of the
      others; up to :data:`MOST_MARGIN`.
    - ``agreement``: share of the rankings (cosine, sentence, BM25, coverage) that it leads.
    - ``read``: log-odds of the reader's probability; 0 without one.
    """
    words = dict.fromkeys(parse_words(question), 1.0)
    coverage = shares([sources_of(passage) for passage in found], words)
    cosines = [(passage.sentence or 0.0) if passage.cosine is None else passage.cosine for passage in found]
    nearest = [
        cosine if passage.sentence is None else passage.sentence
        for passage, cosine in zip(found, cosines, strict=True)
    ]
    rankings = (cosines, nearest, [passage.bm25 for passage in found], coverage)
    is_alone = len(found) == 1
    return {
        "cosine": cosines[0],
        "sentence": nearest[0],
        "coverage": coverage[0],
        "matched": math.log1p(coverage[0] * len(words)),
        "margin": ALONE if is_alone else min(MOST_MARGIN, found[0].score - found[1].score),
        "coverage_margin": ALONE if is_alone else min(MOST_MARGIN, coverage[0] - max(coverage[1:])),
        "agreement": sum(0 < values[0] == max(values) for values in rankings) / len(rankings),
        "read": _log_odds(found[0].read),
    }


def _log_odds(likely: float | None) -> float:
    if likely is None:
        return 0.0
    kept = min(1 - SUREST, max(SUREST, likely))
    return math.log(kept / (1 - kept))


def fitting(passages: Sequence[Found], budget: int = BUDGET) -> list[Found]:
    """The best passages within a token budget, at least one."""
    kept: list[Found] = []
    left = budget * CHARACTERS_PER_TOKEN
    for passage in passages:
        left -= len(sources_of(passage))
        if left < 0 and kept:
            break
        kept.append(passage)
    return kept


def is_of_figures(passage: Found) -> bool:
    """Whether a passage is a table row of numbers or dates without prose (``questions.csv`` has prose).

    Such a row resembles the question without answering it: tables are answered by computing, or not at all.
    """
    if find_kind(Path(passage.source)) not in TABULAR:
        return False
    values = [cell.partition(": ")[2].strip() or cell.strip() for cell in passage.text.split(CELLS)]
    return any(map(_is_figure, values)) and not any(map(_is_prose, values))


def _is_figure(value: str) -> bool:
    """A number with its prefix (``$4.50``, ``EUR 4.50``), or a date; not a code (``E12``)."""
    return _FIGURE.match(value) is not None or parse_moment(value) is not None


def _is_prose(value: str) -> bool:
    words = len(value.split())
    return words >= PROSE or (words >= SENTENCE and value.endswith(_ENDS))


def sources_of(passage: Found) -> str:
    """A passage with its heading."""
    return with_heading(passage.heading, passage.text)


def with_heading(heading: str, text: str) -> str:
    return f"{heading}\n{text}" if heading else text


def quotable(question: str, passage: Found) -> Place:
    """The part of a passage that can be quoted: the sentence nearest to the question and its two neighbours.
    The model reads the rest as context."""
    places = split_sentences(passage.text)
    if not places:
        return 0, len(passage.text)
    near = places.index(passage.nearest or most_like(question, passage.text))
    return places[max(0, near - 1)][0], places[min(len(places) - 1, near + 1)][1]


def pointed_at(passage: Found) -> Place | None:
    """The sentence in which most of the reader's answer spans begin, with what its colon introduces; None
    without spans. Of a very long sentence, only the part around the best span.

    A span's start and end are predicted independently, so the best span may cross sentences. The cosine to
    the question counts, too: text injected into a document to be quoted is rarely similar to the question,
    unless its author knew it. A sentence without a cosine gets the mean of the others.
    """
    places = split_sentences(passage.text)
    cosines = {(start, end): cosine for start, end, cosine in passage.sentences}
    usual = fmean(cosines.values()) if cosines else 0.0
    worth = {}
    for number, (start, end) in enumerate(places):
        if share := sum(likely for first, _, likely in passage.pointed if start <= first < end):
            worth[number] = math.log(share) + LIKENESS * cosines.get((start, end), usual)
    if not worth:
        return None
    number = max(worth, key=worth.__getitem__)
    start, end = places[number]
    if end - start > MOST_QUOTED:
        return _around(passage, start, end)
    return start, _announced(passage.text, places[number:])


def _around(passage: Found, start: int, end: int) -> Place:
    """Whole words of a long sentence around the best span that begins in it."""
    first, last, _ = next(run for run in passage.pointed if start <= run[0] < end)
    beside = max(0, MOST_QUOTED - (last - first)) // 2
    begin, stop = max(start, first - beside), min(end, last + beside)
    words = [match.span() for match in _WORD.finditer(passage.text, start, end)]
    kept = [(a, b) for a, b in words if begin <= a and b <= stop]
    return (kept[0][0], kept[-1][1]) if kept else (begin, stop)


def _announced(text: str, places: Sequence[Place]) -> int:
    """End of the first sentence, including the sentence or list that its colon introduces."""
    (start, end), *rest = places
    if not rest or not text[start:end].endswith(":"):
        return end
    is_list = ITEM.match(text, rest[0][0]) is not None
    for number, (first, last) in enumerate(rest):
        goes_on = ITEM.match(text, first) or not PARAGRAPH.search(text, end, first)
        if number and not (is_list and goes_on):
            break
        end = last
    return end


def most_like(sentence: str, text: str) -> Place:
    """The sentence of a text that shares most words with ``sentence``."""
    wanted = set(content_words(sentence))
    return max(
        split_sentences(text),
        key=lambda place: len(wanted & set(content_words(text[slice(*place)]))),
        default=(0, len(text)),
    )
