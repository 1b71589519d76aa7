"""Table store: the tables of a collection, in its SQLite file.

``table_rows`` has the cells as written. ``table_values`` has the parsed values, which SQLite compares and
sums. ``table_texts`` has each distinct text under its normalised key, to look up the cells that a question
names.
"""

from __future__ import annotations

import json
import sqlite3
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from decimal import Decimal

from edgeslm.knowledge.documents.cells import CellKind, Column, Row, Table, parse_boolean, parse_number
from edgeslm.knowledge.documents.dates import parse_moment
from edgeslm.knowledge.index.table_terms import LONGEST_KEY, key_of

WIDTH = 8
"""Number of columns in one row of ``table_values``. A table with more columns is split into several parts."""
_DIGITS = 18
"""Number of decimal digits that always fit into SQLite's 64-bit integers."""
_VALUES = f"""table_values (
    document INTEGER NOT NULL,
    part INTEGER NOT NULL,
    number INTEGER NOT NULL,
    {", ".join(f"v{place}, w{place} INTEGER" for place in range(WIDTH))},
    PRIMARY KEY (document, part, number)
) WITHOUT ROWID"""
"""SQL definition of the table of parsed values. For each cell, ``v`` is the value, and ``w`` distinguishes
spellings of equal values; both are NULL for an empty cell. A number is stored as an integer in units of
``10 ** -Column.decimals``, or as text if ``decimals`` is None. A date is stored as text, a boolean as 1 or 0.
Of a text, only the first ``LONGEST_KEY + 1`` characters are stored."""
SCHEMA = f"""
CREATE TABLE tables (document INTEGER PRIMARY KEY, columns TEXT NOT NULL);
CREATE TABLE table_rows (
    document INTEGER NOT NULL,
    number INTEGER NOT NULL,
    start INTEGER NOT NULL,
    "end" INTEGER NOT NULL,
    cells TEXT NOT NULL,
    PRIMARY KEY (document, number)
) WITHOUT ROWID;
CREATE TABLE table_texts (
    document INTEGER NOT NULL,
    key TEXT NOT NULL,
    place INTEGER NOT NULL,
    cell TEXT NOT NULL,
    PRIMARY KEY (document, key, place, cell)
) WITHOUT ROWID;
CREATE TABLE {_VALUES};
"""
"""SQL tables that format 3 adds to format 1; format 2 has these tables except ``table_values``."""
_AT_ONCE = 500
"""Maximum number of keys in one SQL statement."""


@dataclass(frozen=True, slots=True)
class KeptTable:
    """A stored table without its rows."""

    document: int
    source: str
    columns: tuple[Column, ...]


def put_table(db: sqlite3.Connection, document: int, table: Table | None) -> None:
    """Replaces a document's table, or removes it if ``table`` is None; call inside a transaction."""
    drop_table(db, document)
    if table is None:
        return
    db.executemany(
        "INSERT INTO table_rows VALUES (?, ?, ?, ?, ?)",
        (
            (document, row.number, row.start, row.end, json.dumps(row.cells, ensure_ascii=False))
            for row in table.rows
        ),
    )
    texts = [place for place, column in enumerate(table.columns) if column.kind is CellKind.TEXT]
    db.executemany(
        "INSERT OR IGNORE INTO table_texts VALUES (?, ?, ?, ?)",
        (
            (document, key, place, row.cells[place])
            for row in table.rows
            for place in texts
            if len(row.cells[place]) <= LONGEST_KEY and (key := key_of(row.cells[place]))
        ),
    )
    different = dict(
        db.execute("SELECT place, count(*) FROM table_texts WHERE document = ? GROUP BY place", (document,))
    )
    columns = [
        replace(column, unique=different.get(place) == len(table.rows))
        for place, column in enumerate(_put_values(db, document, table.columns, table.rows))
    ]
    db.execute("INSERT INTO tables VALUES (?, ?)", (document, _written(columns)))


