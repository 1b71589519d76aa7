"""At which awaits and statements of the delivery's modules nodes were killed."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT

AWAITS = (
    "node/request_handler",
    "node/in_flight",
    "node/pipeline",
    "node/backend",
    "node/routes/router",
    "node/routes/windows",
    "mqtt/publisher",
    "serving/scheduler",
    "serving/service",
)
STATEMENTS = ("storage/journal", "storage/spool", "storage/window_store", "storage/database")
"""Modules without awaits, in which nodes are killed at statements of SQLite."""

Place = tuple[str, int, int]
"""File, first line and last line."""


def awaits(file: Path) -> Iterator[Place]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Await):
            yield str(file), node.lineno, node.end_lineno or node.lineno
        elif isinstance(node, ast.AsyncWith | ast.AsyncFor):
            yield str(file), node.lineno, node.body[0].lineno - 1


def statements(file: Path) -> Iterator[Place]:
    for node in ast.walk(ast.parse(file.read_text())):
        method = node.func if isinstance(node, ast.Call) else None
        if isinstance(method, ast.Attribute) and method.attr == "execute":
            yield str(file), method.lineno, method.end_lineno or method.lineno


def report(points: Counter[tuple[str, int]]) -> str:
    lines = []
    found_all = of_all = 0
    for module in (*AWAITS, *STATEMENTS):
        file = ROOT / "edgeslm" / f"{module}.py"
        places = sorted(set((awaits if module in AWAITS else statements)(file)))
        hit = {_place(places, line) for (name, line) in points if name == str(file)}
        missing = [place[1] for place in places if place not in hit]
        found_all += len(places) - len(missing)
        of_all += len(places)
        rest = f"; not at line {', '.join(map(str, missing))}" if missing else ""
        lines.append(f"{module}: killed at {len(places) - len(missing)} of {len(places)}{rest}")
    return "\n".join([*lines, f"All: killed at {found_all} of {of_all} awaits and statements."])


def _place(places: list[Place], line: int) -> Place | None:
    """The smallest place that has the line."""
    fitting = [place for place in places if place[1] <= line <= place[2]]
    return min(fitting, key=lambda place: place[2] - place[1], default=None)
