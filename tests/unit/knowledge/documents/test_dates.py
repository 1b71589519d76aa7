"""Dates in cells and in questions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.knowledge.documents.dates import (
    DAY_FIRST,
    MONTH_FIRST,
    find_moments,
    offset_of,
    parse_moment,
)


@pytest.mark.parametrize(
    ("cell", "moment"),
    [
        ("2026-03-01", "2026-03-01"),
        ("2026/3/1", "2026-03-01"),
        ("2026-03", "2026-03"),
        ("1.3.2026", "2026-03-01"),
        ("19-Sep-03", "2003-09-19"),
        ("19-Sep-73", "1973-09-19"),
        ("1 March 2026", "2026-03-01"),
        ("Mar 1, 2026", "2026-03-01"),
        ("2026-03-01 14:30", "2026-03-01T14:30"),
        ("2026-03-01T14:30:05.250Z", "2026-03-01T14:30:05"),
        ("2026-02-30", None),
        ("2026", None),
        ("18.04", None),
        ("2026.10", None),
        ("press 4", None),
        ("2026-03-01" + " " * 40, None),
    ],
)
def test_a_cell_is_a_date_or_none(cell: str, moment: str | None) -> None:
    assert parse_moment(cell) == moment


def test_slashes_need_to_be_told_which_way_round_they_are() -> None:
    assert parse_moment("03/04/2026") is None
    assert parse_moment("03/04/2026", DAY_FIRST) == "2026-04-03"
    assert parse_moment("03/04/2026 14:30", MONTH_FIRST) == "2026-03-04T14:30"
    assert parse_moment("13/04/2026", MONTH_FIRST) is None


def test_offsets_are_told_so_that_they_dont_mix() -> None:
    assert offset_of("2026-03-01T14:30:05Z") == "Z"
    assert offset_of("2026-03-01T14:30:05+02:00") == "+02:00"
    assert offset_of("2026-03-01 14:30") == offset_of("2026-03-01") == ""


@pytest.mark.parametrize(
    ("question", "moments"),
    [
        ("how hot was it on 2026-03-01?", ["2026-03-01"]),
        ("on 2026-03-01 at 14:30", ["2026-03-01T14:30"]),
        ("at 14:30 on March 1, 2026", ["2026-03-01T14:30"] * 2),
        ("on 2026-03-01 at 14:30 and at 15:30", ["2026-03-01T14:30"]),
        ("at 2:30 pm on 2026-03-01", ["2026-03-01"]),
        ("at 14:30", []),
        ("on March 1st, 2026", ["2026-03-01"]),
        ("on the 1st of March 2026", ["2026-03-01"]),
        ("on 1 March", ["--03-01"]),
        ("in march", ["--03"]),
        ("in March of 2026", ["2026-03"]),
        ("between 2010 and 2012", ["2010", "2012"]),
        ("1.3.2026", ["2026-03-01"]),
        ("on 30 February 2026", []),
        ("on 3/4/26", []),
        ("may I march on?", []),
        ("version 2.0 of 18.04", []),
    ],
)
def test_dates_are_found_in_questions(question: str, moments: list[str]) -> None:
    assert sorted(said.moment for said in find_moments(question)) == sorted(moments)


@given(st.text(max_size=60))
def test_any_text_is_read(text: str) -> None:
    for said in find_moments(text):
        assert 0 <= said.start < said.end <= len(text)
    for form in (DAY_FIRST, MONTH_FIRST):
        parse_moment(text, form)


@given(st.datetimes())
def test_dates_are_read_as_they_were_written(moment: object) -> None:
    text = str(moment)[:16]
    assert parse_moment(text) == text.replace(" ", "T")
