"""Ids of passages, and their slots: positions in the vector store, and row ids in the word index."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

from edgeslm.knowledge.documents.passages import Document, Passage

_BEYOND = (
    "SELECT ifnull(max(slot) + 1, 0) FROM (SELECT max(slot) AS slot FROM passages "
    "UNION ALL SELECT max(slot) FROM free_slots)"
)
"""SQL query for the first slot of the vector store that was never used."""


def count_passages(db: sqlite3.Connection) -> int:
    """Number of passages, without the full scan that SQLite's ``count`` needs."""
    (free,) = db.execute("SELECT count(*) FROM free_slots").fetchone()
    return int(db.execute(_BEYOND).fetchone()[0]) - int(free)


def free_slots(db: sqlite3.Connection, wanted: int) -> Iterator[int]:
    """Reserves ``wanted`` slots in the vector store; slots of removed passages are reused first."""
    (beyond,) = db.execute(_BEYOND).fetchone()
    again = db.execute("SELECT slot FROM free_slots ORDER BY slot LIMIT ?", (wanted,)).fetchall()
    db.executemany("DELETE FROM free_slots WHERE slot = ?", again)
    return chain((slot for (slot,) in again), range(beyond, beyond + wanted - len(again)))


def slots_of(db: sqlite3.Connection, source: str) -> dict[str, int]:
    """The vector store's slots of a document's passages, by passage id."""
    rows = db.execute(
        "SELECT p.id, p.slot FROM passages p JOIN documents d ON d.id = p.document WHERE d.source = ?",
        (source,),
    )
    return dict(rows)


def passage_ids(document: Document, passages: Sequence[Passage]) -> Iterator[str]:
    """Yields the id of each passage, a hash of source and content. A counter makes the ids of passages with
    the same content differ."""
    seen: Counter[str] = Counter()
    for passage in passages:
        content = json.dumps([document.source, document.title, passage.heading, passage.text])
        yield hashlib.sha256(f"{seen[content]} {content}".encode()).hexdigest()[:16]
        seen[content] += 1
