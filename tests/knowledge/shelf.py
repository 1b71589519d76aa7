"""Documents for collections in tests, an encoder that is a hash, and a look at whether all is whole."""

from __future__ import annotations

import hashlib
import math
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from edgeslm.knowledge.collection import EncoderTag, Origin
from edgeslm.knowledge.passages import Document, Passage

DIMENSION = 48
TAG = EncoderTag("sha256:hash", "/bundles/hash")
OTHER_TAG = EncoderTag("sha256:other", "/bundles/other")


def make_document(
    source: str, *texts: str, title: str | None = None, headings: Sequence[tuple[str, ...]] = ()
) -> tuple[Document, list[Passage]]:
    """One of these passages, with these headings or none."""
    text = "\n\n".join(texts)
    passages, start = [], 0
    for number, part in enumerate(texts):
        heading = headings[number] if headings else ()
        passages.append(Passage(number, heading, part, start, start + len(part)))
        start += len(part) + 2
    return Document(source, source if title is None else title, text), passages


def make_origin(digest: str = "0", *, mtime: float = 0.0, expires: float | None = None) -> Origin:
    return Origin(digest, 1, mtime, expires=expires)


def hash_embed(texts: Sequence[str]) -> list[list[float]]:
    """Unit vectors: texts with the same words are near each other."""
    return [_hash_vector(text) for text in texts]


def _hash_vector(text: str) -> list[float]:
    vector = [0.0] * DIMENSION
    for word in re.findall(r"\w+", text.lower()) or [""]:
        digest = hashlib.sha256(word.encode()).digest()
        vector[digest[0] % DIMENSION] += 1.0 if digest[1] % 2 else -1.0
    length = math.hypot(*vector)
    return [number / length for number in vector] if length else [1.0] + [0.0] * (DIMENSION - 1)


def faults(file: Path) -> list[str]:
    """What isn't whole in a collection, looked up past its own code."""
    with closing(sqlite3.connect(file)) as db:
        found = [row[0] for row in db.execute("PRAGMA integrity_check") if row[0] != "ok"]
        db.execute("INSERT INTO words (words) VALUES ('integrity-check')")
        slots = {row[0] for row in db.execute("SELECT slot FROM passages")}
        free = {row[0] for row in db.execute("SELECT slot FROM free_slots")}
        indexed = {row[0] for row in db.execute("SELECT id FROM words_docsize")}
        if slots & free or slots | free != set(range(len(slots) + len(free))):
            found.append(f"slots {sorted(slots)} and free ones {sorted(free)} aren't all there are")
        if indexed != slots:
            found.append(f"the index has {sorted(indexed ^ slots)} too many or too few")
        if db.execute("SELECT 1 FROM passages WHERE document NOT IN (SELECT id FROM documents)").fetchone():
            found.append("passages without a document")
        for document, numbers in db.execute("SELECT document, group_concat(number) FROM passages GROUP BY 1"):
            if sorted(map(int, numbers.split(","))) != list(range(numbers.count(",") + 1)):
                found.append(f"document {document} has the passages {numbers}")
        (dimension,) = db.execute("SELECT dimension FROM about").fetchone()
        embedded = {row[0] for row in db.execute("SELECT slot FROM passages WHERE embedded")}
        if dimension is not None and _with_vectors(db, dimension) != embedded:
            found.append(
                f"{sorted(_with_vectors(db, dimension) ^ embedded)} have vectors too many or too few"
            )
    return found


def _with_vectors(db: sqlite3.Connection, dimension: int) -> set[int]:
    size = dimension + 4
    return {
        block * 256 + place // size
        for block, raw in db.execute("SELECT block, slots FROM vectors")
        for place in range(0, len(raw), size)
        if any(raw[place + dimension : place + size])
    }
