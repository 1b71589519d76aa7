"""Figures about probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from edgeslm_export.statistics import (
    accuracy_report,
    calibrated,
    calibration_error,
    fit_temperature,
    share_interval,
    softmax,
)


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
    probabilities = np.array([[0.95, 0.05]] * 4 + [[0.65, 0.35]] * 4)
    truth = np.array([0, 0, 0, 1, 0, 0, 1, 1])  # right 3 of 4 at 0.95, 2 of 4 at 0.65
    assert calibration_error(probabilities, truth) == pytest.approx((0.20 + 0.15) / 2)


def test_the_temperature_undoes_overconfidence() -> None:
    random = np.random.default_rng(0)
    logits = random.standard_normal((4000, 3)) * 2
    truth = np.array([random.choice(3, p=row) for row in softmax(logits)])
    assert fit_temperature(logits, truth) == pytest.approx(1.0, abs=0.1)
    assert fit_temperature(logits * 5, truth) == pytest.approx(5.0, abs=0.5)


def test_the_report_counts_each_label() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    report = accuracy_report(probabilities, np.array([0, 0, 1, 1]), ["a", "b"])
    assert report["accuracy"] == 0.75
    assert report["majority"] == 0.5
    assert report["labels"]["a"] == {"rows": 2, "precision": pytest.approx(2 / 3, abs=1e-4), "recall": 1.0}
    assert report["labels"]["b"] == {"rows": 2, "precision": 1.0, "recall": 0.5}


def test_a_label_that_never_occurs() -> None:
    report = accuracy_report(np.array([[1.0, 0.0]]), np.array([0]), ["a", "b"])
    assert report["labels"]["b"] == {"rows": 0, "precision": None, "recall": None}


@pytest.mark.parametrize("rows", [10, 50, 500])
def test_rows_that_are_all_right_make_no_certainty(rows: int) -> None:
    """The temperature fell to its bound, and every later answer had a confidence of 1."""
    truth = np.arange(rows) % 2
    logits = np.eye(2)[truth] * 3
    certain = softmax(logits / fit_temperature(logits, truth)).max()
    assert certain == pytest.approx(1 - 1 / (rows + 2), abs=0.01)


def test_probabilities_are_calibrated_on_other_rows() -> None:
    random = np.random.default_rng(1)
    truth = random.integers(0, 3, 600)
    logits = np.eye(3)[truth] * 2 + random.standard_normal((600, 3))
    probabilities = calibrated(logits * 9, truth)
    assert probabilities.sum(axis=1) == pytest.approx(1)
    assert (probabilities.argmax(1) == logits.argmax(1)).all()
    assert calibration_error(probabilities, truth) < 0.06
