"""Time left: a progress callback for a job of several steps, which adds the estimated time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from edgeslm_export.jobs.subprocess_job import OnProgress

_AFTER_S = 20.0
"""Seconds before the first estimate."""
_LEAST_DONE = 0.02
_PRIOR = 0.1
"""Share of the job that the expected time counts as, beside what was measured."""


class TimeLeft:
    """Passes progress on to another callback, with the time left for all steps.

    :param shares: expected share of each step in the whole time, by name and in order. :param counts: whether
        progress that is described so is that of its step. :param expected_s: expected seconds of all steps,
        which steady the first estimates.
    """

    def __init__(
        self,
        on_progress: OnProgress,
        shares: Mapping[str, float],
        *,
        counts: Callable[[str], bool] = lambda what: True,
        expected_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_progress, self._clock, self._counts = on_progress, clock, counts
        whole = sum(shares.values())
        self._prior = 0.0 if expected_s is None else _PRIOR
        self._prior_s = self._prior * (expected_s or 0.0)
        self._shares = {step: share / whole for step, share in shares.items()}
        self._start = clock()
        self._before = self._share = self._part = 0.0
        self._first: float | None = None

    def begin(self, step: str) -> None:
        """Starts a step. A step may start again."""
        names = list(self._shares)
        self._before = sum(self._shares[name] for name in names[: names.index(step)])
        self._share = self._shares[step]
        self._part = self._before

    def __call__(self, done: int, total: int, what: str) -> None:
        elapsed = self._clock() - self._start
        if self._counts(what):
            self._part = self._before + self._share * min(1.0, done / max(1, total))
        part = self._part
        if self._first is None:  # more than 0 if an interrupted job goes on
            self._first = part
        done_here = part - self._first
        if elapsed >= _AFTER_S and done_here >= _LEAST_DONE:
            whole_s = (elapsed + self._prior_s) / (done_here + self._prior)
            what = f"{what}, about {duration(whole_s * (1 - part))} left"
        self._on_progress(done, total, what)


def duration(seconds: float) -> str:
    """A rounded duration with its unit."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} s"
    return f"{seconds / 60:.0f} min"
