"""Classifier metrics: accuracy with its confidence interval, calibration error, temperature scaling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeslm.bundle.calibration import Verdict

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]

_BINS = 10
RESAMPLES = 1000
_SEED = 0
_TAIL = 0.025


def share_interval(hits: Sequence[bool] | npt.NDArray[np.bool_]) -> tuple[float, float]:
    """The 95 % confidence interval of the share of true values in ``hits``: percentile bootstrap (Efron 1979)
    with ``RESAMPLES`` draws and a fixed seed.

    If all values are equal, the bootstrap's interval has no width, so the exact binomial bound is used
    instead (Clopper and Pearson 1934): ten hits of ten don't prove certainty.
    """
    values = np.asarray(hits, float)
    rows = len(values)
    if rows == 0:
        return 0.0, 1.0
    if (right := values.sum()) in (0, rows):
        bound = _TAIL ** (1 / rows)
        return (bound, 1.0) if right else (0.0, 1 - bound)
    random = np.random.default_rng(_SEED)
    shares = [values[random.integers(0, rows, rows)].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(shares, (_TAIL, 1 - _TAIL))
    return float(low), float(high)


def share(hits: Sequence[bool] | npt.NDArray[np.bool_]) -> dict[str, Any]:
    """The ``share`` of true values in ``hits`` with its 95 % ``interval``, rounded for a report."""
    return {
        "share": round(float(np.mean(hits)), 4),
        "interval": [round(end, 4) for end in share_interval(hits)],
    }


def calibration_error(confidence: Floats, right: npt.NDArray[np.bool_]) -> float:
    """Expected calibration error with ten equal bins of confidence (Guo et al., 2017, equation 3)."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    error = 0.0
    for number in range(_BINS):
        inside = bins == number
        if inside.any():
            error += abs(right[inside].mean() - confidence[inside].mean()) * inside.mean()
    return float(error)


def softmax(logits: Floats) -> Floats:
    """Softmax of each row of logits [n, labels]."""
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exp / exp.sum(axis=1, keepdims=True))


def accuracy_report(verdicts: Sequence[Verdict], truth: Integers, labels: Sequence[str]) -> dict[str, Any]:
    """A dict with ``rows`` (number of rows), ``accuracy``, ``interval`` (the accuracy's 95 % confidence
    interval), ``majority`` (share of the most frequent label), ``calibration_error``, and ``labels``: for
    each label a dict with ``rows`` (number of rows), ``precision`` and ``recall``.

    :param truth: [rows], indices into ``labels``.
    """
    guess = np.array([verdict.best for verdict in verdicts])
    confidence = np.array([verdict.confidence for verdict in verdicts])
    accuracy = share(guess == truth)
    by_label = {}
    for number, label in enumerate(labels):
        hits = int(((guess == number) & (truth == number)).sum())
        actual, guessed = int((truth == number).sum()), int((guess == number).sum())
        by_label[label] = {
            "rows": actual,
            "precision": round(hits / guessed, 4) if guessed else None,
            "recall": round(hits / actual, 4) if actual else None,
        }
    return {
        "rows": len(truth),
        "accuracy": accuracy["share"],
        "interval": accuracy["interval"],
        "majority": round(float(np.bincount(truth).max()) / len(truth), 4),
        "calibration_error": round(calibration_error(confidence, guess == truth), 4),
        "labels": by_label,
    }


def fit_temperature(logits: Floats, truth: Integers) -> float:
    """Temperature scaling (Guo et al., 2017, section 4.2): the temperature between 0.05 and 20 for which
    ``softmax(logits / temperature)`` has the lowest cross-entropy.

    The target probability of the true label is 1 - 1 / (n + 2) for n rows (Platt 1999, section 2.2). With a
    target of 1, a few rows that are all predicted correctly would drive the temperature to its minimum, which
    makes every answer certain.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    rows, labels = logits.shape
    doubt = 1 / (rows + 2)
    target = np.full((rows, labels), doubt / max(1, labels - 1))
    target[np.arange(rows), truth] = 1 - doubt

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        return float((logsumexp(scaled, axis=1) - (target * scaled).sum(axis=1)).mean())

    found = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20.0)), method="bounded")
    return math.exp(float(found.x))
