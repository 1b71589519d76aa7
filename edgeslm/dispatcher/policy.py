"""The load-balancing policy: a request goes to the node that will finish it first, even if that node is still
busy.

A slow node gets a request only if the faster nodes, with their queues, would finish it later (the slow-server
problem; Lin and Kumar, IEEE Transactions on Automatic Control, 1984). The policy calculates the number of
queued requests that the faster nodes can finish before the slow node would finish one request. Those requests
wait for the faster nodes, and the slow node gets the request after them in the queue. With this policy, a
slow node delays no request, and a node is idle only if other nodes will finish every queued request earlier.
Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that serves the task. ``ready_s`` are the seconds until the node's queue is empty. ``service_s``
    are the seconds that the node needs per request; if they are unknown (None), the node gets a request at
    once, so that they can be measured."""

    node: str
    ready_s: float
    service_s: float | None
    has_room: bool

    @property
    def done_s(self) -> float:
        return self.ready_s + (self.service_s or 0.0)


def choose(waiting: int, candidates: Sequence[Candidate]) -> tuple[int, Candidate] | None:
    """Chooses the request to send next, as a position in the queue, and the node that gets the request; None
    if all ``waiting`` requests should wait."""
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
