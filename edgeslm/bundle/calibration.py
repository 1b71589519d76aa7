"""Confidence calibration (temperature, affine, isotonic) and selective prediction: when to abstain.

Applied on the device with what ``edgeslm-export tune`` fitted on rows that weren't learned from:

- scores are ``softmax(scale * log p + bias)``, a temperature or an affine map for each label (Guo et al.
  2017, section 4.2);
- the confidence is the highest score, or a rising function of the margin between the two highest, fitted by
  isotonic regression (Zadrozny and Elkan 2002);
- a label that must not be missed leans forward: the best is that of the highest ``log score + lean`` (Elkan
  2001: what costs differ by moves the point where one label is preferred, not the scores);
- a wanted error sets the threshold below which a result is no answer (Geifman and El-Yaniv 2017).

Plain arithmetic; knows no model and no file.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

LEAST_PROBABILITY = 1e-12
"""Lower ones count as this: their logarithm would have no end."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RiskPoint(_Section):
    """With this ``threshold``, so often wrong (``error``) on the share ``coverage`` that is answered."""

    threshold: float = Field(ge=0, le=1)
    error: float = Field(ge=0, le=1)
    coverage: float = Field(ge=0, le=1)


class Calibration(_Section):
    """What was fitted; ``scale`` and ``bias`` have a number for each label, none of a task without labels.

    ``leans`` has a number for each label too, or none at all where nothing leans.
    ``margins`` and ``confidences`` are the knots of the rising function, none where the highest score is the
    confidence. ``risk`` rises in its thresholds.
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
        """What can't be in numbers that were fitted."""
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
class Verdict:
    """``scores`` sum to 1; ``best`` is the place of the one that is said, the highest where nothing leans;
    ``confidence`` says how often it is right."""

    scores: tuple[float, ...]
    best: int
    confidence: float


def judge(probabilities: Sequence[float], calibration: Calibration | None) -> Verdict:
    """A model's probabilities as a verdict; without a calibration they are taken as they are.

    :param probabilities: two or more, summing to 1.
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
    """How far the score of the label that is said lies above all others; below 0 if it only leans forward."""
    return scores[best] - max(score for place, score in enumerate(scores) if place != best)


def sure(share: float, calibration: Calibration | None) -> float:
    """How often what a model gives this share is right, where there are no labels to compare."""
    if calibration is None or not calibration.margins:
        return share
    return _interpolated(share, calibration.margins, calibration.confidences)


def without_bias(probabilities: Sequence[float], biases: Sequence[float]) -> tuple[float, ...]:
    """Probabilities as they would be if a message that says nothing had them all alike: contextual
    calibration (Zhao et al. 2021) of a model that was taught no labels.

    :param biases: what such a message has.
    """
    shares = [
        probability / max(bias, LEAST_PROBABILITY)
        for probability, bias in zip(probabilities, biases, strict=True)
    ]
    total = sum(shares)
    return tuple(share / total for share in shares)


def find_threshold(calibration: Calibration, max_error: float) -> RiskPoint | None:
    """The point that answers most while it is wrong at most so often; None if there is none."""
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
    """Straight between knots, level beyond the outer ones."""
    at = bisect_right(knots, value)
    if at == 0:
        return heights[0]
    if at == len(knots):
        return heights[-1]
    low, high = knots[at - 1], knots[at]
    share = (value - low) / (high - low) if high > low else 1.0
    return heights[at - 1] + share * (heights[at] - heights[at - 1])
