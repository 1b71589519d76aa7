"""Profile of a model by onnxruntime: time by type of node.

The profiler takes some percent itself, so times of another run are what a model reaches.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.lib.turns import load_graph, make_generator

_BRANCHES: Final = {"If", "Loop"}
"""Their times are those of the nodes within, which are there too."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a graph: its seconds, and those of its nodes by type."""

    seconds: float
    nodes: Mapping[str, float]

    @property
    def between(self) -> float:
        """Seconds that belong to no node."""
        return self.seconds - sum(self.nodes.values())


def profiled(bundle: Path, graph: str, threads: int, length: int, work: Callable[[Any], None]) -> list[Run]:
    """The runs of the graph while ``work`` uses a generator with room for ``length`` tokens."""
    with tempfile.TemporaryDirectory(prefix="profile-") as folder:
        model = load_graph(str(bundle), graph, threads, enable_profiling=f"{folder}/run")
        generator = make_generator(model, length)
        work(generator)
        del generator, model  # in this order; the profile is written at the end of the model
        (file,) = Path(folder).iterdir()
        return parse_runs(file.read_text())


def parse_runs(text: str) -> list[Run]:
    """From the text of a profile (Chrome's trace events), in their order."""
    events = [event for event in json.loads(text) if event.get("dur") is not None]
    runs = sorted((e for e in events if e["name"] == "model_run"), key=lambda e: e["ts"])
    own = (e for e in events if e.get("cat") == "Node" and e["args"]["op_name"] not in _BRANCHES)
    nodes = sorted(own, key=lambda e: e["ts"])
    found, place = [], 0
    for run in runs:
        spent: Counter[str] = Counter()
        end = run["ts"] + run["dur"]
        while place < len(nodes) and nodes[place]["ts"] < end:
            spent[nodes[place]["args"]["op_name"]] += nodes[place]["dur"]
            place += 1
        found.append(Run(run["dur"] / 1e6, {kind: us / 1e6 for kind, us in spent.items()}))
    return found


def mean(runs: Sequence[Run]) -> Run:
    """Of several that are alike."""
    kinds = {kind for run in runs for kind in run.nodes}
    return Run(
        sum(run.seconds for run in runs) / len(runs),
        {kind: sum(run.nodes.get(kind, 0.0) for run in runs) / len(runs) for kind in kinds},
    )
