"""Places of the delivery's modules at which nodes are killed: awaits, and statements of SQLite."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.simulation.loop import PRODUCT, Place

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
MODULES = (*AWAITS, *STATEMENTS)
POOL_MODULES = (
    "dispatcher/active",
    "dispatcher/backend",
    "dispatcher/process",
    "dispatcher/standby",
    "node/request_handler",
    "node/in_flight",
    "mqtt/publisher",
    "storage/journal",
)
"""Modules in which dispatchers are killed."""

UNREACHABLE: dict[tuple[str, str, str], str] = {
    (
        *("node/request_handler", "cancel"),
        "async with self.admission.hold(held):",
    ): "a cancellation is never in the spool, so neither a task waits here nor is a statement run",
    (
        *("node/pipeline", "_correct"),
        "async with self._admission.hold(held):",
    ): "a correction is never in the spool, so neither a task waits here nor is a statement run",
    (
        *("serving/service", "replace"),
        "async with self._replacing:",
    ): "reloads and updates hold a lock of their own meanwhile, so no task waits here",
    (
        *("storage/database", "shrink"),
        'db.execute("VACUUM")',
    ): "only `edgeslm purge` does it, while no node runs",
}
"""Module, function and source line of each place at which no node can be killed, and why."""


def file_of(module: str) -> Path:
    return Path(PRODUCT, f"{module}.py")


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


def found_in(module: str) -> list[Place]:
    """The places of a module, in the order of their lines."""
    return sorted(set((statements if module in STATEMENTS else awaits)(file_of(module))))


@cache
def places_of(module: str) -> tuple[Place, ...]:
    """The reachable places of a module, in the order of their lines."""
    file = file_of(module)
    lines = file.read_text().splitlines()
    functions = _functions(file)

    def is_reachable(place: Place) -> bool:
        line = place[1]
        return (module, functions.get(line, ""), lines[line - 1].strip()) not in UNREACHABLE

    return tuple(filter(is_reachable, found_in(module)))


def _functions(file: Path) -> dict[int, str]:
    """Line -> name of the innermost function."""
    names: dict[int, str] = {}
    for node in ast.walk(ast.parse(file.read_text())):  # outer functions first
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names |= dict.fromkeys(range(node.lineno, (node.end_lineno or node.lineno) + 1), node.name)
    return names


@cache
def all_places(modules: tuple[str, ...] = MODULES) -> tuple[Place, ...]:
    return tuple(place for module in modules for place in places_of(module))


def smallest(places: tuple[Place, ...], line: int) -> Place | None:
    """The smallest place that has the line."""
    fitting = [place for place in places if place[1] <= line <= place[2]]
    return min(fitting, key=lambda place: place[2] - place[1], default=None)


def place_at(text: str) -> Place:
    """The place ``FILE:LINE``, such as ``node/pipeline:255``; any line of the product is one.

    :raises ValueError: there is no such line.
    """
    name, _, number = text.removeprefix("edgeslm/").rpartition(":")
    file, line = file_of(name.removesuffix(".py")), int(number)
    if not file.is_file() or not 0 < line <= len(file.read_text().splitlines()):
        raise ValueError(f"there is no line {text}")
    known = tuple(place for place in all_places((*MODULES, *POOL_MODULES)) if place[0] == str(file))
    return smallest(known, line) or (str(file), line, line)
