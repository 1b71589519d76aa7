"""Hybrid search: passages by their words (BM25) and their meaning (cosine), fused into one score.

Both rankings are made over the whole collection; what is best in either is a candidate, and each candidate
has both figures. Figures are kept beside the score, since whether a question can be answered at all is judged
by them and not by who came first.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter, itemgetter
from statistics import fmean
from typing import TYPE_CHECKING

from edgeslm.bundle.spans import Run
from edgeslm.knowledge.index import vectors
from edgeslm.knowledge.index.collection import Collection, Embed, Kept, count_passages
from edgeslm.knowledge.index.words import count, parse_words, score, shares, weigh

if TYPE_CHECKING:
    import sqlite3

CANDIDATES = 50
"""From each ranking, unless more are asked for."""

_SLOTS = "SELECT slot FROM documents d JOIN passages p ON p.document = d.id"


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each figure of a passage is worth; only their ratio matters.

    By ``benchmarks/quality/retrieval.py``: 0.2 to 0.3 for the words is as good, on each of its corpora.
    """

    words: float = 0.25
    meaning: float = 0.75
    heading: float = 0.05
    """Of the share of the question's words that its heading has."""
    heading_word: float = 2.0
    """Of a word in a heading within BM25, where one in the text has 1."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which documents are searched. ``sources`` is a pattern (``manuals/*.md``, where ``*`` is any text);
    times are seconds since 1970, of what the documents say (``Origin.mtime``)."""

    sources: str | None = None
    since: float | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Found(Kept):
    """A passage with its figures."""

    score: float
    """From 0 to 1, beside the other candidates of the same question only."""
    bm25: float
    """0 where it has none of the words that were scored."""
    cosine: float | None
    """None where the passage or the question has no vector."""
    overlap: float
    """Which part of the question's words it has with its heading, rare ones counting more: 0 to 1."""
    margin: float
    """By how much its score is above the next one's."""
    collection: str = ""
    """The name of its place."""
    sentences: tuple[Run, ...] = ()
    """The first of ``split_sentences(text)``, each with its cosine to the question; none where nobody looked
    (``rerank``)."""
    read: float | None = None
    """How likely it answers the question, says a reader; None where none read it (``rerank``)."""
    pointed: tuple[Run, ...] = ()
    """Where in ``text`` the answer would stand, says a reader that points."""

    @property
    def sentence(self) -> float | None:
        """Cosine of the sentence that is nearest to the question; None where nobody looked."""
        return max((cosine for *_, cosine in self.sentences), default=None)

    @property
    def nearest(self) -> tuple[int, int] | None:
        """Where that sentence stands in ``text``."""
        if not self.sentences:
            return None
        start, end, _ = max(self.sentences, key=itemgetter(2))
        return start, end


@dataclass(frozen=True, slots=True)
class Place:
    """A collection to search in. ``vector`` is the question's, by the collection's encoder; without one it is
    searched by its words alone."""

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
    only: Filter = Filter(),
    now: float | None = None,
) -> list[Found]:
    """The ``k`` best passages, the best first. Without ``embed`` they are found by their words alone.

    :param embed: by the encoder that the collection was embedded with.
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
    only: Filter = Filter(),
    now: float | None = None,
) -> list[Found]:
    """The same over several collections, whose candidates are judged beside one another.

    :raises KnowledgeError: one of them can't be read.
    """
    now = time.time() if now is None else now
    candidates: list[_Candidate] = []
    for place in places:
        candidates += _candidates(place, parse_words(question), max(CANDIDATES, k + 1), weights, only, now)
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
        )
        for one, number, next_score, overlap in zip(chosen, order, below, _overlaps(chosen), strict=False)
    ]


def _overlaps(chosen: Sequence[_Candidate]) -> list[float]:
    """Which part of the question's words each has; those of one collection are looked at together."""
    overlaps = [0.0] * len(chosen)
    for place in {one.place for one in chosen}:
        numbers = [number for number, one in enumerate(chosen) if one.place == place]
        texts = [chosen[number].row.whole for number in numbers]
        for number, share in zip(numbers, shares(texts, chosen[numbers[0]].telling), strict=True):
            overlaps[number] = share
    return overlaps


