"""The SQLite file behind journal, spool and windows: of one daemon alone, set aside when it is damaged.

What it promises: a write outlives the end of the process as soon as the call returns (it is in the kernel's
hands then). A power cut may take the last writes, never the file: WAL with ``synchronous=NORMAL``
(sqlite.org/wal.html, section 3.2). A transaction that asks for it is synced to the disk before it returns.

Its clock runs only while the node does, so that no jump of the wall clock can age an entry.

What is deleted is written over with zeros, and :meth:`Database.scrub` takes it out of the write-ahead log
too. With a :class:`~edgeslm.bus.seal.Seal` texts are encrypted; keys of requests, times and topics are not.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgeslm.bus.seal import Seal, load_seal
from edgeslm.errors import JournalError
from edgeslm.sections import Config

log = logging.getLogger("edgeslm.bus")

FORMAT = 1
SEALED_FORMAT = 2
"""The same, with texts encrypted: a version that doesn't know it leaves the file alone."""
_MARK = b"edgeslm"
PAGE_BYTES = 512
"""Each change writes whole pages; small ones spare an SD card (a row has some 400 bytes)."""
WAL_PAGES = 4000
"""So many pages are written before they move to the main file, which syncs both."""
RETRY_S = 1.0
"""How long a disk that refused a write is left alone."""

_TABLES = """
CREATE TABLE IF NOT EXISTS session (epoch INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL,
    at REAL NOT NULL,
    attempts INTEGER NOT NULL,
    result BLOB
);
CREATE TABLE IF NOT EXISTS spool (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key BLOB UNIQUE,
    at REAL NOT NULL,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    retain INTEGER NOT NULL,
    response_topic TEXT,
    correlation BLOB,
    expiry_s INTEGER,
    size INTEGER NOT NULL,
    identifiers TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS windows (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    route TEXT NOT NULL,
    topic TEXT NOT NULL,
    batch INTEGER NOT NULL,
    key BLOB UNIQUE,
    at REAL NOT NULL,
    received REAL NOT NULL,
    name TEXT NOT NULL,
    text TEXT
);
CREATE INDEX IF NOT EXISTS windows_of ON windows (route, topic, batch);
CREATE TABLE IF NOT EXISTS mark (sealed BLOB NOT NULL);
"""


SEALED = (("requests", "result", "key"), ("spool", "payload", "topic"), ("windows", "text", "topic"))
"""Tables, the column with a text, and the one that says what it is of."""


def place_of(table: str, about: bytes | str) -> bytes:
    """What a sealed text is bound to."""
    return table.encode() + b" " + (about.encode() if isinstance(about, str) else about)


