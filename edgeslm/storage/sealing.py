"""Sealing: encrypts the texts of an existing journal, and looks up what is encrypted in one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from edgeslm.storage.checksum import COVERED, checksum, is_sound, read_checksum, write_checksum
from edgeslm.storage.encryption import Seal
from edgeslm.storage.schema import MARK, SEALED, SEALED_FORMAT, place_of


def seal_all(db: sqlite3.Connection, seal: Seal) -> None:
    """Encrypts all texts of an unencrypted journal and writes the mark of the key, in one transaction.

    :raises sqlite3.Error: the file can't be written.
    """
    # A damaged file may have lost its mark; its texts are encrypted already.
    was_sealed = db.execute("PRAGMA user_version").fetchone()[0] == SEALED_FORMAT
    db.execute("PRAGMA synchronous = FULL")
    db.execute("BEGIN")
    for table, column, place in () if was_sealed else SEALED:
        numbers = db.execute(f"SELECT id FROM {table} WHERE {column} IS NOT NULL").fetchall()
        for (number,) in numbers:
            names = COVERED[table]
            query = f"SELECT {', '.join(names)} FROM {table} WHERE id = ?"
            row = dict(zip(names, db.execute(query, (number,)).fetchone(), strict=True))
            text = row[column] if isinstance(row[column], bytes) else str(row[column]).encode()
            if fits_key(seal, text, place_of(table, row[place])):
                continue
            crc = read_checksum(db, table, number)
            if crc is not None and is_sound(table, row, crc, is_sealed=False):
                crc = checksum(table, row, is_sealed=True)
            values = seal.close(text, place_of(table, row[place])), number
            db.execute(f"UPDATE {table} SET {column} = ? WHERE id = ?", values)
            write_checksum(db, table, number, crc)
    db.execute("DELETE FROM mark")  # a damaged one
    db.execute("INSERT INTO mark VALUES (?)", (seal.close(MARK, MARK),))
    db.execute(f"PRAGMA user_version = {SEALED_FORMAT}")
    db.execute("COMMIT")
    db.execute("VACUUM")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    db.execute("PRAGMA synchronous = NORMAL")


def sealed_texts(db: sqlite3.Connection) -> Iterator[tuple[bytes, bytes]]:
    """A sample of encrypted texts, each with the associated data that binds it to its row."""
    for table, column, place in SEALED:
        query = f"SELECT {column}, {place} FROM {table} WHERE typeof({column}) = 'blob' LIMIT 20"
        for text, about in db.execute(query):
            yield text, place_of(table, about)


def fits_key(seal: Seal, text: bytes, place: bytes) -> bool:
    """Whether a text was encrypted with this key for this row."""
    try:
        seal.open(text, place)
    except ValueError:
        return False
    return True
