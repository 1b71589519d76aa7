"""Erasure: deletes messages from journal, spool and windows.

No daemon may have the file open during an erasure, since a daemon caches row numbers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from edgeslm.storage.database import Database
from edgeslm.storage.erasure_filter import Choice, id_of
from edgeslm.storage.schema import place_of

_ROWS = {
    "requests": "SELECT id, result, key, at, NULL, NULL FROM requests WHERE result IS NOT NULL",
    "spool": "SELECT id, payload, topic, at, NULL, correlation FROM spool",
    "windows": "SELECT id, text, topic, at, received, name FROM windows WHERE text IS NOT NULL",
}


def erase_messages(database: Database, choice: Choice, *, off_s: float, dry_run: bool) -> dict[str, int]:
    """Erases the messages that match ``choice``; no byte of them stays in the file.

    :param off_s: seconds since the node stopped; the database's clock doesn't count this time.
    :return: number of matching messages in each table.
    :raises JournalError: the file can't be written: either nothing was erased, or bytes of erased messages
        are still in the write-ahead log.
    """
    found = {table: list(_fitting(database, table, choice, off_s)) for table in _ROWS}
    if not dry_run:
        with database.synced() as db:
            for table, rows in found.items():
                db.executemany(f"DELETE FROM {table} WHERE id = ?", ((row,) for row in rows))
        database.shrink()
    return {table: len(rows) for table, rows in found.items()}


def _fitting(database: Database, table: str, choice: Choice, off_s: float) -> Iterator[int]:
    for row, kept, about, at, received, name in database.rows(_ROWS[table]):
        age_s = off_s + database.now - at if received is None else time.time() - received
        if choice.fits(_name(database, table, kept, about, name) if choice.id else None, age_s):
            yield row


def _name(database: Database, table: str, kept: Any, about: Any, name: Any) -> str | None:
    """The id that the sender gave a message; None if unknown."""
    if table == "windows":
        return str(name)
    try:
        found = id_of(database.unsealed(kept, place_of(table, about)))
    except ValueError:
        return None
    return found if found is not None or name is None else bytes(name).decode(errors="replace")
