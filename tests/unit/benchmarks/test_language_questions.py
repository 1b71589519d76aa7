"""benchmarks/lib/language_questions.py: valid rows, both halves, documents of one version."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest

from tests.support.benchmarks.scripts import BENCHMARKS, load_scripts

ROWS: list[dict[str, Any]] = [
    json.loads(line)
    for line in (BENCHMARKS / "data/language_questions.jsonl").read_text("utf-8").splitlines()
]


@pytest.fixture(scope="module")
def languages() -> ModuleType:
    return load_scripts("language_questions")["language_questions"]


def test_there_are_as_many_questions_as_promised_in_equal_halves() -> None:
    halves = Counter((row["id"][:2], row["half"]) for row in ROWS)
    assert halves == {
        ("de", "development"): 29,
        ("de", "test"): 29,
        ("es", "development"): 29,
        ("es", "test"): 28,
    }


def test_no_id_and_no_question_comes_twice() -> None:
    for of in ("id", "question"):
        assert len({row[of] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_a_question_has_its_places_in_documents_of_its_language(
    languages: ModuleType, row: dict[str, Any]
) -> None:
    places = {row["document"]: [[row["start"], row["end"]], *row["also"]], **row.get("elsewhere", {})}
    assert row["question"].strip() == row["question"] != "" and row["section"].strip()
    for document, spans in places.items():
        assert languages.MEMBERS[document].collection == row["id"][:2]
        assert all(0 <= start < end <= start + 2500 for start, end in spans)
        assert all(one[1] <= other[0] for one, other in pairwise(sorted(spans)))


def test_the_halves_are_read_apart(languages: ModuleType) -> None:
    development, test = (languages.load_halves([half]) for half in languages.HALVES)
    assert {one.id for one in development}.isdisjoint(one.id for one in test)
    assert len(development) + len(test) == len(languages.load_halves(languages.HALVES)) == len(ROWS)
