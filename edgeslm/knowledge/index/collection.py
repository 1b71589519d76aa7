"""Collection: documents and their passages in one SQLite file.

A document is added, changed or removed in one transaction. When a document changes, its unchanged passages
keep their id, vector and slot (position in the vector store). The caller passes in the embedding function.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from edgeslm.bundle.manifest import short_digest
from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.documents.passages import Document, Passage, squeeze
from edgeslm.knowledge.index import vectors
from edgeslm.knowledge.index.database import find_collection, open_database, refusal, transaction
from edgeslm.knowledge.index.fair_lock import FairLock
from edgeslm.knowledge.index.queries import BETWEEN, EncoderTag
from edgeslm.knowledge.index.slots import free_slots, passage_ids, slots_of
from edgeslm.knowledge.index.table_store import drop_table, put_table
from edgeslm.knowledge.index.word_index import (
    add_passages,
    choose_language,
    index_again,
    next_to_index,
    remove_passages,
    set_language,
)

BATCH = 32
"""Number of passages in one call of :class:`Embed`."""

_BOTH = "passages p JOIN documents d ON d.id = p.document"


@dataclass(frozen=True, slots=True)
class DocumentOrigin:
    """Where a document comes from, and the digest, size and time that show whether it has changed."""

    digest: str
    size: int
    """Bytes."""
    mtime: float
    """Modification time of a file, or arrival time of a message, in seconds since 1970."""
    file: str | None = None
    """Absolute path; None for a message, or if the path isn't valid Unicode."""
    expires: float | None = None
    """Expiry time in seconds since 1970; None if the document doesn't expire."""


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A stored document without its text."""

    source: str
    title: str
    origin: DocumentOrigin
    added: float
    passages: int


class Embed(Protocol):
    """Function that embeds texts as vectors of equal length. Long texts are truncated; exceptions reach the
    caller."""

    def __call__(self, texts: Sequence[str], /) -> Sequence[Sequence[float]]: ...


class Collection:
    """A collection in one SQLite file. With ``writes``, a missing file is created. Only one thread at a time
    may use the object. Threads of a process that write to the same file share a ``lock``. ``language`` is the
    language of the documents that are added; None detects the language of each document."""

    def __init__(
        self,
        path: Path,
        *,
        writes: bool = False,
        lock: FairLock | None = None,
        language: str | None = None,
    ) -> None:
        self.file = find_collection(path)
        self._writes = writes
        self._lock = lock or FairLock()
        self._language = language
        self._db: sqlite3.Connection | None = None
        self._encoder: str | None = None
        """Digest of the encoder whose vectors this object writes."""

    def open(self) -> None:
        """:raises KnowledgeError: see :func:`open_database`."""
        self._db = open_database(self.file, writes=self._writes)
        self._encoder = tag.digest if (tag := self.encoder) is not None else None

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def __enter__(self) -> Collection:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """A context in which all reads see the same snapshot."""
        return self._transaction(writes=False)

    @contextmanager
    def together(self) -> Iterator[None]:
        """A context whose changes are made in one transaction, which is synced to disk at the end."""
        self._opened.execute("PRAGMA synchronous = FULL")
        try:
            with self._writing():
                yield
        finally:
            self._opened.execute("PRAGMA synchronous = NORMAL")

    # --- documents ----------------------------------------------------------------------------------

    def documents(self) -> list[StoredDocument]:
        """All documents, sorted by source."""
        with self.reading() as db:
            return [_entry(row) for row in db.execute(f"{_ENTRIES} GROUP BY d.id ORDER BY source")]

    def files(self) -> list[tuple[str, Path]]:
        """Source and path of each document that was read from a file."""
        with self.reading() as db:
            rows = db.execute("SELECT source, file FROM documents WHERE file IS NOT NULL ORDER BY source")
            return [(source, Path(file)) for source, file in rows]

    def sources(self, pattern: str) -> list[str]:
        """Sources that equal ``pattern`` or, if there are none, match it as a glob pattern."""
        with self.reading() as db:
            for how in ("=", "GLOB"):
                rows = db.execute(f"SELECT source FROM documents WHERE source {how} ?", (pattern,)).fetchall()
                if rows:
                    break
        return sorted(source for (source,) in rows)

    def find(self, source: str) -> StoredDocument | None:
        return self._find("source", source)

    def find_file(self, file: str) -> StoredDocument | None:
        """The document read from the path ``file``; the document's source may be another name."""
        return self._find("file", file)

    def put(
        self,
        document: Document,
        passages: Sequence[Passage],
        origin: DocumentOrigin,
        *,
        embed: Embed | None = None,
    ) -> int:
        """Adds or updates a document. :return: number of new passages.

        Vectors are computed before the transaction, so that other writers don't wait for the encoder. Without
        ``embed``, new passages are found by word search only, until :meth:`embed_missing` embeds them.

        :raises KnowledgeError: the document can't be written; the collection is unchanged.
        """
        ids = list(passage_ids(document, passages))
        with self.reading() as db:
            known = slots_of(db, document.source)
        new = [n for n, id in enumerate(ids) if id not in known]
        texts = [_to_embed(document.title, BETWEEN.join(passages[n].heading), passages[n].text) for n in new]
        vectors_of = dict(zip((ids[n] for n in new), _encoded(texts, embed), strict=True)) if embed else {}
        with self._writing() as db:
            known = slots_of(db, document.source)  # again: another process may have changed it
            staying = set(ids)
            self._drop(db, [slot for id, slot in known.items() if id not in staying])
            key = _put_document(db, document, origin)
            language = choose_language(db, document.text, self._language)
            added: list[int] = []
            set_language(db, key, language)
            put_table(db, key, document.table)
            free = free_slots(db, sum(id not in known for id in ids))
            for id, passage in zip(ids, passages, strict=True):
                row = (passage.number, passage.start, passage.end)
                if id in known:
                    db.execute(
                        'UPDATE passages SET number = ?, start = ?, "end" = ? WHERE slot = ?',
                        (*row, known[id]),
                    )
                else:
                    added.append(slot := next(free))
                    known[id] = slot
                    heading = BETWEEN.join(passage.heading)
                    db.execute(
                        "INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?)",
                        (slot, id, key, *row, heading, passage.text),
                    )
            add_passages(db, added, language)
            self._write_codes(db, {known[id]: code for id, code in vectors_of.items()})
        return len(new)

    def index_languages(self) -> int:
        """Detects the languages of documents that an earlier version added, or another language was
        configured for, and indexes their words again; one transaction for each document.

        :return: number of documents.
        """
        done = 0
        while True:
            with self.reading() as db:
                if (key := next_to_index(db, self._language)) is None:
                    return done
            with self._writing() as db:
                index_again(db, key, self._language)
            done += 1

    def refresh(self, source: str, origin: DocumentOrigin) -> None:
        """Updates the stored origin of a document whose content is unchanged."""
        with self._writing() as db:
            db.execute(
                "UPDATE documents SET digest = ?, size = ?, mtime = ?, file = ?, expires = ? "
                "WHERE source = ?",
                (origin.digest, origin.size, origin.mtime, origin.file, origin.expires, source),
            )

    def remove(self, source: str) -> bool:
        """Removes a document. :return: whether it existed."""
        with self._writing() as db:
            self._drop(db, slots_of(db, source).values())
            for (key,) in db.execute("SELECT id FROM documents WHERE source = ?", (source,)).fetchall():
                drop_table(db, key)
            return bool(db.execute("DELETE FROM documents WHERE source = ?", (source,)).rowcount)

    def remove_expired(self, now: float | None = None, *, most: int = -1) -> int:
        """Removes at most ``most`` expired documents in one transaction; a negative ``most`` removes all.

        :return: number of removed documents.
        """
        wanted = (now if now is not None else time.time(), most)
        with self.reading() as db:
            if not db.execute(_EXPIRED, wanted).fetchone():
                return 0
        with self._writing() as db:  # queried again: one may have been renewed
            return sum(self.remove(source) for (source,) in db.execute(_EXPIRED, wanted).fetchall())

    def shrink(self) -> None:
        """Erases the text of removed passages from the file. Otherwise, removed text stays in free pages, and
        in the word index, which only marks it as deleted.

        :raises KnowledgeError: the file can't be written now.
        """
        db = self._opened
        try:
            db.execute("PRAGMA secure_delete = ON")
            with self._writing():
                db.execute("INSERT INTO words (words) VALUES ('optimize')")
            db.execute("VACUUM")
            busy = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.Error as error:
            raise refusal(self.file, error) from None
        if busy:
            raise KnowledgeError(
                f"{self.file} is being read: removed passages are deleted from it, but may stay in "
                "its write-ahead log until the next attempt"
            )

    # --- vectors ------------------------------------------------------------------------------------

    @property
    def encoder(self) -> EncoderTag | None:
        with self.reading() as db:
            digest, path = db.execute("SELECT encoder, encoder_path FROM about").fetchone()
        return None if digest is None else EncoderTag(digest, path)

    def use_encoder(self, tag: EncoderTag, *, replace: bool = False) -> None:
        """Sets the encoder of the collection's vectors. With ``replace``, vectors of another encoder are
        deleted.

        :raises KnowledgeError: the collection has another encoder, and ``replace`` is false.
        """
        with self._writing() as db:
            there = self.encoder
            if there is not None and there.digest != tag.digest:
                if not replace:
                    raise KnowledgeError(
                        f"{self.file} was embedded with another encoder, {there.path} "
                        f"({short_digest(there.digest)}); "
                        "use that one, or embed all passages again with --re-embed"
                    )
                db.execute("DELETE FROM vectors")
                db.execute("UPDATE passages SET embedded = 0")
                db.execute("UPDATE about SET dimension = NULL")
            if there != tag:
                db.execute("UPDATE about SET encoder = ?, encoder_path = ?", (tag.digest, tag.path))
        self._encoder = tag.digest

    @property
    def unembedded(self) -> int:
        """Number of passages without a vector."""
        with self.reading() as db:
            return int(db.execute("SELECT count(*) FROM passages WHERE embedded = 0").fetchone()[0])

    def embed_missing(self, embed: Embed) -> int:
        """Embeds passages without a vector, one transaction for each batch. :return: number of embedded
        passages."""
        done, after = 0, -1
        while True:
            with self.reading() as db:
                rows = db.execute(
                    f"SELECT p.slot, p.id, d.title, p.heading, p.text FROM {_BOTH} "
                    "WHERE p.embedded = 0 AND p.slot > ? ORDER BY p.slot LIMIT ?",
                    (after, BATCH),
                ).fetchall()
            if not rows:
                return done
            codes = _encoded([_to_embed(*row[2:]) for row in rows], embed)
            with self._writing() as db:
                there = {slot: id for slot, id, *_ in rows}
                still = {
                    slot: code
                    for slot, code in zip(there, codes, strict=True)
                    if db.execute("SELECT id FROM passages WHERE slot = ?", (slot,)).fetchone()
                    == (there[slot],)
                }
                self._write_codes(db, still)
            done, after = done + len(rows), rows[-1][0]

    def _write_codes(self, db: sqlite3.Connection, codes: dict[int, bytes]) -> None:
        if not codes:
            return
        encoder, there = db.execute("SELECT encoder, dimension FROM about").fetchone()
        if encoder is None or encoder != self._encoder:
            raise KnowledgeError(f"{self.file} has no encoder, or got another one meanwhile; add once more")
        for code in codes.values():
            dimension = len(code) - vectors.SCALE_BYTES
            if there is None:
                db.execute("UPDATE about SET dimension = ?", (there := dimension,))
            if dimension != there:
                raise KnowledgeError(
                    f"{self.file} has vectors of {there} numbers, the encoder gives {dimension}"
                )
        vectors.write(db, codes)
        db.executemany("UPDATE passages SET embedded = 1 WHERE slot = ?", ((slot,) for slot in codes))

    # --- inside -------------------------------------------------------------------------------------

    @property
    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            raise KnowledgeError(f"{self.file} is closed")
        return self._db

    def _writing(self) -> AbstractContextManager[sqlite3.Connection]:
        return self._transaction(writes=True)

    @contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[sqlite3.Connection]:
        db = self._opened
        if db.in_transaction:  # inside ``together``
            yield db
            return
        with self._lock if writes else nullcontext(), transaction(db, self.file, writes=writes):
            yield db

    def _find(self, column: str, value: str) -> StoredDocument | None:
        with self.reading() as db:
            row = db.execute(f"{_ENTRIES} WHERE {column} = ? GROUP BY d.id", (value,)).fetchone()
        return None if row is None else _entry(row)

    def _drop(self, db: sqlite3.Connection, slots: Iterable[int]) -> None:
        """Removes passages from all tables and frees their slots."""
        rows = [(slot,) for slot in slots]
        remove_passages(db, (slot for (slot,) in rows))
        db.executemany("DELETE FROM passages WHERE slot = ?", rows)
        db.executemany("INSERT INTO free_slots VALUES (?)", rows)
        (dimension,) = db.execute("SELECT dimension FROM about").fetchone()
        if dimension is not None:
            vectors.clear(db, dimension, (slot for (slot,) in rows))


