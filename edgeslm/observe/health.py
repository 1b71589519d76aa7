"""The figures of ``health``: counted where results pass, read from the kernel where it knows better."""

from __future__ import annotations

import math
import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgeslm.messages import Result

WINDOW = 1000
"""Latencies kept for the quantiles."""
RATE_WINDOW_S = 60.0


class Meter:
    """Counts results; says latency quantiles over the last :data:`WINDOW`, answers and tokens a second over a
    minute."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.repeats: Counter[str] = Counter({"attached": 0, "resent": 0})
        self._latencies_ms: deque[float] = deque(maxlen=WINDOW)
        self._answered: deque[tuple[float, str, int]] = deque(maxlen=WINDOW)
        """When, of which task, how many tokens."""
        self._started = time.monotonic()

    def count(self, result: Result) -> None:
        key = result.status if result.error is None else result.error.code
        self.statuses[key] += 1
        if result.status == "error":
            return
        self._latencies_ms.append(result.timings_ms.get("total", 0.0))
        self._answered.append((time.monotonic(), result.task, sum(result.usage.values())))

    def drop(self, reason: str) -> None:
        """A message that will get no result, such as one over a route's rate."""
        self.dropped[reason] += 1

    def figures(self) -> dict[str, Any]:
        now = time.monotonic()
        recent = [(task, tokens) for at, task, tokens in self._answered if now - at <= RATE_WINDOW_S]
        # A busy node has more results a minute than are kept: then what is kept spans less time.
        full = len(recent) == WINDOW
        span_s = max(1.0, now - self._answered[0][0] if full else min(RATE_WINDOW_S, now - self._started))
        return {
            "uptime_s": round(now - self._started),
            "results": dict(self.statuses),
            "answers_per_s": {
                task: round(count / span_s, 2) for task, count in Counter(task for task, _ in recent).items()
            },
            "tokens_per_s": round(sum(tokens for _, tokens in recent) / span_s, 1),
            "latency_ms": quantiles(self._latencies_ms),
            "dropped": dict(self.dropped),
            "repeats": dict(self.repeats),
        }


def quantiles(values: Iterable[float]) -> dict[str, float]:
    """``p50``, ``p95`` and ``p99`` by the nearest-rank method; empty without values."""
    ranked = sorted(values)
    if not ranked:
        return {}
    return {f"p{q}": round(ranked[math.ceil(q * len(ranked) / 100) - 1], 1) for q in (50, 95, 99)}


def memory_bytes(pids: Mapping[str, int], proc: Path = Path("/proc")) -> dict[str, int]:
    """Resident bytes by name: ``daemon`` is this process, the others the engines."""
    return {
        name: rss for name, pid in {"daemon": os.getpid(), **pids}.items() if (rss := _rss(proc / str(pid)))
    }


def _rss(process: Path) -> int:
    try:
        pages = int((process / "statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def temperature_c(thermal: Path = Path("/sys/class/thermal")) -> float | None:
    """The hottest of the kernel's thermal zones; None where it has none."""
    found = []
    for zone in thermal.glob("thermal_zone*/temp"):
        try:
            found.append(int(zone.read_text()) / 1000)
        except (OSError, ValueError):
            continue
    return max(found, default=None)
