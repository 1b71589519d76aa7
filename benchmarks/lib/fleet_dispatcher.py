"""Simulated dispatcher for ``fleet_model.py``: the rules of ``edgeslm.dispatcher`` over arrays.

A request goes to the node that is expected to finish it first, by the requests in flight there, its service
time and its last health. At most :data:`WINDOW` requests are at one node; the others wait here, and so does a
request that a busy faster node would finish sooner. Requests of nodes that are reported gone, or that miss
their time, go to other nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

import numpy as np

from edgeslm.dispatcher.forwarding import HEALTH_S, LEAD_S, LEAST_LEFT, SILENT_S
from edgeslm.dispatcher.settings import DispatchLimits
from edgeslm.dispatcher.throughput import LEAST_PATIENCE_S, PATIENCE

Ask = TypeVar("Ask")
WINDOW: Final = DispatchLimits().node_queue


class Dispatcher(Generic[Ask]):
    """``send`` is told the number of a node and a request; ``is_open`` says whether a request still waits."""

    def __init__(
        self,
        services_s: Sequence[float],
        clock: Callable[[], float],
        send: Callable[[int, Ask], None],
        is_open: Callable[[Ask], bool],
    ) -> None:
        count = len(services_s)
        self._clock = clock
        self._send = send
        self._is_open = is_open
        self._waiting: list[Ask] = []
        self._sent: list[dict[Ask, tuple[float, float]]] = [{} for _ in range(count)]
        """By node: when each was sent, and when the node is taken for stuck."""
        self._service_s = np.array(services_s)
        self._held = np.zeros(count)
        self._since = np.zeros(count)
        self._others = np.zeros(count)
        self._told_at = np.zeros(count)
        self._silent_until = np.zeros(count)
        self._is_there = np.ones(count, dtype=bool)

    def submit(self, ask: Ask) -> None:
        self._waiting.append(ask)
        self._pump()

    def done(self, node: int, ask: Ask) -> None:
        self._silent_until[node] = 0.0
        if self._sent[node].pop(ask, None) is not None:
            self._count(node)
        self._pump()

    def gone(self, node: int) -> None:
        """Its last will is out: what it had is done elsewhere."""
        self._is_there[node] = False
        left = [ask for ask in self._sent[node] if self._is_open(ask)]
        self._sent[node].clear()
        self._count(node)
        self._waiting += [ask for ask in left if not self._is_elsewhere(ask)]
        self._pump()

    def back(self, node: int) -> None:
        self._is_there[node] = True
        self._silent_until[node] = 0.0
        self._pump()

    def hear(self, node: int, held: int) -> None:
        """Its health: so many wait or run there."""
        self._others[node] = max(0, held - len(self._sent[node]))
        self._told_at[node] = self._clock()

    def tick(self) -> None:
        """Looks for nodes that are late."""
        now = self._clock()
        for node, sent in enumerate(self._sent):
            late = [ask for ask, (_, patience_at) in sent.items() if now > patience_at]
            if not late:
                continue
            self._silent_until[node] = now + SILENT_S
            for ask in late:
                sent_at = sent[ask][0]
                sent[ask] = sent_at, now + 2 * (now - sent_at)
                if self._is_open(ask) and not self._is_elsewhere(ask, but=node):
                    self._waiting.append(ask)
        self._pump()

    def _is_elsewhere(self, ask: Ask, but: int = -1) -> bool:
        return ask in self._waiting or any(
            ask in sent for node, sent in enumerate(self._sent) if node != but and self._is_there[node]
        )

    def _count(self, node: int) -> None:
        sent = self._sent[node]
        self._held[node] = len(sent)
        self._since[node] = next(iter(sent.values()))[0] if sent else 0.0

    def _pump(self) -> None:
        now = self._clock()
        while self._waiting:
            ready_s = self._ready_s(now)
            may = self._is_there & (self._silent_until <= now)
            room = may & (self._held < WINDOW) & ((self._held < 2) | (ready_s < LEAD_S))
            done_s = np.where(room, ready_s + self._service_s, math.inf)
            node = int(done_s.argmin())
            if done_s[node] == math.inf:
                return
            sooner = np.ceil((done_s[node] - ready_s) / self._service_s) - 1
            sooner[node] = 0
            position = int(sooner[may & (sooner > 0)].sum())
            if position >= len(self._waiting):
                return
            self._give(self._waiting.pop(position), node, float(done_s[node]), now)

    def _ready_s(self, now: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        done_s = np.minimum(now - self._since, self._service_s * (1 - LEAST_LEFT))
        begun_s = np.where(self._held > 0, done_s, 0.0)
        own_s: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = self._held * self._service_s - begun_s
        fresh = np.maximum(0.0, 1 - (now - self._told_at) / HEALTH_S)
        own_s += self._others * fresh * self._service_s
        return own_s

    def _give(self, ask: Ask, node: int, expected_s: float, now: float) -> None:
        if not self._is_open(ask):
            return
        patience_s = max(LEAST_PATIENCE_S, PATIENCE * expected_s)
        self._sent[node][ask] = now, now + patience_s
        self._count(node)
        self._send(node, ask)
