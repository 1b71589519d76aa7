"""Calibration of logits whose fault is known: what is fitted, and that it is judged on other rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from edgeslm_export.calibrate import Fitted, fit_calibration, log_softmax, risk_curve
from edgeslm_export.statistics import softmax
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.calibration import LEAST_PROBABILITY

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def honest(rows: int, labels: int, seed: int = 0) -> tuple[Floats, Integers]:
    """Logits that say how likely each label is, and labels drawn by them."""
    random = np.random.default_rng(seed)
    logits = random.standard_normal((rows, labels)) * 2
    return logits, np.array([random.choice(labels, p=row) for row in softmax(logits)], np.int64)


def fit(logits: Floats, truth: Integers) -> Fitted:
    return fit_calibration(log_softmax(logits), truth)


def by_margin(rows: int, below: float, above: float) -> tuple[Floats, Integers]:
    """Two labels. Where their logits differ by less than 5 the higher one is right so often as ``below``
    says, elsewhere as ``above`` says."""
    random = np.random.default_rng(5)
    margins = random.uniform(0, 10, rows)
    guess = random.integers(0, 2, rows)
    right = random.random(rows) < np.where(margins < 5, below, above)
    logits = np.zeros((rows, 2))
    logits[np.arange(rows), guess] = margins
    return logits, np.where(right, guess, 1 - guess).astype(np.int64)


# --- temperature and affine map ----------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.5, 1.0, 4.0])
def test_a_temperature_is_recovered(factor: float) -> None:
    logits, truth = honest(1500, 3)
    calibration = fit(logits * factor, truth).calibration
    assert calibration.scale == pytest.approx([1 / factor] * 3, rel=0.1)
    assert calibration.bias == pytest.approx([0.0] * 3, abs=0.2)
    assert calibration.rows == 1500


def test_a_label_that_is_said_too_often_gets_a_bias() -> None:
    logits, truth = honest(4000, 3)
    calibration = fit(logits + np.array([0.0, 0.0, 2.0]), truth).calibration
    assert calibration.bias[2] - np.mean(calibration.bias[:2]) == pytest.approx(-2.0, abs=0.2)
    assert calibration.scale == pytest.approx([1.0] * 3, rel=0.2)


def test_a_bias_makes_more_rows_right() -> None:
    logits, truth = honest(1500, 3)
    shifted = logits + np.array([0.0, 0.0, 2.0])
    guesses = np.array([verdict.best for verdict in fit(shifted, truth).verdicts])
    assert (guesses == truth).mean() > (shifted.argmax(1) == truth).mean() + 0.05


def test_few_rows_of_a_label_get_one_temperature_for_all() -> None:
    logits, truth = honest(1500, 2)
    rows = np.concatenate([np.flatnonzero(truth == 0)[:19], np.flatnonzero(truth == 1)[:150]])
    calibration = fit(logits[rows] + np.array([3.0, 0.0]), truth[rows]).calibration
    assert calibration.bias == (0.0, 0.0)
    assert len(set(calibration.scale)) == 1


def test_log_probabilities_end_where_a_device_counts_no_lower() -> None:
    logs = log_softmax(np.array([[0.0, -90.0], [1.0, 1.0]]))
    assert logs[0].tolist() == pytest.approx([0.0, np.log(LEAST_PROBABILITY)])
    assert logs[1].tolist() == pytest.approx([np.log(0.5)] * 2)


# --- the rising function of the margin ---------------------------------------------------------------


def test_a_rising_function_is_fitted_where_a_temperature_says_too_little() -> None:
    logits, truth = by_margin(400, 0.55, 1.0)
    calibration = fit(logits, truth).calibration
    assert len(calibration.margins) == len(calibration.confidences) > 2
    assert list(calibration.margins) == sorted(set(calibration.margins))
    assert list(calibration.confidences) == sorted(calibration.confidences)
    assert calibration.confidences[0] < 0.7
    assert 0.95 < calibration.confidences[-1] < 1


@pytest.mark.parametrize(("rows", "has_one"), [(199, False), (200, True)])
def test_it_takes_200_rows(rows: int, has_one: bool) -> None:
    logits, truth = by_margin(rows, 0.85, 0.85)
    assert bool(fit(logits, truth).calibration.margins) is has_one


def test_a_temperature_is_enough_for_honest_margins() -> None:
    logits, truth = honest(400, 2, seed=3)
    assert fit(logits * 3, truth).calibration.margins == ()


# --- other rows --------------------------------------------------------------------------------------


def test_no_row_has_a_say_in_its_own_verdict() -> None:
    logits, truth = honest(30, 2)
    turned = truth.copy()
    turned[7] = 1 - turned[7]
    before, after = fit(logits, truth), fit(logits, turned)
    assert before.calibration.bias == after.calibration.bias == (0.0, 0.0)  # too few rows for more
    assert before.calibration.scale != after.calibration.scale
    assert before.verdicts[7] == after.verdicts[7]
    assert sum(one != other for one, other in zip(before.verdicts, after.verdicts, strict=True)) > 15


def test_verdicts_stand_in_the_order_of_the_rows() -> None:
    logits, truth = honest(300, 3, seed=1)
    verdicts = fit(logits, truth).verdicts
    assert len(verdicts) == 300
    assert np.mean(
        [verdict.best == guess for verdict, guess in zip(verdicts, logits.argmax(1), strict=True)]
    ) > (0.9)


def test_noise_is_not_called_knowledge() -> None:
    """The labels have nothing to do with the logits; fitted on the same rows it would seem otherwise."""
    random = np.random.default_rng(2)
    logits, truth = random.standard_normal((300, 4)) * 5, random.integers(0, 4, 300)
    verdicts = fit(logits, truth).verdicts
    assert np.mean([verdict.confidence for verdict in verdicts]) < 0.35


# --- how often which threshold is wrong --------------------------------------------------------------


def test_thresholds_rise_and_answer_less_and_less() -> None:
    logits, truth = honest(500, 3)
    risk = fit(logits * 2, truth).calibration.risk
    thresholds, coverage = [point.threshold for point in risk], [point.coverage for point in risk]
    assert len(risk) > 50
    assert thresholds == sorted(set(thresholds))
    assert coverage == sorted(coverage, reverse=True)
    assert (thresholds[0], coverage[0]) == (0.0, 1.0)
    assert min(point.error for point in risk) < risk[0].error / 2


def test_an_error_is_what_was_seen_and_a_row_of_each_kind() -> None:
    risk = risk_curve(np.array([0.5, 0.6, 0.7, 0.8]), np.array([False, True, True, True]))
    assert [point.threshold for point in risk] == [0.0, 0.6, 0.7, 0.8]
    assert [point.error for point in risk] == pytest.approx([2 / 6, 1 / 5, 1 / 4, 1 / 3], abs=1e-4)
    assert [point.coverage for point in risk] == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("rows", [10, 1000, 30_000])
def test_rows_that_are_all_right_promise_no_error_of_zero(rows: int) -> None:
    (point,) = risk_curve(np.full(rows, 0.9), np.ones(rows, np.bool_))
    assert point.error > 0
    assert point.error == pytest.approx(1 / (rows + 2), abs=1e-4)


def test_a_threshold_answers_what_it_says() -> None:
    """Also where the model is next to certain: a threshold that is rounded up to 1 would answer nothing."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, 400)
    logits = np.eye(2)[truth] * random.exponential(8, (400, 1)) + random.standard_normal((400, 2)) * 2
    fitted = fit(logits, truth)
    confidence = np.array([verdict.confidence for verdict in fitted.verdicts])
    risk = fitted.calibration.risk
    answered = [float((confidence >= point.threshold).mean()) for point in risk]
    assert answered == pytest.approx([point.coverage for point in risk], abs=1e-4)


@settings(max_examples=25)
@given(st.integers(2, 5), st.integers(2, 60), st.integers(0, 1000), st.sampled_from([0.0, 0.1, 3.0, 60.0]))
def test_any_rows_can_be_calibrated(labels: int, rows: int, seed: int, spread: float) -> None:
    random = np.random.default_rng(seed)
    logits, truth = random.standard_normal((rows, labels)) * spread, random.integers(0, labels, rows)
    fitted = fit(logits, truth)
    assert len(fitted.calibration.scale) == len(fitted.calibration.bias) == labels
    assert min(fitted.calibration.scale) > 0
    for verdict in fitted.verdicts:
        assert sum(verdict.scores) == pytest.approx(1)
        assert 0 < verdict.confidence <= 1
    assert fitted.calibration.risk[0].threshold == 0
    assert all(0 < point.error < 1 for point in fitted.calibration.risk)
