"""Confidence calibration (temperature, affine, isotonic) and selective prediction: when to abstain.

``edgeslm-export tune`` fits the parameters on held-out rows; the device applies them. The scores of the
labels are ``softmax(scale * log p + bias)``, where ``p`` are the model's probabilities; ``tune`` fits either
one temperature for all labels, or a ``scale`` and a ``bias`` for each label (Guo et al., 2017, section 4.2).
The confidence is the score of the predicted label, or a monotonic function of the margin between this score
and the highest other score, fitted by isotonic regression (Zadrozny and Elkan, 2002).

The predicted label has the highest ``log score + lean``, which makes decisions cost-sensitive (Elkan, 2001).
A positive lean makes the model predict a label more often, so the label has fewer misses and more false
positives; the scores don't change. A maximum error rate determines the confidence threshold below which the
model abstains (Geifman and El-Yaniv, 2017).

The functions of this module only compute; they do no I/O.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

LEAST_PROBABILITY = 1e-12
"""Floor of probabilities, so that logarithms stay finite."""


FEWEST_LABELLED = 10
"""Fewest labelled messages that a label bias is fitted to."""
MOST_LABELLED = 200
"""Most of them: each is left out once, for each penalty."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RiskPoint(_Section):
    """Coverage and error rate at one confidence threshold. With this ``threshold``, the share ``coverage`` of
    all rows is answered, and the share ``error`` of these answers is wrong."""

    threshold: float = Field(ge=0, le=1)
    error: float = Field(ge=0, le=1)
    coverage: float = Field(ge=0, le=1)


class Calibration(_Section):
    """Fitted parameters. ``scale`` and ``bias`` have a value for each label; they are empty for tasks without
    labels.

    ``leans`` has a value for each label, or is empty. ``margins`` and ``confidences`` are the points of the
    function that maps the margin to the confidence; if they are empty, the confidence is the score of the
    predicted label. ``risk`` is ordered by threshold.
    """

    scale: tuple[float, ...]
    bias: tuple[float, ...]
    leans: tuple[float, ...] = ()
    margins: tuple[float, ...] = ()
    confidences: tuple[float, ...] = ()
    risk: tuple[RiskPoint, ...] = ()
    rows: int = Field(ge=0, description="rows that it was fitted on")

    @property
    def fault(self) -> str | None:
        """What is wrong with the parameters; None if valid."""
        if self.leans and len(self.leans) != len(self.scale):
            return "it needs a lean for each label"
        if len(self.margins) != len(self.confidences):
            return "it needs a confidence for each margin"
        if sorted(self.margins) != list(self.margins) or sorted(self.confidences) != list(self.confidences):
            return "margins and confidences must rise"
        if any(not 0 <= confidence <= 1 for confidence in self.confidences):
            return "a confidence must be from 0 to 1"
        return None


@dataclass(frozen=True, slots=True)
class LabelledBias:
    """Label bias of an untrained model, fitted to labelled messages: ``biases`` sum to 1; None if they don't
    help. ``right`` is the number of ``rows`` with the right label without biases, and ``right_with`` with
    biases that were fitted without the row."""

    biases: Mapping[str, float] | None
    rows: int
    right: int
    right_with: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Calibrated prediction. ``scores`` sum to 1; ``best`` is the index of the predicted label, which has the
    highest score plus lean; ``confidence`` estimates the probability that this label is right."""

    scores: tuple[float, ...]
    best: int
    confidence: float


def judge(probabilities: Sequence[float], calibration: Calibration | None) -> Verdict:
    """Calibrates a model's probabilities and predicts a label; without a calibration, the probabilities are
    used unchanged.

    :param probabilities: the probabilities of two or more labels, which sum to 1.
    """
    scores = tuple(probabilities) if calibration is None else _scaled(probabilities, calibration)
    leans = () if calibration is None else calibration.leans
    leaning = [score * math.exp(lean) for score, lean in zip(scores, leans, strict=True)] if leans else scores
    best = max(range(len(scores)), key=leaning.__getitem__)
    confidence = scores[best]
    if calibration is not None and calibration.margins:
        confidence = _interpolated(margin_of(scores, best), calibration.margins, calibration.confidences)
    return Verdict(scores, best, confidence)


def margin_of(scores: Sequence[float], best: int) -> float:
    """Score of the predicted label minus the highest score of the other labels; negative if the label was
    predicted due to its lean."""
    return scores[best] - max(score for place, score in enumerate(scores) if place != best)


def sure(share: float, calibration: Calibration | None) -> float:
    """Calibrated confidence of a single probability, for tasks without labels."""
    if calibration is None or not calibration.margins:
        return share
    return _interpolated(share, calibration.margins, calibration.confidences)


def without_bias(probabilities: Sequence[float], biases: Sequence[float]) -> tuple[float, ...]:
    """Removes the label bias of a model without training, by contextual calibration (Zhao et al., 2021).

    :param biases: label probabilities that the model gives a message without content; ``probabilities`` are
        divided by them and normalised.
    """
    shares = [
        probability / max(bias, LEAST_PROBABILITY)
        for probability, bias in zip(probabilities, biases, strict=True)
    ]
    total = sum(shares)
    return tuple(share / total for share in shares)


def find_threshold(calibration: Calibration, max_error: float) -> RiskPoint | None:
    """Returns the risk point that has the highest coverage among all points with an error of at most
    ``max_error``; None if no point has so low an error."""
    possible = [point for point in calibration.risk if point.error <= max_error]
    return max(possible, key=lambda point: point.coverage, default=None)


def _scaled(probabilities: Sequence[float], calibration: Calibration) -> tuple[float, ...]:
    logits = [
        scale * math.log(max(probability, LEAST_PROBABILITY)) + bias
        for probability, scale, bias in zip(probabilities, calibration.scale, calibration.bias, strict=True)
    ]
    highest = max(logits)
    shares = [math.exp(logit - highest) for logit in logits]
    total = sum(shares)
    return tuple(share / total for share in shares)


def _interpolated(value: float, knots: Sequence[float], heights: Sequence[float]) -> float:
    """Interpolates linearly between the points (``knots``, ``heights``); outside the knots, returns the first
    or last height."""
    at = bisect_right(knots, value)
    if at == 0:
        return heights[0]
    if at == len(knots):
        return heights[-1]
    low, high = knots[at - 1], knots[at]
    share = (value - low) / (high - low) if high > low else 1.0
    return heights[at - 1] + share * (heights[at] - heights[at - 1])
