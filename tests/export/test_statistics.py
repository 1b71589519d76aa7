"""Figures about probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from edgeslm_export.statistics import (
    accuracy_report,
    calibration_error,
    fit_temperature,
    softmax,
    wilson_interval,
)


def test_the_interval_is_wilsons() -> None:
    # Brown, Cai and DasGupta 2001 discuss it; for 10 of 10 the lower end is n / (n + z^2).
    low, high = wilson_interval(10, 10)
    assert low == pytest.approx(10 / (10 + 1.96**2))
    assert high == 1.0
    assert wilson_interval(0, 0) == (0.0, 1.0)


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
