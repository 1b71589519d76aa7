"""Confidence calibration: fits a calibration on held-out rows; ``bundle.calibration`` applies it on a device.

Scores are calibrated by a temperature, or by an affine map for each label if that has a lower loss.
Confidence is calibrated by isotonic regression on the margin if there are enough rows. A risk curve gives the
error rate at each threshold. The calibration itself is evaluated by cross-validation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from edgeslm.bundle.calibration import LEAST_PROBABILITY, Calibration, RiskPoint, Verdict, judge, margin_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.floating]
    Integers = npt.NDArray[np.int64]
    Bools = npt.NDArray[np.bool_]

Monotonic = tuple[tuple[float, ...], tuple[float, ...]]
"""A monotonic function: its knots, and its values at the knots."""

_PARTS: Final = 5
_SEED: Final = 0
_ROWS_A_LABEL: Final = 20
"""Minimum number of rows of each label for fitting affine maps; with fewer rows they would overfit."""
_ROWS_FOR_MARGINS: Final = 200
_KNOTS: Final = 20
_POINTS: Final = 100
"""Maximum number of points of the risk curve."""
_CERTAINTY: Final = 0.8
"""Confidence level of the risk curve's error rates, which are upper bounds of the true error rates."""
_LEAST_SHARE: Final = 1e-6
_SCALE: Final = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3)
_DIGITS: Final = 1e6
_ROUNDS: Final = 20
_STEP: Final = 1e-4
"""Amount added to a label's offset, so that the label wins ties. The amount is larger than rounding
errors."""
_MOST_LEAN: Final = 20.0
_PRIOR_ROWS: Final = 4.0
"""Weight, in rows, of the prior that pulls affine maps towards plain scaling by the temperature."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """``calibration`` is fitted on all rows whose label isn't doubted. ``verdicts`` has each row's label and
    confidence as a device computes them, cross-validated if there are enough rows."""

    calibration: Calibration
    verdicts: Sequence[Verdict]


def fit_calibration(
    log_probabilities: Floats,
    truth: Integers,
    doubted: Bools | None = None,
    recalls: Mapping[int, float] = MappingProxyType({}),
) -> Fitted:
    """Fits a classifier's calibration.

    :param log_probabilities: [rows, labels], the model's predictions. :param truth: [rows], the index of each
        row's label.
    :param doubted: [rows], whether a row's label is probably wrong; such rows aren't used for fitting.
    :param recalls: wanted recall by index of the label.
    """
    import numpy as np

    if doubted is not None and doubted.any() and not doubted.all():
        fitted = fit_calibration(log_probabilities[~doubted], truth[~doubted], None, recalls)
        others = iter(fitted.verdicts)
        verdicts = [
            judge(np.exp(row).tolist(), fitted.calibration) if out else next(others)
            for row, out in zip(log_probabilities, doubted, strict=True)
        ]
        return Fitted(fitted.calibration, verdicts)
    counts = np.bincount(truth, minlength=log_probabilities.shape[1])
    choices = [(False, False)]
    if counts.min() >= _ROWS_A_LABEL:
        choices.append((True, False))
    rows = log_probabilities, truth, recalls
    tried = {choice: _cross_validate_verdicts(*rows, *choice) for choice in choices}
    affine, _ = min(tried, key=lambda choice: _log_loss(tried[choice], truth))
    best = (affine, False)
    if len(truth) >= _ROWS_FOR_MARGINS:
        tried[affine, True] = _cross_validate_verdicts(*rows, affine, with_margins=True)
        best = min(((affine, False), (affine, True)), key=lambda choice: _brier(tried[choice], truth))
    calibration = _fit(*rows, *best)
    verdicts = tried[best]
    confidence = np.array([verdict.confidence for verdict in verdicts])
    right = np.array([verdict.best for verdict in verdicts]) == truth
    return Fitted(calibration.model_copy(update={"risk": risk_curve(confidence, right)}), verdicts)


def fit_confidence(shares: Floats, right: Bools) -> tuple[Calibration, Floats]:
    """Fits the confidence of an extract task's answers from their probabilities ``shares`` [rows].

    The confidence is a logistic function of the probability's logit (Platt 1999), or isotonic regression if
    there are enough rows and the Brier score of isotonic regression is better.

    :return: the calibration, and the cross-validated confidence of each row.
    """
    import numpy as np

    fits = [_logistic] if len(right) < _ROWS_FOR_MARGINS else [_logistic, _isotonic_from_zero]
    tried = [_cross_validate_confidences(shares, right, fit) for fit in fits]
    losses = [float(((confidence - right) ** 2).mean()) for confidence in tried]
    best = losses.index(min(losses))
    knots, heights = fits[best](shares, right)
    return (
        Calibration(
            scale=(),
            bias=(),
            margins=knots,
            confidences=heights,
            risk=risk_curve(tried[best], right),
            rows=len(right),
        ),
        np.asarray(tried[best]),
    )


def _cross_validate_confidences(
    shares: Floats, right: Bools, fit: Callable[[Floats, Bools], Monotonic]
) -> Floats:
    """Confidence of each row, by cross-validation."""
    import numpy as np

    order, found = np.random.default_rng(_SEED).permutation(len(right)), np.empty(len(right))
    for part in np.array_split(order, min(_PARTS, len(right))) if len(right) > 1 else [order]:
        others = np.setdiff1d(order, part) if len(right) > 1 else order
        found[part] = np.interp(shares[part], *fit(shares[others], right[others]))
    return found


def _isotonic_from_zero(shares: Floats, right: Bools) -> Monotonic:
    """Isotonic regression with an extra knot of almost no confidence at probability 0: an answer that is far
    less probable than any in the rows is hardly ever right."""
    knots, heights = _isotonic(shares, right)
    return ((0.0, *knots), (1 / (len(right) + 2), *heights)) if knots[0] > 0 else (knots, heights)


def _logistic(shares: Floats, right: Bools) -> Monotonic:
    """Logistic regression, evaluated at a few knots; the values are never 0 or 1."""
    import numpy as np
    from scipy.special import logit
    from sklearn.linear_model import LogisticRegression

    # Knots below all rows too, where confidence falls further.
    knots = np.unique([*_SCALE, *np.round(np.quantile(shares, np.linspace(0, 1, _KNOTS)), 6)])
    doubt = 1 / (len(right) + 2)
    heights = np.full(len(knots), (right.sum() + 1) / (len(right) + 2))
    if right.any() and not right.all():
        column = logit(np.clip(shares, _LEAST_SHARE, 1 - _LEAST_SHARE))[:, None]
        fitted = LogisticRegression().fit(column, right)
        if fitted.coef_[0, 0] > 0:  # otherwise the share says nothing and confidence is constant
            at = logit(np.clip(knots, _LEAST_SHARE, 1 - _LEAST_SHARE))[:, None]
            heights = np.maximum.accumulate(np.clip(fitted.predict_proba(at)[:, 1], doubt, 1 - doubt))
    return tuple(knots.tolist()), tuple(np.round(heights, 6).tolist())


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities [rows, labels], with the same lower bound as on a device."""
    import numpy as np
    from scipy.special import log_softmax as library

    lowest = np.log(LEAST_PROBABILITY)
    return np.asarray(np.maximum(library(logits, axis=1), lowest))


