"""Hybrid search: combines word search (BM25) and semantic search (cosine) into one score.

Both searches cover the whole collection. The best passages of either search are candidates, which get both
scores. Results keep both scores, by which the caller decides whether a question can be answered.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from statistics import fmean
from typing import TYPE_CHECKING

from edgeslm.knowledge.documents.languages import PLAIN
from edgeslm.knowledge.index import vectors
from edgeslm.knowledge.index.collection import Collection, Embed
from edgeslm.knowledge.index.queries import EVERYTHING, Filter, Found, Kept
from edgeslm.knowledge.index.slots import count_passages
from edgeslm.knowledge.index.word_index import (
    index_frequency,
    read_languages,
    read_stem_languages,
    read_stemmed,
)
from edgeslm.knowledge.index.words import count, parse_words, score, shares, weigh

if TYPE_CHECKING:
    import sqlite3

CANDIDATES = 50
"""Number of candidates that word search and semantic search each return, or ``k + 1`` if ``k + 1`` is
larger."""

_SLOTS = "SELECT slot FROM documents d JOIN passages p ON p.document = d.id"


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of the scores; only their ratios matter.

    In ``benchmarks/quality/documents.py search``, values of ``words`` from 0.2 to 0.3 give equally good
    results on all corpora.
    """

    words: float = 0.25
    meaning: float = 0.75
    heading: float = 0.05
    """Weight of the share of the question's words that are in the heading."""
    heading_word: float = 2.0
    """BM25 weight of a word in the heading; a word in the text has weight 1."""


@dataclass(frozen=True, slots=True)
class Place:
    """A collection to search. ``vector`` is the question's embedding by the collection's encoder; None for
    word search only."""

    collection: Collection
    vector: Sequence[float] | None = None
    name: str = ""


def search(
    collection: Collection,
    question: str,
    *,
    k: int = 5,
    embed: Embed | None = None,
    weights: Weights = Weights(),
    only: Filter = EVERYTHING,
    now: float | None = None,
) -> list[Found]:
    """The ``k`` best passages, best first. Without ``embed``, only words are searched.

    :param embed: the encoder that the collection was embedded with.
    :raises KnowledgeError: the collection can't be read.
    """
    vector = embed([question])[0] if embed is not None and collection.encoder is not None else None
    return search_all([Place(collection, vector)], question, k=k, weights=weights, only=only, now=now)


def search_all(
    places: Sequence[Place],
    question: str,
    *,
    k: int = 5,
    weights: Weights = Weights(),
    only: Filter = EVERYTHING,
    now: float | None = None,
) -> list[Found]:
    """Searches several collections and ranks all candidates in one list.

    :raises KnowledgeError: a collection can't be read.
    """
    now = time.time() if now is None else now
    candidates: list[_Candidate] = []
    for place in places:
        candidates += _candidates(place, question, max(CANDIDATES, k + 1), weights, only, now)
    scores = fuse(
        [one.bm25 for one in candidates],
        [one.cosine for one in candidates],
        [one.heading for one in candidates],
        weights,
    )
    order = sorted(range(len(candidates)), key=lambda number: (-scores[number], number))
    below = [scores[number] for number in order[1 : k + 1]] + [0.0]
    chosen = [candidates[number] for number in order[:k]]
    return [
        Found(
            **asdict(one.row.kept),
            score=scores[number],
            bm25=one.bm25,
            cosine=one.cosine,
            overlap=overlap,
            margin=scores[number] - next_score,
            collection=one.place,
            language=one.row.language,
        )
        for one, number, next_score, overlap in zip(chosen, order, below, _overlaps(chosen), strict=False)
    ]


def _overlaps(chosen: Sequence[_Candidate]) -> list[float]:
    """For each candidate, the share of the question's words that it contains; words are weighted as in the
    candidate's collection."""
    overlaps = [0.0] * len(chosen)
    for place in {one.place for one in chosen}:
        numbers = [number for number, one in enumerate(chosen) if one.place == place]
        texts = [chosen[number].row.whole for number in numbers]
        for number, share in zip(numbers, shares(texts, chosen[numbers[0]].word_weights), strict=True):
            overlaps[number] = share
    return overlaps


@dataclass(frozen=True, slots=True)
class _Candidate:
    row: _PassageRow
    bm25: float
    cosine: float | None
    heading: float
    """Share of the question's words that the title and heading contain."""
    word_weights: Mapping[str, float]
    """Weight of each word of the question in the candidate's collection."""
    place: str


def _candidates(
    place: Place, question: str, most: int, weights: Weights, only: Filter, now: float
) -> list[_Candidate]:
    """The best passages of one collection by BM25 or cosine, with both scores."""
    with place.collection.reading() as db:
        words = parse_words(question, read_languages(db), index_frequency(db))
        passages = count_passages(db)
        allowed = _allowed(db, only, now)
        counts = count(db, words)
        bm25 = score(db, counts, passages, allowed=allowed, heading_word=weights.heading_word)
        best = [-slot for _, slot in heapq.nlargest(most, ((value, -slot) for slot, value in bm25.items()))]
        cosines = {} if place.vector is None else _nearest(db, place.vector, most, allowed, best)
        slots = sorted({*best, *cosines})
        rows = _rows(db, slots)
    word_weights = weigh({**dict.fromkeys(words, 0), **counts}, passages)
    headings = shares([row.heading for row in rows], word_weights)
    return [
        _Candidate(row, bm25.get(slot, 0.0), cosines.get(slot), heading, word_weights, place.name)
        for slot, row, heading in zip(slots, rows, headings, strict=True)
    ]


