from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.bundle.calibration import Calibration, RiskPoint, find_threshold, judge, sure

TOLERANCE = 1e-9


@st.composite
def distributions(draw: st.DrawFn) -> tuple[float, ...]:
    """Probabilities as an engine gives them: impossible and certain labels among them."""
    size = draw(st.integers(2, 8))
    weights = draw(st.lists(st.floats(0, 1) | st.sampled_from([0.0, 1e-300]), min_size=size, max_size=size))
    total = sum(weights)
    if total < 1e-290:
        return (1.0, *(0.0 for _ in weights[1:]))
    return tuple(weight / total for weight in weights)


def made(labels: int, scale: float = 1.0, bias: float = 0.0, **fields: object) -> Calibration:
    return Calibration.model_validate(
        {"scale": [scale] * labels, "bias": [bias] * labels, "rows": 9, **fields}, strict=False
    )


# -- scores ----------------------------------------------------------------------------------------


def test_without_a_calibration_probabilities_are_taken_as_they_are() -> None:
    verdict = judge((0.2, 0.7, 0.1), None)
    assert (verdict.scores, verdict.best, verdict.confidence) == ((0.2, 0.7, 0.1), 1, 0.7)


def test_a_temperature_of_one_changes_nothing() -> None:
    verdict = judge((0.2, 0.7, 0.1), made(3))
    assert verdict.scores == pytest.approx((0.2, 0.7, 0.1))
    assert (verdict.best, verdict.confidence) == (1, verdict.scores[1])


def test_a_scale_of_a_half_takes_the_roots() -> None:
    assert judge((0.9, 0.1), made(2, 0.5)).scores == pytest.approx((0.75, 0.25))


def test_each_label_has_its_scale_and_bias() -> None:
    fitted = Calibration(scale=(1.0, 2.0), bias=(0.0, math.log(3)), rows=9)
    verdict = judge((0.5, 0.5), fitted)
    assert verdict.scores == pytest.approx((0.4, 0.6))  # 1/2 to 3 * (1/2)^2
    assert verdict.best == 1


def test_a_label_that_leans_is_said_with_what_it_is_worth() -> None:
    leans = (0.0, math.log(3))
    assert (judge((0.7, 0.3), made(2, leans=leans)).best, judge((0.8, 0.2), made(2, leans=leans)).best) == (
        1,
        0,
    )
    verdict = judge((0.7, 0.3), made(2, leans=leans))
    assert verdict.scores == pytest.approx((0.7, 0.3))
    assert verdict.confidence == pytest.approx(0.3)


def test_what_only_leans_lies_below_the_others() -> None:
    fitted = made(2, leans=(0.0, 2.0), margins=(-0.5, 0.5), confidences=(0.2, 0.9))
    verdict = judge((0.7, 0.3), fitted)
    assert verdict.confidence == pytest.approx(0.2 + 0.7 * 0.1)


def test_each_label_needs_a_lean_or_none_does() -> None:
    assert made(2, leans=(0.0, 1.0)).fault is None
    assert made(2, leans=(1.0,)).fault == "it needs a lean for each label"


@given(st.data())
def test_scores_sum_to_one(data: st.DataObject) -> None:
    probabilities = data.draw(distributions())
    numbers = st.lists(st.floats(-50, 50), min_size=len(probabilities), max_size=len(probabilities))
    fitted = Calibration(scale=tuple(data.draw(numbers)), bias=tuple(data.draw(numbers)), rows=9)
    verdict = judge(probabilities, fitted)
    assert sum(verdict.scores) == pytest.approx(1)
    assert all(0 <= score <= 1 for score in verdict.scores)
    assert verdict.scores[verdict.best] == max(verdict.scores) == verdict.confidence


@given(distributions(), st.floats(0.01, 20))
def test_a_temperature_keeps_the_order_of_labels(probabilities: tuple[float, ...], scale: float) -> None:
    scores = judge(probabilities, made(len(probabilities), scale)).scores
    order = sorted(range(len(scores)), key=probabilities.__getitem__)
    assert all(scores[low] <= scores[high] for low, high in pairwise(order))


@given(distributions(), st.floats(-20, 20))
def test_the_same_bias_for_each_label_changes_nothing(probabilities: tuple[float, ...], bias: float) -> None:
    labels = len(probabilities)
    assert judge(probabilities, made(labels, bias=bias)).scores == pytest.approx(
        judge(probabilities, made(labels)).scores
    )


@pytest.mark.parametrize("scale", [1.0, 0.05, 30.0])
def test_an_impossible_label_stays_the_least_likely(scale: float) -> None:
    verdict = judge((1.0, 0.0, 0.0), made(3, scale))
    assert verdict.best == 0
    assert verdict.scores[1] == verdict.scores[2] < 0.5
    assert sum(verdict.scores) == pytest.approx(1)


def test_numbers_without_bounds_overflow_nowhere() -> None:
    fitted = Calibration(scale=(1e300, 1e300), bias=(0.0, 0.0), rows=9)
    assert judge((0.6, 0.4), fitted).scores == (1.0, 0.0)
    assert judge((0.0, 1.0), Calibration(scale=(0.0, 0.0), bias=(1e6, 0.0), rows=9)).scores == (1.0, 0.0)


def test_of_labels_that_are_as_likely_the_first_is_the_best() -> None:
    assert judge((0.25, 0.25, 0.25, 0.25), None).best == 0
    assert judge((0.1, 0.45, 0.45), made(3, 2.0)).best == 1


def test_a_calibration_of_other_labels_is_no_silent_answer() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        judge((0.2, 0.7, 0.1), made(2))


