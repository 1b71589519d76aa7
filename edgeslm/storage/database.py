"""The SQLite file behind journal, spool and windows: of one daemon alone, made anew when it is damaged.

What it promises: a write outlives the end of the process as soon as the call returns (it is in the kernel's
hands then). A power cut may take the last writes, never the file: WAL with ``synchronous=NORMAL``
(sqlite.org/wal.html, section 3.2). A transaction that asks for it is synced to the disk before it returns.

Its clock runs only while the node does, so that no jump of the wall clock can age an entry.

What is deleted is written over with zeros, and :meth:`Database.scrub` takes it out of the write-ahead log
too. With a :class:`~edgeslm.storage.encryption.Seal`, texts are encrypted; request keys, times and topics
are not.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from edgeslm.config.schema import Config
from edgeslm.errors import JournalError
from edgeslm.storage import set_aside, soundness
from edgeslm.storage.encryption import Seal, load_seal
from edgeslm.storage.renewal import write_draft
from edgeslm.storage.salvage import HEADER
from edgeslm.storage.schema import FORMAT, MARK, PAGE_BYTES, SEALED, SEALED_FORMAT, TABLES, place_of

log = logging.getLogger("edgeslm.storage")

WAL_PAGES = 4000
"""So many pages are written before they move to the main file, which syncs both."""
RETRY_S = 1.0
"""How long a disk that refused a write is left alone."""
MEND_EVERY_S = 60.0
"""How long a damaged file that could not be made anew is left alone."""
_NO_FORMAT = 1000
"""A higher number of a format is damage."""


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
        self.damage: str | None = None
        """What was damaged since it was opened, and what became of it."""
        self._failed_at: float | None = None
        self._unmended_at: float | None = None
        self._owed: tuple[str, tuple[Any, ...]] | None = None
        self._is_found_damaged = False

    def open(self) -> None:
        """Opens the file. One that is damaged is set aside; what can be read of it goes into a new one.

        :raises JournalError: the folder can't be written to, another daemon uses the file, a later version
            wrote it, or its texts were encrypted with another key. Then nothing was touched.
        """
        try:
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            set_aside.finish(self.file)
            try:
                self._look_at_header()
                was_closed = not soundness.has_log(self.file)
                self._connect()
                soundness.check(self.opened, all_of_it=not was_closed)
                self._base = soundness.last_time(self.opened) - self.clock()
            except (sqlite3.Error, OSError) as error:
                if not soundness.is_damage(error):
                    raise
                self._is_found_damaged = True
                self._renew(error)
                self._base = soundness.last_time(self.opened) - self.clock()
        except (OSError, sqlite3.Error, MemoryError) as error:
            self.close()
            raise JournalError(self._why_not_open(error)) from None
        except JournalError:
            self.close()
            raise

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
        return next(iter(self._rows(lambda: self.opened.execute(statement, values).fetchmany(1))), None)

    def all_rows(self, statement: str, *values: Any) -> list[Any]:
        """All rows; of a file that is damaged those that can be read, and of a text what is UTF-8."""

        def read() -> list[Any]:
            db = self.opened
            db.text_factory = lambda raw: raw.decode(errors="replace")
            try:
                return db.execute(statement, values).fetchall()
            finally:
                db.text_factory = str

        return self._rows(read)

    def _rows(self, read: Callable[[], list[Any]]) -> list[Any]:
        try:
            try:
                return read()
            except sqlite3.Error as error:
                log.warning("the journal can't be read (%s)", error)
                if self.mend(error):
                    return read()
        except (sqlite3.Error, MemoryError) as error:
            log.warning("the journal can't be read (%s)", error or "there is no memory for it")
        return []

    def rows(self, statement: str, *values: Any) -> Iterator[Any]:
        """All rows, one at a time; those before a damaged page."""
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
            if self._owed is not None:
                self.opened.execute(*self._owed)
                self._owed = None
            yield self.opened
        except (sqlite3.Error, MemoryError) as error:
            raise JournalError(self._refused(error)) from None
        if self.problem is not None:
            log.warning("the journal can be written again")
        self.problem = self._failed_at = None

    def write_first(self, statement: str, *values: Any) -> None:
        """Writes before all else: if it can't be written now, nothing is until it could be."""
        self._owed = statement, values
        with suppress(JournalError), self.writing():
            pass

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

    @property
    def is_sealed(self) -> bool:
        """Whether texts are encrypted in it."""
        return self._seal is not None

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
        if version:
            soundness.check_tables(db)
        db.executescript(TABLES)
        if version == 0:
            db.execute("INSERT INTO session SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM session)")
            db.execute(f"PRAGMA user_version = {FORMAT}")
        self._check_seal(db)

    def _look_at_header(self) -> None:
        """:raises JournalError: a later version wrote the file.
        :raises sqlite3.DatabaseError: its header is damaged, to which SQLite would say that it may not write.
        """
        for number, header in enumerate(soundness.headers(self.file)):
            if header[:16] != HEADER:
                continue
            if not number and not {*header[18:20]} <= {1, 2}:
                raise sqlite3.DatabaseError("its header is damaged")
            version = int.from_bytes(header[60:64], "big")
            if SEALED_FORMAT < version < _NO_FORMAT:
                raise JournalError(
                    f"The journal {self.file} has format {version}, of a later version of edgeslm, and this "
                    f"one reads up to {SEALED_FORMAT}: install the later version again. Nothing was changed. "
                    "Or move the file away, which forgets what was answered, and what waits in it."
                )

    def _check_mark(self, db: sqlite3.Connection) -> bool:
        """Whether it is encrypted. :raises JournalError: with a key that isn't there, or with another one."""
        row = db.execute("SELECT sealed FROM mark").fetchone()
        is_sealed = row is not None or db.execute("PRAGMA user_version").fetchone()[0] == SEALED_FORMAT
        begin_anew = f"Or remove {self.file}, which forgets what was answered, and what waits in it."
        if is_sealed and self._seal is None:
            raise JournalError(
                f"The journal {self.file} is encrypted: name its key as `journal: key_file`. {begin_anew}"
            )
        if is_sealed and self._seal is not None:
            # Without a mark, which damage may take, the texts say it.
            marks = [(row[0], MARK)] if row is not None else list(_sealed_texts(db))
            if marks and not any(_is_sealed(self._seal, *mark) for mark in marks):
                raise JournalError(
                    f"The journal {self.file} was encrypted with another key: bring that one back. "
                    f"{begin_anew}"
                )
        return row is not None

    def _check_seal(self, db: sqlite3.Connection) -> None:
        """Encrypts a file that wasn't yet. :raises JournalError: it was, with another key."""
        if not self._check_mark(db) and self._seal is not None:
            self._seal_all(db, self._seal)

    @staticmethod
    def _seal_all(db: sqlite3.Connection, seal: Seal) -> None:
        # Of a damaged file the mark may be lost, and texts are encrypted already.
        was_sealed = db.execute("PRAGMA user_version").fetchone()[0] == SEALED_FORMAT
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN")
        for table, column, place in () if was_sealed else SEALED:
            numbers = db.execute(f"SELECT id FROM {table} WHERE {column} IS NOT NULL").fetchall()
            for (number,) in numbers:
                query = f"SELECT {column}, {place} FROM {table} WHERE id = ?"
                text, about = db.execute(query, (number,)).fetchone()
                text = text.encode() if isinstance(text, str) else text
                if _is_sealed(seal, text, place_of(table, about)):
                    continue
                sealed = seal.close(text, place_of(table, about))
                db.execute(f"UPDATE {table} SET {column} = ? WHERE id = ?", (sealed, number))
        db.execute("INSERT INTO mark VALUES (?)", (seal.close(MARK, MARK),))
        db.execute(f"PRAGMA user_version = {SEALED_FORMAT}")
        db.execute("COMMIT")
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        db.execute("PRAGMA synchronous = NORMAL")

    def mend(self, error: sqlite3.Error) -> bool:
        """Makes the file anew if the error says that it is damaged. :return: whether it was."""
        if not soundness.is_damage(error):
            return False
        if self._unmended_at is not None and self.clock() - self._unmended_at < MEND_EVERY_S:
            return False
        try:
            self._renew(error)
        except (sqlite3.Error, OSError, JournalError) as failure:
            log.error("the journal is damaged and can't be made anew (%s)", failure)
            self._unmended_at = self.clock()
            self.close()
            with suppress(sqlite3.Error, OSError, JournalError):  # what can be read of it
                self._connect()
            return False
        return True

    def _renew(self, error: Exception) -> None:
        """Puts a new file with all rows that can be read in the place of the damaged one.

        :raises sqlite3.Error, OSError, JournalError: it can't be written, or the key is another one; then the
            damaged file stays.
        """
        self.close()
        salvaged = write_draft(self.file)
        draft = set_aside.draft_of(self.file)
        try:
            with closing(sqlite3.connect(draft)) as db:
                self._check_mark(db)
            copy = set_aside.replace(self.file, salvaged.taken)
        finally:
            if self.file.exists():  # else the next start goes on with the draft
                draft.unlink(missing_ok=True)
        kept = {table: len(numbers) for table, numbers in salvaged.taken.items()}
        self.damage = (
            f"The journal was damaged ({error}): {kept['spool']} waiting messages, {kept['windows']} of "
            f"windows and {salvaged.answers} entries of answers were read and kept, {salvaged.unreadable} "
            f"pages or rows can't be read. The damaged file is kept as {copy.name}; look at this node's disk."
        )
        log.error("%s", self.damage)
        self._connect()

    def _refused(self, error: sqlite3.Error | MemoryError) -> str:
        why = str(error) or "there is no memory for it"
        if self.problem is None:
            log.error("the journal can't be written (%s); new requests are answered busy", why)
        self._failed_at = self.clock()
        if isinstance(error, sqlite3.Error):
            self.mend(error)
        self.problem = f"The journal can't be written ({why}); make room for {self.file.name}."
        return self.problem

    def _why_not_open(self, error: Exception) -> str:
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            return (
                f"The journal {self.file} is in use: another daemon runs with this node's name and "
                "state_dir. Give this one another `node` or `state_dir`, or stop the other."
            )
        why = error.strerror if isinstance(error, OSError) else str(error) or "there is no memory for it"
        if self._is_found_damaged:
            return (
                f"The journal {self.file} is damaged and can't be made anew ({why}): make room in its folder "
                "and start again. Nothing of it was changed."
            )
        return f"The journal {self.file} can't be used ({why}); name a folder to write to as state_dir."


def _sealed_texts(db: sqlite3.Connection) -> Iterator[tuple[bytes, bytes]]:
    """Some texts of a file, each with its place."""
    for table, column, place in SEALED:
        query = f"SELECT {column}, {place} FROM {table} WHERE typeof({column}) = 'blob' LIMIT 20"
        for text, about in db.execute(query):
            yield text, place_of(table, about)


def _is_sealed(seal: Seal, text: bytes, place: bytes) -> bool:
    try:
        seal.open(text, place)
    except ValueError:
        return False
    return True


def journal_of(config: Config) -> Database:
    """The file of a node, not opened yet. :raises JournalError: its key can't be used."""
    key_file = config.journal.key_file
    seal = load_seal(key_file) if key_file is not None else None
    return Database(config.state_dir / f"journal-{config.node}.sqlite", seal=seal)
