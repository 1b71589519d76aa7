"""Throughput of each node and task, measured from answers, for load balancing and to detect stuck nodes.

Mean and deviation are moving averages like TCP's round-trip estimate (RFC 6298, section 2). Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LEAST_PATIENCE_S: Final = 2.0
FIRST_PATIENCE_S: Final = 10.0
"""Seconds after which a node that has never answered the task counts as stuck; it may have to load a model
first."""
PATIENCE: Final = 4.0
"""Multiple of the expected time after which a node counts as stuck."""
MEMORY_S: Final = 120.0
"""Age in seconds after which a measurement is discarded, since a throttled node may have cooled down."""


@dataclass(slots=True)
class _Speed:
    service_s: float
    answer_s: float
    spread_s: float
    at: float


class Throughput:
    """Measured times per node and task, in seconds."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Speed] = {}

    def learn(self, node: str, task: str, *, service_s: float, answer_s: float, now: float) -> None:
        """Adds a measurement: the node computed for ``service_s`` seconds, and its answer arrived
        ``answer_s`` seconds after the request was sent."""
        known = self._known.get((node, task))
        if known is None or now - known.at > MEMORY_S:
            self._known[node, task] = _Speed(service_s, answer_s, answer_s / 2, now)
            return
        known.service_s += (service_s - known.service_s) / 8
        known.spread_s += (abs(answer_s - known.answer_s) - known.spread_s) / 4
        known.answer_s += (answer_s - known.answer_s) / 8
        known.at = now

    def forget(self, node: str) -> None:
        """Discards a node's measurements, since after a restart the node may have another model or run on
        another machine."""
        for key in [key for key in self._known if key[0] == node]:
            del self._known[key]

    def service_s(self, node: str, task: str, now: float) -> float | None:
        """Seconds per request; None if there is no recent measurement."""
        known = self._known.get((node, task))
        return None if known is None or now - known.at > MEMORY_S else max(known.service_s, 1e-4)

    def patience_s(self, node: str, task: str, expected_s: float) -> float:
        """Seconds without an answer after which a node counts as stuck, if its work is expected to take
        ``expected_s`` seconds."""
        known = self._known.get((node, task))
        if known is None:
            return FIRST_PATIENCE_S
        usual_s = known.answer_s + 4 * known.spread_s
        return max(LEAST_PATIENCE_S, PATIENCE * expected_s, PATIENCE * usual_s)

    def figures(self, node: str) -> dict[str, float]:
        """Task -> milliseconds per request at a node."""
        return {
            task: round(1000 * speed.service_s, 1)
            for (name, task), speed in self._known.items()
            if name == node
        }
