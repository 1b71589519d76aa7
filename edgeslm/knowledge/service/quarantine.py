"""Quarantine: files that were given up over time, memory or a crash, left out by their content.

So neither a restart nor a new date has one read again, and other content of the same name is another file.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Final

from edgeslm.knowledge.documents.kinds import plain_suffix
from edgeslm.knowledge.index.collection import Collection, DocumentOrigin

TRIES: Final = 2
"""Once may be chance, as where something else took the memory."""
MOST: Final = 1000
"""That are remembered, the latest."""

# Made when it is needed: most collections never have one, and an older edgeslm reads the file with it too.
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS quarantine (
    digest TEXT NOT NULL,
    suffix TEXT NOT NULL,
    tries INTEGER NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (digest, suffix)
) WITHOUT ROWID
"""
_OLDEST: Final = "SELECT digest, suffix FROM quarantine ORDER BY at DESC LIMIT -1 OFFSET ?"

Key = tuple[str, str]
"""Digest of the content, and the suffix, by which its reader is chosen."""


class Quarantine:
    """That of a collection, which is open."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    def left_out(self) -> set[Key]:
        with self._collection.reading() as db:
            if not _is_there(db):
                return set()
            return set(db.execute("SELECT digest, suffix FROM quarantine WHERE tries >= ?", (TRIES,)))

    def tries(self, path: Path, origin: DocumentOrigin) -> int:
        """How often a file of this content was given up."""
        with self._collection.reading() as db:
            return _tries(db, _key(path, origin)) if _is_there(db) else 0

    def note(self, path: Path, origin: DocumentOrigin) -> int:
        """One more time, on the disk when this returns. :return: how often it was."""
        with self._collection.together(), self._collection.reading() as db:
            db.execute(_TABLE)
            key = _key(path, origin)
            tries = _tries(db, key) + 1
            db.execute("REPLACE INTO quarantine VALUES (?, ?, ?, ?)", (*key, tries, time.time()))
            db.execute(f"DELETE FROM quarantine WHERE (digest, suffix) IN ({_OLDEST})", (MOST,))
            return tries

    def release(self, path: Path, origin: DocumentOrigin) -> None:
        """It was read after all."""
        if self.tries(path, origin):
            with self._collection.together(), self._collection.reading() as db:
                db.execute("DELETE FROM quarantine WHERE digest = ? AND suffix = ?", _key(path, origin))


def _key(path: Path, origin: DocumentOrigin) -> Key:
    return origin.digest, plain_suffix(path)


def _is_there(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = 'quarantine'").fetchone())


def _tries(db: sqlite3.Connection, key: Key) -> int:
    row = db.execute("SELECT tries FROM quarantine WHERE digest = ? AND suffix = ?", key).fetchone()
    return int(row[0]) if row else 0
