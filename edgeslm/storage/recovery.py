"""Recovery: copies messages from a damaged journal back into the journal of a stopped node.

Each copy of a damaged journal comes with a list of the rows that were already transferred from this copy to
the journal. Recovery skips these rows, since their messages may already be answered. A second run adds
nothing unless more rows have become readable.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgeslm.errors import JournalError
from edgeslm.storage.checksum import checksum, is_sound
from edgeslm.storage.database import Database
from edgeslm.storage.renewal import (
    MESSAGES,
    Columns,
    Salvaged,
    add_row,
    checksums_of,
    damaged_file,
    messages_of,
)
from edgeslm.storage.schema import place_of
from edgeslm.storage.set_aside import read_taken, write_taken

_Row = tuple[str, int, Columns, int | None]
"""Table, row number in the damaged file, columns, checksum."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """Result for one damaged file. ``fed``: number of messages added to the journal, by table. ``known``:
    number of messages skipped because the journal has or had them. ``unreadable``: number of unreadable pages
    and rows. ``sealed``: number of messages encrypted with another key."""

    fed: dict[str, int]
    known: int
    unreadable: int
    sealed: int


def feed_back(database: Database, copy: Path, *, dry_run: bool = False) -> Recovered:
    """Adds the messages of ``copy`` that the journal never had. The newest of these messages counts as just
    received, and the others keep their age difference to the newest.

    :raises JournalError: the journal can't be written; nothing was added.
    :raises OSError: the copy can't be read, or its list can't be written.
    """
    taken = read_taken(copy)
    salvaged = Salvaged()
    found: list[tuple[str, int, Columns]] = []
    known = sealed = 0
    try:
        with damaged_file(copy) as damaged:
            stored: dict[tuple[str, int], int | None] = {}
            for table, number, crc in checksums_of(damaged, MESSAGES):
                is_clear = stored.setdefault((table, number), crc) == crc
                stored[table, number] = crc if is_clear else None  # one of two has a damaged number
            for table, number, columns in messages_of(damaged, salvaged):
                if number in taken.get(table, ()):
                    known += 1
                elif columns[MESSAGES[table]] is not None:  # else only the key of an answered message
                    found.append((table, number, columns))
    except sqlite3.OperationalError:
        raise JournalError(f"{copy} is in use.") from None
    last = max((_age(columns) for _, _, columns in found), default=0.0)
    rows = []
    for table, number, columns in found:
        columns["at"] = database.now - (last - _age(columns))
        kept = stored.get((table, number))
        is_whole = kept is not None and is_sound(table, columns, kept, is_sealed=salvaged.is_sealed)
        if not _seal(database, table, columns, is_sealed=salvaged.is_sealed):
            sealed += 1
            continue
        if is_whole:
            kept = checksum(table, columns, is_sealed=database.is_sealed)
        rows.append((table, number, columns, kept))
    if rows and not dry_run:
        _add(database, rows)
        numbers = {table: [*taken.get(table, ()), *_numbers(rows, table)] for table in MESSAGES}
        write_taken(copy, numbers)
    fed = {table: len(list(_numbers(rows, table))) for table in MESSAGES}
    return Recovered(fed, known, salvaged.unreadable, sealed)


def _add(database: Database, rows: Iterable[_Row]) -> None:
    with database.synced() as db:
        for table, _, columns, crc in rows:
            add_row(db, table, columns, crc)


def _numbers(rows: Iterable[_Row], table: str) -> Iterable[int]:
    return (number for name, number, *_ in rows if name == table)


def _age(columns: Columns) -> float:
    at = columns["at"]
    return at if isinstance(at, float) else 0.0


def _seal(database: Database, table: str, columns: Columns, *, is_sealed: bool) -> bool:
    """Encrypts a row's text if this journal is encrypted; False if the text can't be read."""
    column = MESSAGES[table]
    text, place = columns[column], place_of(table, str(columns["topic"]))
    raw = text.encode() if isinstance(text, str) else text
    if not isinstance(raw, bytes):
        return False
    if is_sealed:
        try:
            database.unsealed(raw, place)
        except ValueError:
            return False
        return database.is_sealed
    if database.is_sealed:
        columns[column] = database.sealed(raw, place)
    return True
