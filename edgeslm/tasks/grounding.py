"""Grounding gate: decides by search scores whether collections can answer a question.

A logistic model estimates the probability that the best sentences of the best passage answer the question.
The model's features are scores of this passage and its sentences, and comparisons with the scores of the
other passages. No feature depends on the size of the collection.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeslm.bundle.spans import Place
from edgeslm.knowledge.documents.dates import parse_moment
from edgeslm.knowledge.documents.kinds import CELLS, TABULAR, find_kind
from edgeslm.knowledge.documents.sentences import split_sentences
from edgeslm.knowledge.index.queries import Found
from edgeslm.knowledge.index.words import parse_words, question_shares
from edgeslm.tasks.quoting import lead
from edgeslm.tasks.support import content_words

CHARACTERS_PER_TOKEN: Final = 3.5
BUDGET: Final = 1200
"""Maximum number of tokens, estimated from characters, of the passages shown to a model."""


PROSE: Final = 7
"""Table cells with at least this many words count as prose."""
SENTENCE: Final = 4
"""Table cells that end with ``.``, ``?`` or ``!`` count as prose even if they have only this many words."""
_ENDS: Final = (".", "?", "!")
_FIGURE: Final = re.compile(r"(?:\W*|[A-Z]{3} )\d")


@dataclass(frozen=True, slots=True)
class Gate:
    """A logistic model: weights of its features, and the minimum confidence for answering a question.

    ``share``: share of quotes from the right section that have the answer, for a model that estimates the
    probability of the section.
    """

    intercept: float
    weights: Mapping[str, float]
    threshold: float
    share: float = 1.0

    def confidence(self, figures: Mapping[str, float]) -> float:
        total = self.intercept + sum(weight * figures[name] for name, weight in self.weights.items())
        return self.share / (1 + math.exp(-total))


# Fitted by python benchmarks/quality/documents.py gate, on development data only.
GATE: Final = Gate(
    -4.94,
    {
        "cosine": 1.47,
        "sentence": 1.66,
        "margin": 4.43,
        "coverage": 1.11,
        "matched": 0.5,
        "coverage_margin": 1.68,
        "agreement": 0.67,
        "lead": 1.92,
    },
    0.21,
)
WORDS_GATE: Final = Gate(
    -2.82, {"coverage": 1.1, "matched": 0.64, "coverage_margin": 1.57, "agreement": 1.88}, 0.18
)
"""The gate for passages without embedding vectors."""


READ_GATE: Final = Gate(0.36, {"read": 0.54, "coverage_margin": 3.34}, 0.31, share=0.8)
"""The gate for passages scored by a reader model, trained as ``benchmarks/LOG.md`` describes.

The gate has only two features, since the others don't distinguish answers from passages on the same topic.
"""


def gate_for(found: Sequence[Found]) -> Gate:
    if any(passage.read is not None for passage in found):
        return READ_GATE
    return WORDS_GATE if all(passage.cosine is None for passage in found) else GATE


def confidence(question: str, found: Sequence[Found]) -> float:
    """Probability that a quote of the best passage answers the question."""
    return gate_for(found).confidence(figures_of(question, found)) if found else 0.0


def _coverage(question: str, found: Sequence[Found]) -> list[float]:
    """Share of the question's words that each passage contains."""
    values = [0.0] * len(found)
    for language in {passage.language for passage in found}:
        numbers = [number for number, passage in enumerate(found) if passage.language == language]
        texts = [sources_of(found[number]) for number in numbers]
        for number, share in zip(numbers, question_shares(question, texts, language), strict=True):
            values[number] = share
    return values


MOST_MARGIN: Final = 0.3
"""Upper limit of both margin features; larger margins carry no more information."""
SUREST: Final = 1e-3
"""The reader's probability is clipped to the range from this value to 1 minus this value."""
ALONE: Final = 0.1
"""Value of both margin features if only one passage was found: a typical, neutral margin."""


def figures_of(question: str, found: Sequence[Found]) -> dict[str, float]:
    """Features of the gate's logistic model.

    ``cosine``: cosine of the best passage to the question; if unknown, the value of ``sentence``.
    ``sentence``: highest cosine of the best passage's sentences; if unknown, the value of ``cosine``.
    ``coverage``: share of the question's words that the best passage contains.
    ``matched``: log of 1 plus the number of question words in the best passage, since a match of all words
    proves more for a long question than for a short one.
    ``margin``: score of the best passage minus the next passage's, up to :data:`MOST_MARGIN`.
    ``coverage_margin``: coverage of the best passage minus the highest coverage of the other passages, up to
    :data:`MOST_MARGIN`.
    ``lead``: score of the best passage's best sentence, minus the mean score of its sentences.
    ``agreement``: share of the rankings (cosine, sentence, BM25, coverage) where the best passage is first.
    ``read``: log-odds of the reader's probability; 0 without a reader.
    """
    words = parse_words(question, (found[0].language,))
    coverage = _coverage(question, found)
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
        "lead": lead(question, found[0]),
        "read": _log_odds(found[0].read),
    }


def _log_odds(likely: float | None) -> float:
    if likely is None:
        return 0.0
    kept = min(1 - SUREST, max(SUREST, likely))
    return math.log(kept / (1 - kept))


def fitting(passages: Sequence[Found], budget: int = BUDGET) -> list[Found]:
    """The best passages that fit into ``budget`` tokens; at least one passage, even if it is too long."""
    kept: list[Found] = []
    left = budget * CHARACTERS_PER_TOKEN
    for passage in passages:
        left -= len(sources_of(passage))
        if left < 0 and kept:
            break
        kept.append(passage)
    return kept


def is_of_figures(passage: Found) -> bool:
    """Whether a passage is a table row that has numbers or dates but no prose.

    A table row without prose may resemble a question without answering it. Questions about tables of numbers
    are answered by computing, or not at all.
    """
    if find_kind(Path(passage.source)) not in TABULAR:
        return False
    values = [cell.partition(": ")[2].strip() or cell.strip() for cell in passage.text.split(CELLS)]
    return any(map(_is_figure, values)) and not any(map(_is_prose, values))


def _is_figure(value: str) -> bool:
    """Whether a cell begins with a number (``$4.50``, ``EUR 4.50``) or is a date, unlike a code (``E12``)."""
    return _FIGURE.match(value) is not None or parse_moment(value) is not None


def _is_prose(value: str) -> bool:
    words = len(value.split())
    return words >= PROSE or (words >= SENTENCE and value.endswith(_ENDS))


def sources_of(passage: Found) -> str:
    """A passage's heading, if it has one, and on the next line its text."""
    return with_heading(passage.heading, passage.text)


def with_heading(heading: str, text: str) -> str:
    return f"{heading}\n{text}" if heading else text


def most_like(sentence: str, text: str) -> Place:
    """Start and end of the sentence of ``text`` that shares most content words with ``sentence``."""
    wanted = set(content_words(sentence))
    return max(
        split_sentences(text),
        key=lambda place: len(wanted & set(content_words(text[slice(*place)]))),
        default=(0, len(text)),
    )
