"""Queries over rows."""

from __future__ import annotations

from contextlib import closing
from decimal import Decimal

import pytest

from edgeslm.knowledge.index.table_terms import Comparator, Operation
from edgeslm.knowledge.table_qa.query import (
    MOST_CITED,
    MOST_VALUES,
    Condition,
    Query,
    Result,
    Unanswerable,
    Unclear,
    run_query,
)
from tests.support.knowledge.sheets import PRESSES, keep, read

PRESS, HALL, DATE, TEMPERATURE, PRESSURE, OPERATOR, STATUS, RUNNING = range(8)


def run(text: str, query: Query) -> Result:
    db, table = keep(read(text).table)
    with closing(db):
        return run_query(db, table, query)


def values(query: Query) -> tuple[object, ...]:
    return run(PRESSES, query).values


def where(place: int, *wanted: str | bool | Decimal, comparison: Comparator | None = None) -> Condition:
    return Condition(place, wanted, comparison)


@pytest.mark.parametrize(
    ("condition", "presses"),
    [
        (where(HALL, "North"), (1, 2)),
        (where(OPERATOR, "Bob", "Cem"), (2, 4)),
        (where(PRESS, Decimal(3)), (3,)),
        (where(RUNNING, False), (3,)),
        (where(DATE, "2026-03-02"), (4,)),
        (where(DATE, "2026-03"), (1, 2, 3, 4)),
        (where(DATE, "2026-03-01", comparison=Comparator.AFTER), (4,)),
        (where(TEMPERATURE, Decimal("80.25"), comparison=Comparator.ABOVE), (4,)),
        (where(TEMPERATURE, Decimal("80.25"), comparison=Comparator.AT_LEAST), (2, 4)),
        (where(TEMPERATURE, Decimal(70), comparison=Comparator.BELOW), (3,)),
        (where(TEMPERATURE, Decimal(65), comparison=Comparator.AT_MOST), (3,)),
        (where(TEMPERATURE, Decimal(70), Decimal(85), comparison=Comparator.BETWEEN), (1, 2, 4)),
    ],
)
def test_conditions(condition: Condition, presses: tuple[int, ...]) -> None:
    assert values(Query(None, PRESS, (condition,), many=True)) == presses


def test_conditions_hold_together() -> None:
    both = (where(PRESS, Decimal(4)), where(DATE, "2026-03-01"))
    assert values(Query(None, TEMPERATURE, both)) == (91,)


def test_more_cells_than_sqlite_compares_in_one_expression_are_unclear() -> None:
    cells = [f"hall {number}" for number in range(MOST_VALUES + 1)]
    assert values(Query(Operation.COUNT, None, (where(HALL, *cells[1:]),))) == (0,)
    with pytest.raises(Unclear, match="501 different hall may be meant"):
        values(Query(Operation.COUNT, None, (where(HALL, *cells),)))


def test_sums_are_exact() -> None:
    assert values(Query(Operation.TOTAL, PRESSURE)) == (23,)
    assert values(Query(Operation.TOTAL, TEMPERATURE, (where(HALL, "North"),))) == (151.75,)
    assert values(Query(Operation.AVERAGE, TEMPERATURE)) == (78.45,)


def test_counts_of_rows_and_of_different_cells() -> None:
    assert values(Query(Operation.COUNT, None)) == (5,)
    assert values(Query(Operation.DISTINCT, PRESS)) == (4,)
    assert values(Query(Operation.COUNT, None, (where(HALL, "West"),))) == (0,)
    with pytest.raises(Unclear, match="5 rows have 4 different press"):
        values(Query(Operation.COUNT, PRESS))


def test_extremes_and_the_rows_that_have_them() -> None:
    assert values(Query(Operation.LARGEST, TEMPERATURE)) == (91,)
    assert values(Query(Operation.SMALLEST, TEMPERATURE)) == (65,)
    assert values(Query(Operation.LATEST, DATE)) == ("2026-03-02",)
    assert values(Query(None, OPERATOR, by=TEMPERATURE)) == ("Cem",)
    result = run(PRESSES, Query(None, PRESS, by=TEMPERATURE, largest=False))
    assert (result.values, result.best, result.matched) == ((3,), "65", 1)


def test_rows_that_are_alike_are_all_told_if_they_may_be() -> None:
    query = Query(None, PRESS, by=DATE, largest=False, many=True)
    assert values(query) == (1, 2, 3, 4)
    with pytest.raises(Unanswerable, match="4 rows are alike in date"):
        values(Query(None, PRESS, by=DATE, largest=False))


