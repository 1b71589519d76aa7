"""The canary: counts failures of a new bundle on trial and decides when to roll it back."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from edgeslm.errors import plural

MOST_ENDS: Final = 2
"""Number of engine crashes at which a model on trial is rolled back."""
BAD: Final = frozenset({"internal", "poisoned", "model_unavailable", "timeout", "no_memory"})
"""Error codes that a bad model can cause."""
FEWEST_BAD: Final = 3
MOST_BAD: Final = 0.2
"""Share of results with an error code in :data:`BAD` above which a model on trial is rolled back.

A rollback also requires at least ``FEWEST_BAD`` such results, and more than twice the share before the
trial."""

Counts = Mapping[str, Mapping[str, int]]
"""Number of results by task, then by status or error code."""


@dataclass(slots=True)
class Canary:
    """``tasks``: the tasks that the model serves. ``ends``: how often the model's engine had crashed before
    the trial. ``results``: number of results before the trial, by status or error code. ``next_look``: time
    to retry a failed rollback, in monotonic seconds.
    """

    digest: str
    tasks: Collection[str]
    ends: int
    results: Counter[str]
    began: float = 0.0
    next_look: float = 0.0

    @classmethod
    def begin(cls, digest: str, tasks: Collection[str], ends: int, counts: Counts) -> Canary:
        return cls(digest, tuple(tasks), ends, _sum(tasks, counts), time.monotonic())

    def why_bad(self, ends: int, counts: Counts) -> str:
        """The reason to roll back, as a clause; empty if there is none."""
        if ends - self.ends >= MOST_ENDS:
            return f"its engine exited unexpectedly {plural(ends - self.ends, 'time')}"
        now = _sum(self.tasks, counts)
        total = now.total() - self.results.total()
        bad = _bad(now) - _bad(self.results)
        usual = _bad(self.results) / self.results.total() if self.results else 0.0
        if bad >= FEWEST_BAD and bad / total > max(MOST_BAD, 2 * usual):
            return f"{bad} of {plural(total, 'request')} failed"
        return ""


def _sum(tasks: Collection[str], counts: Counts) -> Counter[str]:
    found: Counter[str] = Counter()
    for task in tasks:
        found.update(counts.get(task, {}))
    return found


def _bad(results: Counter[str]) -> int:
    return sum(results[code] for code in BAD)
