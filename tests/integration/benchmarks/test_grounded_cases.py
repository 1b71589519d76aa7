"""benchmarks/lib/grounded_cases.py: what a case says, and what a forbidden claim is."""

from __future__ import annotations

from tests.support.benchmarks.scripts import load_scripts

NAMES = (*("grounded_questions", "retrieval", "grounded_collection", "grounded", "grounded_cases"),)
cases = load_scripts(*NAMES)["grounded_cases"]


def test_a_case() -> None:
    row = {
        "id": "t0_1",
        "query": "How many users?",
        "contexts": ["It runs on AWS."],
        "expected_mode": "abstain",
        "forbidden_claims": [r"up to \d+"],
        "difficulty": "easy",
    }
    case = cases.parse_case(row)
    assert (case.id, case.mode, case.contexts) == ("t0_1", "abstain", ("It runs on AWS.",))
    assert cases.claims_forbidden(case, "It serves Up To 300 users.")
    assert not cases.claims_forbidden(case, "It runs on AWS.")


def test_a_case_may_forbid_nothing() -> None:
    row = {"id": "t0_2", "query": "?", "contexts": [], "expected_mode": "disputed"}
    assert not cases.claims_forbidden(cases.parse_case(row), "anything")
