"""Table query: filters and aggregates the rows of one table in SQLite.

Numbers are exact decimals, so sums have no rounding errors.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

from edgeslm.knowledge.documents.cells import CellKind, Column, Row, parse_number
from edgeslm.knowledge.index.queries import Value
from edgeslm.knowledge.index.table_store import WIDTH, KeptTable, read_rows, with_values
from edgeslm.knowledge.index.table_terms import Comparator, Operation

MOST_CITED = 20
"""Maximum number of rows in a result; the first rows are kept."""
MOST_LISTED = 50
"""Maximum number of distinct values in an answer."""
MOST_TIES = 10
"""Maximum number of rows that may share the largest or smallest value."""
MOST_VALUES = 500
"""Maximum number of values in a condition, since SQLite limits the depth of expressions."""
_FEW = 200
"""Maximum number of rows that are selected by row number, which needs no scan."""
_DIGITS = 60
"""Number of significant decimal digits in sums and averages."""
_HALF = 10**9
"""Numbers are divided by this number, and quotients and remainders are summed separately, so that no sum
exceeds 64 bits."""
_MOST_INTEGER = 2**63 - 1
_AFTER_DATES = "~"
"""Character that sorts after any digit, so that ``2026-03~`` is after all dates in March."""


class Unanswerable(Exception):
    """The table has no clear answer. The exception's text is the reason in a few words."""


class Unclear(Unanswerable):
    """The answer is ambiguous."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on the cells of a column. Without ``comparison``, a cell must be one of ``values``."""

    place: int
    values: tuple[str | bool | Decimal, ...]
    """Texts of cells, dates as in the question, numbers, or booleans."""
    comparison: Comparator | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """Asks for the result of operation ``wanted`` on ``column``, over the rows that satisfy all
    conditions."""

    wanted: Operation | None
    """Operation; None for the cells themselves."""
    column: int | None
    """Index of the column; None to count rows."""
    conditions: tuple[Condition, ...] = ()
    by: int | None = None
    """Column whose largest, or smallest, value selects the rows."""
    largest: bool = True
    many: bool = False
    """Whether the answer may have several distinct values."""
    summed: bool = False
    """Whether the question has two interpretations: the cell of ``column`` with the largest value in ``by``,
    or the cell with the largest sum of ``by``. There is an answer only if both give the same cells."""


@dataclass(frozen=True, slots=True)
class Result:
    values: tuple[Value, ...]
    rows: tuple[Row, ...]
    """The rows that the values come from, at most :data:`MOST_CITED`."""
    matched: int
    """Number of rows that the values come from."""
    best: str = ""
    """Cell with the largest or smallest value, if the query asks for one."""


def run_query(db: sqlite3.Connection, table: KeptTable, query: Query) -> Result:
    """:raises Unanswerable: no row matches.
    :raises Unclear: the matching rows have different answers.
    """
    used = (query.column, query.by, *(each.place for each in query.conditions))
    places = sorted({place for place in used if place is not None} or {0})
    with with_values(db, table, places) as table, localcontext(prec=_DIGITS):
        rows = _Rows(db, table, places)
        for condition in query.conditions:
            rows.narrow(condition)
        rows.settle()
        if query.column is None:
            return rows.result([rows.count()])
        if query.by is not None:
            return _of_best(query, query.column, query.by, rows)
        column = table.columns[query.column]
        match query.wanted:
            case None:
                return _cells(query, query.column, rows)
            case Operation.COUNT | Operation.DISTINCT:
                return _count(query.wanted, query.column, rows)
            case Operation.TOTAL | Operation.AVERAGE:
                return _sum(query.wanted, query.column, rows)
            case _:
                best = _keep_best(query.column, query.wanted in _UP, rows)
                return rows.result([value_of(column, best)], best=best)


def value_of(column: Column, cell: str) -> Value:
    number = parse_number(cell, column.form) if column.kind is CellKind.NUMBER else None
    return cell if number is None else _answered(number)


def plain(number: Decimal) -> int | float:
    """Converts a decimal to a 64-bit integer if possible, otherwise to a float."""
    is_whole = abs(number) < 2**63 and number == number.to_integral_value()
    return int(number) if is_whole else float(number)


def _answered(number: Decimal) -> int | float:
    value = plain(number)
    if not math.isfinite(value):
        raise Unanswerable("a number is too large")
    return value


