"""benchmarks/quality/table_questions.py: questions that can be relied on, and what counts as exact."""

from __future__ import annotations

from collections import Counter
from types import ModuleType

import pytest

from edgeslm.knowledge.index.queries import TableAnswer
from tests.support.benchmarks.scripts import load_scripts


@pytest.fixture(scope="module")
def questions() -> ModuleType:
    return load_scripts("table_questions")["table_questions"]


def test_there_are_as_many_questions_as_promised(questions: ModuleType) -> None:
    rows = questions.load_questions()
    assert len(rows) == len({row.question for row in rows}) == 100
    assert [row.id for row in rows] == [f"{by}{number:02}" for by in "tf" for number in range(1, 51)]
    assert {row.table for row in rows} == set(questions.TABLES)
    assert sum(row.expected is None for row in rows) == 30
    halves = Counter((row.half, row.expected is None) for row in rows)
    assert halves == {
        ("development", False): 17,
        ("test", False): 18,
        ("development", True): 7,
        ("test", True): 8,
        ("independent", False): 35,
        ("independent", True): 15,
    }


@pytest.mark.parametrize(
    ("values", "expected", "exact"),
    [
        (("004",), ("004",), True),
        (("4",), ("004",), False),
        ((3.1,), ("3.1",), True),
        ((2,), (2,), True),
        ((0.1 + 0.2,), (0.3,), True),
        ((0.31,), (0.3,), False),
        (("a", "b"), ("b", "a"), True),
        (("a",), ("a", "b"), False),
        (("a", "b"), ("a",), False),
        (("a",), (1,), False),
    ],
)
def test_what_is_exact(
    questions: ModuleType, values: tuple[str | float, ...], expected: tuple[str | float, ...], exact: bool
) -> None:
    assert questions.is_exact(values, expected) is exact


def test_verdicts(questions: ModuleType) -> None:
    answerable = questions.Question("t01", "a.csv", "how many?", (4,), "test")
    unanswerable = questions.Question("t02", "a.csv", "why?", None, "test")
    four = TableAnswer("rows: 4", (4,), "a.csv", (), 4)
    assert [questions.verdict(answerable, answer) for answer in (four, None)] == ["exact", "declined"]
    assert [questions.verdict(unanswerable, answer) for answer in (four, None)] == ["wrong", "abstained"]
