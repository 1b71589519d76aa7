"""Grounding gate: whether collections can answer a question, judged by figures of the search alone.

The figures say how the best passage stands to the question and to the others that were found. A logistic
model of them gives the confidence that it is of the section that answers the question. None of them depends
on the size of the collection.
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
"""Characters of a sentence that is quoted whole: a table without any end of a sentence is one."""
LIKENESS: Final = 4.0
"""What a sentence's cosine to the question counts beside the logarithm of what is pointed at in it
(``benchmarks/LOG.md``), with MiniLM: where another encoder's cosines lie closer together, it counts less."""
BUDGET: Final = 1200
"""Tokens of passages that a model reads for one question."""


PROSE: Final = 7
"""Words of a cell from which on it is read and not looked up."""
SENTENCE: Final = 4
"""Words of one that ends as a sentence does, which ``Bolt & Co.`` isn't."""
_ENDS: Final = (".", "?", "!")
_FIGURE: Final = re.compile(r"(?:\W*|[A-Z]{3} )\d")
_WORD: Final = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Gate:
    """Coefficients by the names of figures, and below which confidence a question is declined."""

    intercept: float
    weights: Mapping[str, float]
    threshold: float

    def confidence(self, figures: Mapping[str, float]) -> float:
        total = self.intercept + sum(weight * figures[name] for name, weight in self.weights.items())
        return 1 / (1 + math.exp(-total))


# From python benchmarks/quality/documents.py gate, which fits them on development data alone.
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
"""Where passages have no vectors."""


READ_GATE: Final = Gate(0.36, {"read": 0.54, "coverage_margin": 3.34}, 0.39)
"""Where a reader has read them, one that was taught as ``benchmarks/LOG.md`` tells. What else is known of a
passage says the same of what answers and of what only speaks of it, and is left out."""


def gate_for(found: Sequence[Found]) -> Gate:
    if any(passage.read is not None for passage in found):
        return READ_GATE
    return WORDS_GATE if all(passage.cosine is None for passage in found) else GATE


def confidence(question: str, found: Sequence[Found]) -> float:
    """How likely the best passage is of the right section, 0 to 1."""
    return gate_for(found).confidence(figures_of(question, found)) if found else 0.0


MOST_MARGIN: Final = 0.3
"""More says nothing more."""
SUREST: Final = 1e-3
"""A reader that is surer of a yes or a no says nothing more."""
ALONE: Final = 0.1
"""The margins of a passage that nothing was found beside: as most have, so that they say nothing."""


def figures_of(question: str, found: Sequence[Found]) -> dict[str, float]:
    """What the gate judges by.

    - ``cosine``, ``sentence``: of the best passage, and of the sentence of it that is nearest to the
      question; each in the place of the other where that isn't known.
    - ``coverage``: the share of the question's words that it has.
    - ``matched``: the logarithm of how many words of the question it has. Many words that are all there are
      more than one that is.
    - ``margin``, ``coverage_margin``: by how much its score is above the next one's, and the share of the
      question's words that it has above the most that another one has; up to :data:`MOST_MARGIN`.
    - ``agreement``: of cosine, sentence, BM25 and share of words, in how many it is the best of all.
    - ``read``: what a reader says of it, as log-odds; 0 without one.
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
    """The best passages that together have about as many tokens as the budget, the first one in any case."""
    kept: list[Found] = []
    left = budget * CHARACTERS_PER_TOKEN
    for passage in passages:
        left -= len(sources_of(passage))
        if left < 0 and kept:
            break
        kept.append(passage)
    return kept


def is_of_figures(passage: Found) -> bool:
    """Whether it is a row of a table with numbers or dates and without prose (``questions.csv`` has some).

    One of many such rows is like the question and no answer to it: what columns say is computed, or not said.
    """
    if find_kind(Path(passage.source)) not in TABULAR:
        return False
    values = [cell.partition(": ")[2].strip() or cell.strip() for cell in passage.text.split(CELLS)]
    return any(map(_is_figure, values)) and not any(map(_is_prose, values))


def _is_figure(value: str) -> bool:
    """A number, with what stands before it (``$4.50``, ``EUR 4.50``), or a date; no code (``E12``)."""
    return _FIGURE.match(value) is not None or parse_moment(value) is not None


def _is_prose(value: str) -> bool:
    words = len(value.split())
    return words >= PROSE or (words >= SENTENCE and value.endswith(_ENDS))


def sources_of(passage: Found) -> str:
    """What a passage says, with the titles above it."""
    return with_heading(passage.heading, passage.text)


def with_heading(heading: str, text: str) -> str:
    return f"{heading}\n{text}" if heading else text


def quotable(question: str, passage: Found) -> Place:
    """Where in a passage an answer is looked for: the sentence that is nearest to the question, the one
    before it and the one behind it. What stands elsewhere in the passage is read and can't be quoted."""
    places = split_sentences(passage.text)
    if not places:
        return 0, len(passage.text)
    near = places.index(passage.nearest or most_like(question, passage.text))
    return places[max(0, near - 1)][0], places[min(len(places) - 1, near + 1)][1]


def pointed_at(passage: Found) -> Place | None:
    """The sentence that most of what a reader points at begins in, with what its colon announces; None where
    none points. Of what has no end of a sentence for long, what is around the likeliest run.

    The likeliest run alone may go from one sentence to another: where it begins and where it ends are looked
    for apart from each other. How near a sentence is to the question counts beside it: what was put into a
    document to be quoted rarely speaks of what is asked, unless whoever did so knew the question. A sentence
    whose nearness nobody looked at is as near as the mean of the others.
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
    """Whole words of a long sentence around the likeliest run that begins in it."""
    first, last, _ = next(run for run in passage.pointed if start <= run[0] < end)
    beside = max(0, MOST_QUOTED - (last - first)) // 2
    begin, stop = max(start, first - beside), min(end, last + beside)
    words = [match.span() for match in _WORD.finditer(passage.text, start, end)]
    kept = [(a, b) for a, b in words if begin <= a and b <= stop]
    return (kept[0][0], kept[-1][1]) if kept else (begin, stop)


def _announced(text: str, places: Sequence[Place]) -> int:
    """Where the first sentence ends, with what is behind its colon: the next one, or a whole list."""
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
    """Start and end of the sentence of a text that has most of the words of another one."""
    wanted = set(content_words(sentence))
    return max(
        split_sentences(text),
        key=lambda place: len(wanted & set(content_words(text[slice(*place)]))),
        default=(0, len(text)),
    )
