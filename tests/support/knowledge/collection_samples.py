"""Documents for collections in tests, an encoder based on hashes, and a consistency check."""

from __future__ import annotations

import hashlib
import math
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from edgeslm.knowledge.documents.passages import Document, Passage
from edgeslm.knowledge.index.collection import DocumentOrigin
from edgeslm.knowledge.index.queries import EncoderTag
from tests.support.benchmarks.scripts import load_scripts

DIMENSION = 48
TAG = EncoderTag("sha256:hash", "/bundles/hash")
OTHER_TAG = EncoderTag("sha256:other", "/bundles/other")


def make_document(
    source: str, *texts: str, title: str | None = None, headings: Sequence[tuple[str, ...]] = ()
) -> tuple[Document, list[Passage]]:
    """A document of these passages, with these headings or none."""
    text = "\n\n".join(texts)
    passages, start = [], 0
    for number, part in enumerate(texts):
        heading = headings[number] if headings else ()
        passages.append(Passage(number, heading, part, start, start + len(part)))
        start += len(part) + 2
    return Document(source, source if title is None else title, text), passages


def make_origin(digest: str = "0", *, mtime: float = 0.0, expires: float | None = None) -> DocumentOrigin:
    return DocumentOrigin(digest, 1, mtime, expires=expires)


def hash_embed(texts: Sequence[str]) -> list[list[float]]:
    """Unit vectors that are near each other for texts with common words."""
    return [_hash_vector(text) for text in texts]


def _hash_vector(text: str) -> list[float]:
    vector = [0.0] * DIMENSION
    for word in re.findall(r"\w+", text.lower()) or [""]:
        digest = hashlib.sha256(word.encode()).digest()
        vector[digest[0] % DIMENSION] += 1.0 if digest[1] % 2 else -1.0
    length = math.hypot(*vector)
    return [number / length for number in vector] if length else [1.0] + [0.0] * (DIMENSION - 1)


def faults(file: Path) -> list[str]:
    """Inconsistencies of a collection's file, found by plain SQL."""
    found: list[str] = load_scripts("knowledge_kills")["knowledge_kills"].loose_parts(file)
    return found


@contextmanager
def refusing(file: Path, table: str, when: str = "TRUE") -> Iterator[None]:
    """A collection whose ``table`` can't be written, as on a disk with errors; ``when`` is a condition of
    SQL."""
    with closing(sqlite3.connect(file, timeout=60.0)) as db:
        for change in ("INSERT", "UPDATE"):
            db.execute(
                f"CREATE TRIGGER refused_{change} BEFORE {change} ON {table} WHEN {when} "
                "BEGIN SELECT RAISE(ABORT, 'it is refused'); END"
            )
        yield
        for change in ("INSERT", "UPDATE"):
            db.execute(f"DROP TRIGGER refused_{change}")
