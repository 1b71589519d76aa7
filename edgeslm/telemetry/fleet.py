"""Fleet inventory (``edgeslm fleet list``), from the retained messages of nodes and pools.

Pure. Messages are untrusted and may come from other versions. Invalid fields are left out, unknown fields are
ignored, and control characters are removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edgeslm.errors import plural
from edgeslm.protocol.versions import why_not_spoken
from edgeslm.telemetry.overview import STALE_S, Painter, duration, figures_of, plain, wrap

POOL = "pool/"
_MOST = 64
_MOST_MEMBERS = 1000
_DIGEST = 12
"""Number of hex digits of a digest that the table shows; the JSON output has the whole digest."""


@dataclass(frozen=True, slots=True)
class FleetModel:
    name: str
    bundle: str | None
    digest: str | None


@dataclass(frozen=True, slots=True)
class FleetNode:
    """A node, or the dispatcher of a pool. Attributes that are None are unknown."""

    name: str
    kind: str
    """``node`` or ``dispatcher``."""
    state: str
    is_up: bool
    age_s: float | None
    """Age of the last health message in seconds, computed from the timestamp in the message."""
    is_stale: bool
    """Whether the node is online but has sent no health message recently."""
    version: str | None
    protocol: int | None
    skew: str | None
    """Why this version of edgeslm can't read the node's messages, as a sentence."""
    site: str | None
    models: tuple[FleetModel, ...]
    pool: Mapping[str, Any] | None
    tasks: Mapping[str, str]
    drift: tuple[str, ...]
    """Tasks with drift."""
    queue: int | None
    in_flight: int | None
    requests: int | None
    """Number of results since the node's start, errors included."""
    alerts: tuple[str, ...]
    members: Mapping[str, str] = field(default_factory=dict)
    """For a dispatcher: the state of each member of its pool."""
    unreachable: bool = False
    """Whether the node's site is cut off from the hub, so that the figures are old."""

    @property
    def needs_a_look(self) -> bool:
        return bool(
            not self.is_up or self.is_stale or self.skew or self.drift or self.alerts or self.unreachable
        )


def entry_of(
    name: str,
    documents: Mapping[str, Mapping[str, Any]],
    now: float,
    *,
    site: str | None = None,
    unreachable: bool = False,
) -> FleetNode:
    """The inventory entry of a node or dispatcher.

    ``documents`` are the node's retained messages by kind; ``now`` is ``time.time()``. ``unreachable``:
    whether the node's site is cut off.
    """
    info, health = documents.get("info", {}), documents.get("health", {})
    figures = figures_of(name, documents, {}, now)
    dispatches = name.startswith(POOL)
    age_s = _age_s(health.get("at"), now)
    is_up = figures.is_up and not unreachable
    protocol = info.get("protocol")
    return FleetNode(
        name=figures.node,
        kind="dispatcher" if dispatches else "node",
        state=figures.state,
        is_up=is_up,
        age_s=age_s,
        is_stale=is_up and age_s is not None and age_s > STALE_S,
        version=plain(figures.version)[:40] if figures.version else None,
        protocol=protocol if isinstance(protocol, int) and not isinstance(protocol, bool) else None,
        skew=why_not_spoken(
            f"the pool {figures.node.removeprefix(POOL)}" if dispatches else f"the node {figures.node}", info
        ),
        site=plain(site) if site is not None else None,
        models=tuple(_models(info.get("models"))),
        pool=_pool(info.get("pool")),
        tasks=figures.tasks,
        drift=tuple(sorted(_moved(health.get("drift")))),
        queue=figures.queue,
        in_flight=figures.in_flight,
        requests=round(sum(figures.results.values())) if isinstance(health.get("results"), Mapping) else None,
        alerts=figures.alerts,
        members=_states(info.get("members")) if dispatches else {},
        unreachable=unreachable,
    )


def _age_s(at: Any, now: float) -> float | None:
    """Seconds since ``at``; None if ``at`` isn't a time, or if the clock of the node's board is ahead or was
    never set."""
    if not isinstance(at, int | float) or isinstance(at, bool) or not 1e9 < at <= now + STALE_S:
        return None
    return round(max(0.0, now - at), 1)


def _models(models: Any) -> Iterable[FleetModel]:
    for name, model in list(models.items())[:_MOST] if isinstance(models, Mapping) else ():
        said = model if isinstance(model, Mapping) else {}
        yield FleetModel(plain(name), *(_text(said.get(key)) for key in ("bundle", "digest")))


def _pool(pool: Any) -> dict[str, Any] | None:
    if not isinstance(pool, Mapping) or not isinstance(pool.get("name"), str):
        return None
    tasks = pool.get("tasks")
    named = [plain(one) for one in tasks if isinstance(one, str)][:_MOST] if isinstance(tasks, list) else []
    return {"name": plain(pool["name"]), "tasks": named, "by": _text(pool.get("by"))}


def _moved(drift: Any) -> Iterable[str]:
    for task, said in drift.items() if isinstance(drift, Mapping) else ():
        if isinstance(said, Mapping) and said.get("moved") is True:
            yield plain(task)


def _states(members: Any) -> dict[str, str]:
    items = list(members.items())[:_MOST_MEMBERS] if isinstance(members, Mapping) else []
    return {plain(name): plain(state) for name, state in items if isinstance(state, str)}


def _text(value: Any) -> str | None:
    return plain(value)[:100] if isinstance(value, str) else None


# Between nodes


