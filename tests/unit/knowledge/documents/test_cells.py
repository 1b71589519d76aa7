"""What a column's cells are, and how they are read."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.knowledge.documents.cells import (
    COMMA,
    CellKind,
    Column,
    Row,
    make_table,
    parse_boolean,
    parse_number,
)


def column_of(*cells: str) -> Column:
    return make_table(["x"], [Row(n, 0, 0, (cell,)) for n, cell in enumerate(cells)]).columns[0]


@pytest.mark.parametrize(
    ("cell", "form", "number"),
    [
        ("4", "", "4"),
        ("-4.50", "", "-4.5"),
        ("−4", "", "-4"),
        ("1,234,567.5", "", "1234567.5"),
        ("1.234.567,5", COMMA, "1234567.5"),
        ("1,5", COMMA, "1.5"),
        ("1,5", "", None),
        ("80 °C", "", "80"),
        ("12kg", "", "12"),
        ("€ 5.20", "", "5.2"),
        ("30 %", "", "30"),
        ("5 km/h", "", "5"),
        ("1e-05", "", "0.00001"),
        ("", "", None),
        ("four", "", None),
        ("4 or 5", "", None),
        ("9" * 100, "", None),
    ],
)
def test_a_cell_is_a_number_exactly_or_none(cell: str, form: str, number: str | None) -> None:
    assert parse_number(cell, form) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("cells", "kind", "form"),
    [
        (["1", "2.5", ""], CellKind.NUMBER, ""),
        (["1,5", "2"], CellKind.NUMBER, COMMA),
        (["1,234", "1,234,567"], CellKind.NUMBER, ""),
        (["1,234", "2,345"], CellKind.TEXT, ""),  # thousands or decimals?
        (["1,5", "1.5"], CellKind.TEXT, ""),
        (["004", "012"], CellKind.TEXT, ""),  # a code
        (["12 kg", "5 kg"], CellKind.NUMBER, ""),
        (["12 kg", "5 g"], CellKind.TEXT, ""),
        (["1", "two"], CellKind.TEXT, ""),
        (["1", "n/a", "-"], CellKind.NUMBER, ""),
        (["2026-03-01", "2026-04"], CellKind.DATE, "iso"),
        (["03/04/2026", "13/04/2026"], CellKind.DATE, "dmy"),
        (["03/04/2026", "03/14/2026"], CellKind.DATE, "mdy"),
        (["03/04/2026", "04/04/2026"], CellKind.TEXT, ""),  # which is the month?
        (["2026-03-01 10:00Z", "2026-03-01 10:00+02:00"], CellKind.TEXT, ""),
        (["yes", "No", ""], CellKind.BOOLEAN, ""),
        (["true", "maybe"], CellKind.TEXT, ""),
        (["", ""], CellKind.TEXT, ""),
    ],
)
def test_a_column_is_what_all_its_cells_are(cells: list[str], kind: CellKind, form: str) -> None:
    column = column_of(*cells)
    assert (column.kind, column.form) == (kind, form)


def test_a_column_knows_its_unit_and_its_range() -> None:
    assert column_of("12 kg", "5 kg").unit == "kg"
    column = column_of("2026-03-01", "2025-12-30", "2026-04-01")
    assert (column.first, column.last) == ("2025-12-30", "2026-04-01")


def test_blanks_are_nothing_among_numbers_and_words_among_words() -> None:
    table = make_table(["a", "b"], [Row(1, 0, 0, ("none", "none")), Row(2, 0, 0, ("4", "some"))])
    assert [row.cells for row in table.rows] == [("", "none"), ("4", "some")]


def test_yes_and_no() -> None:
    assert [parse_boolean(cell) for cell in ("TRUE", "no", "1", "")] == [True, False, None, None]


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_numbers_are_read_as_they_were_written(number: Decimal) -> None:
    assert parse_number(str(number)) == number
    assert parse_number(f"{number:,}") == number


@given(st.lists(st.text(max_size=20), max_size=10))
def test_any_cells_make_a_column(cells: list[str]) -> None:
    column = column_of(*cells)
    if column.kind is CellKind.NUMBER:
        assert any(parse_number(cell, column.form) is not None for cell in cells)