@dataclass(frozen=True, slots=True)
class _Candidate:
    row: _PassageRow
    bm25: float
    cosine: float | None
    heading: float
    """Share of the question's words that its heading has."""
    telling: Mapping[str, float]
    """How much each word of the question is worth in its collection."""
    place: str


def _candidates(
    place: Place, words: Sequence[str], most: int, weights: Weights, only: Filter, now: float
) -> list[_Candidate]:
    """The best of one collection by either figure, each with both."""
    with place.collection.reading() as db:
        passages = count_passages(db)
        allowed = _allowed(db, only, now)
        counts = count(db, words)
        bm25 = score(db, counts, passages, allowed=allowed, heading_word=weights.heading_word)
        best = [-slot for _, slot in heapq.nlargest(most, ((value, -slot) for slot, value in bm25.items()))]
        cosines = {} if place.vector is None else _nearest(db, place.vector, most, allowed, best)
        slots = sorted({*best, *cosines})
        rows = _rows(db, slots)
    telling = weigh({**dict.fromkeys(words, 0), **counts}, passages)
    headings = shares([f"{row.title}\n{row.kept.heading}" for row in rows], telling)
    return [
        _Candidate(row, bm25.get(slot, 0.0), cosines.get(slot), heading, telling, place.name)
        for slot, row, heading in zip(slots, rows, headings, strict=True)
    ]


def neighbours(collection: Collection, id: str, *, before: int = 1, after: int = 1) -> list[Kept]:
    """The passages around one in its section, in the document's order; none if it is gone."""
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
    """The passage with up to ``count`` before it and behind it in its section, blank lines between."""
    parts = sorted(
        [found, *neighbours(collection, found.id, before=count, after=count)], key=attrgetter("start")
    )
    text = "\n\n".join(part.text for part in parts)
    return replace(found, text=text, start=parts[0].start, end=max(part.end for part in parts))


def fuse(
    bm25: Sequence[float], cosines: Sequence[float | None], headings: Sequence[float], weights: Weights
) -> list[float]:
    """A score from 0 to 1 for each candidate: the weighted mean of its figures, scaled by the best ones.

    Scaled from 0 and not from the least among them, so that their number changes nothing (Bruch et al., An
    Analysis of Fusion Functions for Hybrid Retrieval, TOIS 2023). A figure that no candidate has takes
    no part. A passage without a vector, as of a message that came just now, is as near as the others are in
    their mean: that it isn't known how near says nothing against it.
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
    title: str
    kept: Kept

    @property
    def whole(self) -> str:
        """All in which a word of the question may be."""
        return f"{self.title}\n{self.kept.heading}\n{self.kept.text}"


def _rows(db: sqlite3.Connection, slots: Sequence[int]) -> list[_PassageRow]:
    """In the order of ``slots``, which are sorted."""
    marks = ", ".join("?" * len(slots))
    rows = db.execute(
        'SELECT d.title, p.id, d.source, p.heading, p.text, p.start, p."end" FROM passages p '
        f"JOIN documents d ON d.id = p.document WHERE p.slot IN ({marks}) ORDER BY p.slot",
        slots,
    )
    return [_PassageRow(title, Kept(*rest)) for title, *rest in rows]


def _nearest(
    db: sqlite3.Connection,
    vector: Sequence[float],
    most: int,
    allowed: bytearray | None,
    also: Iterable[int],
) -> dict[int, float]:
    """The cosines of the ``most`` nearest passages, and of ``also`` as far as they have vectors, by slot."""
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
    """By slot, whether its passage may be found; None for all."""
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
