"""Report of ``compare.py``: rates, latencies, ratios, the table and the chart."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, Final

from benchmarks.lib.load import Answered
from benchmarks.lib.processes import Memory
from edgeslm.telemetry.health import quantiles

OURS: Final = "edgeslm"
THEIRS: Final = "llama.cpp"


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side did with some requests; ``joules`` of the whole machine, where it counts them."""

    answers: Sequence[Answered]
    seconds: float
    cpu_s: float
    joules: float | None

    @property
    def first_ms(self) -> float:
        """Median to the first piece of a streamed text."""
        return round(1000 * median(a.first_s for a in self.answers if a.first_s is not None), 1)


def summarize(turns: Mapping[str, Sequence[Turn]]) -> dict[str, Any]:
    """A mix with so many clients: both sides, and how often ours is theirs."""
    found: dict[str, Any] = {side: _side(of) for side, of in turns.items()}
    ratios = [b.seconds / a.seconds for a, b in zip(turns[OURS], turns[THEIRS], strict=True)]
    pairs = [
        (mine, theirs)
        for a, b in zip(turns[OURS], turns[THEIRS], strict=True)
        for mine, theirs in zip(a.answers, b.answers, strict=True)
    ]
    labels = [(a.result.result or {}).get("label") == (b.result.result or {}).get("label") for a, b in pairs]
    return {
        **found,
        "times_the_rate": {
            "median": round(median(ratios), 2),
            "lowest": round(min(ratios), 2),
            "highest": round(max(ratios), 2),
        },
        "p99_share": round(found[OURS]["p99_ms"] / found[THEIRS]["p99_ms"], 2),
        "late_where_theirs_is_not": sum(is_late(mine) and not is_late(theirs) for mine, theirs in pairs),
        "late_where_ours_is_not": sum(is_late(theirs) and not is_late(mine) for mine, theirs in pairs),
        "same_answer": round(fmean(labels), 3),
    }


def is_late(answer: Answered) -> bool:
    """Past its sender's patience, or an error."""
    return answer.result.status == "error" or answer.seconds > answer.ask.deadline_s


def _side(turns: Sequence[Turn]) -> dict[str, Any]:
    answers = [answer for turn in turns for answer in turn.answers]
    count = len(answers)
    usage = [answer.result.usage for answer in answers]
    joules = [turn.joules for turn in turns if turn.joules is not None]
    return {
        "requests": count,
        "errors": sum(answer.result.status == "error" for answer in answers),
        "requests_per_s": round(count / sum(turn.seconds for turn in turns), 2),
        **{
            f"{name}_ms": value
            for name, value in quantiles(answer.seconds * 1000 for answer in answers).items()
        },
        "cpu_s_per_request": round(sum(turn.cpu_s for turn in turns) / count, 4),
        "joules_per_request": round(sum(joules) / count, 2) if len(joules) == len(turns) else None,
        "prompt_tokens": round(fmean(use.get("prompt_tokens", 0) for use in usage), 1),
        "new_tokens": round(fmean(use.get("completion_tokens", 0) for use in usage), 1),
    }


def memory_ratios(memory: Mapping[str, Memory], clients: int) -> dict[str, Any]:
    """Of what serves so many clients; MB of each side and ours to theirs."""
    mine, theirs = memory[OURS], memory[THEIRS]
    return {
        "clients": clients,
        **{
            side: {"anonymous_mb": round(m.anonymous), "pss_mb": round(m.pss), "peak_mb": round(m.peak)}
            for side, m in memory.items()
        },
        "anonymous_share": round(mine.anonymous / theirs.anonymous, 2),
        "pss_share": round(mine.pss / theirs.pss, 2),
    }


_COLUMNS: Final = (
    ("requests_per_s", "req/s", 8),
    ("p50_ms", "p50 ms", 9),
    ("p95_ms", "p95 ms", 9),
    ("p99_ms", "p99 ms", 9),
    ("first_ms", "first ms", 10),
    ("cpu_s_per_request", "CPU s", 8),
    ("prompt_tokens", "in", 7),
    ("new_tokens", "out", 6),
    ("errors", "errors", 8),
)


def table(rows: Sequence[Mapping[str, Any]], *, head: bool = True) -> str:
    """Two lines for each mix, the ratio behind them."""
    lines = []
    if head:
        titles = "".join(f"{title:>{width}}" for _, title, width in _COLUMNS)
        lines.append(f"{'':<24}{'clients':>8}  {'':<11}{titles}")
    for row in rows:
        for side in (OURS, THEIRS):
            cells = "".join(f"{row[side].get(key, ''):>{width}}" for key, _, width in _COLUMNS)
            name, clients = (row["mix"], row["clients"]) if side == OURS else ("", "")
            lines.append(f"{name:<24}{clients:>8}  {side:<11}{cells}")
        times = row["times_the_rate"]
        late = f"late {row['late_where_theirs_is_not']} to {row['late_where_ours_is_not']}"
        lines.append(
            f"{'':<34}{times['median']:.2f} times the requests/s ({times['lowest']:.2f} to "
            f"{times['highest']:.2f}), p99 {row['p99_share']:.2f} of theirs, {late}"
        )
    return "\n".join(lines)


def chart(rows: Sequence[Mapping[str, Any]]) -> str:
    """An SVG picture: requests/s and p99, ours to theirs, for each mix and number of clients."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    names = [f"{row['mix']}\n{row['clients']} client{'s' * (row['clients'] > 1)}" for row in rows]
    for axes, title, values in zip(
        figure.subplots(1, 2, sharey=True),
        ("requests/s, times llama.cpp's server", "p99, share of llama.cpp's server"),
        ([row["times_the_rate"]["median"] for row in rows], [row["p99_share"] for row in rows]),
        strict=True,
    ):
        bars = axes.barh(names, values, color="#2a78b8")
        axes.bar_label(bars, fmt="%.2f", padding=3)
        axes.axvline(1, color="#888", linewidth=1)
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.margins(x=0.15)
    axes.invert_yaxis()
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
