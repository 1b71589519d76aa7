"""The tables of the journal's file, and how its texts are bound to their places."""

from __future__ import annotations

FORMAT = 1
SEALED_FORMAT = 2
"""The same, with texts encrypted: a version that doesn't know it leaves the file alone."""
MARK = b"edgeslm"
"""What stands encrypted in a file with a key, to tell whether a key is the right one."""
PAGE_BYTES = 512
"""Each change writes whole pages; small ones spare an SD card (a row has some 400 bytes)."""
CLOCK_END_S = 1e9
"""No node has run for thirty years: a later time is damage, and would age all the others."""

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

SEALED = (("requests", "result", "key"), ("spool", "payload", "topic"), ("windows", "text", "topic"))
"""Tables, the column with a text, and the one that says what it is of."""


def place_of(table: str, about: bytes | str) -> bytes:
    """What a sealed text is bound to."""
    return table.encode() + b" " + (about.encode() if isinstance(about, str) else about)