@dataclass(frozen=True, slots=True)
class Difference:
    """A model whose bundle differs between nodes, and the names of the nodes with each digest."""

    model: str
    digests: Mapping[str, tuple[str, ...]]


def differences(entries: Sequence[FleetNode]) -> list[Difference]:
    found: dict[str, dict[str, list[str]]] = {}
    for entry in entries:
        for model in entry.models:
            if model.digest is not None:
                name = entry.name if entry.site is None else f"{entry.site}/{entry.name}"
                found.setdefault(model.name, {}).setdefault(model.digest, []).append(name)
    return [
        Difference(model, {digest: tuple(names) for digest, names in sorted(digests.items())})
        for model, digests in sorted(found.items())
        if len(digests) > 1
    ]


def newest(entries: Sequence[FleetNode]) -> str | None:
    """The newest edgeslm version of the nodes whose messages can be read."""
    return max((one.version for one in entries if one.version and not one.skew), key=_order, default=None)


def is_outdated(entry: FleetNode, version: str | None) -> bool:
    """Whether the node's version is older than ``version``, or unknown."""
    return entry.version is None or (version is not None and _order(entry.version) < _order(version))


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d{1,9}", version.partition("+")[0])[:4])


def inventory(entries: Sequence[FleetNode]) -> dict[str, Any]:
    """The document that ``edgeslm fleet list --json`` prints."""
    return {
        "nodes": [_plain_entry(one) for one in entries],
        "differences": [asdict(one) for one in differences(entries)],
    }


def _plain_entry(entry: FleetNode) -> dict[str, Any]:
    load = {"queue": entry.queue, "in_flight": entry.in_flight, "requests": entry.requests}
    said = asdict(entry)
    for key in load:
        del said[key]
    for key, name in (("is_up", "up"), ("is_stale", "stale")):
        said[name] = said.pop(key)
    return {**said, "load": load}


# The table

_NARROWEST = 72
_STATE, _AGE, _VERSION, _POOL, _QUEUE, _RUN, _REQUESTS = 8, 6, 9, 10, 5, 3, 8


def table(entries: Sequence[FleetNode], *, width: int, title: str, paint: Painter) -> list[str]:
    """Lines of at most ``width`` columns: one row per node, followed by the node's models and alerts."""
    width = max(_NARROWEST, width)
    lines = [paint(f"{title}   {_counted(entries)}"[:width], "bold"), ""]
    fixed = _STATE + _AGE + _VERSION + _POOL + _QUEUE + _RUN + _REQUESTS + 7
    room = min(max([4, *(len(_name(one)) for one in entries)]), max(12, width - fixed), 32)
    head = _row(("NODE", "STATE", "AGE", "VERSION", "POOL", "QUEUE", "RUN", "REQUESTS"), room)
    lines.append(paint(head, "dim"))
    for one in entries:
        lines += _lines(one, room, width, paint)
    for difference in differences(entries):
        names = "; ".join(
            f"{_short(digest)} on {', '.join(names)}" for digest, names in difference.digests.items()
        )
        lines += [
            "",
            *(paint(line, "busy") for line in wrap(f"! {difference.model} differs: {names}", width)),
        ]
    return lines


def _counted(entries: Sequence[FleetNode]) -> str:
    nodes = [one for one in entries if one.kind == "node"]
    others = len(entries) - len(nodes)
    count = f"{plural(len(nodes), 'node')}, {sum(one.is_up for one in nodes)} up"
    return count + (f", {plural(others, 'dispatcher')}" if others else "")


def _lines(entry: FleetNode, room: int, width: int, paint: Painter) -> list[str]:
    state = "cut off" if entry.unreachable else "stale" if entry.is_stale else entry.state
    pool = entry.pool["name"] if entry.pool else "-"
    figures = (entry.queue, entry.in_flight, entry.requests)
    cells = [_name(entry), state, duration(entry.age_s), entry.version or "-", pool]
    row = _row([*cells, *("-" if one is None else str(one) for one in figures)], room)
    style = None if entry.is_up and not entry.is_stale else "busy" if entry.is_up else "bad"
    lines = [paint(row, style)]
    facts = [f"{one.name} {_short(one.digest)} {one.bundle or ''}".rstrip() for one in entry.models]
    if entry.members:
        facts.append("members: " + ", ".join(f"{name} {state}" for name, state in entry.members.items()))
    lines += [paint(line, "dim") for fact in facts for line in wrap(fact, width)]
    moved = [f"the messages of {task} differ from its training data" for task in entry.drift]
    # Alerts mention drift already.
    wrong = [*filter(None, [entry.skew]), *entry.alerts, *(moved if not entry.alerts else [])]
    return lines + [paint(line, "bad") for one in wrong for line in wrap(f"! {one}", width)]


def _name(entry: FleetNode) -> str:
    return entry.name if entry.site is None else f"{entry.site}/{entry.name}"


def _short(digest: str | None) -> str:
    return "-" if digest is None else digest.removeprefix("sha256:")[:_DIGEST]


def _row(cells: Sequence[str], room: int) -> str:
    widths = (room, _STATE, -_AGE, _VERSION, _POOL, -_QUEUE, -_RUN, -_REQUESTS)
    return " ".join(_cell(cell, wide) for cell, wide in zip(cells, widths, strict=True)).rstrip()


def _cell(text: str, width: int) -> str:
    """``text`` cut or padded to ``width`` columns; a negative width aligns it right."""
    room = abs(width)
    text = text if len(text) <= room else text[: room - 1] + "…"
    return f"{text:>{room}}" if width < 0 else f"{text:<{room}}"
