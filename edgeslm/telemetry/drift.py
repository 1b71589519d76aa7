"""Drift detection: compares a task's recent messages with the test rows held out from training.

The one-sided Kolmogorov-Smirnov statistic compares the confidences, and the distances to the training data;
only lower confidences and greater distances count as drift. Predicted labels are compared by the total
variation distance. Texts of messages are not stored. Pure.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

from edgeslm.bundle.learned_task import DriftReference

WINDOW = 200
"""Number of recent messages that are compared with the test rows."""
FEWEST = 50
"""Minimum number of messages for a comparison."""
EVERY = 10
"""Number of messages between two comparisons; more comparisons would be slow, since each sorts the window."""
_MOST = {"distance": 0.3, "confidence": 0.3, "labels": 0.5}
"""Thresholds of drift, by statistic.

Without drift, a statistic of 200 messages exceeds 0.3 by chance in one of 10^15 cases. The thresholds are
higher than chance requires, in order to tolerate bursts of similar messages.
"""
_CHANCE = 2.6
"""Without drift, a statistic of n messages exceeds ``_CHANCE / sqrt(n)`` in one of 10^6 cases."""
_BACK = 0.8
"""Hysteresis: drift ends when all statistics fall below this share of their thresholds."""


class DriftWatch:
    """Detects drift of one task; ``labels``: the labels' names, in the order of their shares in
    ``reference``.
    """

    def __init__(self, reference: DriftReference, labels: Sequence[str]) -> None:
        self._reference = reference
        self._labels = labels
        self._distances: deque[float] = deque(maxlen=WINDOW)
        self._confidences: deque[float] = deque(maxlen=WINDOW)
        self._given: deque[str] = deque(maxlen=WINDOW)
        self._seen = 0
        self._statistics: dict[str, float] = {}
        self.moved = False

    def see(self, label: str, confidence: float, distance: float | None) -> None:
        """Adds the result of one message."""
        self._given.append(label)
        self._confidences.append(confidence)
        if distance is not None:
            self._distances.append(distance)
        self._seen += 1
        if len(self._given) >= FEWEST and self._seen % EVERY == 0:
            self._compare()

    def figures(self) -> Mapping[str, Any]:
        """A dict with ``moved`` (whether there is drift), ``messages`` (number of messages in the window),
        and the value of each statistic by its name.

        A statistic of 0 means that the messages are like the test rows, 1 that they are completely different.
        """
        rounded = {name: round(value, 3) for name, value in self._statistics.items()}
        return {"moved": self.moved, "messages": len(self._given), **rounded}

    @property
    def reasons(self) -> list[str]:
        """Which statistics show drift, in words."""
        words = {
            "distance": "the texts are less similar",
            "confidence": "the confidence is lower",
            "labels": "the labels are distributed differently",
        }
        return [words[name] for name, value in self._statistics.items() if value > self._limit(name) * _BACK]

    def sentence(self, task: str) -> str | None:
        """The alert about drift, as a sentence; None without drift."""
        if not self.moved:
            return None
        return (
            f"The messages of task {task} differ from the training data: "
            f"{'; '.join(self.reasons)}. Label some and retrain."
        )

    def _compare(self) -> None:
        reference = self._reference
        self._statistics = {
            "confidence": excess([-value for value in self._confidences], _negated(reference.confidences)),
            "labels": self._label_shift(),
        }
        if reference.distances and self._distances:
            distance = excess(list(self._distances), reference.distances)
            self._statistics = {"distance": distance, **self._statistics}
        share = _BACK if self.moved else 1.0
        self.moved = any(value > share * self._limit(name) for name, value in self._statistics.items())

    def _limit(self, name: str) -> float:
        by_chance = _CHANCE / math.sqrt(len(self._given))
        if name == "labels":
            by_chance += self._expected_label_shift()
        return max(_MOST[name], by_chance)

    def _expected_label_shift(self) -> float:
        """Upper bound of the mean label shift that chance causes without drift.

        The mean deviation of a label's count is at most its standard deviation.
        """
        total = len(self._given)
        return sum(math.sqrt(share * (1 - share) / total) for share in self._reference.labels) / 2

    def _label_shift(self) -> float:
        counts, total = Counter(self._given), len(self._given)
        shares = zip(self._labels, self._reference.labels, strict=True)
        return sum(abs(counts[label] / total - share) for label, share in shares) / 2


def excess(values: Sequence[float], quantiles: Sequence[float]) -> float:
    """One-sided Kolmogorov-Smirnov statistic, 0 to 1: how far ``values`` lie above the distribution with
    these ``quantiles``. The statistic is the largest difference of the two distribution functions.
    """
    ranked, lead = sorted(values), 0.0
    for value in dict.fromkeys(ranked):
        # The maximum is just before or after a step of either function.
        before, after = bisect_left(ranked, value) / len(ranked), bisect_right(ranked, value) / len(ranked)
        lead = max(
            lead,
            _share_below(value, quantiles) - after,
            _share_below(math.nextafter(value, -math.inf), quantiles) - before,
        )
    return lead


def _share_below(value: float, quantiles: Sequence[float]) -> float:
    at = bisect_right(quantiles, value)
    if at == 0:
        return 0.0
    if at == len(quantiles):
        return 1.0
    low, high = quantiles[at - 1], quantiles[at]
    inside = (value - low) / (high - low) if high > low else 1.0
    return (at - 1 + inside) / (len(quantiles) - 1)


def _negated(quantiles: Sequence[float]) -> list[float]:
    return [-value for value in reversed(quantiles)]