def test_the_largest_row_must_be_of_what_has_the_largest_sum() -> None:
    assert values(Query(None, HALL, by=PRESSURE, summed=True)) == ("South",)
    with pytest.raises(Unclear, match="summed up by operator it is another one"):
        values(Query(None, OPERATOR, by=TEMPERATURE, summed=True))


def test_rows_that_differ_are_no_answer_unless_several_are_asked_for() -> None:
    with pytest.raises(Unclear, match="temperature_c differs"):
        values(Query(None, TEMPERATURE, (where(PRESS, Decimal(4)),)))
    assert values(Query(None, HALL, (where(PRESS, Decimal(4)),))) == ("South",)


def test_no_row_and_nothing_in_it() -> None:
    with pytest.raises(Unanswerable, match="no row is like that"):
        values(Query(None, HALL, (where(PRESS, Decimal(9)),)))
    for operation in (Operation.TOTAL, Operation.LARGEST):
        with pytest.raises(Unanswerable, match="no row"):
            values(Query(operation, PRESSURE, (where(PRESS, Decimal(9)),)))
    text = "part,price\nvalve,\npump,4\n"
    with pytest.raises(Unanswerable, match="price is empty there"):
        run(text, Query(None, 1, (where(0, "valve"),)))


def test_a_date_that_is_less_exact_than_the_question_cant_be_compared() -> None:
    text = "month,sold\n2026-01,4\n2026-02,5\n"
    asked = Condition(0, ("2026-01-15",), Comparator.AFTER)
    with pytest.raises(Unanswerable, match="month isn't as exact"):
        run(text, Query(None, 1, (asked,)))


def test_rows_kept_are_bounded_and_counts_are_not() -> None:
    text = "n,x\n" + "".join(f"{n},a\n" for n in range(100))
    result = run(text, Query(Operation.COUNT, None))
    assert (result.values, result.matched, len(result.rows)) == ((100,), 100, MOST_CITED)


@pytest.mark.parametrize(
    ("cell", "value"), [("9e17", 9 * 10**17), ("9223372036854775808", 2.0**63), ("-1e300", -1e300)]
)
def test_numbers_beyond_64_bits_are_floats(cell: str, value: float) -> None:
    text = f"n,x\n{cell},a\n1,b\n"
    for query in (
        Query(None, 0, (Condition(1, ("a",)),)),
        Query(Operation.TOTAL, 0, (Condition(1, ("a",)),)),
    ):
        (answer,) = run(text, query).values
        assert (answer, type(answer)) == (value, type(value))


def test_numbers_that_no_float_has_are_no_answer() -> None:
    text = "n,x\n1e999,a\n1,b\n"
    with pytest.raises(Unanswerable, match="too large"):
        run(text, Query(None, 0, (Condition(1, ("a",)),)))


def test_columns_far_apart_are_of_the_same_row() -> None:
    names = ",".join(f"c{place}" for place in range(20))
    rows = [",".join(str(100 * row + place) for place in range(20)) for row in range(3)]
    far = (where(1, Decimal(101)), where(10, Decimal(100), comparison=Comparator.ABOVE))
    text = "\n".join([names, *rows])
    assert run(text, Query(Operation.TOTAL, 19, far)).values == (119,)
    assert run(text, Query(Operation.TOTAL, 19, far[1:])).values == (338,)


def test_a_text_is_not_a_longer_one_that_begins_with_it() -> None:
    text = f"part,price\n{'x' * 80},1\n{'x' * 81},2\n{'x' * 82},3\n"
    assert run(text, Query(None, 1, (where(0, "x" * 80),))).values == (1,)
    assert run(text, Query(Operation.DISTINCT, 0)).values == (3,)


def test_numbers_beyond_64_bits_are_compared_as_numbers() -> None:
    text = "n,x\n9e30,a\n1e31,b\n-2e30,c\n10e30,d\n"
    assert run(text, Query(None, 1, by=0, many=True)).values == ("b", "d")
    above = where(0, Decimal("8.9e30"), comparison=Comparator.ABOVE)
    assert run(text, Query(Operation.COUNT, None, (above,))).values == (3,)
    assert run(text, Query(Operation.TOTAL, 0)).values == (2.7e31,)


def test_after_a_day_is_not_later_on_it() -> None:
    text = "at,x\n2026-03-01 14:30,a\n2026-03-02 08:00,b\n2026-02-28 23:59,c\n"
    for comparison, answer in (
        (Comparator.AFTER, ("b",)),
        (Comparator.AT_LEAST, ("a", "b")),
        (Comparator.BEFORE, ("c",)),
        (Comparator.AT_MOST, ("a", "c")),
        (None, ("a",)),
    ):
        condition = where(0, "2026-03-01", comparison=comparison)
        assert run(text, Query(None, 1, (condition,), many=True)).values == answer
