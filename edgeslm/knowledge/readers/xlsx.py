"""Workbook reader (XLSX): each sheet is a section, each row a passage, and all rows are one table.

With several sheets, the first cell of a row is the sheet's name. Formulas are read as their last saved
results. Hidden sheets are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import BinaryIO

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.documents.passages import Document, check_headings, check_length
from edgeslm.knowledge.readers.office import Attributes, Handler, open_package
from edgeslm.knowledge.readers.tables import (
    MAX_COLUMNS,
    column_names,
    one_line,
    rows_document,
)

_SHEET = "sheet"
"""Name of the column with the sheet names."""
_PLACE = re.compile(r"([A-Z]{1,3})([0-9]{1,7})")
_MOMENTS = frozenset({*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)})
"""Built-in date and time formats (ISO/IEC 29500-1, 18.8.30)."""
_SHARES = frozenset({9, 10})
_QUOTED = re.compile(r'"[^"]*"|\\.|_.|\[[^\]]*\]')
"""Literal text and colours in a number format."""
_FIRST, _FIRST_1904 = datetime(1899, 12, 30), datetime(1904, 1, 1)
_LAST_DAY = 2_958_465
"""Serial number of the last day in the year 9999."""


def read_xlsx(file: BinaryIO, source: str) -> Document:
    """:raises KnowledgeError: the file is damaged, encrypted, or over a limit."""
    with open_package(file, source, "workbook") as package:
        part = package.main_part("xl/workbook.xml")
        book = _Book()
        package.read(part, book)
        relations = package.relations(part)
        kinds = dict(relations.values())
        shared, styles = _Shared(source), _CellStyles()
        package.read(kinds.get("sharedStrings", ""), shared)
        package.read(kinds.get("styles", ""), styles)
        cells = _Cells(shared.strings, styles.formats, _FIRST_1904 if book.is_1904 else _FIRST)
        rows: list[tuple[str, int, list[tuple[str, str]]]] = []
        sheets = [(name, relations[at][1]) for name, at in book.sheets if at in relations]
        for name, sheet in sheets:
            read = _Sheet(cells, source, len(rows))
            package.read(sheet, read)
            own = [(_SHEET, name)] if len(sheets) > 1 else []
            rows += ((name, number, [*own, *pairs]) for number, pairs in _named(read.rows))
    return rows_document(source, "row", rows)


def _named(rows: list[tuple[int, dict[int, str]]]) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """Yields the number and the (column name, value) pairs of each row. If the first row looks like a header,
    its cells are the column names."""
    if not rows:
        return
    width = max(max(row) for _, row in rows) + 1
    names = column_names([rows[0][1].get(at, "") for at in range(width)])
    told = rows[1:] if names else rows
    names = names or [f"column {at}" for at in range(1, width + 1)]
    for number, row in told:
        yield number, [(names[at], value) for at, value in sorted(row.items())]


class _Book(Handler):
    def __init__(self) -> None:
        self.sheets: list[tuple[str, str]] = []
        """Name and relationship id of each visible sheet."""
        self.is_1904 = False

    def start(self, name: str, attributes: Attributes) -> None:
        if name == "workbookPr":
            self.is_1904 = attributes.get("date1904", "") in ("1", "true")
        elif name == "sheet" and attributes.get("state", "visible") == "visible":
            self.sheets.append((one_line(attributes.get("name", "")), attributes.get("id", "")))


class _Shared(Handler):
    """Reads a workbook's shared strings, without their phonetic hints."""

    def __init__(self, source: str) -> None:
        self.strings: list[str] = []
        self._source = source
        self._text: list[str] = []
        self._is_text = False
        self._spoken = 0
        self._characters = 0

    def start(self, name: str, attributes: Attributes) -> None:
        if name == "si":
            self._text = []
        self._spoken += name == "rPh"
        self._is_text = name == "t" and not self._spoken

    def end(self, name: str) -> None:
        self._is_text = False
        self._spoken -= name == "rPh"
        if name == "si":
            self.strings.append(one_line("".join(self._text)))

    def data(self, text: str) -> None:
        if self._is_text:
            self._characters += len(text)
            check_length(self._source, self._characters)
            self._text.append(text)


