"""Figures about probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from edgeslm_export.evaluate.metrics import (
    accuracy_report,
    calibration_error,
    fit_temperature,
    share_interval,
    softmax,
)

from edgeslm.bundle.calibration import Verdict


def test_the_interval_is_that_of_draws_with_replacement() -> None:
    hits = np.arange(400) < 300
    low, high = share_interval(hits)
    deviation = (0.75 * 0.25 / 400) ** 0.5  # the normal approximation is close at so many rows
    assert low == pytest.approx(0.75 - 1.96 * deviation, abs=0.006)
    assert high == pytest.approx(0.75 + 1.96 * deviation, abs=0.006)
    assert share_interval(hits) == (low, high)


def test_rows_that_are_all_alike_have_the_exact_bound() -> None:
    # Of ten right in ten, 0.025 is the chance at a true share of 0.6915.
    low, high = share_interval([True] * 10)
    assert (round(low, 4), high) == (0.6915, 1.0)
    lowest, highest = share_interval([False] * 10)
    assert lowest == 0.0
    assert highest == pytest.approx(1 - low)
    assert share_interval([]) == (0.0, 1.0)


def test_calibration_error_of_known_bins() -> None:
    confidence = np.array([0.95] * 4 + [0.65] * 4)
    right = np.array([True, True, True, False, True, True, False, False])
    assert calibration_error(confidence, right) == pytest.approx((0.20 + 0.15) / 2)


def test_the_temperature_undoes_overconfidence() -> None:
    random = np.random.default_rng(0)
    logits = random.standard_normal((4000, 3)) * 2
    truth = np.array([random.choice(3, p=row) for row in softmax(logits)])
    assert fit_temperature(logits, truth) == pytest.approx(1.0, abs=0.1)
    assert fit_temperature(logits * 5, truth) == pytest.approx(5.0, abs=0.5)


def _verdicts(*scores: list[float]) -> list[Verdict]:
    """As a model is taken at its word."""
    return [Verdict(tuple(row), row.index(max(row)), max(row)) for row in scores]


def test_the_report_counts_each_label() -> None:
    verdicts = _verdicts([0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4])
    report = accuracy_report(verdicts, np.array([0, 0, 1, 1]), ["a", "b"])
    assert report["accuracy"] == 0.75
    assert report["majority"] == 0.5
    assert report["labels"]["a"] == {"rows": 2, "precision": pytest.approx(2 / 3, abs=1e-4), "recall": 1.0}
    assert report["labels"]["b"] == {"rows": 2, "precision": 1.0, "recall": 0.5}


def test_a_label_that_never_occurs() -> None:
    report = accuracy_report(_verdicts([1.0, 0.0]), np.array([0]), ["a", "b"])
    assert report["labels"]["b"] == {"rows": 0, "precision": None, "recall": None}


@pytest.mark.parametrize("rows", [10, 50, 500])
def test_rows_that_are_all_right_make_no_certainty(rows: int) -> None:
    """The temperature fell to its bound, and every later answer had a confidence of 1."""
    truth = np.arange(rows) % 2
    logits = np.eye(2)[truth] * 3
    certain = softmax(logits / fit_temperature(logits, truth)).max()
    assert certain == pytest.approx(1 - 1 / (rows + 2), abs=0.01)


def test_the_error_is_that_of_the_confidence_and_not_of_the_score() -> None:
    """They differ where a verdict's confidence was fitted to margins."""
    verdicts = [Verdict((1.0, 0.0), 0, 0.5)] * 10
    report = accuracy_report(verdicts, np.array([0, 1] * 5), ["a", "b"])
    assert report["accuracy"] == 0.5
    assert report["calibration_error"] == 0.0
