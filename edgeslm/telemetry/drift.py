"""Drift detection: have a task's messages moved away from what it was taught with?

The last messages are compared with rows that the task was tested with when it was taught: how far they lie
from what it knows, how sure it is of them, which labels it gives. The first two by the one-sided statistic of
Kolmogorov and Smirnov (only farther and less sure is a sign), the third by the total variation distance.
Keeps numbers, no texts. Pure: knows no bus and no engine.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

from edgeslm.bundle.learned_task import DriftReference

WINDOW = 200
"""Messages that are compared."""
FEWEST = 50
"""With fewer nothing is said."""
EVERY = 10
"""Messages between two looks: each sorts the window."""
_MOST = {"distance": 0.3, "confidence": 0.3, "labels": 0.5}
"""Statistics above which the domain has moved. Of 200 messages of the same domain one is above 0.3 by chance
once in 10^15 times; messages that come in bursts of one kind need the room."""
_CHANCE = 2.6
"""Of n messages of the same domain a statistic of this over the root of n is above chance once in 10^6."""
_BACK = 0.8
"""What has moved is back below so much of the limit."""


class DriftWatch:
    """Watches one task; ``labels`` in the order of the reference's shares."""

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
        """Takes in one message's result."""
        self._given.append(label)
        self._confidences.append(confidence)
        if distance is not None:
            self._distances.append(distance)
        self._seen += 1
        if len(self._given) >= FEWEST and self._seen % EVERY == 0:
            self._compare()

    def figures(self) -> Mapping[str, Any]:
        """``moved``, the ``messages`` it is judged by, and the statistics: 0 like the test rows, 1 unlike."""
        rounded = {name: round(value, 3) for name, value in self._statistics.items()}
        return {"moved": self.moved, "messages": len(self._given), **rounded}

    @property
    def reasons(self) -> list[str]:
        """What has moved, in words."""
        words = {
            "distance": "they are unlike what it was taught with",
            "confidence": "it is less sure of them",
            "labels": "it gives other labels than it was tested with",
        }
        return [words[name] for name, value in self._statistics.items() if value > self._limit(name) * _BACK]

    def sentence(self, task: str) -> str | None:
        """What an operator should know; None while nothing has moved."""
        if not self.moved:
            return None
        return (
            f"The messages of task {task} have moved away from what it was taught with: "
            f"{'; '.join(self.reasons)}. Look at some, and teach it again with them."
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
        """What so many messages of the same domain differ by, as many labels make by chance alone: the mean
        of a count's distance from its expectation is at most its standard deviation."""
        total = len(self._given)
        return sum(math.sqrt(share * (1 - share) / total) for share in self._reference.labels) / 2

    def _label_shift(self) -> float:
        counts, total = Counter(self._given), len(self._given)
        shares = zip(self._labels, self._reference.labels, strict=True)
        return sum(abs(counts[label] / total - share) for label, share in shares) / 2


def excess(values: Sequence[float], quantiles: Sequence[float]) -> float:
    """How much of ``values`` lies above what the distribution with these ``quantiles`` allows: 0 to 1.

    The largest lead of the reference's distribution function over that of the values.
    """
    ranked, lead = sorted(values), 0.0
    for value in dict.fromkeys(ranked):
        # At a step of either distribution, before it and after it.
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
