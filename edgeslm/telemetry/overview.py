"""Live overview (``edgeslm top``): turns messages of nodes into figures, and figures into terminal lines.

Pure. Messages are untrusted: invalid fields are left out, and control characters are removed.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgeslm.errors import plural

STALE_S = 90.0
"""Figures older than this, in seconds, are shown with their age; nodes publish health every 30 seconds."""
_MOST_NAMES = 64
_PALETTE = {"good": "32", "busy": "33", "bad": "31", "dim": "2", "bold": "1"}
_STATE_STYLES = {"online": "good", "starting": "busy", "draining": "busy"}


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """Figures of one node; None means unknown. ``age_s`` is the age of the node's health message.

    ``site`` is None for a node that is connected to this broker directly. ``unreachable_since`` is when the
    site was reported to be cut off (``time.time()``), or None; ``since_before`` is true if the site was
    already cut off when the program began to listen.
    """

    node: str
    state: str
    version: str | None = None
    queue: int | None = None
    in_flight: int | None = None
    uptime_s: float | None = None
    tokens_per_s: float | None = None
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    answers_per_s: Mapping[str, float] = field(default_factory=dict)
    results: Mapping[str, float] = field(default_factory=dict)
    dropped: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: Mapping[str, float] = field(default_factory=dict)
    temperature_c: float | None = None
    tasks: Mapping[str, str] = field(default_factory=dict)
    """The kind of each task, by name."""
    models: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()
    age_s: float | None = None
    site: str | None = None
    unreachable_since: float | None = None
    since_before: bool = False

    @property
    def is_up(self) -> bool:
        return self.unreachable_since is None and self.state not in ("offline", "stopped", "unknown")

    def of_site(
        self, site: str, unreachable_since: float | None = None, since_before: bool = False
    ) -> NodeFigures:
        return replace(self, site=plain(site), unreachable_since=unreachable_since, since_before=since_before)


def figures_of(
    node: str, documents: Mapping[str, Mapping[str, Any]], heard_at: Mapping[str, float], now: float
) -> NodeFigures:
    """The figures of a node.

    ``documents`` has the node's messages by kind (``state``, ``info``, ``health``). ``heard_at`` has the time
    in seconds at which each message was received, by the same clock as ``now``.
    """
    info, health = documents.get("info", {}), documents.get("health", {})
    tasks, alerts = info.get("tasks"), health.get("alerts")
    return NodeFigures(
        node=plain(node),
        state=plain(_text(documents.get("state", {}).get("state")) or "unknown"),
        version=_text(info.get("version")),
        queue=_whole(health.get("queue")),
        in_flight=_whole(health.get("in_flight")),
        uptime_s=_number(health.get("uptime_s")),
        tokens_per_s=_number(health.get("tokens_per_s")),
        latency_ms=_numbers(health.get("latency_ms")),
        answers_per_s=_numbers(health.get("answers_per_s")),
        results=_numbers(health.get("results")),
        dropped={name: count for name, count in _numbers(health.get("dropped")).items() if count},
        memory_bytes=_numbers(health.get("memory_bytes")),
        temperature_c=_number(health.get("temperature_c")),
        tasks={
            plain(name): plain(_text(task.get("kind")) or "") if isinstance(task, Mapping) else ""
            for name, task in list(tasks.items() if isinstance(tasks, Mapping) else ())[:_MOST_NAMES]
        },
        models=tuple(plain(name) for name in info.get("models", ()))[:_MOST_NAMES]
        if isinstance(info.get("models"), Mapping)
        else (),
        alerts=tuple(
            plain(one) for one in (alerts if isinstance(alerts, list) else ())[:20] if isinstance(one, str)
        ),
        age_s=max(0.0, now - heard_at["health"]) if "health" in heard_at else None,
    )


def plain(text: str) -> str:
    """``text`` as one line of at most 2000 printable characters."""
    return "".join(c if c.isprintable() else " " for c in text)[:2000]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _numbers(value: Any) -> dict[str, float]:
    items = list(value.items())[:_MOST_NAMES] if isinstance(value, Mapping) else []
    return {plain(name): number for name, item in items if (number := _number(item)) is not None}


# Formatting of figures


def duration(seconds: float | None) -> str:
    """A duration in a readable unit, such as ``42 s``, ``3 min``, ``5 h`` or ``12 d``."""
    if seconds is None:
        return "-"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"


def milliseconds(value: float | None) -> str:
    if value is None:
        return "-"
    return (
        f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms" if value < 10_000 else f"{value / 1000:.0f} s"
    )


def megabytes(value: float) -> str:
    return f"{value / 1e6:.0f} MB" if value < 1e10 else f"{value / 1e9:.0f} GB"


def rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if 0 < value < 1 else f"{value:.1f}"


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)


# The screen


@dataclass(frozen=True, slots=True)
class _Column:
    """A column. On a narrow terminal, the columns with the lowest ``keep`` are dropped first."""

    title: str
    width: int
    keep: int


_COLUMNS = (
    _Column("STATE", 8, 9),
    _Column("QUEUE", 5, 8),
    _Column("RUN", 3, 5),
    _Column("ANSWERS/S", 9, 7),
    _Column("TOKENS/S", 8, 4),
    _Column("P50", 7, 6),
    _Column("P95", 7, 3),
    _Column("P99", 7, 1),
    _Column("MEMORY", 7, 3),
    _Column("TEMP", 5, 2),
    _Column("UP", 6, 0),
)
_NARROWEST = 10
_WIDEST_SITE = 20


class Painter:
    """Adds terminal styles to a text, unless ``coloured`` is false."""

    def __init__(self, coloured: bool) -> None:
        self._coloured = coloured

    def __call__(self, text: str, style: str | None) -> str:
        return f"\x1b[{_PALETTE[style]}m{text}\x1b[0m" if self._coloured and style else text


def screen(
    nodes: Sequence[NodeFigures], *, width: int, height: int | None, title: str, paint: Painter
) -> list[str]:
    """The lines of one screen: at most ``width`` columns and, unless None, at most ``height`` lines.

    If not all lines fit, tasks are left out first, then alerts, then the last nodes. If nodes are left out,
    the last line says how many lines are missing.
    """
    width = max(20, width)
    head = [paint(_cut(f"{title}   {_counted(nodes)}", width), "bold"), ""]
    if not nodes:
        return [*head, _cut("No messages from any node yet.", width)]
    sites = max((len(node.site) for node in nodes if node.site is not None), default=None)
    site_room = None if sites is None else min(max(sites, 4), _WIDEST_SITE, width // 4)
    site = "" if site_room is None else f"{'SITE':<{site_room}} "
    columns = _columns(width - len(site), [node.node for node in nodes])
    table = [paint(site + _row("NODE", [c.title for c in columns], columns, width - len(site)), "dim")]
    rows = [paint_row(node, columns, width, paint, site_room) for node in nodes]
    details = [_details(node, width, paint, alone=len(nodes) == 1) for node in nodes]
    alerts = [_alerts(node, width, paint) for node in nodes]
    for parts in ((details, alerts), (alerts,), ()):
        lines = [
            *head,
            *table,
            *(
                line
                for index, row in enumerate(rows)
                for line in (row, *(one for part in parts for one in part[index]))
            ),
        ]
        if height is None or len(lines) <= height:
            return lines
    if height is not None and len(lines) > height:
        left = len(lines) - height + 1
        lines = [*lines[: max(0, height - 1)], paint(_cut(f"and {left} more", width), "dim")]
    return lines


def _counted(nodes: Sequence[NodeFigures]) -> str:
    up = sum(node.is_up for node in nodes)
    count = f"{plural(len(nodes), 'node')}, {up} up"
    sites = {node.site for node in nodes if node.site is not None}
    if not sites:
        return count
    cut_off = {node.site for node in nodes if node.unreachable_since is not None}
    return f"{plural(len(sites), 'site')}, {len(cut_off)} unreachable   {count}"


def _unreachable(node: NodeFigures) -> str:
    """Since when a node is unreachable, as text: the local time, with the date if it was before today."""
    since = time.localtime(node.unreachable_since)
    today = time.localtime()[:3] == since[:3]
    said = time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M", since)
    return f"unreachable since {'before ' if node.since_before else ''}{said} (was {node.state})"


def paint_row(
    node: NodeFigures,
    columns: Sequence[_Column],
    width: int,
    paint: Painter,
    site_room: int | None = None,
) -> str:
    """The table row of a node. ``site_room``: width of the site column; None omits the column."""
    site = "" if site_room is None else f"{_cut(node.site or '', site_room):<{site_room}} "
    left = width - len(site)
    if node.unreachable_since is not None:  # its figures are old
        return paint(_cut(site + _named(node.node, columns, left) + f" {_unreachable(node)}", width), "bad")
    latency = node.latency_ms
    cells = {
        "STATE": node.state,
        "QUEUE": _count(node.queue),
        "RUN": _count(node.in_flight),
        "ANSWERS/S": rate(sum(node.answers_per_s.values()) if node.age_s is not None else None),
        "TOKENS/S": rate(node.tokens_per_s),
        "P50": milliseconds(latency.get("p50")),
        "P95": milliseconds(latency.get("p95")),
        "P99": milliseconds(latency.get("p99")),
        "MEMORY": megabytes(sum(node.memory_bytes.values())) if node.memory_bytes else "-",
        "TEMP": "-" if node.temperature_c is None else f"{node.temperature_c:.0f} C",
        "UP": duration(node.uptime_s),
    }
    if not node.is_up:  # its figures are old
        cells = {"STATE": node.state}
    line = site + _row(node.node, [cells.get(column.title, "") for column in columns], columns, left)
    style = _STATE_STYLES.get(node.state, "bad")
    return paint(line, "dim" if not node.is_up else None) if style == "good" else paint(line, style)


def _details(node: NodeFigures, width: int, paint: Painter, *, alone: bool) -> list[str]:
    if not node.is_up:
        return []
    lines = [
        _cut(
            f"  {name:<24} {node.tasks.get(name, ''):<10} {rate(node.answers_per_s.get(name, 0.0)):>7}/s",
            width,
        )
        for name in dict.fromkeys([*node.tasks, *node.answers_per_s])
    ]
    facts = []
    if node.age_s is not None and node.age_s > STALE_S:
        facts.append(f"figures are {duration(node.age_s)} old")
    if alone:
        if node.memory_bytes:
            facts.append(
                "memory: "
                + ", ".join(f"{name} {megabytes(size)}" for name, size in node.memory_bytes.items())
            )
        for what, counts in (("results", node.results), ("dropped", node.dropped)):
            if counts:
                facts.append(f"{what}: " + ", ".join(f"{name} {count:.0f}" for name, count in counts.items()))
        if node.version:
            facts.append(f"edgeslm {plain(node.version)}")
    wrapped = [line for fact in facts for line in wrap(fact, width)]
    return [paint(line, "dim") for line in [*lines, *wrapped]]


def _alerts(node: NodeFigures, width: int, paint: Painter) -> list[str]:
    if not node.is_up:
        return []
    return [paint(line, "bad") for alert in node.alerts for line in wrap(f"! {alert}", width)]


def wrap(text: str, width: int) -> list[str]:
    """``text`` indented, and wrapped to ``width`` columns."""
    return textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="    ")


def _columns(width: int, names: Sequence[str]) -> list[_Column]:
    """The columns that fit next to the longest node name; a name longer than 24 characters counts as 24."""
    kept = list(_COLUMNS)
    wanted = max([_NARROWEST, *(len(name) for name in names)])
    while len(kept) > 1 and sum(c.width + 1 for c in kept) + min(wanted, 24) > width:
        kept.remove(min(kept, key=lambda column: column.keep))
    return kept


def _named(name: str, columns: Sequence[_Column], width: int) -> str:
    room = min(max(_NARROWEST, width - sum(column.width + 1 for column in columns)), 32)
    return f"{_cut(name, room):<{room}}"


def _row(name: str, cells: Sequence[str], columns: Sequence[_Column], width: int) -> str:
    line = _named(name, columns, width)
    for cell, column in zip(cells, columns, strict=True):
        side = "<" if column.title == "STATE" else ">"
        line += f" {_cut(cell, column.width):{side}{column.width}}"
    return _cut(line, width).rstrip()


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: max(0, room - 1)] + "…"