# -- confidence ------------------------------------------------------------------------------------

MARGINS = made(2, margins=[0.1, 0.5, 0.9], confidences=[0.4, 0.6, 0.95])


@pytest.mark.parametrize(
    ("margin", "confidence"),
    [(0.0, 0.4), (0.1, 0.4), (0.3, 0.5), (0.5, 0.6), (0.7, 0.775), (0.9, 0.95), (1.0, 0.95)],
)
def test_the_confidence_is_straight_between_knots_and_level_beyond(margin: float, confidence: float) -> None:
    verdict = judge(((1 + margin) / 2, (1 - margin) / 2), MARGINS)
    assert verdict.confidence == pytest.approx(confidence)
    assert verdict.scores == pytest.approx(((1 + margin) / 2, (1 - margin) / 2)), "scores stay what they are"


def test_the_margin_is_that_to_the_second_label() -> None:
    """Whatever order they are in."""
    fitted = made(3, margins=[0.0, 1.0], confidences=[0.0, 1.0])
    for probabilities in ((0.6, 0.1, 0.3), (0.3, 0.6, 0.1), (0.1, 0.3, 0.6)):
        assert judge(probabilities, fitted).confidence == pytest.approx(0.3)


def test_a_single_knot_is_the_confidence_of_all() -> None:
    fitted = made(2, margins=[0.5], confidences=[0.8])
    assert {judge(p, fitted).confidence for p in ((0.5, 0.5), (0.75, 0.25), (1.0, 0.0))} == {0.8}


def test_knots_in_one_place_are_a_step() -> None:
    fitted = made(2, margins=[0.0, 0.5, 0.5, 1.0], confidences=[0.2, 0.2, 0.9, 0.9])
    assert [judge(p, fitted).confidence for p in ((0.7, 0.3), (0.8, 0.2))] == [0.2, 0.9]


@given(st.data())
def test_confidence_rises_with_the_margin(data: st.DataObject) -> None:
    shares = st.floats(0, 1)
    knots = sorted(data.draw(st.lists(shares, min_size=1, max_size=6)))
    heights = sorted(data.draw(st.lists(shares, min_size=len(knots), max_size=len(knots))))
    fitted = made(2, margins=knots, confidences=heights)
    margins = sorted(data.draw(st.lists(shares, min_size=2, max_size=6)))
    found = [judge(((1 + margin) / 2, (1 - margin) / 2), fitted).confidence for margin in margins]
    assert all(low <= high + TOLERANCE for low, high in pairwise(found))
    assert all(heights[0] - TOLERANCE <= confidence <= heights[-1] + TOLERANCE for confidence in found)


FIELDS = made(0, margins=[0.2, 0.6], confidences=[0.1, 0.9])
"""Without labels there is nothing to scale."""


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("fitted", [None, made(0)])
def test_a_share_without_knots_is_taken_as_it_is(share: float, fitted: Calibration | None) -> None:
    assert sure(share, fitted) == share


@pytest.mark.parametrize(
    ("share", "confidence"), [(0.0, 0.1), (0.2, 0.1), (0.3, 0.3), (0.5, 0.7), (0.6, 0.9), (1.0, 0.9)]
)
def test_a_share_is_as_sure_as_its_place_between_the_knots(share: float, confidence: float) -> None:
    assert sure(share, FIELDS) == pytest.approx(confidence)


@given(st.data())
def test_a_higher_share_is_no_less_sure(data: st.DataObject) -> None:
    shares = st.floats(0, 1)
    knots = sorted(data.draw(st.lists(shares, max_size=6)))
    heights = sorted(data.draw(st.lists(shares, min_size=len(knots), max_size=len(knots))))
    fitted = made(0, margins=knots, confidences=heights)
    assert fitted.fault is None
    found = [sure(share, fitted) for share in sorted(data.draw(st.lists(shares, min_size=2, max_size=6)))]
    assert all(low <= high + TOLERANCE for low, high in pairwise(found))
    assert all(-TOLERANCE <= confidence <= 1 + TOLERANCE for confidence in found)


# -- where to abstain ------------------------------------------------------------------------------

points = st.builds(RiskPoint, threshold=st.floats(0, 1), error=st.floats(0, 1), coverage=st.floats(0, 1))


@given(st.lists(points, max_size=20), st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_the_threshold_keeps_the_wanted_error_and_answers_most(
    risk: list[RiskPoint], max_error: float
) -> None:
    found = find_threshold(Calibration(scale=(), bias=(), risk=tuple(risk), rows=9), max_error)
    possible = [point for point in risk if point.error <= max_error]
    if found is None:
        assert not possible
    else:
        assert found.error <= max_error
        assert found.coverage == max(point.coverage for point in possible)


def test_a_curve_that_falls_and_rises_again_gives_the_widest_point() -> None:
    """Few rows make a curve that isn't smooth: the lowest threshold that keeps the error is taken."""
    risk = tuple(
        RiskPoint(threshold=threshold, error=error, coverage=coverage)
        for threshold, error, coverage in (
            (0.0, 0.2, 1.0),
            (0.4, 0.05, 0.8),
            (0.6, 0.08, 0.5),
            (0.9, 0.02, 0.1),
        )
    )
    fitted = Calibration(scale=(), bias=(), risk=risk, rows=9)
    found = find_threshold(fitted, 0.06)
    assert found is not None
    assert found.threshold == 0.4
    assert find_threshold(fitted, 0.01) is None


def test_without_a_curve_there_is_no_threshold() -> None:
    assert find_threshold(made(2), 0.99) is None