class _CellStyles(Handler):
    """Reads which kind of value each cell style shows: date or time (``d``), percentage (``%``) or other
    ("")."""

    def __init__(self) -> None:
        self.formats: list[str] = []
        self._codes: dict[str, str] = {}
        self._is_cells = False

    def start(self, name: str, attributes: Attributes) -> None:
        if name == "numFmt":
            self._codes[attributes.get("numFmtId", "")] = attributes.get("formatCode", "")
        elif name == "cellXfs":
            self._is_cells = True
        elif name == "xf" and self._is_cells:
            self.formats.append(self._kind(attributes.get("numFmtId", "")))

    def end(self, name: str) -> None:
        self._is_cells = self._is_cells and name != "cellXfs"

    def _kind(self, number: str) -> str:
        code = self._codes.get(number)
        if code is None:
            known = int(number) if number.isascii() and number.isdigit() and len(number) < 6 else 0
            return "d" if known in _MOMENTS else "%" if known in _SHARES else ""
        shown = _QUOTED.sub("", code.partition(";")[0]).casefold()
        if "general" in shown:
            return ""
        return "d" if set(shown) & set("ymdhs") else "%" if "%" in shown else ""


class _Cells:
    """Converts stored values to text, with dates in ISO 8601 and percentages with ``%``."""

    def __init__(self, shared: list[str], formats: list[str], first: datetime) -> None:
        self._shared = shared
        self._formats = formats
        self._first = first

    def text(self, value: str, kind: str, style: str) -> str:
        if kind == "s":
            return self._shared[int(value)] if value.isdecimal() and int(value) < len(self._shared) else ""
        if kind == "b":
            return "true" if value == "1" else "false"
        if kind == "e":  # #N/A
            return ""
        if kind in ("str", "inlineStr", "d"):
            return one_line(value)
        try:
            number = float(value)
        except ValueError:
            return one_line(value)
        format_ = self._formats[int(style)] if style.isdecimal() and int(style) < len(self._formats) else ""
        if format_ == "d" and 0 <= number <= _LAST_DAY:
            return self._moment(number)
        return f"{100 * number:.12g}%" if format_ == "%" else f"{number:.15g}"

    def _moment(self, days: float) -> str:
        """Converts a number of days to ISO 8601: date, time, or both."""
        at = self._first + timedelta(seconds=round(days * 86_400))
        if days < 1:
            return at.strftime("%H:%M:%S")
        return at.strftime("%Y-%m-%d" if at.time() == datetime.min.time() else "%Y-%m-%d %H:%M:%S")


class _Sheet(Handler):
    """Reads the non-empty rows of a sheet. Each row has a row number, and values by column index (from 0)."""

    def __init__(self, cells: _Cells, source: str, before: int) -> None:
        self.rows: list[tuple[int, dict[int, str]]] = []
        self._cells = cells
        self._source = source
        self._before = before
        self._number = 0
        self._row: dict[int, str] = {}
        self._column = -1
        self._kind = self._style = ""
        self._text: list[str] = []
        self._is_value = False

    def start(self, name: str, attributes: Attributes) -> None:
        if name == "row":
            number = attributes.get("r", "")
            self._number = max(int(number) if _is_short(number) else 0, self._number + 1)
            self._row, self._column = {}, -1
        elif name == "c":
            self._column = _column(attributes.get("r", ""), self._column + 1)
            self._kind, self._style = attributes.get("t", ""), attributes.get("s", "")
            self._text = []
        self._is_value = name in ("v", "t")

    def end(self, name: str) -> None:
        self._is_value = False
        if name == "c":
            text = self._cells.text("".join(self._text), self._kind, self._style) if self._text else ""
            if text:
                self._row[self._column] = text
                if self._column >= MAX_COLUMNS:
                    count = self._column + 1
                    raise KnowledgeError(
                        f"{self._source} has {count:,} columns; at most {MAX_COLUMNS:,} are read."
                    )
        elif name == "row" and self._row:
            self.rows.append((self._number, self._row))
            check_headings(self._source, self._before + len(self.rows))

    def data(self, text: str) -> None:
        if self._is_value:
            self._text.append(text)


def _is_short(number: str) -> bool:
    return number.isascii() and number.isdigit() and len(number) < 9


def _column(place: str, otherwise: int) -> int:
    """Column index of a reference such as ``BC7``, from 0."""
    if (found := _PLACE.fullmatch(place)) is None:
        return otherwise
    column = 0
    for letter in found[1]:
        column = 26 * column + ord(letter) - 64
    return column - 1
