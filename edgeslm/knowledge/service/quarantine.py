"""Quarantine: skips files that reached a limit or crashed the reader.

Files are recognised by content: a restart or a new modification time doesn't make the node read a file again,
but new content does.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Final

from edgeslm.knowledge.documents.kinds import plain_suffix
from edgeslm.knowledge.index.collection import Collection, DocumentOrigin

TRIES: Final = 2
"""Number of failures after which a file is skipped; a single failure may be by chance, such as a lack of
memory."""
MOST: Final = 1000

# Created on demand: most collections never need it, and older versions ignore it.
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
"""Digest of a file's content, and the suffix that selects the reader."""


class Quarantine:
    """The quarantine of an open collection.

    :param most: maximum number of entries; the newest entries are kept.
    """

    def __init__(self, collection: Collection, most: int = MOST) -> None:
        self._collection = collection
        self._most = most

    def left_out(self) -> set[Key]:
        with self._collection.reading() as db:
            if not _is_there(db):
                return set()
            return set(db.execute("SELECT digest, suffix FROM quarantine WHERE tries >= ?", (TRIES,)))

    def tries(self, path: Path, origin: DocumentOrigin) -> int:
        """How often reading this content failed."""
        with self._collection.reading() as db:
            return _tries(db, _key(path, origin)) if _is_there(db) else 0

    def note(self, path: Path, origin: DocumentOrigin) -> int:
        """Records a failure on disk. :return: number of failures of this content."""
        with self._collection.together(), self._collection.reading() as db:
            db.execute(_TABLE)
            key = _key(path, origin)
            tries = _tries(db, key) + 1
            db.execute("REPLACE INTO quarantine VALUES (?, ?, ?, ?)", (*key, tries, time.time()))
            db.execute(f"DELETE FROM quarantine WHERE (digest, suffix) IN ({_OLDEST})", (self._most,))
            return tries

    def release(self, path: Path, origin: DocumentOrigin) -> None:
        """Removes a file from quarantine after it was read successfully."""
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
