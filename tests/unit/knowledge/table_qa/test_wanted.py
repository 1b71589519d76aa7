"""What is asked for: a cell, a count, a sum, an extreme, the row that has it."""

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
        ("who was the operator of press 2?", ("Bob",)),
        ("when was the Hose ordered", ("2025-12-30",)),
        ("supplier city of the hose", ("Oslo",)),
        ("list all operators", ("Ann", "Bob", "Cem")),
        ("How many presses are in the north hall?", (2,)),
        ("how many different presses are there?", (4,)),
        ("on how many days was press 4 running", (2,)),
        ("How many Valve V-12 are in stock?", (4,)),
        ("What is the total in stock?", (21,)),
        ("in total, how many parts are there", (3,)),
        ("Total weight of parts from Oslo", (1.9,)),
        ("average temperature in March 2026", (78.45,)),
        ("what is the average pressure of running presses", (4.775,)),
        ("What is the highest pressure?", (5.1,)),
        ("highest temperature of all presses", (91,)),
        ("which press has the highest pressure", (4,)),
        ("operator with the lowest temperature", ("Ann",)),
        ("when was the temperature of press 4 highest?", ("2026-03-01",)),
        ("on which day was the temperature of press 4 highest", ("2026-03-01",)),
        ("hottest press", (4,)),
        ("Which part is the heaviest?", ("Pump P-3",)),
        ("the most expensive part", ("Pump P-3",)),
        ("which part is the cheapest?", ("Hose",)),
        ("latest temperature of press 4", (84.5,)),
        ("first operator of press 4", ("Cem",)),
        ("when was the latest order", ("2026-02-03",)),
        ("which part was ordered last", ("Valve V-12",)),
        ("price of the heaviest part", (240,)),
        ("supplier name of the cheapest part", ("Acme",)),
        ("status of the hottest press", ("critical",)),
    ],
)
def test_what_is_wanted(sheets: Collection, question: str, values: tuple[object, ...]) -> None:
    answer = ask(sheets, question)
    assert answer is not None and answer.values == values


@pytest.mark.parametrize(
    "question",
    [
        "how many parts are in stock?",  # kinds, or pieces?
        "max pressure and temperature of press 2",
        "total operator",
        "average",
        "highest",
        "total average pressure",
        "pressure and status of press 1",
        "who is press 1",
        "when is the pressure of press 1",
        "how much status has press 1",
        "which ordered is the hose",  # a date is no thing
        "which hall has the most presses",  # would have to be counted
        "which operator had the most temperature readings",
        "which hall has the fewest pressures",
        "Kenya",
    ],
)
def test_what_is_wanted_must_be_clear(sheets: Collection, question: str) -> None:
    assert ask(sheets, question) is None


def test_the_hottest_day_is_that_of_the_highest_maximum(tmp_path: Path) -> None:
    text = "date,temp_max,temp_min\n2026-07-01,30.5,18\n2026-07-02,29,20\n"
    with closing(make_sheets(tmp_path, weather_csv=text)) as collection:
        for question, values in (
            ("what was the hottest day", ("2026-07-01",)),
            ("coldest day", ("2026-07-01",)),
            ("highest temperature", (30.5,)),
            ("lowest temperature in July 2026", (18,)),
            ("how many days were hotter than 29 degrees", (1,)),
            ("temperature on 2026-07-01", None),
        ):
            answer = ask(collection, question)
            assert (answer.values if answer else None) == values, question


def test_the_highest_of_several_rows_must_be_the_highest_sum_too(tmp_path: Path) -> None:
    text = "building,month,cost_eur,temp_c\nMain,5,30,1\nMain,6,30,2\nAnnex,5,{},3\nAnnex,6,5,4\n"
    for number, (cost, values) in enumerate(((10, ("Main",)), (40, None), (90, ("Annex",)))):
        (tmp_path / str(number)).mkdir()
        with closing(make_sheets(tmp_path / str(number), costs_csv=text.format(cost))) as collection:
            answer = ask(collection, "which building has the highest cost?")
            assert (answer.values if answer else None) == values
            answer = ask(collection, "which building has the highest temperature?")
            assert answer is not None and answer.values == ("Annex",)


def test_a_row_of_totals_is_in_the_way_of_sums(tmp_path: Path) -> None:
    text = "part,sold\nvalve,3\npump,4\nTotal,7\n"
    with closing(make_sheets(tmp_path, parts_csv=text)) as collection:
        assert ask(collection, "average sold") is None
        assert ask(collection, "which part sold the most") is None
        answer = ask(collection, "sold of the pump")
        assert answer is not None and answer.values == (4,)
