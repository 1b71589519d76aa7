"""Collection database: finds, creates, opens and checks the SQLite file, and explains SQLite's errors.

Transactions are atomic even if the process is killed, and other processes can read meanwhile. A power cut may
lose the last transactions, but doesn't damage the file (WAL with ``synchronous=NORMAL``, sqlite.org/wal.html,
section 3.2). Lost documents can be added again.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from edgeslm.bundle.manifest import MANIFEST
from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.documents.kinds import TABULAR, find_kind
from edgeslm.knowledge.index import word_index
from edgeslm.knowledge.index.table_store import SCHEMA, upgrade_tables
from edgeslm.knowledge.index.words import TOKENIZER

SUFFIX = ".sqlite"
SUFFIXES = (SUFFIX, ".sqlite3", ".db")
APPLICATION_ID = 0x65534B42
"""Application id ``eSKB`` in the file's header, by which file(1) and other programs recognise a
collection."""
FORMAT = 4
"""Format version of new files. Format 1 doesn't store the tables of documents; format 2 stores these tables
without parsed values, format 3 stores no languages. Files of all formats can be read, and are upgraded when
opened for writing."""
OLDEST_SQLITE = (3, 34, 0)
"""Minimum SQLite version: that of Debian 11, the oldest system tested."""
WAIT_S = 10.0
"""Seconds to wait for another writer, which holds the lock for one transaction (one document)."""
WAL_BYTES = 8_000_000
"""Size in bytes to which SQLite truncates a WAL file that has grown larger, such as after a long document."""

_TABLES = f"""
CREATE TABLE about (
    encoder TEXT,
    encoder_path TEXT,
    dimension INTEGER
);
INSERT INTO about VALUES (NULL, NULL, NULL);
CREATE TABLE documents (
    id INTEGER PRIMARY KEY,
    source TEXT NOT NULL UNIQUE,
    title TEXT NOT NULL,
    digest TEXT NOT NULL,
    size INTEGER NOT NULL,
    mtime REAL NOT NULL,
    file TEXT,
    added REAL NOT NULL,
    expires REAL,
    language TEXT
);
CREATE INDEX documents_file ON documents (file) WHERE file IS NOT NULL;
CREATE INDEX documents_expires ON documents (expires) WHERE expires IS NOT NULL;
CREATE TABLE passages (
    slot INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    document INTEGER NOT NULL,
    number INTEGER NOT NULL,
    start INTEGER NOT NULL,
    "end" INTEGER NOT NULL,
    embedded INTEGER NOT NULL,
    heading TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX passages_in_order ON passages (document, number);
CREATE INDEX passages_unembedded ON passages (slot) WHERE embedded = 0;
CREATE TABLE free_slots (slot INTEGER PRIMARY KEY);
CREATE TABLE vectors (block INTEGER PRIMARY KEY, slots BLOB NOT NULL);
CREATE VIRTUAL TABLE words USING fts5 (heading, text, content = '', tokenize = '{TOKENIZER}');
{SCHEMA.strip()}
{word_index.SCHEMA.strip()}
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
"""


def find_collection(path: Path) -> Path:
    """File of a collection, which may not exist yet. The suffix ``.sqlite`` is optional."""
    if path.suffix in SUFFIXES or path.is_file():
        return path
    return path.with_name(path.name + SUFFIX)


def open_database(file: Path, *, writes: bool) -> sqlite3.Connection:
    """Opens a collection; with ``writes``, creates it if missing.

    :raises KnowledgeError: the file is missing, unusable or not a collection, or SQLite is too old.
    """
    _check_sqlite()
    if writes and _is_shipped(file):
        raise KnowledgeError(f"{file} is part of a bundle, which never changes; add to a copy of it")
    try:
        if writes:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _keep_private(file)
        elif not file.is_file():
            raise _missing(file)
        db = sqlite3.connect(_address(file, writes), uri=True, isolation_level=None, timeout=WAIT_S)
        try:
            _set_up(db, file, writes)
        except BaseException:
            db.close()
            raise
    except OSError as error:
        raise KnowledgeError(f"{file} can't be used: {error.strerror}") from None
    except sqlite3.Error as error:
        raise refusal(file, error) from None
    return db


def _keep_private(file: Path) -> None:
    """Creates a missing file with mode 0600, since it will contain private texts; SQLite gives the WAL files
    the same mode. Files of earlier versions, with mode 0644, are changed to 0600."""
    try:
        # Only a new file: closing an existing one would drop this process's locks on it.
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        for path in (file, Path(f"{file}-wal"), Path(f"{file}-shm")):
            with suppress(OSError):
                status = path.stat()
                if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == 0o644:
                    path.chmod(0o600)


_OF_WHAT_IS_READ = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def write_copy(file: Path, out: Path) -> None:
    """Writes a snapshot of a collection to a new file, for distribution.

    The copy has no WAL file, no removed text, and no paths of this machine.

    :raises KnowledgeError: the collection can't be read, or the copy can't be written.
    """
    try:
        with closing(open_database(file, writes=False)) as db:
            db.execute("PRAGMA query_only = OFF")  # required for VACUUM INTO
            db.execute("VACUUM INTO ?", (str(out),))
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        raise refusal(file if code in _OF_WHAT_IS_READ else out, error) from None
    try:
        with closing(sqlite3.connect(out, isolation_level=None)) as db:
            (encoder,) = db.execute("SELECT encoder_path FROM about").fetchone()
            db.execute("UPDATE about SET encoder_path = ?", (encoder and Path(encoder).name,))
            db.execute("UPDATE documents SET file = NULL")
            db.execute("DROP TABLE IF EXISTS quarantine")
            db.execute("INSERT INTO words (words) VALUES ('optimize')")  # purges removed words
            db.execute("VACUUM")  # purges free pages
    except sqlite3.Error as error:
        raise refusal(out, error) from None


@contextmanager
def transaction(db: sqlite3.Connection, file: Path, *, writes: bool) -> Iterator[None]:
    """A transaction writes all changes or none, and all its reads see the same snapshot.

    :raises KnowledgeError: for an SQLite error.
    """
    try:
        db.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        try:
            yield
            db.execute("COMMIT")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise refusal(file, error) from None


def _missing(file: Path) -> KnowledgeError:
    return KnowledgeError(f"there is no collection {file}; edgeslm knowledge add {file} PATH creates one")


def refusal(file: Path, error: sqlite3.Error) -> KnowledgeError:
    """Converts an SQLite error to a ``KnowledgeError`` with a sentence for users."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the upper bits are a detail
    match code:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            what = f"{file} is being written to by another process; try again when that is done"
        case sqlite3.SQLITE_FULL:
            what = f"{file} can't be written: no space left on the disk; what was added before is kept"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            what = f"{file} can't be written to: its permissions or its disk don't allow it"
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            what = f"{file} is damaged or no collection ({error}); remove it and add its documents again"
        case _:
            what = f"{file} can't be used: {error}"
    return KnowledgeError(what)


def _check_sqlite() -> None:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        wanted = ".".join(map(str, OLDEST_SQLITE[:2]))
        raise KnowledgeError(
            f"this Python has SQLite {sqlite3.sqlite_version}; collections need {wanted} or newer"
        )
    try:
        with closing(sqlite3.connect(":memory:")) as db:
            db.execute("CREATE VIRTUAL TABLE probe USING fts5 (text)")
    except sqlite3.Error:
        raise KnowledgeError(
            f"this Python's SQLite {sqlite3.sqlite_version} is built without FTS5, its search for words, "
            "which collections need; use a Python whose SQLite has it, as Debian's"
        ) from None


def _is_shipped(file: Path) -> bool:
    return (file.parent / MANIFEST).exists()


def _address(file: Path, writes: bool) -> str:
    """SQLite URI of a collection. For reading, a file in a bundle or read-only folder is opened as immutable,
    without locks, unless its WAL file has data. Other files are opened read-write if permitted: the last
    connection to close removes the WAL file, but not if that connection was opened with ``mode=ro``."""
    log = Path(f"{file}-wal")
    has_log = log.exists() and log.stat().st_size > 0
    if writes:
        mode = "rwc"
    elif (_is_shipped(file) or not os.access(file.parent, os.W_OK)) and not has_log:
        mode = "ro&immutable=1"
    else:
        mode = "rw" if os.access(file.parent, os.W_OK) and os.access(file, os.W_OK) else "ro"
    return f"file:{quote(str(file.absolute()))}?mode={mode}"


def _set_up(db: sqlite3.Connection, file: Path, writes: bool) -> None:
    db.execute("PRAGMA cache_size = -2048")
    db.execute("PRAGMA temp_store = MEMORY")
    if not writes:
        if _is_new(db):  # its creator was killed early
            raise _missing(file)
        db.execute("PRAGMA query_only = ON")
    else:
        if _is_new(db):
            db.execute("PRAGMA journal_mode = WAL")
            with transaction(db, file, writes=True):
                if _is_new(db):  # another process may have created it meanwhile
                    for statement in _TABLES.split(";\n"):
                        db.execute(statement)
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    application, version = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    if application != APPLICATION_ID:
        raise KnowledgeError(f"{file} is a database of another program, no collection of documents")
    if not 1 <= version <= FORMAT:
        raise KnowledgeError(
            f"{file} has format {version}, this edgeslm reads up to {FORMAT}; add its documents to a new file"
        )
    if writes and version < FORMAT:
        with transaction(db, file, writes=True):
            _upgrade(db)


def _upgrade(db: sqlite3.Connection) -> None:
    """Upgrades a collection, without reading its passages. A file of format 2 gets the parsed values of table
    cells. In a file of format 1, the SQL tables for rows and cells are created, and the digests of tabular
    documents are cleared, so that the next ``add`` reads these documents again. Languages are detected later,
    see ``Collection.index_languages``."""
    version = db.execute("PRAGMA user_version").fetchone()[0]  # another process may have upgraded it
    if version == 2:
        upgrade_tables(db)
    elif version == 1:
        for statement in SCHEMA.strip().split(";\n"):
            db.execute(statement)
        for document, source in db.execute("SELECT id, ifnull(file, source) FROM documents").fetchall():
            if find_kind(Path(source)) in TABULAR:
                db.execute("UPDATE documents SET digest = '' WHERE id = ?", (document,))
    if version < FORMAT:
        db.execute("ALTER TABLE documents ADD COLUMN language TEXT")
        for statement in word_index.SCHEMA.strip().split(";\n"):
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {FORMAT}")


def _is_new(db: sqlite3.Connection) -> bool:
    return not db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
