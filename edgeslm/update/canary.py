"""The canary: how a new bundle on trial is doing, and whether that is too bad to keep it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

MOST_ENDS: Final = 2
"""Times that the engine of a model on trial may end by itself; then it is taken back."""
BAD: Final = frozenset({"internal", "poisoned", "model_unavailable", "timeout", "no_memory"})
"""Results that a model may be the cause of."""
FEWEST_BAD: Final = 3
MOST_BAD: Final = 0.2
"""Share of bad results of a model on trial that is too much, if it is more than twice that before."""

Counts = Mapping[str, Mapping[str, int]]
"""Results of each task by their codes."""


@dataclass(slots=True)
class Canary:
    """``digest`` is the bundle's, ``tasks`` those that the model serves, ``ends`` those of its engine before.

    ``next_look`` is when it is looked at again after it could not be taken back.
    """

    digest: str
    tasks: Collection[str]
    ends: int
    results: Counter[str]
    began: float = 0.0
    next_look: float = 0.0

    @classmethod
    def begin(cls, digest: str, tasks: Collection[str], ends: int, counts: Counts) -> Canary:
        return cls(digest, tuple(tasks), ends, _of(tasks, counts), time.monotonic())

    def why_bad(self, ends: int, counts: Counts) -> str:
        """In words; empty if nothing is wrong."""
        if ends - self.ends >= MOST_ENDS:
            return f"its engine ended {ends - self.ends} times by itself"
        now = _of(self.tasks, counts)
        total = now.total() - self.results.total()
        bad = _bad(now) - _bad(self.results)
        usual = _bad(self.results) / self.results.total() if self.results else 0.0
        if bad >= FEWEST_BAD and bad / total > max(MOST_BAD, 2 * usual):
            return f"{bad} of {total} requests failed"
        return ""


def _of(tasks: Collection[str], counts: Counts) -> Counter[str]:
    found: Counter[str] = Counter()
    for task in tasks:
        found.update(counts.get(task, {}))
    return found


def _bad(results: Counter[str]) -> int:
    return sum(results[code] for code in BAD)