def neighbours(collection: Collection, id: str, *, before: int = 1, after: int = 1) -> list[Kept]:
    """Passages around the passage ``id`` in its section, in document order; empty if that passage is gone."""
    with collection.reading() as db:
        rows = db.execute(
            'SELECT n.id, d.source, n.heading, n.text, n.start, n."end" FROM passages p '
            "JOIN passages n ON n.document = p.document AND n.heading = p.heading AND n.slot != p.slot "
            "AND n.number BETWEEN p.number - ? AND p.number + ? "
            "JOIN documents d ON d.id = p.document WHERE p.id = ? ORDER BY n.number",
            (before, after, id),
        )
        return [Kept(*row) for row in rows]


def widened(collection: Collection, found: Found, count: int) -> Found:
    """The passage, extended by up to ``count`` passages of its section on each side, separated by blank
    lines."""
    parts = sorted(
        [found, *neighbours(collection, found.id, before=count, after=count)], key=attrgetter("start")
    )
    text = "\n\n".join(part.text for part in parts)
    return replace(found, text=text, start=parts[0].start, end=max(part.end for part in parts))


def fuse(
    bm25: Sequence[float], cosines: Sequence[float | None], headings: Sequence[float], weights: Weights
) -> list[float]:
    """Combined score of each candidate, 0 to 1: the weighted mean of the BM25 score, the cosine, and the
    share of the question's words that the heading contains.

    First, each BM25 score is divided by the highest BM25 score of all candidates, and each cosine by the
    highest cosine. Scaling starts at 0, not at the lowest score, so that the number of candidates doesn't
    matter (Bruch et al., An Analysis of Fusion Functions for Hybrid Retrieval, TOIS 2023). A BM25 score or
    cosine that is 0 for all candidates is ignored. A passage without a vector, such as a new message, gets
    the mean cosine of the other candidates, so that it is not penalised.
    """
    known = [max(0.0, cosine) for cosine in cosines if cosine is not None]
    usual = fmean(known) if known else 0.0
    parts = [
        (weights.words, list(bm25)),
        (weights.meaning, [usual if cosine is None else max(0.0, cosine) for cosine in cosines]),
    ]
    scaled = [
        (weight, [value / best for value in values])
        for weight, values in parts
        if (best := max(values, default=0.0)) > 0
    ]
    scaled.append((weights.heading, list(headings)))
    total = sum(weight for weight, _ in scaled) or 1.0
    return [
        sum(weight * values[place] for weight, values in scaled) / total for place in range(len(headings))
    ]


@dataclass(frozen=True, slots=True)
class _PassageRow:
    kept: Kept
    heading: str
    """Title and heading as they were indexed."""
    whole: str
    """Title, heading and text as they were indexed, in which the question's words are looked up."""
    language: str


def _rows(db: sqlite3.Connection, slots: Sequence[int]) -> list[_PassageRow]:
    """The passages in ``slots``, in the same order; ``slots`` must be sorted."""
    marks = ", ".join("?" * len(slots))
    stemmed, languages = read_stemmed(db, slots), read_stem_languages(db, slots)
    rows = db.execute(
        'SELECT p.slot, d.title, p.id, d.source, p.heading, p.text, p.start, p."end" FROM passages p '
        f"JOIN documents d ON d.id = p.document WHERE p.slot IN ({marks}) ORDER BY p.slot",
        slots,
    )
    found: list[_PassageRow] = []
    for slot, title, *rest in rows:
        kept = Kept(*rest)
        heading, text = stemmed.get(slot) or (f"{title}\n{kept.heading}", kept.text)
        found.append(_PassageRow(kept, heading, f"{heading}\n{text}", languages.get(slot, PLAIN)))
    return found


def _nearest(
    db: sqlite3.Connection,
    vector: Sequence[float],
    most: int,
    allowed: bytearray | None,
    also: Iterable[int],
) -> dict[int, float]:
    """Cosines, by slot, of the ``most`` nearest passages and of the passages in ``also``, without passages
    that have no vector."""
    (dimension,) = db.execute("SELECT dimension FROM about").fetchone()
    if dimension is None:
        return {}
    import numpy as np

    cosines = vectors.cosines(db, dimension, vector)
    if allowed is not None:
        mask = np.zeros(len(cosines), np.bool_)
        mask[: len(allowed)] = np.frombuffer(allowed, np.bool_)[: len(mask)]
        cosines[~mask] = -np.inf
    nearest = np.argpartition(-cosines, most)[:most] if len(cosines) > most else np.arange(len(cosines))
    there = {*nearest.tolist(), *(slot for slot in also if slot < len(cosines))}
    return {slot: float(cosines[slot]) for slot in there if np.isfinite(cosines[slot])}


def _allowed(db: sqlite3.Connection, only: Filter, now: float) -> bytearray | None:
    """For each slot, 1 if its passage may be found, else 0; None if all passages may be found."""
    slots = int(db.execute("SELECT ifnull(max(slot) + 1, 0) FROM passages").fetchone()[0])
    expired = db.execute(f"{_SLOTS} WHERE expires <= ?", (now,)).fetchall()
    if only == Filter():
        if not expired:
            return None
        allowed = bytearray(b"\1") * slots
    else:
        allowed = bytearray(slots)
        chosen = db.execute(
            f"{_SLOTS} WHERE (:sources IS NULL OR source GLOB :sources) "
            "AND (:since IS NULL OR mtime >= :since) AND (:until IS NULL OR mtime <= :until)",
            {"sources": only.sources, "since": only.since, "until": only.until},
        )
        for (slot,) in chosen:
            allowed[slot] = 1
    for (slot,) in expired:
        allowed[slot] = 0
    return allowed
