"""Table cells: the rows and columns of a table, with the type of each column.

Cells keep their original text; the column's type says how to parse it. A column is numeric only if all its
filled cells are numbers. A typo in one cell of a column of numbers makes the whole column text, which is
searched but not used in calculations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum

from edgeslm.knowledge.documents.dates import DAY_FIRST, ISO, MONTH_FIRST, offset_of, parse_moment

MAX_CELLS = 500_000
"""Maximum number of cells in a table from which answers are computed. A table of this size takes about 50 MB
of memory. A larger table is searched as text only."""


class CellKind(StrEnum):
    """Type of a column's non-empty cells."""

    TEXT = "text"
    NUMBER = "number"
    DATE = "date"
    BOOLEAN = "boolean"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. In a numeric column, ``form`` is :data:`COMMA` for a decimal comma and "" for a
    decimal point. In a date column, ``form`` is the order of day and month."""

    name: str
    kind: CellKind = CellKind.TEXT
    form: str = ""
    unit: str = ""
    """Unit that all numbers share, such as ``bar`` in ``4 bar``."""
    first: str = ""
    last: str = ""
    """Earliest (``first``) and latest (``last``) date of a date column."""
    unique: bool = False
    """Whether all cells of a text column differ, with none empty."""
    decimals: int | None = None
    """Maximum number of decimal places in a stored numeric column; None if the column's numbers don't fit
    into 64 bits."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table. ``number`` is the number of the row, line or item in the file, counted across all
    sheets of a workbook. ``start`` and ``end`` are offsets in the document's text."""

    number: int
    start: int
    end: int
    cells: tuple[str, ...]
    """Text of each column's cell; "" for an empty cell."""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows of a table. No row has more cells than there are columns."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


COMMA = ","
"""Notation of numbers with a decimal comma."""

_NUMBER = re.compile(
    r"(?P<sign>[-+−]?)(?P<before>[€$£]?)\s?(?P<digits>\d{1,30}(?:[.,'  ]\d{1,30}){0,9}|\.\d{1,30})"
    r"(?P<power>e[-+]?\d{1,3})?(?P<after>\s?[^\W\d_]{1,12}[²³]?|\s?[^\W\d_]{0,3}/[^\W\d_]{1,3}|\s?[%€$£°]|\s?°[CFK])?",
    re.IGNORECASE,
)
_GROUPS = {
    "": re.compile(r"(?P<whole>[1-9]\d{0,2}(?:,\d{3})+|\d+)?(?P<fraction>\.\d+)?"),
    COMMA: re.compile(r"(?P<whole>[1-9]\d{0,2}(?:[. ' ]\d{3})+|\d+)?(?P<fraction>,\d+)?"),
}
_PLAIN = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,15})?")
"""Numbers that can be parsed without the slower pattern ``_NUMBER``."""
_UNCLEAR = re.compile(r"\d{1,3},\d{3}")
"""Numbers such as ``1,234``, whose comma may separate thousands or decimals."""
_LONGEST_NUMBER = 60
BLANKS = frozenset({"-", "--", "–", "—", "?", "n/a", "na", "nan", "nil", "null", "none"})
"""Placeholders for a missing number, date or boolean."""
_BOOLEANS = {**dict.fromkeys(("true", "yes"), True), **dict.fromkeys(("false", "no"), False)}


def parse_number(cell: str, form: str = "") -> Decimal | None:
    """The exact number in a cell, without its unit; None if the cell isn't a number.

    :param form: with :data:`COMMA`, ``1,5`` is one and a half; otherwise a comma separates thousands.
    """
    if _PLAIN.fullmatch(cell) and (form == "" or "." not in cell):
        return Decimal(cell)
    if len(cell) > _LONGEST_NUMBER or (match := _NUMBER.fullmatch(cell)) is None:
        return None
    if (parts := _GROUPS[form].fullmatch(match["digits"])) is None:
        return None
    whole = re.sub(r"\D", "", parts["whole"] or "0")
    fraction = (parts["fraction"] or "")[1:]
    sign = "-" if match["sign"] in ("-", "−") else ""
    return Decimal(f"{sign}{whole}.{fraction or '0'}{match['power'] or ''}")