class _Rows:
    """The selected rows of a table, as an SQL query over the values of some columns."""

    def __init__(self, db: sqlite3.Connection, table: KeptTable, places: Sequence[int]) -> None:
        self._db, self._document, self.columns = db, table.document, table.columns
        first, *others = dict.fromkeys(place // WIDTH for place in places)
        self._number = f"p{first}.number"
        self._from = f"table_values p{first}" + "".join(
            f" CROSS JOIN table_values p{part} ON p{part}.document = {table.document} "
            f"AND p{part}.part = {part} AND p{part}.number = {self._number}"
            for part in others
        )
        self._document_part = f"p{first}.document = {table.document} AND p{first}.part = {first}"
        self._where = self._document_part
        self._values: list[str | int] = []
        db.create_collation("number", _compare)
        db.create_aggregate("total_number", 1, _Total)  # type: ignore[arg-type]

    def select(self, what: str, rest: str = "") -> list[tuple[Any, ...]]:
        sql = f"SELECT {what} FROM {self._from} WHERE {self._where} {rest}"
        return self._db.execute(sql, self._values).fetchall()

    def keep(self, such: str, *values: str | int) -> None:
        """Adds an SQL condition."""
        self._where += f" AND ({such})"
        self._values += values

    def settle(self) -> None:
        """Selects rows by row number if there are at most ``_FEW``, so that later queries need no scan."""
        numbers = [number for (number,) in self.select(self._number, f"LIMIT {_FEW + 1}")]
        if len(numbers) <= _FEW:
            self._where = f"{self._document_part} AND {self._number} IN ({', '.join(map(str, numbers))})"
            self._values = []

    def narrow(self, condition: Condition) -> None:
        """:raises Unanswerable: the cells can't be compared with the value."""
        column, value = self.columns[condition.place], self.value(condition.place)
        if len(condition.values) > MOST_VALUES:
            raise Unclear(f"{len(condition.values)} different {column.name} may be meant")
        if column.kind is CellKind.DATE and condition.comparison is not None:
            said = max(len(str(each)) for each in condition.values)
            if self.select("1", f"AND length({value}) < {said} LIMIT 1"):
                raise Unanswerable(f"{column.name} isn't as exact as the question")
        ranges = [_range(column, each) for each in condition.values]
        match condition.comparison:
            case None:
                some = " OR ".join([f"{value} BETWEEN ? AND ?"] * len(ranges))
                self.keep(some, *(end for both in ranges for end in both))
            case Comparator.ABOVE | Comparator.AFTER:
                self.keep(f"{value} > ?", ranges[0][1])
            case Comparator.AT_LEAST:
                self.keep(f"{value} >= ?", ranges[0][0])
            case Comparator.BELOW | Comparator.BEFORE:
                self.keep(f"{value} < ?", ranges[0][0])
            case Comparator.AT_MOST:
                self.keep(f"{value} <= ?", ranges[0][1])
            case Comparator.BETWEEN:
                self.keep(f"{value} BETWEEN ? AND ?", ranges[0][0], ranges[1][1])

    def value(self, place: int) -> str:
        column = self.columns[place]
        is_text = column.kind is CellKind.NUMBER and column.decimals is None
        return f"p{place // WIDTH}.v{place % WIDTH}" + (" COLLATE number" if is_text else "")

    def cell(self, place: int) -> str:
        """SQL expressions for value and spelling of a cell, to group cells with the same text."""
        return f"{self.value(place)}, p{place // WIDTH}.w{place % WIDTH}"

    def first(self, by: int) -> list[int]:
        """For each distinct cell in column ``by``, the number of the first row with that cell."""
        groups = self.select(f"min({self._number})", f"GROUP BY {self.cell(by)}")
        return sorted(number for (number,) in groups)

    def totals(self, place: int, by: int | None = None) -> list[tuple[int, Decimal, int]]:
        """Count and sum of the numbers in column ``place``, and number of the first row with such a number.
        With ``by``, one result for each distinct cell in column ``by``."""
        value, decimals = self.value(place), self.columns[place].decimals
        sums = f"sum({value} / {_HALF}), sum({value} % {_HALF})"
        if decimals is None:
            sums = f"total_number({value}), 0"
        groups = self.select(
            f"count(*), min({self._number}), {sums}",
            f"AND {value} IS NOT NULL" + ("" if by is None else f" GROUP BY {self.cell(by)}"),
        )
        return [
            (
                count,
                Decimal(high) if decimals is None else Decimal(high * _HALF + low).scaleb(-decimals),
                first,
            )
            for count, first, high, low in groups
            if count
        ]

    def count(self) -> int:
        ((count,),) = self.select("count(*)")
        return int(count)

    def cells(self, place: int, numbers: Sequence[int]) -> list[str]:
        return [row.cells[place] for row in read_rows(self._db, self._document, numbers)]

    def cited(self) -> tuple[Row, ...]:
        numbers = self.select(self._number, f"ORDER BY {self._number} LIMIT {MOST_CITED}")
        return tuple(read_rows(self._db, self._document, [number for (number,) in numbers]))

    def result(self, values: Iterable[Value], *, best: str = "") -> Result:
        return Result(tuple(values), self.cited(), self.count(), best)


def _compare(one: str, other: str) -> int:
    left, right = Decimal(one), Decimal(other)
    return (left > right) - (left < right)


class _Total:
    """SQL aggregate: sum of numbers that are stored as text."""

    def __init__(self) -> None:
        self._total = Decimal(0)

    def step(self, number: str) -> None:
        self._total += Decimal(number)

    def finalize(self) -> str:
        return str(self._total)


def _range(column: Column, value: str | bool | Decimal) -> tuple[str | int, str | int]:
    """Lower and upper bound of the stored values that match ``value``; the lower bound is above the upper
    bound if no number can match."""
    if isinstance(value, Decimal):
        if column.decimals is None:
            return str(value), str(value)
        scaled = Fraction(value) * 10**column.decimals
        return _bounded(math.ceil(scaled)), _bounded(math.floor(scaled))
    if column.kind is CellKind.DATE:
        return str(value), f"{value}{_AFTER_DATES}"
    return value, value


def _bounded(number: int) -> int:
    return max(-_MOST_INTEGER, min(number, _MOST_INTEGER))


def _keep_filled(place: int, rows: _Rows, reason: str) -> None:
    """Keeps rows with a value in column ``place``.

    :raises Unanswerable: no row is selected, or no selected row has a value in the column; ``reason`` is the
        exception's text if the values are missing.
    """
    filled = f"{rows.value(place)} IS NOT NULL"
    if not rows.select("1", f"AND {filled} LIMIT 1"):
        raise Unanswerable(reason if rows.select("1", "LIMIT 1") else "no row is like that")
    rows.keep(filled)


def _cells(query: Query, place: int, rows: _Rows) -> Result:
    """The distinct cells of the column."""
    column = rows.columns[place]
    _keep_filled(place, rows, f"{column.name} is empty there")
    most = MOST_LISTED if query.many else 1
    if len(rows.select(f"DISTINCT {rows.cell(place)}", f"LIMIT {most + 1}")) > most:
        raise Unclear(f"several rows are meant, and {column.name} differs among them")
    return rows.result(value_of(column, cell) for cell in rows.cells(place, rows.first(place)))


def _count(wanted: Operation, place: int, rows: _Rows) -> Result:
    column, value = rows.columns[place], rows.value(place)
    rows.keep(f"{value} IS NOT NULL")
    what = f"substr({value}, 1, 10)" if column.kind is CellKind.DATE else rows.cell(place)
    different = len(rows.select(f"DISTINCT {what}"))  # a day may have many rows
    result = rows.result([different])
    if wanted is Operation.COUNT and different != result.matched:
        raise Unclear(f"{result.matched} rows have {different} different {column.name}")
    return result


def _sum(wanted: Operation, place: int, rows: _Rows) -> Result:
    column = rows.columns[place]
    if not (totals := rows.totals(place)):
        raise Unanswerable(f"no row like that has a {column.name}")
    ((count, total, _),) = totals
    rows.keep(f"{rows.value(place)} IS NOT NULL")
    value = _answered(total if wanted is Operation.TOTAL else total / count)
    return Result((value,), rows.cited(), count)


_UP = (Operation.LARGEST, Operation.LATEST)


def _keep_best(place: int, largest: bool, rows: _Rows) -> str:
    """Keeps the rows with the largest, or smallest, value in a column. :return: the cell of the first such
    row."""
    value = rows.value(place)
    _keep_filled(place, rows, f"no row like that has a {rows.columns[place].name}")
    ((best,),) = rows.select(f"{'max' if largest else 'min'}({value})")
    rows.keep(f"{value} = ?", best)
    rows.settle()
    return rows.cited()[0].cells[place]


def _of_best(query: Query, place: int, by: int, rows: _Rows) -> Result:
    """The cells of a column in the rows with the largest, or smallest, value in another column."""
    column = rows.columns[place]
    totals = rows.totals(by, place) if query.summed else []
    best = _keep_best(by, query.largest, rows)
    cited = rows.cited()
    values = dict.fromkeys(cell for row in cited if (cell := row.cells[place]))
    if totals:
        extreme = (max if query.largest else min)(total for _, total, _ in totals)
        firsts = [number for _, total, number in totals if total == extreme]
        if len(firsts) != len(values) or values.keys() != set(rows.cells(place, firsts)):
            raise Unclear(f"summed up by {column.name} it is another one")
    count = rows.count()
    if count > MOST_TIES or (len(values) > 1 and not query.many):
        raise Unclear(f"{count} rows are alike in {rows.columns[by].name}")
    if not values:
        raise Unanswerable(f"{column.name} is empty there")
    return Result(tuple(value_of(column, cell) for cell in values), cited, count, best)
