"""Recovery: messages of a journal that was set aside go back into that of a node that doesn't run.

Each copy has a list of the rows that the journal took from it, when it was set aside or here: those are
passed over, since they may be answered. A second run feeds nothing back, unless more can be read by then.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgeslm.errors import JournalError
from edgeslm.storage.database import Database
from edgeslm.storage.renewal import MESSAGES, Columns, Salvaged, add_row, damaged_file, messages_of
from edgeslm.storage.schema import place_of
from edgeslm.storage.set_aside import read_taken, write_taken


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of the messages of one file: fed back by table, passed over since the journal has or had
    them, ``unreadable`` pages and rows; ``sealed`` can't be read with this node's key."""

    fed: dict[str, int]
    known: int
    unreadable: int
    sealed: int


def feed_back(database: Database, copy: Path, *, dry_run: bool = False) -> Recovered:
    """Adds the messages of ``copy`` that the journal never had. Their age is what it was in the copy.

    :raises JournalError: the journal can't be written; nothing was fed back.
    :raises OSError: the copy can't be read, or its list not be written.
    """
    taken = read_taken(copy)
    salvaged = Salvaged()
    found: list[tuple[str, int, Columns]] = []
    known = sealed = 0
    try:
        with damaged_file(copy) as damaged:
            for table, number, columns in messages_of(damaged, salvaged):
                if number in taken.get(table, ()):
                    known += 1
                elif columns[MESSAGES[table]] is not None:  # else a key of what was answered
                    found.append((table, number, columns))
    except sqlite3.OperationalError:
        raise JournalError(f"{copy} is in use.") from None
    last = max((_age(columns) for _, _, columns in found), default=0.0)
    rows = []
    for table, number, columns in found:
        columns["at"] = database.now - (last - _age(columns))
        if _seal(database, table, columns, is_sealed=salvaged.is_sealed):
            rows.append((table, number, columns))
        else:
            sealed += 1
    if rows and not dry_run:
        _add(database, rows)
        numbers = {table: [*taken.get(table, ()), *_numbers(rows, table)] for table in MESSAGES}
        write_taken(copy, numbers)
    fed = {table: len(list(_numbers(rows, table))) for table in MESSAGES}
    return Recovered(fed, known, salvaged.unreadable, sealed)


def _add(database: Database, rows: Iterable[tuple[str, int, Columns]]) -> None:
    with database.synced() as db:
        for table, _, columns in rows:
            add_row(db, table, columns)


def _numbers(rows: Iterable[tuple[str, int, Columns]], table: str) -> Iterable[int]:
    return (number for name, number, _ in rows if name == table)


def _age(columns: Columns) -> float:
    at = columns["at"]
    return at if isinstance(at, float) else 0.0


def _seal(database: Database, table: str, columns: Columns, *, is_sealed: bool) -> bool:
    """Has the text as this journal keeps it; False if it can't be read."""
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
    kept = database.sealed(raw, place)
    columns[column] = text if kept is raw else kept
    return True
