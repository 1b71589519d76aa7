"""Table readers (CSV, JSON): each row becomes a line ``column: value; column: value`` and a section.

A search therefore finds a row by its content, with each value next to its column's name. The document also
has the cells as a table, from which answers can be computed.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from io import StringIO
from itertools import islice
from pathlib import PurePath
from typing import Any

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.documents.cells import MAX_CELLS, Row, Table, make_table
from edgeslm.knowledge.documents.kinds import CELLS
from edgeslm.knowledge.documents.passages import MAX_CHARACTERS, Document, Heading, check_headings

MAX_COLUMNS = 1000
"""Maximum number of columns in a table, or of values in a JSON object."""
MOST_EMPTY = 8
"""Maximum ratio of a table's cells to the values in the file. A table with a larger ratio is searched as text
only, since its empty cells would take more memory than its text."""
MAX_DEPTH = 20
"""Maximum nesting depth of JSON objects."""
_LONGEST_NAME = 80
"""Maximum length of a column name in characters, limited since each row repeats the name."""
_LOOK_AT = 20
"""Number of rows used to detect the separator."""
_YEAR = re.compile("(?:19|20)[0-9]{2}")
_SEPARATORS = ",;\t|"


def read_table(text: str, source: str) -> Document:
    """Reads CSV with any common separator. Each row's heading has the number that a spreadsheet shows for the
    row, so the first row below a header is ``row 2``.

    :raises KnowledgeError: the text is not CSV, or has more columns than ``MAX_COLUMNS``.
    """
    try:
        rows = _rows(text, source, _separator(text))
        first = next(rows, [])
        names = column_names(first)
        start = 2 if names else 1
        names = names or [f"column {number}" for number in range(1, len(first) + 1)]
        told = [] if start == 2 else [first]
        numbered = enumerate(_pairs(names, (*told, *rows)), start)
        return rows_document(source, "row", (("", number, pairs) for number, pairs in numbered))
    except csv.Error as error:
        raise KnowledgeError(f"{source} can't be read as CSV: {error}.") from None


def read_json_lines(text: str, source: str) -> Document:
    """Reads one JSON value per line. :raises KnowledgeError: a line isn't JSON, or is nested too deeply."""
    numbered = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    values = ((number, _parse(line, source, f", line {number},")) for number, line in numbered)
    return rows_document(source, "line", (("", number, _flat(value, source)) for number, value in values))


def read_json(text: str, source: str) -> Document:
    """Reads a list of objects, or an object with exactly one such list; any other object is one row.

    :raises KnowledgeError: the text is not JSON, or is nested too deeply.
    """
    value = _parse(text, source, "")
    if isinstance(value, dict):
        lists = [
            item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)
        ]
        value = lists[0] if len(lists) == 1 else value
    items = value if isinstance(value, list) else [value]
    return rows_document(
        source, "item", (("", number, _flat(item, source)) for number, item in enumerate(items, 1))
    )


def rows_document(
    source: str, word: str, rows: Iterable[tuple[str, int, Iterable[tuple[str, str]]]]
) -> Document:
    """:param word: the word before the number in a row's heading, such as ``row``.
    :param rows: for each row, its section or "", its number, and its (column, value) pairs. In the table, row
        numbers continue from section to section, so that they are unique.
    """
    lines: list[str] = []
    headings: list[Heading] = []
    columns: dict[str, int] = {}
    kept: list[Row] = []
    shared: dict[str, str] = {}
    length = filled = 0
    is_table = True
    within, before = "", 0
    for section, number, row in rows:
        pairs = list(row)
        filled += len(pairs)
        line = CELLS.join(f"{name}: {value}" if name else value for name, value in pairs if value)
        if line:
            if length + len(line) > MAX_CHARACTERS:
                raise KnowledgeError(
                    f"{source} is too large with its columns' names; part it into several files."
                )
            if section != within:
                headings.append(Heading(1, section, length, length))
                within, before = section, kept[-1].number if kept else 0
            headings.append(Heading(2 if section else 1, f"{word} {number}", length, length))
            check_headings(source, len(headings))
            lines.append(line)
            is_table = is_table and len(columns) * len(kept) <= min(MAX_CELLS, MOST_EMPTY * filled)
            if is_table:
                kept.append(Row(before + number, length, length + len(line), _cells(pairs, columns, shared)))
            length += len(line) + 1
    table = _table(list(columns), kept) if is_table else None
    return Document(source, PurePath(source).name, "\n".join(lines), tuple(headings), table)


