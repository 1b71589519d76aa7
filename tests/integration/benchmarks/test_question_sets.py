"""benchmarks/lib/question_sets.py: where the answers of a set stand in its documents."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest

from edgeslm.knowledge.documents.passages import Document
from tests.support.benchmarks.scripts import load_scripts

TEXT = "Oil the pump\n   every 40 hours.\n\nGrease the  chain weekly."


@pytest.fixture(scope="module")
def sets() -> ModuleType:
    return load_scripts("grounded_questions", "reader_questions", "question_sets")["question_sets"]


def place(sets: ModuleType, **changed: Any) -> Any:
    fields = {
        "package": "press",
        "file": "press.txt",
        "start": 33,
        "end": len(TEXT),
        "digest": "",
        "heading": "",
    }
    return sets.Place(**{**fields, "asked": (), **changed})


def test_words_are_found_whatever_the_line_ends(sets: ModuleType) -> None:
    document = Document("press.txt", "", TEXT)
    span = sets.find_words(document, "pump every 40")
    assert TEXT[span.start : span.end] == "pump\n   every 40"
    with pytest.raises(ValueError, match="has nowhere: 50"):
        sets.find_words(document, "50")


def test_an_answer_is_found_by_its_place_in_the_squeezed_passage(sets: ModuleType) -> None:
    span = sets.span_of(Document("press.txt", "", TEXT), place(sets), (7, 16))
    assert TEXT[span.start : span.end] == "the  chain"


def test_halves_have_no_package_in_common(sets: ModuleType) -> None:
    places = {f"package-{number}": [place(sets)] * 35 for number in range(100)} | {"small": [place(sets)]}
    drawn = [sets.choose_packages(places, half) for half in ("development", "test")]
    names = [name for half in drawn for packages in half for name in packages]
    assert len(names) == len(set(names)) == 4 * sets.PACKAGES
    assert "small" not in names


def test_each_question_of_icecast_is_answered_by_a_page_or_has_a_reason(sets: ModuleType) -> None:
    rows = [json.loads(line) for line in sets.ICECAST.read_text("utf-8").splitlines()]
    assert len(rows) == 60 and len({row["id"] for row in rows}) == 60
    assert sum("answers" in row for row in rows) == 40
    for row in rows:
        assert ("answers" in row) != (row.get("kind") in ("near", "general"))
        assert all(page in sets.ICECAST_PAGES for page, _ in row.get("answers", ()))
