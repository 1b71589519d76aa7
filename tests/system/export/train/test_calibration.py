"""Calibration of logits whose fault is known: what is fitted, and that it is judged on other rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from edgeslm_export.evaluate.metrics import calibration_error, softmax
from edgeslm_export.train.calibration import (
    Fitted,
    fit_calibration,
    fit_confidence,
    fit_recall_offsets,
    log_softmax,
    risk_curve,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.bundle.calibration import LEAST_PROBABILITY, Calibration, Verdict, find_threshold, judge, sure

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


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


def test_an_error_is_a_bound_that_holds_four_times_of_five() -> None:
    risk = risk_curve(np.array([0.5, 0.6, 0.7, 0.8]), np.array([False, True, True, True]))
    assert [point.threshold for point in risk] == [0.0, 0.6, 0.7, 0.8]
    assert [point.error for point in risk] == pytest.approx([0.5825, 0.4152, 0.5528, 0.8], abs=1e-4)
    assert [point.coverage for point in risk] == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("rows", [10, 1000, 30_000])
def test_rows_that_are_all_right_promise_no_error_of_zero(rows: int) -> None:
    (point,) = risk_curve(np.full(rows, 0.9), np.ones(rows, np.bool_))
    assert point.error > 0
    assert point.error == pytest.approx(1 - 0.2 ** (1 / rows), abs=1e-4)


def test_what_is_promised_is_kept_more_often_than_not() -> None:
    """Of a hundred thresholds the one is taken that answers most: a mean is broken by half of the draws."""
    random = np.random.default_rng(3)
    broken = 0
    for _ in range(40):
        confidence = 0.5 + random.random(300) / 2
        right = random.random(300) < confidence
        calibration = Calibration(scale=(), bias=(), risk=risk_curve(confidence, right), rows=300)
        if (point := find_threshold(calibration, 0.05)) is not None:
            broken += (1 - max(0.5, point.threshold)) / 2 > 0.05  # of answers from there to certain
    assert broken <= 12


def test_doubted_rows_teach_no_confidence() -> None:
    """A tenth of wrong labels would have every answer be called 0.9 sure."""
    random = np.random.default_rng(1)
    truth = random.integers(0, 2, 400)
    logits = np.eye(2)[truth] * 8 + random.standard_normal((400, 2))
    doubted = random.random(400) < 0.1
    told = np.where(doubted, 1 - truth, truth)
    spoiled = fit_calibration(log_softmax(logits), told)
    fitted = fit_calibration(log_softmax(logits), told, doubted)
    assert np.median([verdict.confidence for verdict in spoiled.verdicts]) < 0.95
    assert np.median([verdict.confidence for verdict in fitted.verdicts]) > 0.97
    assert fitted.calibration.rows == (~doubted).sum()
    assert len(fitted.verdicts) == 400
    assert [verdict.best for verdict in fitted.verdicts] == truth.tolist()


def spam(rows: int, seed: int = 0) -> tuple[Floats, Integers]:
    """Two labels, one in eight of the second, told well and not perfectly."""
    random = np.random.default_rng(seed)
    truth = (random.random(rows) < 1 / 8).astype(np.int64)
    return np.eye(2)[truth] * 4 + random.standard_normal((rows, 2)) * 1.6 + [1.0, 0.0], truth


def recall_of(verdicts: Sequence[Verdict], truth: Integers, label: int) -> float:
    return float(np.mean([v.best == label for v, t in zip(verdicts, truth, strict=True) if t == label]))


def test_a_label_that_must_not_be_missed_leans_forward() -> None:
    logits, truth = spam(1200)
    plain = fit(logits, truth)
    fitted = fit_calibration(log_softmax(logits), truth, recalls={1: 0.97})
    assert plain.calibration.leans == ()
    assert fitted.calibration.leans[0] == 0 < fitted.calibration.leans[1]
    assert recall_of(plain.verdicts, truth, 1) < 0.93
    assert recall_of(fitted.verdicts, truth, 1) > 0.955
    for leaning, straight in zip(fitted.verdicts, plain.verdicts, strict=True):
        assert leaning.scores == pytest.approx(straight.scores)  # what is likely stays as likely
    confidence = np.array([verdict.confidence for verdict in fitted.verdicts])
    right = np.array([verdict.best for verdict in fitted.verdicts]) == truth
    assert calibration_error(confidence, right) < 0.05


def test_what_is_wanted_to_be_found_is_found_in_other_rows_on_average() -> None:
    found = []
    for seed in range(30):
        (logits, truth), (others, other_truth) = spam(500, seed), spam(2000, 1000 + seed)
        calibration = fit_calibration(log_softmax(logits), truth, recalls={1: 0.95}).calibration
        verdicts = [judge(np.exp(row).tolist(), calibration) for row in log_softmax(others)]
        found.append(recall_of(verdicts, other_truth, 1))
    assert np.mean(found) > 0.945


def test_what_is_found_anyway_does_not_lean() -> None:
    truth = np.arange(60) % 3
    leans = fit_recall_offsets(np.log(np.eye(3)[truth] * 0.9 + 0.03), truth, {0: 0.9, 2: 0.5})
    assert leans.tolist() == [0, 0, 0]


def test_two_labels_lean_past_each_other() -> None:
    random = np.random.default_rng(5)
    truth = random.integers(0, 3, 900)
    scores = np.asarray(log_softmax(np.eye(3)[truth] * 3 + random.standard_normal((900, 3)) + [2.0, 0, 0]))
    leans = fit_recall_offsets(scores, truth, {1: 0.9, 2: 0.9})
    said = (scores + leans).argmax(axis=1)
    assert leans[0] == 0
    assert all((said[truth == label] == label).mean() >= 0.9 for label in (1, 2))


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_few_rows_lean_as_far_as_they_show(rows: int) -> None:
    truth = np.array([0] * 40 + [1] * rows)
    scores = np.log(np.tile([0.9, 0.1], (len(truth), 1)))
    leans = fit_recall_offsets(scores, truth, {1: 0.99})
    assert leans[1] == pytest.approx(np.log(9) if rows else 0, abs=1e-3)


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
    assert all(0 < point.error <= 1 for point in fitted.calibration.risk)


# --- a confidence where there are no labels ----------------------------------------------------------


def too_sure(rows: int, seed: int = 0, power: float = 3.0) -> tuple[Floats, Bools]:
    """Shares of a model that is right less often than it says: as often as ``share ** power``."""
    random = np.random.default_rng(seed)
    shares = random.uniform(0.01, 1, rows)
    return shares, random.random(rows) < shares**power


@pytest.mark.parametrize("rows", [60, 1500])
def test_a_share_becomes_a_confidence_that_rises_with_it(rows: int) -> None:
    calibration, _ = fit_confidence(*too_sure(rows))
    assert (calibration.scale, calibration.bias, calibration.rows) == ((), (), rows)
    assert calibration.fault is None
    assert len(calibration.margins) == len(calibration.confidences) > 5
    assert sure(0.05, calibration) < 0.2
    assert sure(0.05, calibration) < sure(0.5, calibration) < sure(0.95, calibration)


@pytest.mark.parametrize("power", [0.3, 1.0, 3.0])
def test_a_confidence_is_how_often_others_were_right(power: float) -> None:
    """On rows that it was not fitted on, of a model that is too modest, honest, or too sure of itself."""
    shares, right = too_sure(1500, power=power)
    calibration, confidence = fit_confidence(shares, right)
    assert calibration_error(confidence, right) < 0.05
    others, truth = too_sure(4000, seed=1, power=power)
    told = np.array([sure(share, calibration) for share in others.tolist()])
    assert calibration_error(told, truth) < 0.05
    if power != 1:
        assert calibration_error(told, truth) < calibration_error(others, truth) / 3


def test_a_step_takes_more_than_a_logistic_function() -> None:
    random = np.random.default_rng(4)
    shares = random.uniform(0, 1, 2000)
    right = random.random(2000) < np.where(shares < 0.9, 0.3, 0.95)
    calibration, _ = fit_confidence(shares, right)
    assert sure(0.1, calibration) == pytest.approx(sure(0.8, calibration), abs=0.1)
    assert sure(0.97, calibration) > 0.85


@pytest.mark.parametrize("is_right", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 10, 300])
def test_nothing_is_certain_where_all_rows_were_alike(is_right: bool, rows: int) -> None:
    shares = np.linspace(0.2, 0.9999999, rows)
    calibration, confidence = fit_confidence(shares, np.full(rows, is_right))
    doubt = 1 / (rows + 2)
    expected = 1 - doubt if is_right else doubt
    among_rows = [sure(share, calibration) for share in shares.tolist()]
    assert among_rows == pytest.approx([expected] * rows, abs=1e-5)
    assert len(confidence) == rows
    assert ((confidence > 0) & (confidence < 1)).all()


def test_shares_that_say_nothing_get_how_often_all_are_right() -> None:
    """Also where the wrong ones happen to have the higher shares: that promises nothing for the low ones."""
    shares = np.linspace(0.1, 0.9, 40)
    calibration, confidence = fit_confidence(shares, np.arange(40) < 20)
    assert set(calibration.confidences) == {0.5}
    assert confidence == pytest.approx(0.5, abs=0.1)


def test_no_row_has_a_say_in_its_own_confidence() -> None:
    shares, right = too_sure(40)
    turned = right.copy()
    turned[7] = not turned[7]
    (before, told_before), (after, told_after) = fit_confidence(shares, right), fit_confidence(shares, turned)
    assert before.confidences != after.confidences
    assert told_before[7] == told_after[7]
    assert (told_before != told_after).sum() > 20


def test_a_wanted_error_of_a_confidence_is_kept() -> None:
    shares, right = too_sure(2000)
    calibration, _ = fit_confidence(shares, right)
    point = find_threshold(calibration, 0.2)
    assert point is not None
    assert 0.05 < point.coverage < 0.6
    others, truth = too_sure(4000, seed=1)
    told = np.array([sure(share, calibration) for share in others.tolist()])
    answered = told >= point.threshold
    assert answered.mean() == pytest.approx(point.coverage, abs=0.1)
    assert 1 - truth[answered].mean() < 0.25


@settings(max_examples=40)
@given(st.integers(1, 240), st.integers(0, 1000), st.sampled_from([0.0, 0.2, 1.0]), st.booleans())
def test_any_shares_can_be_calibrated(rows: int, seed: int, spread: float, ends: bool) -> None:
    random = np.random.default_rng(seed)
    shares = np.clip(0.5 + (random.random(rows) - 0.5) * spread * (3 if ends else 1), 0, 1)
    calibration, confidence = fit_confidence(shares, random.random(rows) < random.random())
    assert calibration.fault is None
    assert all(0 < height < 1 for height in calibration.confidences)
    assert ((confidence > 0) & (confidence < 1)).all()
    assert all(0 < sure(share, calibration) < 1 for share in (0.0, 0.5, 1.0))
    assert calibration.risk[0].threshold == 0


@pytest.mark.parametrize("rows", [100, 1000])
def test_what_is_far_below_all_rows_is_far_less_sure(rows: int) -> None:
    """Noise and other domains get shares that no row had."""
    random = np.random.default_rng(1)
    shares = 0.3 + 0.7 * random.random(rows)
    calibration, _ = fit_confidence(shares, random.random(rows) < shares)
    assert sure(1e-6, calibration) < 0.1 < sure(0.3, calibration)
