"""Table cells: rows under columns as values, and what kind of values a column has.

Cells are kept as they were written; what a column is says how they are read. A column is a number only if all
its cells are, so that one typing error makes it text, which is found and shown but not computed with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum

from edgeslm.knowledge.documents.dates import DAY_FIRST, ISO, MONTH_FIRST, offset_of, parse_moment

MAX_CELLS = 500_000
"""Of a table that is kept as one, some 50 MB while it is read; a larger one is searched as text alone."""


class CellKind(StrEnum):
    """What all cells of a column are, as far as there is anything in them."""

    TEXT = "text"
    NUMBER = "number"
    DATE = "date"
    BOOLEAN = "boolean"


@dataclass(frozen=True, slots=True)
class Column:
    """``form`` says how its cells are written: :data:`COMMA` for numbers, what ``dates`` has for dates."""

    name: str
    kind: CellKind = CellKind.TEXT
    form: str = ""
    unit: str = ""
    """That all its numbers are followed by (``4 bar``), as it is written."""
    first: str = ""
    last: str = ""
    """Of a date: the range that its cells cover."""
    unique: bool = False
    """Of a text: no two rows have the same, and none has nothing."""
    decimals: int | None = None
    """Of numbers in a collection: the most digits behind the point; None where they are too long together."""


@dataclass(frozen=True, slots=True)
class Row:
    """``number`` as a reader counts it. ``start`` and ``end`` are offsets in the document's text."""

    number: int
    start: int
    end: int
    cells: tuple[str, ...]
    """One for each column; "" where there is nothing."""


@dataclass(frozen=True, slots=True)
class Table:
    """No row has more cells than there are columns."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


COMMA = ","
"""The decimal mark of a column's numbers, where it isn't a point."""

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
"""What can be read without a look at its parts."""
_UNCLEAR = re.compile(r"\d{1,3},\d{3}")
"""A thousand or a decimal; with a point it is taken for a decimal."""
_LONGEST_NUMBER = 60
BLANKS = frozenset({"-", "--", "–", "—", "?", "n/a", "na", "nan", "nil", "null", "none"})
"""What is written where there is no number, date, yes or no."""
_BOOLEANS = {**dict.fromkeys(("true", "yes"), True), **dict.fromkeys(("false", "no"), False)}


def parse_number(cell: str, form: str = "") -> Decimal | None:
    """The number of a cell, exactly; a unit behind it doesn't matter. None if it is none.

    :param form: :data:`COMMA` where ``1,5`` is one and a half; else a comma parts thousands.
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


class Guess:
    """What a column is, from its cells one after the other."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._kinds = set(CellKind)
        self._cells = 0
        self._forms = {"", COMMA}
        self._clear = False
        """A number was seen that can be read in one way only."""
        self._unclear = False
        self._units: set[str] = set()
        self._orders = {ISO, DAY_FIRST, MONTH_FIRST}
        self._offsets: set[str] = set()
        self._range: dict[str, tuple[str, str]] = {}

    def see(self, cell: str) -> None:
        """One more of its cells."""
        if not cell or self._kinds == {CellKind.TEXT} or cell.casefold() in BLANKS:
            return
        self._cells += 1
        if CellKind.BOOLEAN in self._kinds and parse_boolean(cell) is None:
            self._kinds.discard(CellKind.BOOLEAN)
        if CellKind.NUMBER in self._kinds:
            self._see_number(cell)
        if CellKind.DATE in self._kinds:
            self._see_date(cell)

    def column(self) -> Column:
        """What it is, after all of them."""
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

    def _see_number(self, cell: str) -> None:
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

    def _see_date(self, cell: str) -> None:
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
    """:param rows: each as long as ``names``."""
    kept = tuple(rows)
    guesses = [Guess(name) for name in names]
    for row in kept:
        for guess, cell in zip(guesses, row.cells, strict=True):
            guess.see(cell)
    columns = tuple(guess.column() for guess in guesses)
    # In a text "none" may be a word as any other.
    blank = [column.kind is not CellKind.TEXT for column in columns]
    return Table(columns, tuple(replace(row, cells=_without_blanks(row.cells, blank)) for row in kept))


def _without_blanks(cells: Sequence[str], blank: Sequence[bool]) -> tuple[str, ...]:
    return tuple(
        "" if there and cell.casefold() in BLANKS else cell for cell, there in zip(cells, blank, strict=True)
    )