class Database:
    """The file, which need not exist. One thread at a time."""

    def __init__(
        self, file: Path, *, seal: Seal | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.file = file
        self._seal = seal
        self.clock = clock
        self.problem: str | None = None
        """Why nothing can be written, as long as that lasts."""
        self._db: sqlite3.Connection | None = None
        self._base = 0.0
        self._failed_at: float | None = None

    def open(self) -> None:
        """Opens the file. One that is damaged is set aside, and everything begins anew.

        :raises JournalError: the folder can't be written to, another daemon uses the file, or its texts were
            encrypted with another key.
        """
        try:
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._connect()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                self._set_aside()
                self._connect()
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise JournalError(self._why_not_open(error)) from None
        except JournalError:
            self.close()
            raise
        every = " UNION ALL ".join(f"SELECT at FROM {table}" for table in ("requests", "spool", "windows"))
        row = self.read(f"SELECT max(at) FROM ({every})")
        self._base = (float(row[0] or 0.0) if row else 0.0) - self.clock()

    def close(self) -> None:
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.close()
            self._db = None

    @property
    def now(self) -> float:
        """Seconds for which nodes have run with this file."""
        return self._base + self.clock()

    @property
    def used_bytes(self) -> int:
        pages = self.opened.execute("PRAGMA page_count").fetchone()[0]
        free = self.opened.execute("PRAGMA freelist_count").fetchone()[0]
        return int(pages - free) * PAGE_BYTES

    @property
    def opened(self) -> sqlite3.Connection:
        if self._db is None:
            raise sqlite3.ProgrammingError("the journal is closed")
        return self._db

    def read(self, statement: str, *values: Any) -> Any:
        """The first row; None if there is none, or if it can't be read, which costs a second run at most."""
        try:
            return self.opened.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            log.warning("the journal can't be read (%s)", error)
            self._begin_anew_if_damaged(error)
            return None

    def rows(self, statement: str, *values: Any) -> Iterator[Any]:
        """All rows; those before a damaged page."""
        try:
            yield from self.opened.execute(statement, values)
        except sqlite3.Error as error:
            log.warning("the journal can't be read (%s)", error)

    def write(self, statement: str, *values: Any) -> int:
        """Returns the number of the row that was inserted last.

        :raises JournalError: it can't be written.
        """
        with self.writing() as db:
            return db.execute(statement, values).lastrowid or 0

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """:raises JournalError: what is done inside can't be written."""
        try:
            yield self.opened
        except sqlite3.Error as error:
            raise JournalError(self._refused(error)) from None
        if self.problem is not None:
            log.warning("the journal can be written again")
        self.problem = self._failed_at = None

    @contextmanager
    def synced(self) -> Iterator[sqlite3.Connection]:
        """One transaction that is on the disk when it ends.

        :raises JournalError: it isn't.
        """
        with self.writing() as db:
            db.execute("PRAGMA synchronous = FULL")
            try:
                db.execute("BEGIN")
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                db.execute("PRAGMA synchronous = NORMAL")

    def sealed(self, text: bytes, place: bytes) -> bytes:
        """A text as it is written down; ``place`` says what it is of."""
        return text if self._seal is None else self._seal.close(text, place)

    def unsealed(self, kept: bytes, place: bytes) -> bytes:
        """:raises ValueError: it is not as it was written."""
        return kept if self._seal is None else self._seal.open(kept, place)

    def scrub(self) -> None:
        """Empties the write-ahead log, in which what was deleted since may still stand. Syncs both files."""
        with suppress(sqlite3.Error):
            self.opened.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def shrink(self) -> None:
        """Writes the file anew without its free pages. :raises JournalError: it can't be."""
        with self.writing() as db:
            db.execute("VACUUM")
        self.scrub()

    @property
    def changes(self) -> int:
        """How many rows were written and deleted since it was opened."""
        return self.opened.total_changes

    @property
    def is_resting(self) -> bool:
        """Whether the disk refused a write a moment ago and is left alone."""
        return self._failed_at is not None and self.clock() - self._failed_at < RETRY_S

    def _connect(self) -> None:
        os.close(os.open(self.file, os.O_RDWR | os.O_CREAT, 0o600))  # texts are for nobody else
        # Statements are few and short, so each is its own transaction unless it says BEGIN.
        self._db = db = sqlite3.connect(self.file, isolation_level=None, timeout=1.0)
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        # One process: no shared memory beside the file, no lock to take for each statement.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        db.execute(f"PRAGMA journal_size_limit = {2 * WAL_PAGES * PAGE_BYTES}")
        db.execute("PRAGMA cache_size = -1024")
        db.execute("PRAGMA secure_delete = ON")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, FORMAT, SEALED_FORMAT):
            raise sqlite3.DatabaseError(f"format {version}")
        db.executescript(_TABLES)
        if version == 0:
            db.execute("INSERT INTO session SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM session)")
            db.execute(f"PRAGMA user_version = {FORMAT}")
        self._check_seal(db)

    def _check_seal(self, db: sqlite3.Connection) -> None:
        """Encrypts a file that wasn't yet. :raises JournalError: it was, with another key."""
        row = db.execute("SELECT sealed FROM mark").fetchone()
        begin_anew = f"Or remove {self.file}, which forgets what was answered, and what waits in it."
        if row is None:
            if self._seal is not None:
                self._seal_all(db, self._seal)
        elif self._seal is None:
            raise JournalError(
                f"The journal {self.file} is encrypted: name its key as `journal: key_file`. {begin_anew}"
            )
        else:
            try:
                self._seal.open(row[0], _MARK)
            except ValueError:
                raise JournalError(
                    f"The journal {self.file} was encrypted with another key: bring that one back. "
                    f"{begin_anew}"
                ) from None

    @staticmethod
    def _seal_all(db: sqlite3.Connection, seal: Seal) -> None:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN")
        for table, column, place in SEALED:
            numbers = db.execute(f"SELECT id FROM {table} WHERE {column} IS NOT NULL").fetchall()
            for (number,) in numbers:
                query = f"SELECT {column}, {place} FROM {table} WHERE id = ?"
                text, about = db.execute(query, (number,)).fetchone()
                text = text.encode() if isinstance(text, str) else text
                sealed = seal.close(text, place_of(table, about))
                db.execute(f"UPDATE {table} SET {column} = ? WHERE id = ?", (sealed, number))
        db.execute("INSERT INTO mark VALUES (?)", (seal.close(_MARK, _MARK),))
        db.execute(f"PRAGMA user_version = {SEALED_FORMAT}")
        db.execute("COMMIT")
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        db.execute("PRAGMA synchronous = NORMAL")

    def _begin_anew_if_damaged(self, error: sqlite3.Error) -> None:
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(
            error, sqlite3.OperationalError | sqlite3.ProgrammingError | sqlite3.IntegrityError
        ):
            with suppress(sqlite3.Error, OSError):  # the next try says if that was of use
                self._set_aside()
                self._connect()
                # Numbers of messages that were in the old file are still held: the new ones lie above them.
                self.opened.execute(
                    "INSERT INTO sqlite_sequence (name, seq) VALUES ('spool', ?)", (int(time.time()),)
                )

    def _set_aside(self) -> None:
        self.close()
        aside = self.file.with_suffix(".damaged")
        self.file.replace(aside)
        for suffix in ("-wal", "-shm"):
            Path(f"{self.file}{suffix}").unlink(missing_ok=True)
        log.error("the journal %s is damaged; it is kept as %s and begun anew", self.file.name, aside.name)

    def _refused(self, error: sqlite3.Error) -> str:
        if self.problem is None:
            log.error("the journal can't be written (%s); new requests are answered busy", error)
        self._failed_at = self.clock()
        self._begin_anew_if_damaged(error)
        self.problem = f"The journal can't be written ({error}); make room for {self.file.name}."
        return self.problem

    def _why_not_open(self, error: Exception) -> str:
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            return (
                f"The journal {self.file} is in use: another daemon runs with this node's name and "
                "state_dir. Give this one another `node` or `state_dir`, or stop the other."
            )
        why = error.strerror if isinstance(error, OSError) else error
        return f"The journal {self.file} can't be used ({why}); name a folder to write to as state_dir."


def journal_of(config: Config) -> Database:
    """The file of a node, not opened yet. :raises JournalError: its key can't be used."""
    key_file = config.journal.key_file
    seal = load_seal(key_file) if key_file is not None else None
    return Database(config.state_dir / f"journal-{config.node}.sqlite", seal=seal)
