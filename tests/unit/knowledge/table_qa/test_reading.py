"""Readings of questions: which rows are meant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgeslm.knowledge.index.collection import Collection
from tests.support.knowledge.sheets import PARTS, PRESSES, ask, make_sheets


@pytest.fixture(scope="module")
def sheets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    folder: Path = tmp_path_factory.mktemp("sheets")
    with closing(make_sheets(folder, presses_csv=PRESSES, parts_json=PARTS)) as collection:
        yield collection


@pytest.mark.parametrize(
    ("question", "values"),
    [
        ("What is the temperature of press 1?", (71.5,)),
        ("press 4's status on 2 March 2026", ("warning",)),
        ("temperature of press 4 on 2026-03-01", (91,)),
        ("lowest pressure in the south hall", (3.9,)),
        ("lowest pressure in hall South", (3.9,)),
        ("Bob's press", (2,)),
        ("Which presses had a temperature above 80 °C?", (2, 4)),
        ("which presses had a temperature of 80.25 degrees or more", (2, 4)),
        ("how many readings were above 80 degrees", (3,)),
        ("list the operators of press 1 and press 2", ("Ann", "Bob")),
        ("list the pressures of Ann and Bob", (4.2, 4.8, 3.9, 5)),
        ("presses with status critical or warning", (2, 4)),
        ("Which parts were ordered after 2026-01-01?", ("Valve V-12", "Pump P-3")),
        ("Which parts were ordered since January 2026?", ("Valve V-12", "Pump P-3")),
        ("number of parts with a price below 100 euros", (2,)),
        ("number of parts with a price between 3 and 12.5", (2,)),
        ("which parts are heavier than 1 kg", ("Valve V-12", "Pump P-3")),
        ("Which presses are running?", (1, 2, 4)),
        ("price of a Hose in euro", (3.2,)),
    ],
)
def test_rows_are_told_by_cells_dates_and_comparisons(
    sheets: Collection, question: str, values: tuple[object, ...]
) -> None:
    answer = ask(sheets, question)
    assert answer is not None and answer.values == values


@pytest.mark.parametrize(
    "question",
    [
        "temperature of press 4",  # two rows, which differ
        "temperature of press 9",
        "temperature of 4",
        "Which presses had a temperature above 80 °F?",
        "number of parts with a price below 100 dollars",
        "price of a Hose in dollars",
        "average temperature in April 2026",
        "how many readings before 2026-03-01",
        "How many presses are not running?",
        "is press 3 running?",
        "how many presses are in the south hall",  # two, or three rows?
        "temperature above",
        "which presses are between 3",
        "pressure of press 1 and temperature of press 2",
        "top 3 pressures",
        "second highest pressure",
        "4",
        "or",
        "south north hall pressure",
        "list the pressures of Ann Bob",
    ],
)
def test_what_is_not_clear_is_not_answered(sheets: Collection, question: str) -> None:
    assert ask(sheets, question) is None


def test_years_may_be_numbers(tmp_path: Path) -> None:
    text = "model,year,price\nA,2019,10\nB,2020,20\nC,2021,30\n"
    with closing(make_sheets(tmp_path, cars_csv=text)) as collection:
        for question, values in (
            ("price in 2020", (20,)),
            ("how many cars were made after 2019", None),
            ("how many cars after 2019", (2,)),
            ("price of the newest model", (30,)),
        ):
            answer = ask(collection, question)
            assert (answer.values if answer else None) == values, question


def test_a_month_without_a_year_is_clear_where_there_is_one_year(tmp_path: Path) -> None:
    rows = ["day,rain", *(f"2026-{month:02}-01,{month}" for month in range(1, 13))]
    with closing(make_sheets(tmp_path, rain_csv="\n".join(rows))) as collection:
        answer = ask(collection, "rain in March")
        assert answer is not None and answer.values == (3,)
    (tmp_path / "more").mkdir()
    rows.append("2027-03-01,40")
    with closing(make_sheets(tmp_path / "more", rain_csv="\n".join(rows))) as collection:
        assert ask(collection, "rain in March") is None
        answer = ask(collection, "rain in March 2027")
        assert answer is not None and answer.values == (40,)