def rows_to_guarantee(error: float) -> int:
    """Number of rows that must be answered, all of them right, before ``risk_curve`` guarantees an error
    rate."""
    return math.ceil(math.log(1 - _CERTAINTY) / math.log(1 - error))


def risk_curve(confidence: Floats, right: Bools) -> tuple[RiskPoint, ...]:
    """Error rate and coverage at each threshold; ``confidence`` and ``right`` are [rows].

    The error is the one-sided 80 % upper confidence bound of the error rate (Clopper and Pearson 1934): ten
    right answers of ten don't prove an error rate of zero, and among a hundred thresholds some look good by
    chance.
    """
    import numpy as np
    from scipy.stats import beta

    points = []
    steps = np.quantile(confidence, np.linspace(0, 1, _POINTS), method="lower")
    # Rounded down, so that a row reaches its own threshold; the lowest is 0.
    for threshold in np.unique(np.floor(np.where(steps > confidence.min(), steps, 0.0) * _DIGITS) / _DIGITS):
        answered = confidence >= threshold
        hits = int((right & answered).sum())
        error = beta.ppf(_CERTAINTY, answered.sum() - hits + 1, hits) if hits else 1.0
        points.append(
            RiskPoint(
                threshold=float(threshold),
                error=min(1.0, math.ceil(float(error) * _DIGITS) / _DIGITS),
                coverage=round(float(answered.mean()), 4),
            )
        )
    return tuple(points)


def _cross_validate_verdicts(
    log_probabilities: Floats,
    truth: Integers,
    recalls: Mapping[int, float],
    affine: bool,
    with_margins: bool,
) -> list[Verdict]:
    """Each row's label and confidence, by five-fold cross-validation if there are enough rows."""
    import numpy as np

    order = np.random.default_rng(_SEED).permutation(len(truth))
    verdicts: dict[int, Verdict] = {}
    enough = len(truth) >= _PARTS * log_probabilities.shape[1]
    for part in np.array_split(order, _PARTS) if enough else [order]:
        others = np.setdiff1d(order, part) if enough else order
        calibration = _fit(log_probabilities[others], truth[others], recalls, affine, with_margins)
        for row in part.tolist():
            verdicts[row] = judge(np.exp(log_probabilities[row]).tolist(), calibration)
    return [verdicts[row] for row in range(len(truth))]


