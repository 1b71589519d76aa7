"""Throughput of each node and task, learned from answers: to choose by, and to notice a stuck node.

Means and deviations move as TCP's estimate of the round trip does (RFC 6298, section 2). Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LEAST_PATIENCE_S: Final = 2.0
FIRST_PATIENCE_S: Final = 10.0
"""For a task that a node has never answered: it may have to load a model."""
PATIENCE: Final = 4.0
"""Times what is expected."""
MEMORY_S: Final = 120.0
"""What was learned so long ago is tried anew: the node may have cooled down since."""


@dataclass(slots=True)
class _Speed:
    service_s: float
    answer_s: float
    spread_s: float
    at: float


class Throughput:
    """Of each node and task; seconds."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Speed] = {}

    def learn(self, node: str, task: str, *, service_s: float, answer_s: float, now: float) -> None:
        """``service_s`` is what the node worked on it, ``answer_s`` how long its answer took in all."""
        known = self._known.get((node, task))
        if known is None or now - known.at > MEMORY_S:
            self._known[node, task] = _Speed(service_s, answer_s, answer_s / 2, now)
            return
        known.service_s += (service_s - known.service_s) / 8
        known.spread_s += (abs(answer_s - known.answer_s) - known.spread_s) / 4
        known.answer_s += (answer_s - known.answer_s) / 8
        known.at = now

    def forget(self, node: str) -> None:
        """The node was started anew: it may be another machine, or have another model."""
        for key in [key for key in self._known if key[0] == node]:
            del self._known[key]

    def service_s(self, node: str, task: str, now: float) -> float | None:
        """None: it isn't known, and should be tried."""
        known = self._known.get((node, task))
        return None if known is None or now - known.at > MEMORY_S else max(known.service_s, 1e-4)

    def patience_s(self, node: str, task: str, expected_s: float) -> float:
        """After how long without an answer the node is taken for stuck, if it has ``expected_s`` to do."""
        known = self._known.get((node, task))
        if known is None:
            return FIRST_PATIENCE_S
        usual_s = known.answer_s + 4 * known.spread_s
        return max(LEAST_PATIENCE_S, PATIENCE * expected_s, PATIENCE * usual_s)

    def figures(self, node: str) -> dict[str, float]:
        """Milliseconds by task."""
        return {
            task: round(1000 * speed.service_s, 1)
            for (name, task), speed in self._known.items()
            if name == node
        }
