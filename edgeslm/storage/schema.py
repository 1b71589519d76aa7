"""SQL schema of the journal's file, and the associated data that binds encrypted texts to their rows."""

from __future__ import annotations

import sqlite3

from edgeslm.storage.checksum import COVERED, slot

FORMAT = 1
SEALED_FORMAT = 2
"""Format of a file with encrypted texts; versions of edgeslm without encryption refuse such a file."""
MARK = b"edgeslm"
"""Known text that is stored encrypted, to check whether the key is right."""
PAGE_BYTES = 512
"""Page size of the database. Each change writes whole pages, so small pages reduce the wear of SD cards (a
row has about 400 bytes)."""
CLOCK_END_S = 1e9
"""Limit of the database's clock, 30 years of running.

A row with a later time is damaged; if the time were kept, all other entries would look old."""

TABLES = """
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
CHECKSUMS = "\n".join(
    (
        "CREATE TABLE IF NOT EXISTS checksums (slot INTEGER PRIMARY KEY, crc INTEGER NOT NULL);",
        *(
            f"CREATE TRIGGER IF NOT EXISTS {table}_{event[:6].lower()} AFTER {event} ON {table} "
            f"BEGIN DELETE FROM checksums WHERE slot = {slot(table, 'old.id')}; END;"
            for table, columns in COVERED.items()
            for event in ("DELETE", f"UPDATE OF {', '.join(columns)}")
        ),
    )
)
"""Versions up to 0.2.0 made no checksums. They are in a table of their own because 0.2.0 takes a table with
another column for damaged; the triggers remove those of rows that 0.2.0 changes or deletes."""
COLUMNS = {
    "requests": ("key", "at", "attempts", "result"),
    "spool": (
        *("key", "at", "topic", "payload", "retain", "response_topic", "correlation", "expiry_s", "size"),
        "identifiers",
    ),
    "windows": ("route", "topic", "batch", "key", "at", "received", "name", "text"),
}
"""Columns of each table in file order, without the row number."""

SEALED = (("requests", "result", "key"), ("spool", "payload", "topic"), ("windows", "text", "topic"))
"""For each table with encrypted texts: the table's name, the column of the encrypted text, and the column
whose value is passed to :func:`place_of`."""


def create(db: sqlite3.Connection) -> None:
    """Creates missing tables and triggers. :raises sqlite3.Error: the file can't be written."""
    try:
        db.executescript(f"BEGIN; {TABLES} {CHECKSUMS} COMMIT;")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def place_of(table: str, about: bytes | str) -> bytes:
    """The associated data that binds an encrypted text to its row."""
    return table.encode() + b" " + (about if isinstance(about, bytes) else str(about).encode())
