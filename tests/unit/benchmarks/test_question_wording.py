"""Whether questions are answered, told from their wording."""

from __future__ import annotations

from tests.support.benchmarks.scripts import load_scripts

WORDING = load_scripts("question_wording")["question_wording"]
LEARNED = [(f"why does pump {number} stop", True) for number in range(9)]
LEARNED += [(f"what is the default of pump {number}", False) for number in range(9)]


def test_wording_that_tells_is_found() -> None:
    asked = [("why does it stop", True), ("what is the default of it", False)]
    assert WORDING.area(LEARNED, asked) == 1.0
    assert WORDING.area(LEARNED, [(question, not truth) for question, truth in asked]) == 0.0


def test_wording_that_tells_nothing_is_even() -> None:
    assert WORDING.area(LEARNED, [("grease?", True), ("grease?", False)]) == 0.5
