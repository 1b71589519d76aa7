"""Integrity checks of a journal's file, when the file is opened and after errors."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from edgeslm.storage.schema import CLOCK_END_S, create

log = logging.getLogger("edgeslm.storage")

ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""Errors of a database. ``sqlite3`` raises UnicodeDecodeError if SQLite's message quotes a damaged schema."""
HEADER_BYTES = 100
CHECK_S = 2.0
"""Time limit, in seconds, of the integrity check when the file is opened."""
_MESSAGES = ("integrity_check(spool)", "integrity_check(windows)")
"""Integrity checks of the tables that hold messages. The checks include the tables' indexes, since a message
missing from an index is never found."""
_FIRST = (b"session", b"requests", b"spool", b"windows", b"sqlite_sequence")
"""Tables that every version creates."""
_READ_FAULTS = {
    sqlite3.SQLITE_IOERR_READ,
    sqlite3.SQLITE_IOERR_SHORT_READ,
    sqlite3.SQLITE_IOERR_CORRUPTFS,
    sqlite3.SQLITE_IOERR_DATA,
}
"""SQLite's error codes for a disk that doesn't return the data that was written."""


def has_log(file: Path) -> bool:
    """Whether the last process ended without closing the file."""
    log_file = Path(f"{file}-wal")
    return log_file.exists() and log_file.stat().st_size > 0


def headers(file: Path) -> Iterator[bytes]:
    """Yields database headers of 100 bytes each: the file's header, then the headers in the write-ahead log,
    even those of uncommitted transactions.

    :raises OSError: the disk failed.
    """
    if not file.exists():
        return
    with file.open("rb") as stream:
        yield stream.read(HEADER_BYTES)
    if not has_log(file):
        return
    with Path(f"{file}-wal").open("rb") as stream:
        # sqlite.org/fileformat2.html, section 4.1: frames of an earlier log have other salts.
        first = stream.read(32)
        page_bytes, salts = int.from_bytes(first[8:12], "big"), first[16:24]
        while len(frame := stream.read(24)) == 24 and page_bytes:
            if frame[:4] == b"\0\0\0\1" and frame[8:16] == salts:
                yield stream.read(HEADER_BYTES)
                stream.seek(page_bytes - HEADER_BYTES, os.SEEK_CUR)
            else:
                stream.seek(page_bytes, os.SEEK_CUR)


def last_time(db: sqlite3.Connection) -> float:
    """The latest valid time in the tables, in seconds of the database's clock. :raises sqlite3.DatabaseError:
    a table can't be read."""
    every = " UNION ALL ".join(f"SELECT at FROM {table}" for table in ("requests", "spool", "windows"))
    (last,) = db.execute(f"SELECT max(at) FROM ({every}) WHERE at BETWEEN 0 AND {CLOCK_END_S}").fetchone()
    return float(last or 0.0)


def check(db: sqlite3.Connection, *, all_of_it: bool) -> None:
    """Checks B-trees for at most ``CHECK_S`` seconds: first the tables that hold messages, with their
    indexes; then, if ``all_of_it`` is true, all other B-trees.

    :raises sqlite3.DatabaseError: a B-tree is damaged.
    """
    end = time.monotonic() + CHECK_S
    db.set_progress_handler(lambda: time.monotonic() > end, 10_000)
    try:
        for look in (*_MESSAGES, "quick_check(1)") if all_of_it else _MESSAGES:
            (found,) = db.execute(f"PRAGMA {look}").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(" ".join(str(found).split()))
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        log.info("the journal is too large for a complete check at the start")
    finally:
        db.set_progress_handler(None, 0)


def check_tables(db: sqlite3.Connection) -> None:
    """:raises sqlite3.DatabaseError: a table or trigger has another schema, or a table that every version
    creates is missing."""
    with closing(sqlite3.connect(":memory:")) as fresh:
        columns = "CAST(name AS BLOB), CAST(sql AS BLOB)"  # a damaged text may be invalid UTF-8
        query = f"SELECT {columns} FROM sqlite_master WHERE type IN ('table', 'trigger')"
        create(fresh)
        found = dict(db.execute(query).fetchall())
        for name, sql in fresh.execute(query):
            if found.get(name, None if name in _FIRST else sql) != sql:
                raise sqlite3.DatabaseError("its tables are not those that were made")


def has_other_schema(error: Exception, db: sqlite3.Connection | None) -> bool:
    """Whether a statement failed because the disk changed the schema of ``db``."""
    if db is None or getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR:
        return False
    try:
        check_tables(db)
    except ERRORS as other:
        return is_damage(other)
    return False


def is_damage(error: Exception) -> bool:
    """Whether the error means that the file or the disk is damaged."""
    if isinstance(error, OSError):
        return error.errno == errno.EIO
    if isinstance(error, UnicodeDecodeError):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # raised by these checks
        return type(error) is sqlite3.DatabaseError
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or code in _READ_FAULTS