def _cells(
    pairs: Iterable[tuple[str, str]], columns: dict[str, int], shared: dict[str, str]
) -> tuple[str, ...]:
    """Cells in column order. New columns are added to ``columns``; values without a column name are dropped.

    :param shared: earlier values, so that repeated values are stored once.
    """
    cells = [""] * len(columns)
    for name, value in pairs:
        if name:
            place = columns.setdefault(name, len(columns))
            cells[place : place + 1] = [shared.setdefault(value, value)]
    return tuple(cells)


def _table(names: list[str], rows: list[Row]) -> Table | None:
    """The table; None if it is too large or empty."""
    if not rows or len(names) > MAX_COLUMNS or len(names) * len(rows) > MAX_CELLS:
        return None
    return make_table(
        names, (replace(row, cells=row.cells + ("",) * (len(names) - len(row.cells))) for row in rows)
    )


def _separator(text: str) -> str:
    """The separator that splits most rows into the same number of columns."""

    def evenness(separator: str) -> tuple[int, int]:
        rows = islice(csv.reader(StringIO(text, newline=""), delimiter=separator), _LOOK_AT)
        try:
            widths = Counter(len(row) for row in rows if len(row) > 1)
        except csv.Error:
            return (0, 0)
        width, count = max(widths.items(), key=lambda item: (item[1], item[0]), default=(0, 0))
        return (count, width)

    return max(_SEPARATORS, key=evenness)


def _rows(text: str, source: str, separator: str) -> Iterator[list[str]]:
    for row in csv.reader(StringIO(text, newline=""), delimiter=separator):
        if len(row) > MAX_COLUMNS:
            raise KnowledgeError(f"{source} has {len(row):,} columns; at most {MAX_COLUMNS:,} are read.")
        yield [one_line(cell) for cell in row]


def column_names(row: list[str]) -> list[str]:
    """The column names in the first row if the row is a header, otherwise an empty list. In a header, at
    least half of the cells are filled, and the filled cells are distinct words or years."""
    there = [cell for cell in row if cell]
    if len(set(there)) < len(there) or 2 * len(there) < len(row) or all(map(_is_number, there)):
        return []
    if any(_is_number(cell) and not _YEAR.fullmatch(cell) for cell in there):
        return []
    return [cell[:_LONGEST_NAME] for cell in row]


def _is_number(cell: str) -> bool:
    return cell.strip("+-%€$ ").replace(".", "").replace(",", "").isdecimal()


def _pairs(names: list[str], rows: Iterable[list[str]]) -> Iterator[Iterable[tuple[str, str]]]:
    """Pairs cells with column names; cells beyond the header get an empty name."""
    all_names = (*names, *[""] * MAX_COLUMNS)
    for row in rows:
        yield zip(all_names, row, strict=False)


def _parse(text: str, source: str, where: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise KnowledgeError(f"{source}{where} is nested too deep.") from None
    except ValueError as error:  # also an integer of more than 4,300 digits
        raise KnowledgeError(f"{source}{where} can't be read as JSON: {error}.") from None


def _flat(value: Any, source: str) -> list[tuple[str, str]]:
    """An object's values with their paths, such as ``a.b`` for the key ``b`` of an object ``a``."""
    pairs: list[tuple[str, str]] = []

    def walk(names: tuple[str, ...], value: Any) -> None:
        if len(names) > MAX_DEPTH:
            raise KnowledgeError(f"{source} is nested too deep; at most {MAX_DEPTH} levels are read.")
        if isinstance(value, dict):
            for key, item in value.items():
                walk((*names, one_line(key)[:_LONGEST_NAME]), item)
        elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
            for number, item in enumerate(value, 1):
                walk((*names, str(number)), item)
        else:
            pairs.append((".".join(names), _scalar(value)))
        if len(pairs) > MAX_COLUMNS:
            raise KnowledgeError(
                f"{source} has an object of more than {MAX_COLUMNS:,} values; part it into several."
            )

    walk((), value)
    return pairs


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_scalar, value))
    if isinstance(value, str):
        return one_line(value)
    return "" if value is None else json.dumps(value)


def one_line(text: str) -> str:
    """Replaces each run of whitespace, including line breaks, by one blank."""
    return " ".join(text.split())
