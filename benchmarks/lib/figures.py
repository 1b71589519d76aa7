"""Report of ``engine.py llama``: medians, paired ratios, the table and the JSON line."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.lib.processes import Memory

TARGETS: Final = {"prefill": 1.3, "decode": 1.1, "pss": 1.1}
"""Of the baseline's figure: at least, at least, at most."""


@dataclass(slots=True)
class Measured:
    """What was seen of one engine, a value for each turn."""

    name: str
    memory: Memory | None = None
    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)

    def add(self, times: dict[str, float]) -> None:
        self.prefill.append(times["prefill_tokens"] / times["prefill_ms"] * 1000)
        self.decode.append(times["decode_tokens"] / times["decode_ms"] * 1000)
        self.first_ms.append(times["first_ms"])


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours to the baseline's: the median of the turns and the quartiles around it."""

    baseline: str
    value: float
    low: float
    high: float


def paired(mine: Sequence[float], theirs: Sequence[float], baseline: str) -> Ratio:
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    low, value, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return Ratio(baseline, value, low, high)


def compare(mine: Measured, baselines: Sequence[Measured]) -> dict[str, Ratio]:
    """Each quantity against the baseline that is best at it."""
    prefill = max(baselines, key=lambda r: statistics.median(r.prefill))
    decode = max(baselines, key=lambda r: statistics.median(r.decode))
    with_memory = [(r.memory.pss, r.name) for r in baselines if r.memory is not None]
    pss, smallest = min(with_memory)
    share = (mine.memory.pss if mine.memory is not None else 0.0) / pss
    return {
        "prefill": paired(mine.prefill, prefill.prefill, prefill.name),
        "decode": paired(mine.decode, decode.decode, decode.name),
        "pss": Ratio(smallest, share, share, share),
    }


def reached(name: str, ratio: Ratio) -> bool:
    return ratio.value <= TARGETS[name] if name == "pss" else ratio.value >= TARGETS[name]


def spread(values: Sequence[float]) -> float:
    """Distance of the quartiles over the median: how noisy the machine was."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4)
    return (high - low) / middle


def table(results: Sequence[Measured], ratios: dict[str, Ratio]) -> str:
    """Lines for people; speeds are medians, with the spread of the quartiles behind."""
    head = ("", "prefill tok/s", "decode tok/s", "first token ms", "PSS MB", "anonymous MB", "peak MB")
    rows: list[tuple[str, ...]] = [head]
    for r in results:
        memory = r.memory or Memory(0, 0, 0)
        rows.append(
            (
                r.name,
                f"{statistics.median(r.prefill):.0f} ±{spread(r.prefill) / 2:.0%}",
                f"{statistics.median(r.decode):.1f} ±{spread(r.decode) / 2:.0%}",
                f"{statistics.median(r.first_ms):.0f}",
                *(f"{value:.0f}" for value in (memory.pss, memory.anonymous, memory.peak)),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    for name, ratio in ratios.items():
        bound = "at most" if name == "pss" else "at least"
        lines.append(
            f"{name}: {ratio.value:.2f} times {ratio.baseline} ({ratio.low:.2f} to {ratio.high:.2f}), "
            f"wanted {bound} {TARGETS[name]}: {'reached' if reached(name, ratio) else 'MISSED'}"
        )
    return "\n".join(lines)


def report(results: Sequence[Measured], ratios: dict[str, Ratio]) -> dict[str, Any]:
    """What the JSON line says of engines and ratios: rounded, every unit in its key."""
    engines: dict[str, Any] = {}
    for r in results:
        engines[r.name] = {
            "prefill_tok_s": round(statistics.median(r.prefill), 1),
            "decode_tok_s": round(statistics.median(r.decode), 1),
            "first_token_ms": round(statistics.median(r.first_ms), 1),
            "prefill_spread": round(spread(r.prefill), 3),
            "decode_spread": round(spread(r.decode), 3),
        }
        if r.memory is not None:
            engines[r.name] |= {
                "pss_mb": round(r.memory.pss, 1),
                "anonymous_mb": round(r.memory.anonymous, 1),
                "peak_rss_mb": round(r.memory.peak, 1),
            }
    compared = {
        name: {
            "baseline": ratio.baseline,
            "ratio": round(ratio.value, 3),
            "quartiles": [round(ratio.low, 3), round(ratio.high, 3)],
            "wanted": TARGETS[name],
            "reached": reached(name, ratio),
        }
        for name, ratio in ratios.items()
    }
    return {"engines": engines, "ratios": compared}
