"""benchmarks/lib/grounded_gate.py: the fit, the shares at a threshold, the threshold for a share."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.benchmarks.scripts import load_scripts

pytest.importorskip("sklearn")
NAMES = ("grounded_questions", "retrieval", "grounded_collection", "grounded", "grounded_cases")
gate = load_scripts(*NAMES, "grounded_gate")["grounded_gate"]


def row(number: int, value: float, *, right: bool, answerable: bool = True) -> dict[str, Any]:
    figures = {"cosine": value, "margin": 0.1}
    return {
        "question": number,
        "figures": figures,
        "right": right,
        "answerable": answerable,
        "without": False,
    }


def test_what_is_right_is_surer() -> None:
    rows = [row(n, 0.5 + n / 100, right=n >= 10, answerable=n >= 10) for n in range(20)]
    names = ("cosine", "margin")
    values = gate.judged(rows, names, gate.fit(rows, names))
    assert values == sorted(values)
    assert values[0] < 0.5 < values[-1]
    judged = gate.validate(rows, names)
    assert [one["question"] for one, _ in judged] == list(range(20))


def test_shares_at_each_threshold() -> None:
    values = [
        (row(0, 0.0, right=True), 0.9),
        (row(1, 0.0, right=False), 0.6),
        (row(2, 0.0, right=False, answerable=False), 0.7),
    ]
    assert gate.points_of(values) == [
        {"threshold": 0.6, "declined": 0.0, "answered": 1.0, "right": 0.5},
        {"threshold": 0.7, "declined": 0.5, "answered": 1.0, "right": 1.0},
        {"threshold": 0.9, "declined": 0.5, "answered": 0.0, "right": 1.0},
    ]


def test_a_threshold_declines_no_more_than_that_share() -> None:
    confidences = [n / 1000 for n in range(5, 1000, 10)]
    assert gate.threshold_for(confidences, 0.2) == 0.2
    assert sum(value < 0.2 for value in confidences) == 20
    assert gate.threshold_for([0.296, 0.4, 0.29], 0.0) == 0.29, "and no hundredth less than it may be"
