"""A question's passages: by their words (BM25) and by their meaning (cosine), fused into one score.

Both rankings are made over the whole collection; what is best in either is a candidate, and each candidate
has both figures. Figures are kept beside the score, since whether a question can be answered at all is judged
by them and not by who came first.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeslm.knowledge import vectors
from edgeslm.knowledge import words as wording
from edgeslm.knowledge.collection import Collection, Embed, Kept

if TYPE_CHECKING:
    import sqlite3

CANDIDATES = 100
"""From each ranking."""


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each figure of a passage is worth; only their ratio matters."""

    words: float = 0.3
    meaning: float = 0.7
    heading: float = 0.1
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


@dataclass(slots=True)
class _Candidate:
    slot: int
    bm25: float
    cosine: float | None
    heading: float = 0.0
    score: float = 0.0


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
    asked = wording.parse_words(question)
    vector = embed([question])[0] if embed is not None and collection.encoder is not None else None
    with collection.reading() as db:
        allowed = _allowed(db, only, time.time() if now is None else now)
        (passages,) = db.execute("SELECT count(*) FROM passages").fetchone()
        counts = wording.count(db, asked)
        candidates = _candidates(db, counts, passages, vector, allowed, weights)
        telling = wording.weigh({**dict.fromkeys(asked, 0), **counts}, passages)
        headings = _headings(db, candidates)
        for candidate, share in zip(candidates, wording.shares(headings, telling), strict=True):
            candidate.heading = share
        fuse(candidates, weights)
        best = heapq.nlargest(k + 1, candidates, key=lambda candidate: (candidate.score, -candidate.slot))
        return _found(db, best, telling)[:k]


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


def fuse(candidates: Sequence[_Candidate], weights: Weights) -> None:
    """Gives each candidate its score: the weighted mean of its figures, each scaled by the best there is.

    Scaled from the least value that is possible, not the least among the candidates (Bruch et al., An
    Analysis of Fusion Functions for Hybrid Retrieval, TOIS 2023): how many there are changes nothing.
    """
    bm25 = max((candidate.bm25 for candidate in candidates), default=0.0)
    cosine = max((candidate.cosine or 0.0 for candidate in candidates), default=0.0)
    meaning = weights.meaning if cosine > 0 else 0.0
    words = weights.words if bm25 > 0 else 0.0
    total = (words + meaning + weights.heading) or 1.0
    for candidate in candidates:
        score = weights.heading * candidate.heading
        if words:
            score += words * candidate.bm25 / bm25
        if meaning:
            score += meaning * max(0.0, candidate.cosine or 0.0) / cosine
        candidate.score = score / total


def _candidates(
    db: sqlite3.Connection,
    counts: Mapping[str, int],
    passages: int,
    vector: Sequence[float] | None,
    allowed: bytearray | None,
    weights: Weights,
) -> list[_Candidate]:
    scored = wording.score(db, counts, passages, heading_word=weights.heading_word)
    if allowed is not None:
        scored = {slot: score for slot, score in scored.items() if allowed[slot]}
    slots = set(heapq.nlargest(CANDIDATES, scored, key=lambda slot: (scored[slot], -slot)))
    (dimension,) = db.execute("SELECT dimension FROM about").fetchone()
    if vector is None or dimension is None:
        return [_Candidate(slot, scored[slot], None) for slot in sorted(slots)]
    import numpy as np

    cosines = vectors.cosines(db, dimension, vector)
    if allowed is not None:
        mask = np.frombuffer(allowed, np.bool_)
        cosines[: len(mask)][~mask[: len(cosines)]] = -np.inf
    nearest = np.argpartition(-cosines, min(CANDIDATES, len(cosines) - 1))[:CANDIDATES]
    slots.update(int(slot) for slot in nearest if np.isfinite(cosines[slot]))
    return [
        _Candidate(
            slot,
            scored.get(slot, 0.0),
            float(cosines[slot]) if slot < len(cosines) and np.isfinite(cosines[slot]) else None,
        )
        for slot in sorted(slots)
    ]


def _allowed(db: sqlite3.Connection, only: Filter, now: float) -> bytearray | None:
    """By slot, whether its passage may be found; None for all."""
    expired = db.execute("SELECT 1 FROM documents WHERE expires <= ? LIMIT 1", (now,)).fetchone()
    if only == Filter() and not expired:
        return None
    (last,) = db.execute("SELECT ifnull(max(slot), -1) FROM passages").fetchone()
    allowed = bytearray(last + 1)
    rows = db.execute(
        "SELECT slot FROM documents d JOIN passages p ON p.document = d.id "
        "WHERE (expires IS NULL OR expires > :now) AND (:sources IS NULL OR source GLOB :sources) "
        "AND (:since IS NULL OR mtime >= :since) AND (:until IS NULL OR mtime <= :until)",
        {"now": now, "sources": only.sources, "since": only.since, "until": only.until},
    )
    for (slot,) in rows:
        allowed[slot] = 1
    return allowed


def _headings(db: sqlite3.Connection, candidates: Sequence[_Candidate]) -> list[str]:
    """With the document's title, in the order of the candidates."""
    return [
        db.execute(
            "SELECT d.title || char(10) || p.heading FROM passages p JOIN documents d ON d.id = p.document "
            "WHERE p.slot = ?",
            (candidate.slot,),
        ).fetchone()[0]
        for candidate in candidates
    ]


def _found(db: sqlite3.Connection, best: Sequence[_Candidate], telling: Mapping[str, float]) -> list[Found]:
    rows = [
        db.execute(
            'SELECT p.id, d.source, p.heading, p.text, p.start, p."end", d.title FROM passages p '
            "JOIN documents d ON d.id = p.document WHERE p.slot = ?",
            (candidate.slot,),
        ).fetchone()
        for candidate in best
    ]
    overlaps = wording.shares(
        [f"{title}\n{heading}\n{text}" for _, _, heading, text, _, _, title in rows], telling
    )
    below = [candidate.score for candidate in best[1:]] + [0.0]
    return [
        Found(
            *(id, source, heading, text, start, end),
            score=one.score,
            bm25=one.bm25,
            cosine=one.cosine,
            overlap=overlap,
            margin=one.score - next_score,
        )
        for (id, source, heading, text, start, end, _), one, overlap, next_score in zip(
            rows, best, overlaps, below, strict=True
        )
    ]
