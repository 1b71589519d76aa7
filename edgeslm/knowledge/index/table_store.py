"""Tables inside a collection's file, beside the passages of their documents. Knows no question.

Rows are lists of cells as they were written. Of the texts among them each is kept once more under its key, so
that whether a question names a cell is looked up and not read for.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from edgeslm.knowledge.documents.cells import CellKind, Column, Row, Table
from edgeslm.knowledge.index.table_terms import LONGEST_KEY, key_of

SCHEMA = """
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
"""
"""What the collection's format 2 has more than format 1."""
_AT_ONCE = 500
"""Keys in one statement."""


@dataclass(frozen=True, slots=True)
class KeptTable:
    """A table of a collection without its rows."""

    document: int
    source: str
    columns: tuple[Column, ...]


def put_table(db: sqlite3.Connection, document: int, table: Table | None) -> None:
    """Puts a document's table in the place of the one that it had; inside a transaction."""
    drop_table(db, document)
    if table is None:
        return
    db.executemany(
        "INSERT INTO table_rows VALUES (?, ?, ?, ?, ?)",
        ((document, row.number, row.start, row.end, _packed(row.cells)) for row in table.rows),
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
        asdict(replace(column, unique=different.get(place) == len(table.rows)))
        for place, column in enumerate(table.columns)
    ]
    db.execute("INSERT INTO tables VALUES (?, ?)", (document, json.dumps(columns, ensure_ascii=False)))


def drop_table(db: sqlite3.Connection, document: int) -> None:
    """Takes a document's table out, if it has one; inside a transaction."""
    for name in ("tables", "table_rows", "table_texts"):
        db.execute(f"DELETE FROM {name} WHERE document = ?", (document,))


def read_tables(
    db: sqlite3.Connection, *, sources: str | None, since: float | None, until: float | None, now: float
) -> list[KeptTable]:
    """The tables of documents that haven't expired, sorted by source; none of a file of format 1."""
    if db.execute("PRAGMA user_version").fetchone()[0] < 2:
        return []
    rows = db.execute(
        "SELECT d.id, d.source, t.columns FROM tables t JOIN documents d ON d.id = t.document "
        "WHERE (:sources IS NULL OR source GLOB :sources) AND (:since IS NULL OR mtime >= :since) "
        "AND (:until IS NULL OR mtime <= :until) AND (expires IS NULL OR expires > :now) ORDER BY source",
        {"sources": sources, "since": since, "until": until, "now": now},
    )
    return [KeptTable(document, source, _columns(columns)) for document, source, columns in rows]


def find_cells(db: sqlite3.Connection, document: int, keys: Iterable[str]) -> dict[str, dict[int, set[str]]]:
    """The cells under each of the keys: by their key and their column's place."""
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


def read_rows(db: sqlite3.Connection, document: int, having: Sequence[Sequence[str]] = ()) -> Iterator[Row]:
    """In their order, one at a time.

    :param having: of each of these some cell has to be there; which column it is in isn't looked at.
    """
    some = "".join(f" AND ({' OR '.join(['instr(cells, ?)'] * len(each))})" for each in having if each)
    for number, start, end, cells in db.execute(
        f'SELECT number, start, "end", cells FROM table_rows WHERE document = ?{some} ORDER BY number',
        (document, *(_packed(cell) for each in having for cell in each)),
    ):
        yield Row(number, start, end, tuple(json.loads(cells)))


def passages_of(
    db: sqlite3.Connection, document: int, rows: Sequence[Row]
) -> list[list[tuple[str, int, int, str, str]]]:
    """Of each row its passages: text, start and end, id and heading. A long row has several."""
    return [
        db.execute(
            'SELECT text, start, "end", id, heading FROM passages '
            'WHERE document = ? AND start >= ? AND "end" <= ? ORDER BY number',
            (document, row.start, row.end),
        ).fetchall()
        for row in rows
    ]


def _packed(cells: str | Sequence[str]) -> str:
    return json.dumps(cells, ensure_ascii=False)


def _columns(text: str) -> tuple[Column, ...]:
    return tuple(Column(**{**column, "kind": CellKind(column["kind"])}) for column in json.loads(text))