def _fit(
    log_probabilities: Floats,
    truth: Integers,
    recalls: Mapping[int, float],
    affine: bool,
    with_margins: bool,
) -> Calibration:
    import numpy as np
    from edgeslm_export.evaluate.metrics import fit_temperature

    labels = log_probabilities.shape[1]
    inverse = 1 / fit_temperature(log_probabilities, truth)
    scale: Floats = np.full(labels, inverse)
    bias: Floats = np.zeros(labels)
    if affine:
        scale, bias = _fit_affine(log_probabilities, truth, inverse)
    calibration = Calibration(
        scale=tuple(np.round(scale, 5).tolist()), bias=tuple(np.round(bias, 5).tolist()), rows=len(truth)
    )
    if recalls:
        scores = [judge(row.tolist(), calibration).scores for row in np.exp(log_probabilities)]
        leans = fit_recall_offsets(np.log(np.maximum(scores, LEAST_PROBABILITY)), truth, recalls)
        calibration = calibration.model_copy(update={"leans": tuple(np.round(leans, 5).tolist())})
    if not with_margins:
        return calibration
    verdicts = [judge(row.tolist(), calibration) for row in np.exp(log_probabilities)]
    margins = np.array([margin_of(verdict.scores, verdict.best) for verdict in verdicts])
    right = np.array([v.best for v in verdicts]) == truth
    knots, heights = _isotonic(margins, right)
    return calibration.model_copy(update={"margins": knots, "confidences": heights})


def fit_recall_offsets(log_scores: Floats, truth: Integers, recalls: Mapping[int, float]) -> Floats:
    """Offsets [labels] that are added to log-scores, so that labels have the wanted recall.

    Label-conditional conformal prediction (Vovk 2012): for each row of a label there is a smallest offset
    with which the row is predicted as this label; the label's offset is a quantile of these row offsets. The
    recall is reached even if the scores are badly calibrated.

    :param log_scores: [rows, labels].
    """
    import numpy as np

    leans = np.zeros(log_scores.shape[1])
    for _ in range(_ROUNDS if len(recalls) > 1 else 1):  # offsets of several labels depend on each other
        for label, wanted in recalls.items():
            rows = log_scores[truth == label] + leans
            needed = np.sort(np.delete(rows, label, axis=1).max(axis=1) - (rows[:, label] - leans[label]))
            place = min(math.ceil((len(needed) + 1) * wanted), len(needed))
            leans[label] = min(max(0.0, float(needed[place - 1]) + _STEP), _MOST_LEAN) if place else 0.0
    return leans


def _fit_affine(log_probabilities: Floats, truth: Integers, scale: float) -> tuple[Floats, Floats]:
    """The scales and biases of ``softmax(scale * log p + bias)`` with the lowest loss; a prior pulls scales
    towards ``scale`` and biases towards 0."""
    import numpy as np
    from scipy.optimize import minimize
    from scipy.special import log_softmax as library

    rows, labels = log_probabilities.shape
    wanted = np.eye(labels)[truth]

    def loss(values: Floats) -> tuple[float, Floats]:
        logarithms, bias = values[:labels], values[labels:]
        scales = scale * np.exp(logarithms)
        shares = library(scales * log_probabilities + bias, axis=1)
        error = np.exp(shares) - wanted
        value = -(wanted * shares).sum() + _PRIOR_ROWS * (values**2).sum()
        gradient = np.concatenate([(error * log_probabilities).sum(0) * scales, error.sum(0)])
        return value / rows, (gradient + 2 * _PRIOR_ROWS * values) / rows

    found = minimize(loss, np.zeros(2 * labels), jac=True, method="L-BFGS-B")
    return scale * np.exp(found.x[:labels]), found.x[labels:]


def _isotonic(margins: Floats, right: Bools) -> Monotonic:
    """Isotonic regression, evaluated at a few knots; the values are never 0 or 1."""
    import numpy as np
    from sklearn.isotonic import IsotonicRegression

    doubt = 1 / (len(right) + 2)
    fitted = IsotonicRegression(y_min=doubt, y_max=1 - doubt, out_of_bounds="clip").fit(margins, right)
    knots = np.unique(np.round(np.quantile(margins, np.linspace(0, 1, _KNOTS)), 6))
    return tuple(knots.tolist()), tuple(np.round(fitted.predict(knots), 6).tolist())


def _log_loss(verdicts: Sequence[Verdict], truth: Integers) -> float:
    import numpy as np

    shares = [verdict.scores[label] for verdict, label in zip(verdicts, truth, strict=True)]
    return float(-np.log(np.maximum(shares, LEAST_PROBABILITY)).mean())


def _brier(verdicts: Sequence[Verdict], truth: Integers) -> float:
    import numpy as np

    confidence = np.array([verdict.confidence for verdict in verdicts])
    right = np.array([verdict.best for verdict in verdicts]) == truth
    return float(((confidence - right) ** 2).mean())