def upgrade_tables(db: sqlite3.Connection) -> None:
    """Adds parsed values to the tables of format 2; call inside a transaction."""
    db.execute(f"CREATE TABLE {_VALUES}")
    for document, text in db.execute("SELECT document, columns FROM tables").fetchall():
        columns = _put_values(db, document, _columns(text), list(read_rows(db, document)))
        db.execute("UPDATE tables SET columns = ? WHERE document = ?", (_written(columns), document))


@contextmanager
def with_values(db: sqlite3.Connection, table: KeptTable, places: Iterable[int]) -> Iterator[KeptTable]:
    """A context in which ``table_values`` contains the parsed values of the columns with the indices
    ``places``. A file of format 2 opened for reading has no parsed values, so these values are computed and
    stored in a temporary SQL table."""
    if _format(db) > 2:
        yield table
        return
    db.execute("PRAGMA query_only = OFF")
    try:
        db.execute(f"CREATE TEMP TABLE {_VALUES}")
        rows = list(read_rows(db, table.document))
        columns = _put_values(db, table.document, table.columns, rows, frozenset(places))
        yield replace(table, columns=columns)
    finally:
        db.execute("DROP TABLE IF EXISTS temp.table_values")
        db.execute("PRAGMA query_only = ON")


def _put_values(
    db: sqlite3.Connection,
    document: int,
    columns: Sequence[Column],
    rows: Sequence[Row],
    places: frozenset[int] | None = None,
) -> tuple[Column, ...]:
    """Inserts the parsed cells into ``table_values``.

    :param places: indices of the columns to parse; None for all.
    :return: the columns, with ``decimals`` set.
    """
    found: list[Column] = []
    for begin in range(0, len(columns), WIDTH):
        some = range(begin, min(begin + WIDTH, len(columns)))
        read = [
            _read_cells(columns[place], (row.cells[place] for row in rows))
            if places is None or place in places
            else (columns[place], {})
            for place in some
        ]
        found += [column for column, _ in read]
        values = [known for _, known in read]
        names = ", ".join(f"v{place}, w{place}" for place in range(len(some)))
        db.executemany(
            f"INSERT INTO table_values (document, part, number, {names}) "
            f"VALUES (?, ?, ?{', ?, ?' * len(some)})",
            (
                (
                    *(document, begin // WIDTH, row.number),
                    *(
                        each
                        for known, cell in zip(values, row.cells[begin:], strict=False)
                        for each in known.get(cell, (None, None))
                    ),
                )
                for row in rows
            ),
        )
    return tuple(found)


def _read_cells(column: Column, cells: Iterable[str]) -> tuple[Column, dict[str, tuple[int | str, int]]]:
    """Parses the distinct cells of a column. Returns the column with ``decimals`` set, and for each cell its
    value and a number that distinguishes cells with equal values but different spellings."""
    read: dict[str, Decimal | str | bool] = {
        cell: value for cell in dict.fromkeys(cells) if cell and (value := _parse(column, cell)) is not None
    }
    numbers = [value for value in read.values() if isinstance(value, Decimal)]
    if numbers:
        decimals = max(0, *(-int(number.as_tuple().exponent) for number in numbers))
        fit = all(number.adjusted() + decimals < _DIGITS for number in numbers)
        column = replace(column, decimals=decimals if fit else None)
    spellings: Counter[Decimal | str | bool] = Counter()
    known: dict[str, tuple[int | str, int]] = {}
    for cell, value in read.items():
        kept = int(value) if isinstance(value, bool) else value
        if isinstance(kept, Decimal):
            kept = str(kept) if column.decimals is None else int(kept.scaleb(column.decimals))
        known[cell] = (kept, spellings[value])
        spellings[value] += 1
    return column, known


def _parse(column: Column, cell: str) -> Decimal | str | bool | None:
    match column.kind:
        case CellKind.NUMBER:
            return parse_number(cell, column.form)
        case CellKind.DATE:
            return parse_moment(cell, column.form)
        case CellKind.BOOLEAN:
            return parse_boolean(cell)
        case CellKind.TEXT:
            return cell[: LONGEST_KEY + 1]


def drop_table(db: sqlite3.Connection, document: int) -> None:
    """Removes a document's table, if any; call inside a transaction."""
    for name in ("tables", "table_rows", "table_texts", "table_values"):
        db.execute(f"DELETE FROM {name} WHERE document = ?", (document,))


def read_tables(
    db: sqlite3.Connection, *, sources: str | None, since: float | None, until: float | None, now: float
) -> list[KeptTable]:
    """Tables of documents that haven't expired, sorted by source; empty for a file of format 1."""
    if _format(db) < 2:
        return []
    rows = db.execute(
        "SELECT d.id, d.source, t.columns FROM tables t JOIN documents d ON d.id = t.document "
        "WHERE (:sources IS NULL OR source GLOB :sources) AND (:since IS NULL OR mtime >= :since) "
        "AND (:until IS NULL OR mtime <= :until) AND (expires IS NULL OR expires > :now) ORDER BY source",
        {"sources": sources, "since": since, "until": until, "now": now},
    )
    return [KeptTable(document, source, _columns(columns)) for document, source, columns in rows]


def find_cells(db: sqlite3.Connection, document: int, keys: Iterable[str]) -> dict[str, dict[int, set[str]]]:
    """Cells with the given normalised keys, as key -> column index -> cells."""
    found: dict[str, dict[int, set[str]]] = {}
    wanted = sorted(set(keys))
    for begin in range(0, len(wanted), _AT_ONCE):
        some = wanted[begin : begin + _AT_ONCE]
        marks = ", ".join("?" * len(some))
        for key, place, cell in db.execute(
            f"SELECT key, place, cell FROM table_texts WHERE document = ? AND key IN ({marks})",
            (document, *some),
        ):
            found.setdefault(key, {}).setdefault(place, set()).add(cell)
    return found


def read_rows(db: sqlite3.Connection, document: int, numbers: Sequence[int] | None = None) -> Iterator[Row]:
    """Yields rows in order. :param numbers: row numbers, up to a few hundred; None for all rows."""
    some = "" if numbers is None else f" AND number IN ({', '.join('?' * len(numbers))})"
    for number, start, end, cells in db.execute(
        f'SELECT number, start, "end", cells FROM table_rows WHERE document = ?{some} ORDER BY number',
        (document, *(numbers or ())),
    ):
        yield Row(number, start, end, tuple(json.loads(cells)))


def passages_of(
    db: sqlite3.Connection, document: int, rows: Sequence[Row]
) -> list[list[tuple[str, int, int, str, str]]]:
    """The passages of each row. Each passage is a tuple of text, start, end, id and heading. A long row has
    several passages."""
    (last,) = db.execute("SELECT max(number) FROM passages WHERE document = ?", (document,)).fetchone()
    count = 0 if last is None else last + 1

    def start_of(number: int) -> int:
        where = "document = ? AND number = ?"
        return int(db.execute(f"SELECT start FROM passages WHERE {where}", (document, number)).fetchone()[0])

    found: list[list[tuple[str, int, int, str, str]]] = []
    for row in rows:
        first = bisect_left(range(count), row.start, key=start_of)
        found.append([])
        for passage in db.execute(
            'SELECT text, start, "end", id, heading FROM passages '
            "WHERE document = ? AND number >= ? ORDER BY number",
            (document, first),
        ):
            if passage[2] > row.end:
                break
            found[-1].append(passage)
    return found


def _format(db: sqlite3.Connection) -> int:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    return version


def _written(columns: Iterable[Column]) -> str:
    return json.dumps([asdict(column) for column in columns], ensure_ascii=False)


def _columns(text: str) -> tuple[Column, ...]:
    return tuple(Column(**{**column, "kind": CellKind(column["kind"])}) for column in json.loads(text))
