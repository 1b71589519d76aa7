"""Renewal: builds a new journal from the readable rows of a damaged journal. The rows keep their row numbers.

Messages in the spool and in windows are copied first, since they may exist nowhere else. Answers are a cache
and are left out if the disk is full. The damaged file isn't changed.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import sqlite3
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgeslm.storage.atomic_json import sync
from edgeslm.storage.checksum import (
    COVERED,
    checksum,
    drop_orphans,
    read_checksum,
    remove_checksum,
    row_of,
    write_checksum,
)
from edgeslm.storage.encryption import NONCE_BYTES, TAG_BYTES
from edgeslm.storage.salvage import ANY, BLOB, INTEGER, NUMBER, TEXT, DamagedFile, Value
from edgeslm.storage.schema import CLOCK_END_S, COLUMNS, FORMAT, MARK, PAGE_BYTES, SEALED_FORMAT, create
from edgeslm.storage.set_aside import draft_of

log = logging.getLogger("edgeslm.storage")

SHAPES = {
    "requests": (NUMBER, BLOB, ANY, ANY, (bytes, type(None))),
    "spool": (NUMBER, ANY, ANY, TEXT, BLOB, ANY, ANY, ANY, ANY, ANY, ANY),
    "windows": (NUMBER, TEXT, TEXT, ANY, ANY, ANY, ANY, ANY, (str, bytes, type(None))),
    "checksums": (NUMBER, INTEGER),
    "session": (INTEGER,),
    "mark": (BLOB,),
    "sequence": (TEXT, INTEGER),
}
MESSAGES = {"spool": "payload", "windows": "text"}
"""For each table with acknowledged but unanswered messages: the column of the message's text."""
_ANSWER = ", ".join(COLUMNS["requests"])
_DEFAULTS: dict[str, tuple[type, Value]] = {
    "retain": (int, 0),
    "size": (int, 0),
    "identifiers": (str, "[]"),
    "response_topic": (str, None),
    "correlation": (bytes, None),
    "expiry_s": (int, None),
}
"""For some columns of the spool: the required type, and the value that replaces a damaged value."""
_HIGHEST = 1 << 53
"""Row numbers must be below this limit. A number at or above the limit is damaged and is not kept, since
SQLite numbers new rows above the highest one and could run out of numbers."""
_MARK_BYTES = NONCE_BYTES + len(MARK) + TAG_BYTES
"""Length of the encrypted mark of the key. Other blobs in damaged pages would pass for one."""
_LOCK_AT, _LOCK_BYTES = 0x40000000, 512
"""The byte range that SQLite locks (from PENDING_BYTE through SHARED_SIZE in its ``os.h``)."""

Columns = dict[str, Value]


@dataclass
class Salvaged:
    """Content read from a damaged journal. ``taken``: for each table in ``MESSAGES``, the row numbers of the
    rows that were copied from the damaged journal."""

    version: int | None = None
    taken: dict[str, list[int]] = field(default_factory=lambda: {table: [] for table in MESSAGES})
    answers: int = 0
    unreadable: int = 0
    epoch: int | None = None
    mark: bytes | None = None
    sequences: dict[str, int] = field(default_factory=dict)

    @property
    def is_sealed(self) -> bool:
        return self.mark is not None or self.version == SEALED_FORMAT