_EXPIRED = "SELECT source FROM documents WHERE expires <= ? LIMIT ?"
_ENTRIES = (
    "SELECT source, title, digest, size, mtime, file, expires, added, count(p.slot) "
    "FROM documents d LEFT JOIN passages p ON p.document = d.id"
)


def _entry(row: tuple[str, str, str, int, float, str | None, float | None, float, int]) -> StoredDocument:
    source, title, digest, size, mtime, file, expires, added, passages = row
    return StoredDocument(source, title, DocumentOrigin(digest, size, mtime, file, expires), added, passages)


def _to_embed(title: str, heading: str, text: str) -> str:
    """Text to embed: the passage with title and headings. Without title and headings, MiniLM ranks the right
    section of the Debian FAQ first for 45 % of questions instead of 49 %."""
    return squeeze("\n".join((title, heading, text)))


def _encoded(texts: Sequence[str], embed: Embed) -> list[bytes]:
    """Vectors of the texts in order, as encoded by ``vectors.encode``."""
    batches = (texts[begin : begin + BATCH] for begin in range(0, len(texts), BATCH))
    return [code for batch in batches for code in vectors.encode(embed(batch))]


def _put_document(db: sqlite3.Connection, document: Document, origin: DocumentOrigin) -> int:
    """Inserts or updates a document's row. :return: primary key of the row."""
    row = (
        *(document.source, document.title, origin.digest, origin.size, origin.mtime),
        *(origin.file, time.time(), origin.expires),
    )
    db.execute(
        "INSERT INTO documents (source, title, digest, size, mtime, file, added, expires) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (source) DO UPDATE SET title = excluded.title, "
        "digest = excluded.digest, size = excluded.size, mtime = excluded.mtime, file = excluded.file, "
        "added = excluded.added, expires = excluded.expires",
        row,
    )
    key: int = db.execute("SELECT id FROM documents WHERE source = ?", (document.source,)).fetchone()[0]
    return key
