"""Row checksums: CRC-32 over the content of a row, to detect bits that the disk has flipped.

SQLite checks the structure of its pages but not the bytes of a text, so a flipped bit in a stored result
would be sent. AES-GCM already authenticates an encrypted text (``encryption``), so the checksum then covers
only the other columns. Times and the deduplication keys of messages aren't covered, since salvage and
recovery change them.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

COVERED = {
    "requests": ("result", "key", "attempts"),
    "spool": (
        *("payload", "topic", "retain", "response_topic", "correlation", "expiry_s", "size"),
        "identifiers",
    ),
    "windows": ("text", "route", "topic", "received", "name"),
}
"""For each table with checksums: the columns that a row's checksum covers; the first one may be encrypted."""
_TABLES = (*COVERED,)
_STEP = 4
"""Factor of row numbers in the table ``checksums``, at least the number of ``_TABLES``."""
_OTHERS = {table: itemgetter(*columns[1:]) for table, columns in COVERED.items()}


def slot(table: str, number: str) -> str:
    """SQL for the row number, in the table ``checksums``, of row ``number`` of ``table``."""
    return f"{number} * {_STEP} + {_TABLES.index(table)}"


SELECT = {table: f"SELECT crc FROM checksums WHERE slot = {slot(table, '?')}" for table in _TABLES}
"""For each table: the query for the checksum of a row."""


def checksum(table: str, row: Mapping[str, Any], *, is_sealed: bool) -> int:
    """The checksum of a row, an unsigned 32-bit number. ``row`` maps the names of columns to their stored
    values; with ``is_sealed``, the text is encrypted."""
    others, text = _OTHERS[table](row), None if is_sealed else row[COVERED[table][0]]
    if text is None:
        return zlib.crc32(ascii(others).encode())
    raw = text if isinstance(text, bytes) else str(text).encode(errors="replace")
    # The length, so that no byte moves from the text to the others.
    return zlib.crc32(ascii((len(raw), others)).encode(), zlib.crc32(raw))


def row_of(slot: int) -> tuple[str, int] | None:
    """Table and row number of a slot; None if the slot is damaged."""
    number, index = divmod(slot, _STEP)
    return (_TABLES[index], number) if index < len(_TABLES) else None


def read_checksum(db: sqlite3.Connection, table: str, number: int) -> int | None:
    """The stored checksum of a row; None for a row of a version without checksums. :raises sqlite3.Error: it
    can't be read."""
    found = db.execute(SELECT[table], (number,)).fetchone()
    return None if found is None else found[0]


def write_checksum(db: sqlite3.Connection, table: str, number: int, crc: int | None) -> None:
    """Stores the checksum of a row, after the row. :raises sqlite3.Error: the file can't be written."""
    if crc is not None:
        db.execute(f"INSERT OR REPLACE INTO checksums VALUES ({slot(table, '?')}, ?)", (number, crc))


def remove_checksum(db: sqlite3.Connection, table: str, number: int) -> None:
    """Removes the checksum of a row. :raises sqlite3.Error: the file can't be written."""
    db.execute(f"DELETE FROM checksums WHERE slot = {slot(table, '?')}", (number,))


def drop_orphans(db: sqlite3.Connection) -> int:
    """Removes the checksums of rows that aren't there. :return: their number.

    :raises sqlite3.Error: the file can't be written.
    """
    dropped = 0
    for index, table in enumerate(_TABLES):
        rows = f"SELECT id FROM {table}"
        found = db.execute(
            f"DELETE FROM checksums WHERE slot % {_STEP} = {index} AND slot / {_STEP} NOT IN ({rows})"
        )
        dropped += found.rowcount
    return dropped


def is_sound(table: str, row: Mapping[str, Any], crc: int | None, *, is_sealed: bool) -> bool:
    """Whether a row is as it was stored. ``crc``: its stored checksum. A row without one counts as sound."""
    return crc is None or crc == checksum(table, row, is_sealed=is_sealed)
