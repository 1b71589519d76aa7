"""Report of ``capacity.py``: tables, and charts as SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
Columns = Sequence[tuple[str, str, int]]
"""Key, title, width."""

PARTS: Final = ("broker", "nodes", "sender", "dispatcher", "others")
CARRIED: Final = (
    ("offered_per_s", "offered/s", 10),
    ("answered_per_s", "answered/s", 11),
    ("p50_ms", "p50 ms", 8),
    ("p99_ms", "p99 ms", 9),
    ("way_p50_ms", "way ms", 8),
    ("lost", "lost", 6),
    ("duplicates", "twice", 6),
    ("errors", "errors", 7),
    *((part, part, 11 if part == "dispatcher" else 8) for part in PARTS),
    ("holds", "holds", 7),
)
SIMULATED: Final = (
    ("way", "way", 28),
    ("nodes", "nodes", 7),
    ("rate", "req/s", 10),
    ("brokers", "brokers", 8),
    ("dispatchers", "dispatchers", 12),
    ("p50_ms", "p50 ms", 9),
    ("p99_ms", "p99 ms", 9),
    ("utilisation", "busy", 7),
    ("max_to_mean", "max/mean", 9),
)
LOADED: Final = (*SIMULATED[:3], ("varies", "varies", 7), *SIMULATED[3:])
DYING: Final = (
    ("death", "", 28),
    *SIMULATED[:3],
    ("p50_ms", "p50 ms", 9),
    ("p99_ms", "p99 ms", 9),
    ("late_percent", "late %", 8),
    ("lost_percent", "lost %", 8),
    ("runs_per_request", "runs", 8),
    ("deaths", "deaths", 7),
)
NEWS: Final = (("way", "way", 28), ("past_it", "past it", 9), ("health_s", "health s", 9), *SIMULATED[5:])
COMPARED: Final = (
    ("case", "case", 34),
    ("rate", "req/s", 8),
    ("real_p50_ms", "p50 real", 10),
    ("p50_ms", "simulated", 10),
    ("real_mean_ms", "mean real", 10),
    ("mean_ms", "simulated", 10),
    ("real_p99_ms", "p99 real", 10),
    ("p99_ms", "simulated", 10),
    ("difference", "p99 differs", 12),
)
ABSENT: Final = (
    ("case", "case", 44),
    ("rate", "req/s", 8),
    ("real_late_percent", "later than 2 s, % real", 24),
    ("late_percent", "simulated", 10),
    *COMPARED[2:-1],
    ("lost", "lost", 6),
)
COLOURS: Final = {
    "share": "#e0842c",
    "share, sent again": "#f0b47c",
    "topics": "#7a7a7a",
    "topics by sender": "#b0b0b0",
    "dispatcher": "#2a78b8",
}
NAMES: Final = {
    "share": "shared subscription",
    "share, sent again": "shared subscription, senders repeat",
    "topics": "topics, a node drawn",
    "topics by sender": "topics, a node for each sender",
    "dispatcher": "dispatcher",
}


def head(columns: Columns) -> str:
    return "".join(f"{title:>{width}}" for _, title, width in columns)


def line(row: Row, columns: Columns) -> str:
    return "".join(f"{_cell(row.get(key)):>{width}}" for key, _, width in columns)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value >= 100:
        return f"{value:,.0f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def carried(row: Row) -> dict[str, Any]:
    """A row of ``fleet_broker`` with its parts as columns."""
    return {**row, **row["cores"]}


def latency_chart(rows: Sequence[Row]) -> str:
    """p99 over rate, a panel for each size; hollow where it takes several dispatchers."""
    from matplotlib.figure import Figure

    sizes = sorted({row["nodes"] for row in rows})
    figure = Figure(figsize=(3.3 * len(sizes), 3.9), layout="constrained")
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for axes, nodes in zip(panels, sizes, strict=True):
        for way in dict.fromkeys(row["way"] for row in rows):
            own = [row for row in rows if (row["nodes"], row["way"]) == (nodes, way) and row["p99_ms"]]
            axes.plot(
                [row["rate"] for row in own],
                [row["p99_ms"] for row in own],
                color=COLOURS[way],
                label=NAMES[way],
                marker="o",
                markersize=2.5,
            )
            several = [row for row in own if row["dispatchers"] > 1]
            axes.plot(
                [row["rate"] for row in several],
                [row["p99_ms"] for row in several],
                "o",
                color=COLOURS[way],
                markerfacecolor="white",
                markersize=4.5,
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(f"{nodes:,} nodes", fontsize=10)
        axes.set_xlabel("requests/s", fontsize=9)
    panels[0].set_ylabel("p99, ms", fontsize=9)
    return _finished(figure, panels)


def load_chart(rows: Sequence[Row]) -> str:
    """p99 over load where all requests take the same and where they vary, and the balance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.9), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, varies, key, title in zip(
        panels,
        (False, True, True),
        ("p99_ms", "p99_ms", "max_to_mean"),
        (
            "p99, ms: each takes 30 ms",
            "p99, ms: 30 ms in the mean, exponential",
            "busiest node, times the mean",
        ),
        strict=True,
    ):
        for way in dict.fromkeys(row["way"] for row in rows):
            own = [row for row in rows if (row["way"], row["varies"]) == (way, varies) and row["p99_ms"]]
            axes.plot(
                [row["load"] for row in own],
                [row[key] for row in own],
                color=COLOURS[way],
                label=NAMES[way],
                marker="o",
                markersize=3,
            )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("load, share of what the nodes can do", fontsize=9)
        if key == "p99_ms":
            axes.set_yscale("log")
            axes.set_ylim(20, 3000)
        else:
            axes.set_yscale("log", base=2)
            axes.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    return _finished(figure, panels)


def deaths_chart(rows: Sequence[Row], death: str) -> str:
    """Late and lost, in percent, for each size and way."""
    from matplotlib.figure import Figure

    own = [row for row in rows if row["death"] == death and row["way"] in NAMES]
    sizes = sorted({row["nodes"] for row in own})
    figure = Figure(figsize=(3.6 * len(sizes), 3.0), layout="constrained")
    panels = figure.subplots(1, len(sizes), sharey=True, sharex=True, squeeze=False)[0]
    for axes, nodes in zip(panels, sizes, strict=True):
        these = [row for row in own if row["nodes"] == nodes]
        names = [NAMES[row["way"]].replace(", ", ",\n") for row in these]
        late, lost = ([row[f"{what}_percent"] for row in these] for what in ("late", "lost"))
        axes.barh(names, late, color="#e8c46a", label="later than 10 s")
        bars = axes.barh(names, lost, left=late, color="#b33a3a", label="not within 60 s")
        labels = [f"{a:.2g} + {b:.2g}" if a + b else "0" for a, b in zip(late, lost, strict=True)]
        axes.bar_label(bars, labels, padding=3, fontsize=8)
        axes.set_title(f"{nodes:,} nodes", fontsize=10)
        axes.set_xlabel("percent of requests", fontsize=9)
        axes.margins(x=0.35)
    panels[0].invert_yaxis()
    return _finished(figure, panels)


def _finished(figure: Figure, panels: Sequence[Any]) -> str:
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(which="both", labelsize=8)
        axes.grid(color="#dddddd", linewidth=0.5)
        axes.set_axisbelow(True)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
