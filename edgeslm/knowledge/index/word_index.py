"""Word index: adds passages to the FTS5 table ``words``, and removes them.

FTS5 doesn't store the indexed text, and needs it again to remove a passage. For English passages it is the
passage itself. The stems of other passages depend on the words that were known at the time, so ``stemmed``
keeps the text that was indexed.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from typing import Final

from edgeslm.knowledge.documents.languages import PLAIN, STEMMERS, detect_language
from edgeslm.knowledge.index.stems import COMPOUNDING, CompoundSplitter, Frequency, count_stems, stem_text

FORMAT_WITH_LANGUAGES: Final = 4
SCHEMA: Final = """
CREATE INDEX documents_language ON documents (language);
CREATE TABLE stemmed (slot INTEGER PRIMARY KEY, words BLOB NOT NULL);
"""
"""What format 4 adds, besides the column ``documents.language``: NULL for a document that an earlier version
indexed, whose language is not known yet."""

_INDEXED: Final = (
    "p.slot, d.title || char(10) || p.heading, p.text FROM passages p JOIN documents d ON d.id = p.document "
    "WHERE p.slot = ?"
)
_INSERT: Final = "INSERT INTO words (rowid, heading, text) VALUES (?, ?, ?)"
_DELETE: Final = "INSERT INTO words (words, rowid, heading, text) VALUES ('delete', ?, ?, ?)"
_LARGE: Final = 200
"""Number of passages above which a document's own words are enough to split its compounds."""
_MOST_COUNTED: Final = 20


def add_passages(db: sqlite3.Connection, slots: Sequence[int], language: str | None) -> None:
    """Indexes the passages of one document; call inside a transaction."""
    rows = [db.execute(f"SELECT {_INDEXED}", (slot,)).fetchone() for slot in slots]
    if language is None or language not in STEMMERS:
        db.executemany(_INSERT, rows)
        # An earlier version may have removed a passage of this slot without its stems.
        db.executemany("DELETE FROM stemmed WHERE slot = ?", [(slot,) for slot in slots])
        return
    splitter = CompoundSplitter(language, _frequency(db, rows, language))
    for slot, heading, text in rows:
        # Parts come last: words that stand side by side in a text do so in the index.
        stemmed = [
            "\n".join([stem_text(one, language), *splitter.parts(one)]).strip() for one in (heading, text)
        ]
        db.execute(_INSERT, (slot, *stemmed))
        db.execute("INSERT OR REPLACE INTO stemmed VALUES (?, ?)", (slot, _packed(*stemmed)))


def _frequency(db: sqlite3.Connection, rows: Sequence[tuple[int, str, str]], language: str) -> Frequency:
    """How often stems occur in a document or, if it is short, in the index."""
    if language not in COMPOUNDING:
        return lambda found: 0
    own = count_stems((f"{heading}\n{text}" for _, heading, text in rows), language)
    if len(rows) > _LARGE:
        return own.__getitem__
    others = index_frequency(db)
    return lambda found: own[found] or others(found)


def remove_passages(db: sqlite3.Connection, slots: Iterable[int]) -> None:
    """Removes passages from the index; call inside a transaction, before they are changed or deleted."""
    for slot in slots:
        found = db.execute("SELECT words FROM stemmed WHERE slot = ?", (slot,)).fetchone()
        if found is None:
            db.execute(_DELETE, db.execute(f"SELECT {_INDEXED}", (slot,)).fetchone())
        else:
            db.execute(_DELETE, (slot, *_unpacked(found[0])))
            db.execute("DELETE FROM stemmed WHERE slot = ?", (slot,))


def set_language(db: sqlite3.Connection, document: int, language: str) -> None:
    """Sets a document's language; its indexed passages are indexed again, if it has changed."""
    (before,) = db.execute("SELECT language FROM documents WHERE id = ?", (document,)).fetchone()
    if before == language:
        return
    if {before, language} & STEMMERS.keys():
        slots = [slot for (slot,) in db.execute("SELECT slot FROM passages WHERE document = ?", (document,))]
        remove_passages(db, slots)
        add_passages(db, slots, language)
    db.execute("UPDATE documents SET language = ? WHERE id = ?", (language, document))