@contextmanager
def damaged_file(file: Path) -> Iterator[DamagedFile]:
    """Context manager: opens a journal's file exclusively.

    :raises sqlite3.OperationalError: another process uses the file.
    :raises OSError: the file can't be read.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCK_BYTES, _LOCK_AT)
        except OSError:
            raise sqlite3.OperationalError("database is locked") from None
        # DamagedFile closes its descriptor at the end: closing any descriptor of a file releases its locks.
        with DamagedFile(file, PAGE_BYTES, SHAPES) as damaged:
            yield damaged
    finally:
        os.close(descriptor)


def messages_of(damaged: DamagedFile, salvaged: Salvaged) -> Iterator[tuple[str, int, Columns]]:
    """Yields repaired rows of the tables in ``MESSAGES``; other data, except answers, goes into
    ``salvaged``."""
    salvaged.version = damaged.user_version
    at = 0.0
    for table, (number, values) in damaged.rows():
        if table in MESSAGES:
            columns = _repaired(table, values, at)
            at = float(columns["at"])  # type: ignore[arg-type]
            yield table, number, columns
        elif table == "session":
            epoch = int(values[0])  # type: ignore[arg-type]
            if 0 <= epoch < _HIGHEST:
                salvaged.epoch = max(epoch, salvaged.epoch or 0)
        elif table == "mark":
            mark = bytes(values[0])  # type: ignore[arg-type]
            if len(mark) == _MARK_BYTES and salvaged.version != FORMAT:
                salvaged.mark = mark
        elif table == "sequence":
            salvaged.sequences[str(values[0])] = int(values[1])  # type: ignore[arg-type]
    salvaged.unreadable = damaged.unreadable


def checksums_of(damaged: DamagedFile, tables: Collection[str]) -> Iterator[tuple[str, int, int]]:
    """Yields the stored checksums of rows of ``tables``: table, row number, checksum."""
    for table, (slot, values) in damaged.rows():
        place = row_of(slot) if table == "checksums" else None
        if place is not None and place[0] in tables and 0 < place[1] < _HIGHEST:
            yield *place, int(values[1])  # type: ignore[arg-type]


def write_draft(file: Path) -> Salvaged:
    """Writes and syncs the draft of a new journal from the readable rows of ``file``.

    :raises sqlite3.Error, OSError: the draft can't be written, or ``file`` is in use.
    """
    with damaged_file(file) as damaged:
        draft = draft_of(file)
        draft.unlink(missing_ok=True)
        os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            with closing(sqlite3.connect(draft, isolation_level=None)) as db:
                salvaged = _fill(db, damaged)
            sync(draft)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    return salvaged


def _fill(db: sqlite3.Connection, damaged: DamagedFile) -> Salvaged:
    db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    db.execute("PRAGMA journal_mode = MEMORY")
    db.execute("PRAGMA synchronous = OFF")
    create(db)
    salvaged = Salvaged()
    db.execute("BEGIN")
    stored = _take_checksums(db, damaged, MESSAGES)
    misplaced = []
    for table, number, columns in messages_of(damaged, salvaged):
        if _put(db, table, number, columns):
            salvaged.taken[table].append(number)
            # A row with a damaged number took that of another row, and its checksum.
            own = checksum(table, columns, is_sealed=salvaged.is_sealed)
            if own in stored:
                write_checksum(db, table, number, own)
        else:
            misplaced.append((table, number, columns))
    now = time.time()
    for table in MESSAGES:
        # Old numbers may still be in use elsewhere, so new ones start above them.
        last = max([int(now * 1000), salvaged.sequences.get(table, 0) % _HIGHEST])
        db.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
        db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, last))
    ownerless = drop_orphans(db)
    for table, number, columns in misplaced:
        # The checksum under the number may be of another row. If the row's own was never stored, but one of
        # a missing row was, not only its number is damaged: with a wrong checksum it counts as unsound.
        own = checksum(table, columns, is_sealed=salvaged.is_sealed)
        add_row(db, table, columns, own if own in stored or not ownerless else own ^ 1)
        salvaged.taken[table].append(number)
    # If the epoch is lost, a new one: packet identifiers of old sessions must not match new ones.
    epoch = int(now) if salvaged.epoch is None else salvaged.epoch
    db.execute("INSERT INTO session VALUES (?)", (epoch,))
    if salvaged.mark is not None:
        db.execute("INSERT INTO mark VALUES (?)", (salvaged.mark,))
    db.execute(f"PRAGMA user_version = {SEALED_FORMAT if salvaged.is_sealed else FORMAT}")
    db.execute("COMMIT")
    try:
        db.execute("BEGIN")
        _take_answers(db, damaged, salvaged)
        _take_checksums(db, damaged, {"requests"})
        db.execute("COMMIT")
    except sqlite3.OperationalError as error:
        log.warning("the new journal leaves out answers (%s)", error)
        salvaged.answers = 0
        db.execute("ROLLBACK")
    drop_orphans(db)
    return salvaged


def _take_checksums(db: sqlite3.Connection, damaged: DamagedFile, tables: Collection[str]) -> set[int]:
    """Copies checksums. If a row has two different ones, the number of one is damaged: neither is kept.

    :return: all checksums that were read.
    """
    unclear, stored = set(), set()
    for table, number, crc in checksums_of(damaged, tables):
        stored.add(crc)
        if (known := read_checksum(db, table, number)) is None:
            write_checksum(db, table, number, crc)
        elif known != crc:
            unclear.add((table, number))
    for table, number in unclear:
        remove_checksum(db, table, number)
    return stored


def _take_answers(db: sqlite3.Connection, damaged: DamagedFile, salvaged: Salvaged) -> None:
    for table, (number, values) in damaged.rows():
        if table == "requests" and 0 < number < _HIGHEST:
            key, at, attempts, result = values[1:]
            attempts = attempts if isinstance(attempts, int) else 1
            row = (number, key, _time(at, 0.0, CLOCK_END_S), attempts, result)
            insert = f"INSERT OR IGNORE INTO requests (id, {_ANSWER}) VALUES (?, ?, ?, ?, ?)"
            salvaged.answers += db.execute(insert, row).rowcount


def _put(db: sqlite3.Connection, table: str, number: int, columns: Columns) -> bool:
    """Inserts a row with its old row number; False if the number is invalid or another row has it."""
    if not 0 < number < _HIGHEST:
        return False
    insert = f"INSERT OR IGNORE INTO {table} (id, {', '.join(columns)}) VALUES (?{', ?' * len(columns)})"
    if db.execute(insert, (number, *columns.values())).rowcount:
        return True
    keyless = {**columns, "key": None}
    there = db.execute(f"SELECT {', '.join(columns)} FROM {table} WHERE id = ?", (number,)).fetchone()
    if there is None:  # another row has its key
        return bool(db.execute(insert, (number, *keyless.values())).rowcount)
    # True for a page that is twice in the file, perhaps once with a damaged key
    there = dict(zip(columns, there, strict=True))
    is_same = all(there[name] == columns[name] for name in COVERED[table])
    return is_same and (there["key"] == columns["key"] or None in (there["key"], columns["key"]))


def add_row(db: sqlite3.Connection, table: str, columns: Columns, crc: int | None) -> None:
    """Inserts a row and its checksum with a new row number. If another row has the same key, the new row is
    inserted without a key."""
    if columns["key"] and db.execute(f"SELECT 1 FROM {table} WHERE key = ?", (columns["key"],)).fetchone():
        columns = {**columns, "key": None}
    insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES (?{', ?' * (len(columns) - 1)})"
    number = db.execute(insert, tuple(columns.values())).lastrowid or 0
    write_checksum(db, table, number, crc)


def _repaired(table: str, values: tuple[Value, ...], at: float) -> Columns:
    """The columns of a row, with defaults for damaged values; ``at`` replaces a damaged time."""
    columns: Columns = dict(zip(COLUMNS[table], values[1:], strict=True))
    columns["key"] = columns["key"] if isinstance(columns["key"], bytes) else None
    columns["at"] = _time(columns["at"], at, CLOCK_END_S)
    if table == "windows":
        columns["batch"] = columns["batch"] if isinstance(columns["batch"], int) else 0
        columns["received"] = _time(columns["received"], time.time())
        columns["name"] = columns["name"] if isinstance(columns["name"], str) else ""
        return columns
    for name, (kind, default) in _DEFAULTS.items():
        if not isinstance(columns[name], kind):
            columns[name] = default
    return columns


def _time(value: Value, default: float, most: float = math.inf) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= value < most else default
