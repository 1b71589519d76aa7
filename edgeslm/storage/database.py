"""SQLite database of journal, spool and windows: used by one daemon, and rebuilt when it is damaged.

Durability: as soon as a write returns, it survives a crash of the process, since the kernel has the data. A
power cut may lose the last writes but doesn't damage the file, which uses a write-ahead log (WAL) with
``synchronous=NORMAL`` (sqlite.org/wal.html, section 3.2). A transaction in the context
:meth:`Database.synced` is synced to the disk when the context ends.

The database's clock runs only while the node runs, so that entries don't age when the wall clock jumps.

Deleted data is overwritten with zeros; :meth:`Database.scrub` also removes it from the write-ahead log. If
there is a :class:`~edgeslm.storage.encryption.Seal`, texts are encrypted; request keys, times and topics
aren't.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from edgeslm.config.schema import Config
from edgeslm.errors import JournalError, plural
from edgeslm.storage import set_aside, soundness
from edgeslm.storage.checksum import SELECT, checksum, is_sound, write_checksum
from edgeslm.storage.encryption import Seal, load_seal
from edgeslm.storage.renewal import write_draft
from edgeslm.storage.salvage import HEADER
from edgeslm.storage.schema import FORMAT, MARK, PAGE_BYTES, SEALED_FORMAT, create
from edgeslm.storage.sealing import fits_key, seal_all, sealed_texts
from edgeslm.storage.soundness import ERRORS

log = logging.getLogger("edgeslm.storage")

WAL_PAGES = 4000
"""Number of pages in the write-ahead log that triggers a checkpoint, which syncs the log and the database
file."""
RETRY_S = 1.0
"""Pause after a failed write."""
MEND_EVERY_S = 60.0
"""Pause after a failed rebuild of a damaged file."""
_ROWS = {"requests": "answer", "spool": "waiting message", "windows": "window message"}
_NO_FORMAT = 1000
"""Lower bound of invalid format numbers. A number at or above this bound means a damaged header, since no
version of edgeslm writes such a number."""


class Database:
    """The database file; ``open`` creates it if missing. Only one thread at a time may use it."""

    def __init__(
        self, file: Path, *, seal: Seal | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.file = file
        self._seal = seal
        self.clock = clock
        self.problem: str | None = None
        """Why the file can't be written now; None if it can."""
        self._db: sqlite3.Connection | None = None
        self._base = 0.0
        self._renewal: str | None = None
        self._unsound: Counter[str] = Counter()
        self._failed_at: float | None = None
        self._unmended_at: float | None = None
        self._owed: tuple[str, tuple[Any, ...]] | None = None
        self._is_found_damaged = False
        self._lacks_checksums = False

    def open(self) -> None:
        """Opens the file. A damaged file is renamed to a numbered copy, and its readable rows are written to
        a new file.

        :raises JournalError: the folder isn't writable, another daemon uses the file, a later version wrote
            it, or it is encrypted with another key. The file is unchanged after such an error.
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
            except (*ERRORS, OSError) as error:
                if not soundness.is_damage(error):
                    raise
                self._is_found_damaged = True
                self._renew(error)
                self._base = soundness.last_time(self.opened) - self.clock()
        except (OSError, *ERRORS, MemoryError) as error:
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
        """The database's clock: the total time, in seconds, that nodes have run with this file."""
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
        """The first row of a query's result; None if there is none or it can't be read. An unreadable row at
        worst makes a request run twice."""
        return next(iter(self._rows(lambda: self.opened.execute(statement, values).fetchmany(1))), None)

    def all_rows(self, statement: str, *values: Any) -> list[Any]:
        """All rows of a query's result. If the file is damaged, the file is first rebuilt from its readable
        rows. Invalid UTF-8 is replaced."""

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
            except ERRORS as error:
                log.warning("the journal can't be read (%s)", error)
                if self.mend(error):
                    return read()
        except (*ERRORS, MemoryError) as error:
            log.warning("the journal can't be read (%s)", error or "there is no memory for it")
        return []

    def rows(self, statement: str, *values: Any) -> Iterator[Any]:
        """Yields the rows of a query's result; stops at a damaged page."""
        try:
            yield from self.opened.execute(statement, values)
        except sqlite3.Error as error:
            log.warning("the journal can't be read (%s)", error)

    def write(self, statement: str, *values: Any) -> int:
        """Runs a statement. :return: row number of the last insertion.

        :raises JournalError: the file can't be written.
        """
        with self.writing() as db:
            return db.execute(statement, values).lastrowid or 0

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Context manager: turns database errors into JournalError.

        :raises JournalError: a write failed.
        """
        try:
            if self._owed is not None:
                self.opened.execute(*self._owed)
                self._owed = None
            yield self.opened
        except (*ERRORS, MemoryError) as error:
            raise JournalError(self._refused(error)) from None
        if self.problem is not None:
            log.warning("the journal can be written again")
        self.problem = self._failed_at = None

    def write_first(self, statement: str, *values: Any) -> None:
        """Runs a statement that later writes depend on: if it fails, it is retried before the next write."""
        self._owed = statement, values
        with suppress(JournalError), self.writing():
            pass

    @contextmanager
    def synced(self) -> Iterator[sqlite3.Connection]:
        """Context manager: one transaction, synced to the disk when it ends.

        :raises JournalError: the file can't be written.
        """
        with self.writing() as db:
            self._complete_tables(db)
            db.execute("PRAGMA synchronous = FULL")
            try:
                with self._transaction(db):
                    yield db
            finally:
                db.execute("PRAGMA synchronous = NORMAL")

    @contextmanager
    def _transaction(self, db: sqlite3.Connection) -> Iterator[None]:
        try:
            db.execute("BEGIN")
            yield
            db.execute("COMMIT")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")

    def insert(self, table: str, row: Mapping[str, Any]) -> int:
        """Inserts a row with its checksum. ``row``: values by column. :return: its row number.

        :raises JournalError: the file can't be written.
        """
        if self._db is not None and self._db.in_transaction:  # its context handles errors
            return self._insert(self._db, table, row)
        with self.writing() as db:
            self._complete_tables(db)
            with self._transaction(db):
                return self._insert(db, table, row)

    def _insert(self, db: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> int:
        statement = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"
        number = db.execute(statement, [*row.values()]).lastrowid or 0
        write_checksum(db, table, number, checksum(table, row, is_sealed=self.is_sealed))
        return number

    def _complete_tables(self, db: sqlite3.Connection) -> None:
        """Creates the tables for which a full disk had no room at the start."""
        if self._lacks_checksums:
            create(db)
            self._lacks_checksums = False

    @property
    def damage(self) -> str | None:
        """Message for users about the damage that was found since the daemon started, and about the rescued
        rows; None if nothing was damaged."""
        told = [self._renewal] if self._renewal else []
        if self._unsound:
            rows = ", ".join(plural(count, _ROWS[table]) for table, count in sorted(self._unsound.items()))
            told.append(f"The disk changed {rows} in the journal; look at this node's disk.")
        return " ".join(told) or None

    def is_sound(self, table: str, number: int, row: Mapping[str, Any]) -> bool:
        """Whether row ``number`` is as it was stored. An unsound row is counted for :attr:`damage`."""
        found = None if self._lacks_checksums else self.read(SELECT[table], number)
        if is_sound(table, row, found and found[0], is_sealed=self.is_sealed):
            return True
        self.note_unsound(table)
        return False

    def note_unsound(self, table: str) -> None:
        """Counts a row that isn't as it was stored."""
        self._unsound[table] += 1
        log.error("the disk changed a stored %s; look at this node's disk", _ROWS[table])

    @property
    def is_sealed(self) -> bool:
        """Whether texts are encrypted."""
        return self._seal is not None

    def sealed(self, text: bytes, place: bytes) -> bytes:
        """Encrypts a text if there is a key; ``place`` binds the text to its row (``schema.place_of``)."""
        return text if self._seal is None else self._seal.close(text, place)

    def unsealed(self, kept: bytes, place: bytes) -> bytes:
        """Decrypts a text. :raises ValueError: the text was changed, or belongs to another row."""
        return kept if self._seal is None else self._seal.open(kept, place)

    def scrub(self) -> None:
        """Moves the write-ahead log into the database file and empties the log, which may still hold deleted
        data. SQLite flushes both files to the disk (fsync)."""
        with suppress(sqlite3.Error):
            self.opened.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def shrink(self) -> None:
        """Rewrites the file without free pages. :raises JournalError: the file can't be written."""
        with self.writing() as db:
            db.execute("VACUUM")
        self.scrub()

    @property
    def changes(self) -> int:
        """Number of rows written and deleted since the file was opened."""
        return self.opened.total_changes

    @property
    def is_resting(self) -> bool:
        """Whether a write failed within the last ``RETRY_S``."""
        return self._failed_at is not None and self.clock() - self._failed_at < RETRY_S

    def _connect(self) -> None:
        os.close(os.open(self.file, os.O_RDWR | os.O_CREAT, 0o600))  # texts are private to the node
        # Autocommit: each statement is a transaction unless it says BEGIN.
        self._db = db = sqlite3.connect(self.file, isolation_level=None, timeout=1.0)
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        # One process: needs no shared-memory file and no lock per statement.
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
        has_mark = self._check_mark(db)
        try:
            create(db)
        except sqlite3.OperationalError as error:
            is_to_be_sealed = self._seal is not None and version != SEALED_FORMAT
            if not version or is_to_be_sealed or error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            # Stored messages can be answered, which makes room; the next write tries it again.
            log.warning("the journal gets no checksums yet (%s)", error)
            self._lacks_checksums = True
        if version == 0:
            db.execute("INSERT INTO session SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM session)")
            db.execute(f"PRAGMA user_version = {FORMAT}")
        if self._seal is not None and not has_mark:
            seal_all(db, self._seal)

    def _look_at_header(self) -> None:
        """:raises JournalError: a later version wrote the file.
        :raises sqlite3.DatabaseError: the header is damaged in a way for which SQLite would wrongly report a
            read-only file.
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
                    "Or move the file away, which loses stored answers and waiting messages."
                )

    def _check_mark(self, db: sqlite3.Connection) -> bool:
        """Whether the file has the text ``MARK``, encrypted with the key. :raises JournalError: the key is
        missing or wrong."""
        has_marks = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'mark'").fetchone()
        row = db.execute("SELECT CAST(sealed AS BLOB) FROM mark").fetchone() if has_marks else None
        is_sealed = row is not None or db.execute("PRAGMA user_version").fetchone()[0] == SEALED_FORMAT
        or_remove = f"Or remove {self.file}, which loses stored answers and waiting messages."
        if is_sealed and self._seal is None:
            raise JournalError(
                f"The journal {self.file} is encrypted: name its key as `journal: key_file`. {or_remove}"
            )
        if is_sealed and self._seal is not None:
            # Damage may have changed or destroyed the mark; then the texts tell whether the key fits.
            if row is not None and fits_key(self._seal, row[0], MARK):
                return True
            texts = list(sealed_texts(db))
            if (row or texts) and not any(fits_key(self._seal, *text) for text in texts):
                raise JournalError(
                    f"The journal {self.file} was encrypted with another key: bring that one back. "
                    f"{or_remove}"
                )
        return False

    def mend(self, error: sqlite3.Error | UnicodeDecodeError) -> bool:
        """Rebuilds the file if ``error`` means damage. :return: whether it was rebuilt."""
        if not soundness.is_damage(error) and not soundness.has_other_schema(error, self._db):
            return False
        if self._unmended_at is not None and self.clock() - self._unmended_at < MEND_EVERY_S:
            return False
        try:
            self._renew(error)
        except (*ERRORS, OSError, JournalError) as failure:
            log.error("the journal is damaged and can't be rebuilt (%s)", failure)
            self._unmended_at = self.clock()
            self.close()
            with suppress(*ERRORS, OSError, JournalError):  # go on with its readable part
                self._connect()
            return False
        return True

    def _renew(self, error: Exception) -> None:
        """Replaces the damaged file by a new file with all readable rows.

        :raises sqlite3.Error, OSError, JournalError: the new file can't be written, or the key is wrong; the
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
            if self.file.exists():  # else the next start finishes with the draft
                draft.unlink(missing_ok=True)
        kept = {table: len(numbers) for table, numbers in salvaged.taken.items()}
        self._renewal = (
            f"The journal was damaged ({error}): {kept['spool']} waiting messages, {kept['windows']} of "
            f"windows and {salvaged.answers} entries of answers were read and kept, {salvaged.unreadable} "
            f"pages or rows can't be read. The damaged file is kept as {copy.name}; look at this node's disk."
        )
        log.error("%s", self._renewal)
        self._connect()

    def _refused(self, error: sqlite3.Error | UnicodeDecodeError | MemoryError) -> str:
        why = str(error) or "there is no memory for it"
        if self.problem is None:
            log.error("the journal can't be written (%s); new requests are answered busy", why)
        self._failed_at = self.clock()
        if not isinstance(error, MemoryError):
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
                f"The journal {self.file} is damaged and can't be rebuilt ({why}): make room in its folder "
                "and start again. Nothing of it was changed."
            )
        return f"The journal {self.file} can't be used ({why}); name a folder to write to as state_dir."


def journal_of(config: Config) -> Database:
    """The database of a node, not opened yet. :raises JournalError: the key can't be used."""
    key_file = config.journal.key_file
    seal = load_seal(key_file) if key_file is not None else None
    return Database(config.state_dir / f"journal-{config.node}.sqlite", seal=seal)
