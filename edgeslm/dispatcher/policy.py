"""The load-balancing policy: a request goes to the node that is done with it first, busy ones counted.

A slow node is worth a request only if the faster ones would take longer for it, with all that is ahead of
it (the slow-server problem: Lin and Kumar, IEEE Trans. Automatic Control 29(8), 1984). With ``position``
requests going to faster nodes before the slow one would be done with its first, it is the one behind them
that it gets: nobody who waits is worse off, and no node rests while there is work that it would do sooner.
Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that does the task. ``ready_s`` is when it will have done what it has, ``service_s`` what a
    request takes there, None if that isn't known: then it is asked at once, to learn it."""

    node: str
    ready_s: float
    service_s: float | None
    has_room: bool

    @property
    def done_s(self) -> float:
        return self.ready_s + (self.service_s or 0.0)


def choose(waiting: int, candidates: Sequence[Candidate]) -> tuple[int, Candidate] | None:
    """The position of a request among the ``waiting`` ones, and who gets it; None: all of them had better
    wait."""
    free = [one for one in candidates if one.has_room]
    if not waiting or not free:
        return None
    best = min(free, key=lambda one: (one.service_s is not None, one.done_s))
    if best.service_s is None:
        return 0, best
    position = 0
    for other in candidates:
        if other is not best and other.service_s:
            position += max(0, math.ceil((best.done_s - other.ready_s) / other.service_s) - 1)
            if position >= waiting:
                return None
    return position, best
