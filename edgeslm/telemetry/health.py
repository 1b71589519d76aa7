"""Health figures: counts results, latencies and tokens; reads memory and temperature from the kernel."""

from __future__ import annotations

import math
import os
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from edgeslm.hardware import board
from edgeslm.messages import Result
from edgeslm.telemetry.extension import HasTasks

WINDOW = 1000
"""Number of latencies kept for the quantiles over all tasks."""
TASK_WINDOW = 200
"""Number of latencies kept for the quantiles of each task."""
BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds of each task's latency histogram, in seconds; the last bucket has no bound."""
PHASES = ("queue", "prefill", "decode", "total")
OTHER = "other"
"""Name under which all unknown tasks are counted, since clients may send any number of names."""
RATE_WINDOW_S = 60.0


class _TaskMeter:
    """Figures of one task since the node's start; an error counts as a result, but has no latency and no
    tokens."""

    def __init__(self) -> None:
        self.results: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter({"prompt": 0, "completion": 0})
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._buckets = [0] * (len(BUCKETS_S) + 1)
        self._latencies_ms: deque[float] = deque(maxlen=TASK_WINDOW)

    def count(self, key: str, result: Result) -> None:
        self.results[key] += 1
        if result.status == "error":
            return
        total_ms = result.timings_ms.get("total", 0.0)
        self._latencies_ms.append(total_ms)
        self._buckets[bisect_left(BUCKETS_S, total_ms / 1000)] += 1
        for phase in PHASES:
            self._seconds[phase] += result.timings_ms.get(phase, 0.0) / 1000
        for kind in self._tokens:
            self._tokens[kind] += result.usage.get(f"{kind}_tokens", 0)

    def figures(self) -> dict[str, Any]:
        bounds = [*(f"{bound:g}" for bound in BUCKETS_S), "+Inf"]
        return {
            "results": dict(self.results),
            "latency_ms": quantiles(self._latencies_ms),
            "tokens": dict(self._tokens),
            "seconds": {phase: round(self._seconds[phase], 3) for phase in PHASES},
            "within_s": dict(zip(bounds, accumulate(self._buckets), strict=True)),
        }


class Meter:
    """Counts results; measures latencies, answers per second and tokens per second.

    Latency quantiles cover the last :data:`WINDOW` answers; rates cover the last minute. Tasks that ``node``
    doesn't know are counted together as :data:`OTHER`. Without ``node``, each task is counted by its name.
    """

    def __init__(self, node: HasTasks | None = None) -> None:
        self._node = node
        self.dropped: Counter[str] = Counter()
        self.repeats: Counter[str] = Counter({"attached": 0, "resent": 0})
        self._tasks: dict[str, _TaskMeter] = {}
        self._latencies_ms: deque[float] = deque(maxlen=WINDOW)
        self._answered: deque[tuple[float, str, int]] = deque(maxlen=WINDOW)
        """Time, task and tokens of each answer."""
        self._started = time.monotonic()

    @property
    def statuses(self) -> Counter[str]:
        """Number of results of all tasks, by status or error code."""
        return sum((task.results for task in self._tasks.values()), Counter())

    @property
    def counts(self) -> dict[str, Counter[str]]:
        """Number of results by task, then by status or error code."""
        return {name: task.results for name, task in self._tasks.items()}

    def count(self, result: Result) -> None:
        key = result.status if result.error is None else result.error.code
        task = result.task if self._node is None or result.task in self._node.tasks else OTHER
        if task not in self._tasks:
            self._tasks[task] = _TaskMeter()
        self._tasks[task].count(key, result)
        if result.status == "error":
            return
        self._latencies_ms.append(result.timings_ms.get("total", 0.0))
        self._answered.append((time.monotonic(), task, sum(result.usage.values())))

    def drop(self, reason: str) -> None:
        """Counts a message that gets no result, such as a message that exceeds a route's rate limit."""
        self.dropped[reason] += 1

    def figures(self) -> dict[str, Any]:
        """Entries of the health message (docs/reference/mqtt.md); ``results`` counts all tasks together."""
        now = time.monotonic()
        recent = [(task, tokens) for at, task, tokens in self._answered if now - at <= RATE_WINDOW_S]
        # On a busy node the results kept span less than a minute.
        full = len(recent) == WINDOW
        span_s = max(1.0, now - self._answered[0][0] if full else min(RATE_WINDOW_S, now - self._started))
        return {
            "at": round(time.time()),
            "uptime_s": round(now - self._started),
            "results": dict(self.statuses),
            "answers_per_s": {
                task: round(count / span_s, 2) for task, count in Counter(task for task, _ in recent).items()
            },
            "tokens_per_s": round(sum(tokens for _, tokens in recent) / span_s, 1),
            "latency_ms": quantiles(self._latencies_ms),
            "tasks": {name: task.figures() for name, task in self._tasks.items()},
            "dropped": dict(self.dropped),
            "repeats": dict(self.repeats),
        }


def quantiles(values: Iterable[float]) -> dict[str, float]:
    """The quantiles ``p50``, ``p95`` and ``p99`` by the nearest-rank method; empty if there are no values."""
    ranked = sorted(values)
    if not ranked:
        return {}
    return {f"p{q}": round(ranked[math.ceil(q * len(ranked) / 100) - 1], 1) for q in (50, 95, 99)}


def memory_bytes(pids: Mapping[str, int], proc: Path = Path("/proc")) -> dict[str, int]:
    """Resident bytes by process name; ``daemon`` is this process. Processes that have ended are left out."""
    return {
        name: rss for name, pid in {"daemon": os.getpid(), **pids}.items() if (rss := _rss(proc / str(pid)))
    }


def _rss(process: Path) -> int:
    try:
        pages = int((process / "statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def temperature_c(root: Path = Path("/")) -> float | None:
    """Temperature of the kernel's hottest thermal zone; None if there are no zones."""
    return board.temperature_c(root)
