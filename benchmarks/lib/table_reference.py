"""Reference for table queries: plain Python over rows, compared with SQLite's answers.

Cells are compared as they are read from their texts, so that nothing of what is kept beside them is trusted.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, localcontext

from edgeslm.knowledge.documents.cells import CellKind, Column, Row, parse_boolean, parse_number
from edgeslm.knowledge.documents.dates import parse_moment
from edgeslm.knowledge.index.queries import Value
from edgeslm.knowledge.index.table_store import KeptTable
from edgeslm.knowledge.index.table_terms import Comparator, Operation
from edgeslm.knowledge.table_qa.query import (
    MOST_CITED,
    MOST_LISTED,
    MOST_TIES,
    Condition,
    Query,
    Result,
    Unanswerable,
    Unclear,
    plain,
    value_of,
)

_DIGITS = 60


def run_by_rows(db: sqlite3.Connection, table: KeptTable, query: Query) -> Result:
    """As ``run_query``. SQLite leaves out rows whose JSON has none of the texts that a condition names."""
    having = [
        [json.dumps(cell, ensure_ascii=False) for cell in condition.values]
        for condition in query.conditions
        if table.columns[condition.place].kind is CellKind.TEXT
    ]
    some = "".join(f" AND ({' OR '.join(['instr(cells, ?)'] * len(each))})" for each in having)
    found = db.execute(
        f'SELECT number, start, "end", cells FROM table_rows WHERE document = ?{some} ORDER BY number',
        (table.document, *(cell for each in having for cell in each)),
    )
    rows = (Row(number, start, end, tuple(json.loads(cells))) for number, start, end, cells in found)
    return run_over_rows(query, table.columns, rows)


def scan_passages(
    db: sqlite3.Connection, document: int, rows: Sequence[Row]
) -> list[list[tuple[str, int, int, str, str]]]:
    """As ``passages_of``, by a look at each passage of the document."""
    return [
        db.execute(
            'SELECT text, start, "end", id, heading FROM passages '
            'WHERE document = ? AND start >= ? AND "end" <= ? ORDER BY number',
            (document, row.start, row.end),
        ).fetchall()
        for row in rows
    ]


def run_over_rows(query: Query, columns: Sequence[Column], rows: Iterable[Row]) -> Result:
    """Reads each row once. :raises Unanswerable: no row has it; Unclear, where they differ."""
    meant = (row for row in rows if all(_holds(each, columns[each.place], row) for each in query.conditions))
    place = query.column
    if place is None:
        seen = _Seen()
        for row in meant:
            seen.add(row)
        return seen.result(seen.count)
    column = columns[place]
    if query.by is not None:
        return _of_best(query, place, columns, meant)
    match query.wanted:
        case None:
            return _cells(query, place, column, meant)
        case Operation.COUNT | Operation.DISTINCT:
            return _count(query.wanted, place, column, meant)
        case Operation.TOTAL | Operation.AVERAGE:
            return _sum(query.wanted, place, column, meant)
        case _:
            best, seen = _best(place, column, query.wanted in _UP, meant)
            return seen.result(value_of(column, best), best=best)


def comparable(column: Column, cell: str) -> Decimal | str | None:
    """A cell as what orders it: numbers by size, dates by time; None where there is nothing."""
    if column.kind is CellKind.NUMBER:
        return parse_number(cell, column.form)
    return parse_moment(cell, column.form) if column.kind is CellKind.DATE else None


@dataclass(slots=True)
class _Seen:
    """Rows so far: how many, and the first of them."""

    count: int = 0
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.count += 1
        if len(self.rows) < MOST_CITED:
            self.rows.append(row)

    def result(self, *values: Value, best: str = "") -> Result:
        return Result(values, tuple(self.rows), self.count, best)


def _holds(condition: Condition, column: Column, row: Row) -> bool:
    cell = row.cells[condition.place]
    if not cell:
        return False
    signs: list[int] = []
    match column.kind:
        case CellKind.TEXT:
            return cell in condition.values
        case CellKind.BOOLEAN:
            return parse_boolean(cell) in condition.values
        case CellKind.NUMBER:
            if (number := parse_number(cell, column.form)) is None:
                return False
            signs = [
                (number > value) - (number < value)
                for value in condition.values
                if isinstance(value, Decimal)
            ]
        case CellKind.DATE:
            moment = parse_moment(cell, column.form) or ""
            said = [value for value in condition.values if isinstance(value, str)]
            if condition.comparison is None:
                return any(covers(value, moment) for value in said)
            compared = [compare(moment, value) for value in said]
            signs = [sign for sign in compared if sign is not None]
            if len(signs) < len(said):
                raise Unanswerable(f"{column.name} isn't as exact as the question")
    return _fits(condition.comparison, signs)


def _fits(comparison: Comparator | None, signs: Sequence[int]) -> bool:
    """:param signs: of the cell beside each value."""
    match comparison:
        case None:
            return 0 in signs
        case Comparator.ABOVE | Comparator.AFTER:
            return signs[0] > 0
        case Comparator.AT_LEAST:
            return signs[0] >= 0
        case Comparator.BELOW | Comparator.BEFORE:
            return signs[0] < 0
        case Comparator.AT_MOST:
            return signs[0] <= 0
        case Comparator.BETWEEN:
            return signs[0] >= 0 >= signs[1]


def _cells(query: Query, place: int, column: Column, rows: Iterable[Row]) -> Result:
    """The different cells of the column."""
    seen, there = _Seen(), 0
    values: dict[str, None] = {}
    for row in rows:
        there += 1
        if cell := row.cells[place]:
            seen.add(row)
            values[cell] = None
            if len(values) > (MOST_LISTED if query.many else 1):
                raise Unclear(f"several rows are meant, and {column.name} differs among them")
    if not values:
        raise Unanswerable(f"{column.name} is empty there" if there else "no row is like that")
    return seen.result(*(value_of(column, cell) for cell in values))


def _count(wanted: Operation, place: int, column: Column, rows: Iterable[Row]) -> Result:
    seen = _Seen()
    different: set[str] = set()
    for row in rows:
        if cell := row.cells[place]:
            seen.add(row)
            day = parse_moment(cell, column.form) if column.kind is CellKind.DATE else None
            different.add(day[:10] if day else cell)  # a day may have many rows
    if wanted is Operation.COUNT and len(different) != seen.count:
        raise Unclear(f"{seen.count} rows have {len(different)} different {column.name}")
    return seen.result(len(different))


def _sum(wanted: Operation, place: int, column: Column, rows: Iterable[Row]) -> Result:
    seen, total = _Seen(), Decimal(0)
    with localcontext(prec=_DIGITS):
        for row in rows:
            if (number := parse_number(row.cells[place], column.form)) is not None:
                seen.add(row)
                total += number
        if not seen.count:
            raise Unanswerable(f"no row like that has a {column.name}")
        return seen.result(plain(total if wanted is Operation.TOTAL else total / seen.count))


_UP = (Operation.LARGEST, Operation.LATEST)


def _best(place: int, column: Column, largest: bool, rows: Iterable[Row]) -> tuple[str, _Seen]:
    """The largest cell of a column as it is written, and the rows that have it."""
    best: Decimal | str | None = None
    written, seen, there = "", _Seen(), False
    for row in rows:
        there = True
        value = comparable(column, row.cells[place])
        if value is None:
            continue
        if best is None or (value > best if largest else value < best):  # type: ignore[operator]
            best, written, seen = value, row.cells[place], _Seen()
        if value == best:
            seen.add(row)
    if best is None:
        raise Unanswerable(f"no row like that has a {column.name}" if there else "no row is like that")
    return written, seen


def _totals(
    place: int, by: int, column: Column, rows: Iterable[Row], totals: dict[str, Decimal]
) -> Iterator[Row]:
    """Sums up ``by`` for each cell of ``place`` while the rows go by."""
    for row in rows:
        if (number := parse_number(row.cells[by], column.form)) is not None:
            totals[row.cells[place]] = totals.get(row.cells[place], Decimal(0)) + number
        yield row


def _of_best(query: Query, place: int, columns: Sequence[Column], rows: Iterable[Row]) -> Result:
    """A cell of the rows that are the largest by another one."""
    by = place if query.by is None else query.by
    totals: dict[str, Decimal] = {}
    if query.summed:
        rows = _totals(place, by, columns[by], rows, totals)
    best, seen = _best(by, columns[by], query.largest, rows)
    values = dict.fromkeys(cell for row in seen.rows if (cell := row.cells[place]))
    if totals:
        extreme = max(totals.values()) if query.largest else min(totals.values())
        if values.keys() != {cell for cell, total in totals.items() if total == extreme}:
            raise Unclear(f"summed up by {columns[place].name} it is another one")
    if seen.count > MOST_TIES or (len(values) > 1 and not query.many):
        raise Unclear(f"{seen.count} rows are alike in {columns[by].name}")
    if not values:
        raise Unanswerable(f"{columns[place].name} is empty there")
    return seen.result(*(value_of(columns[place], cell) for cell in values), best=best)


def covers(said: str, moment: str) -> bool:
    """Whether a date of a cell lies in one that was said."""
    return moment[5:].startswith(said[2:]) if said.startswith("--") else moment.startswith(said)


def compare(moment: str, said: str) -> int | None:
    """-1, 0 or 1: a cell's date is before, in or after one that was said; None where that can't be told."""
    if said.startswith("--") or len(moment) < len(said):
        return None
    begin = moment[: len(said)]
    return (begin > said) - (begin < said)
