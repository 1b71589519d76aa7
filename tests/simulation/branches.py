"""Lines and branches of the delivery's modules that the seeds come to; needs coverage.py."""

from __future__ import annotations

import importlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tests.simulation.outcome import Outcome
from tests.simulation.places import file_of

MODULES = (
    *("node/request_handler", "node/in_flight", "node/pipeline", "node/attempts", "node/deduplication"),
    *("node/backend", "node/routes/router", "node/routes/windows"),
    *("mqtt/outbox", "mqtt/flow_control", "mqtt/publisher", "mqtt/client"),
    *("serving/scheduler", "serving/service"),
    *("storage/journal", "storage/spool", "storage/window_store", "storage/database"),
    *("storage/running_marks", "storage/renewal", "storage/salvage"),
)
POOL_MODULES = (
    *("dispatcher/active", "dispatcher/backend", "dispatcher/forwarding", "dispatcher/members"),
    *("dispatcher/nodes", "dispatcher/process", "dispatcher/queue", "dispatcher/standby"),
)


def _tracer(modules: Sequence[str]) -> Any:
    """:raises ModuleNotFoundError: coverage.py isn't installed."""
    files = [str(file_of(module)) for module in modules]
    coverage = importlib.import_module("coverage")
    return coverage.Coverage(branch=True, include=files, data_file=None, config_file=False)


def arcs_of(
    seed: int, play: Callable[[int], Outcome], modules: Sequence[str]
) -> dict[str, list[tuple[int, int]]]:
    """File -> pairs of lines, one after the other, that a seed comes to."""
    tracer = _tracer(modules)
    tracer.start()
    try:
        play(seed)
    finally:
        tracer.stop()
    data = tracer.get_data()
    return {file: data.arcs(file) or [] for file in data.measured_files()}


def report(
    seeds: Iterable[int], play: Callable[[int], Outcome], modules: Sequence[str], processes: int
) -> str:
    """Runs seeds. :return: what they come to in the functions of each module."""
    tracer = _tracer(modules)
    with ProcessPoolExecutor(processes) as pool:
        for arcs in pool.map(partial(arcs_of, play=play, modules=modules), seeds):
            tracer.get_data().add_arcs(arcs)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        tracer.json_report(outfile=str(file))
        told = {
            Path(name).resolve(): one["functions"]
            for name, one in json.loads(file.read_text())["files"].items()
        }
    total: Counter[str] = Counter()
    lines = [_line(module, told.get(file_of(module).resolve(), {}), total) for module in modules]
    return "\n".join([*lines, f"All: {_shares(total)}."])


def _line(module: str, functions: Mapping[str, Any], total: Counter[str]) -> str:
    here: Counter[str] = Counter()
    missing = []
    for name, one in functions.items():
        if name:  # "" is what an import runs
            here.update(one["summary"])
            missing += [f"{first}->{max(second, 0) or 'end'}" for first, second in one["missing_branches"]]
    total.update(here)
    return f"{module}: {_shares(here)}" + (f"; not {', '.join(missing)}" if missing else "")


def _shares(figures: Mapping[str, int]) -> str:
    def share(found: int, of: int) -> str:
        return f"{found} of {of} ({100 * found / (of or 1):.0f} %)"

    lines = share(figures["covered_lines"], figures["num_statements"])
    return f"lines {lines}, branches {share(figures['covered_branches'], figures['num_branches'])}"