def parse_boolean(cell: str) -> bool | None:
    return _BOOLEANS.get(cell.casefold())


class ColumnInference:
    """Infers a column's type from its cells, one at a time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._kinds = set(CellKind)
        self._cells = 0
        self._forms = {"", COMMA}
        self._clear = False
        """Whether any cell has a number that is valid in only one of the two notations."""
        self._unclear = False
        self._units: set[str] = set()
        self._orders = {ISO, DAY_FIRST, MONTH_FIRST}
        self._offsets: set[str] = set()
        self._range: dict[str, tuple[str, str]] = {}

    def add(self, cell: str) -> None:
        """Adds a cell."""
        if not cell or self._kinds == {CellKind.TEXT} or cell.casefold() in BLANKS:
            return
        self._cells += 1
        if CellKind.BOOLEAN in self._kinds and parse_boolean(cell) is None:
            self._kinds.discard(CellKind.BOOLEAN)
        if CellKind.NUMBER in self._kinds:
            self._add_number(cell)
        if CellKind.DATE in self._kinds:
            self._add_date(cell)

    def column(self) -> Column:
        """The column, with the type that fits all added cells."""
        if not self._cells:
            return Column(self.name)
        if CellKind.BOOLEAN in self._kinds:
            return Column(self.name, CellKind.BOOLEAN)
        if CellKind.DATE in self._kinds and (ISO in self._orders or len(self._orders) == 1):
            order = ISO if ISO in self._orders else min(self._orders)
            first, last = self._range[order]
            return Column(self.name, CellKind.DATE, order, first=first, last=last)
        if CellKind.NUMBER in self._kinds and (self._clear or not self._unclear):
            form = "" if "" in self._forms else COMMA
            return Column(self.name, CellKind.NUMBER, form, min(self._units))
        return Column(self.name)

    def _add_number(self, cell: str) -> None:
        if _PLAIN.fullmatch(cell) and cell[0] not in "-0" and "." not in cell:
            self._units.add("")
            if len(self._units) > 1:
                self._kinds.discard(CellKind.NUMBER)
            return
        match = _NUMBER.fullmatch(cell) if len(cell) <= _LONGEST_NUMBER else None
        forms = {form for form in self._forms if match and parse_number(cell, form) is not None}
        digits, unit = (match["digits"], match["before"] or match["after"] or "") if match else ("", "")
        if not forms or (len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()):  # a code: 004
            self._kinds.discard(CellKind.NUMBER)
            return
        self._units.add(unit.strip())
        if len(self._units) > 1:
            self._kinds.discard(CellKind.NUMBER)
        self._clear |= forms != {"", COMMA}
        self._unclear |= _UNCLEAR.fullmatch(digits) is not None
        self._forms = forms

    def _add_date(self, cell: str) -> None:
        clear = parse_moment(cell)
        read = {order: clear or parse_moment(cell, order) for order in self._orders}
        self._orders = {order for order, moment in read.items() if moment is not None}
        self._offsets.add(offset_of(cell))
        if not self._orders or len(self._offsets) > 1:
            self._kinds.discard(CellKind.DATE)
            return
        for order in self._orders:
            moment = str(read[order])
            first, last = self._range.get(order, (moment, moment))
            self._range[order] = (min(first, moment), max(last, moment))


def make_table(names: Sequence[str], rows: Iterable[Row]) -> Table:
    """Makes a table, and infers the type of each column. Placeholders (:data:`BLANKS`) become empty cells,
    except in text columns.

    :param rows: rows with one cell for each column name.
    """
    kept = tuple(rows)
    inferences = [ColumnInference(name) for name in names]
    for row in kept:
        for inference, cell in zip(inferences, row.cells, strict=True):
            inference.add(cell)
    columns = tuple(inference.column() for inference in inferences)
    # In text, "none" may be an ordinary word.
    blank = [column.kind is not CellKind.TEXT for column in columns]
    return Table(columns, tuple(replace(row, cells=_without_blanks(row.cells, blank)) for row in kept))


def _without_blanks(cells: Sequence[str], blank: Sequence[bool]) -> tuple[str, ...]:
    return tuple(
        "" if there and cell.casefold() in BLANKS else cell for cell, there in zip(cells, blank, strict=True)
    )