def choose_language(db: sqlite3.Connection, text: str, configured: str | None) -> str:
    """Language of a document. A text too short to tell has that of the other documents, if they have one."""
    if found := configured or detect_language(text):
        return found
    others = _distinct_languages(db)
    return others[0] if len(others) == 1 else PLAIN


def next_to_index(db: sqlite3.Connection, language: str | None) -> int | None:
    """A document whose language isn't known, or isn't the configured one; None if there is none."""
    row = db.execute("SELECT id FROM documents WHERE language IS NULL LIMIT 1").fetchone()
    if row is None and language is not None:
        row = db.execute(
            "SELECT id FROM documents WHERE language < ? OR language > ? LIMIT 1", (language, language)
        ).fetchone()
    return None if row is None else row[0]


def index_again(db: sqlite3.Connection, document: int, configured: str | None) -> None:
    """Sets the language of a document that :func:`next_to_index` found, and indexes its passages by it."""
    texts = db.execute("SELECT text FROM passages WHERE document = ? ORDER BY number", (document,))
    set_language(db, document, choose_language(db, "\n".join(text for (text,) in texts), configured))


def read_languages(db: sqlite3.Connection) -> tuple[str, ...]:
    """Languages whose stems the index has; :data:`PLAIN` stands for all others."""
    if db.execute("PRAGMA user_version").fetchone()[0] < FORMAT_WITH_LANGUAGES:
        return (PLAIN,)
    found = _distinct_languages(db)
    has_plain = any(
        db.execute(f"SELECT 1 FROM documents WHERE language {which} LIMIT 1").fetchone()
        for which in ("IS NULL", "= ''")
    )
    stemmed = tuple(language for language in found if language in STEMMERS)
    return (PLAIN, *stemmed) if has_plain or len(stemmed) < len(found) or not stemmed else stemmed


def _distinct_languages(db: sqlite3.Connection) -> list[str]:
    """Known languages of the documents; one look-up in the index for each."""
    found: list[str] = []
    last = PLAIN
    next_one = "SELECT min(language) FROM documents WHERE language > ?"
    while (language := db.execute(next_one, (last,)).fetchone()[0]) is not None:
        found.append(last := language)
    return found


def index_frequency(db: sqlite3.Connection) -> Frequency:
    """Number of passages with a stem, up to 20."""
    known: dict[str, int] = {}

    def count(found: str) -> int:
        if found not in known:
            rows = f"SELECT 1 FROM words WHERE words MATCH ? LIMIT {_MOST_COUNTED}"
            known[found] = db.execute(f"SELECT count(*) FROM ({rows})", (f'"{found}"',)).fetchone()[0]
        return known[found]

    return count


def _packed(heading: str, text: str) -> bytes:
    return zlib.compress(f"{heading}\0{text}".encode())


def _unpacked(words: bytes) -> tuple[str, str]:
    heading, _, text = zlib.decompress(words).decode().partition("\0")
    return heading, text


def read_stemmed(db: sqlite3.Connection, slots: Sequence[int]) -> dict[int, tuple[str, str]]:
    """Heading and text of passages as they were indexed, by slot, without those that SQLite stems."""
    if db.execute("PRAGMA user_version").fetchone()[0] < FORMAT_WITH_LANGUAGES:
        return {}
    marks = ", ".join("?" * len(slots))
    rows = db.execute(f"SELECT slot, words FROM stemmed WHERE slot IN ({marks})", slots)
    return {slot: _unpacked(words) for slot, words in rows}


def read_stem_languages(db: sqlite3.Connection, slots: Sequence[int]) -> dict[int, str]:
    """Language of each passage, by slot, without those whose words SQLite stems."""
    if db.execute("PRAGMA user_version").fetchone()[0] < FORMAT_WITH_LANGUAGES:
        return {}
    marks = ", ".join("?" * len(slots))
    rows = db.execute(
        "SELECT p.slot, d.language FROM passages p JOIN documents d ON d.id = p.document "
        f"WHERE p.slot IN ({marks})",
        slots,
    )
    return {slot: language for slot, language in rows if language in STEMMERS}
