"""benchmarks/lib/cost_model.py and node_times.py: what a token reads, what a profile says of it."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.benchmarks.scripts import load_scripts


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    return load_scripts("cost_model", "node_times", "turns", "cards", "machine")


def constant(name: str, shape: tuple[int, ...], kind: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.zeros(shape, kind), name)


def graph_of(nodes: list[onnx.NodeProto], *constants: onnx.TensorProto) -> onnx.GraphProto:
    return helper.make_graph(nodes, "g", [], [], list(constants))


def test_a_token_reads_each_weight_once_as_the_kernel_takes_it(scripts: dict[str, ModuleType]) -> None:
    """The head is also the embedding, of which a token takes a row; its scales are widened."""
    node = helper.make_node
    graph = graph_of(
        [
            node("Reshape", ["head", "shape"], ["table"]),
            node("GatherBlockQuantized", ["table", "ids", "wide"], ["x"]),
            node("Cast", ["scales"], ["wide"], to=TensorProto.FLOAT),
            node("MatMulNBits", ["x", "head", "wide"], ["y"]),
            node("MatMulNBits", ["x", "head", "wide"], ["again"]),
            node("GroupQueryAttention", ["y", "", "", "", "", "", "", "angles", "angles"], ["z"]),
            node("SimplifiedLayerNormalization", ["z", "norm"], ["w"]),
            node("Gather", ["rows", "ids"], ["r"]),
        ],
        constant("head", (50, 3, 16), np.uint8),
        constant("scales", (150,), np.float16),
        constant("angles", (99, 8), np.float32),
        constant("norm", (32,), np.float32),
        constant("rows", (50, 32), np.float32),
    )
    assert scripts["cost_model"].token_bytes(graph) == {
        "MatMulNBits": 50 * 3 * 16 + 150 * 4,
        "SimplifiedLayerNormalization": 32 * 4,
    }


def test_weights_that_a_branch_reads_count(scripts: dict[str, ModuleType]) -> None:
    branch = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "b", [], [])
    choice = helper.make_node("If", ["is_long"], ["y"], then_branch=branch, else_branch=branch)
    graph = graph_of([choice], constant("w", (4, 4), np.float32))
    assert scripts["cost_model"].token_bytes(graph) == {"MatMul": 64}


def test_the_real_model_reads_less_than_its_files_have(scripts: dict[str, ModuleType], starter: Path) -> None:
    """But for the scales, which are widened: at most four bytes for each two in the file."""
    folder = starter / "smollm2-135m-int4"
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    found = scripts["cost_model"].token_bytes(graph)
    stored = (folder / "model.onnx.data").stat().st_size
    assert 0.9 * stored < found.total() < 1.2 * stored
    assert found["MatMulNBits"] > 0.99 * found.total()


def test_the_largest_cache_is_found(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    for number, size in enumerate(("48K", "2048K", "300M")):
        (tmp_path / f"index{number}").mkdir()
        (tmp_path / f"index{number}/size").write_text(size + "\n")
    assert scripts["cost_model"].cache_bytes(tmp_path) == 300 * 2**20
    assert scripts["cost_model"].cache_bytes(tmp_path / "none") == 0


def test_the_share_is_of_the_same_round(scripts: dict[str, ModuleType]) -> None:
    """Memory that was slow for a moment slows the tokens of that moment."""
    seen = {
        "one_thread": [5e9, 5e9, 5e9],
        "memory": [10e9, 1e9, 10e9],
        "again": [20e9, 20e9, 20e9],
        "step_s": [0.02, 0.2, 0.02],
    }
    found = scripts["cost_model"].figures(seen, 90_000_000, 10_000_000)
    assert (found["bound_tps"], found["reached_tps"], found["share"]) == (100.0, 50.0, 0.5)
    assert found["gbs"]["memory"] == [10.0, 1.0, 10.0]
    shown = scripts["cost_model"].table(found, argparse.Namespace(context=7, threads=2))
    assert "50.0 tokens/s, 50% of it (wanted: 60%)" in shown


def test_a_rate_is_measured_with_each_number_of_threads(scripts: dict[str, ModuleType]) -> None:
    for threads in (1, 2):
        assert scripts["cost_model"].read_rate(np.ones(1000, np.int64), threads) > 0


def event(name: str, ts: int, dur: int, op: str = "") -> dict[str, Any]:
    about = {"cat": "Node", "args": {"op_name": op}} if op else {"cat": "Session", "args": {}}
    return {"name": name, "ts": ts, "dur": dur, **about}


def test_a_profile_is_summed_by_run_and_type(scripts: dict[str, ModuleType]) -> None:
    times = scripts["node_times"]
    text = json.dumps(
        [
            event("session_initialization", 0, 50),
            event("a_kernel_time", 110, 40, "MatMul"),
            event("SequentialExecutor::Execute", 105, 90),
            event("model_run", 100, 100),
            event("model_run", 300, 200),
            event("If_kernel_time", 159, 30, "If"),
            event("b_kernel_time", 160, 10, "Mul"),
            event("a_kernel_time", 310, 100, "MatMul"),
            event("c_kernel_time", 420, 20, "MatMul"),
        ]
    )
    first, second = times.parse_runs(text)
    assert first.seconds == pytest.approx(100e-6)
    assert first.nodes == pytest.approx({"MatMul": 40e-6, "Mul": 10e-6})
    assert first.between == pytest.approx(50e-6)
    assert second.nodes == pytest.approx({"MatMul": 120e-6})
    both = times.mean([first, second])
    assert both.nodes == pytest.approx({"MatMul": 80e-6, "Mul": 5e-6})
    shown = scripts["cost_model"].profile_table(both, 1e-4, Counter(MatMul=8_000_000))
    assert "100.0" in shown, "8 MB in 80 us are 100 GB/s"


def test_the_real_model_is_profiled(scripts: dict[str, ModuleType], starter: Path) -> None:
    model = scripts["cost_model"]
    folder = starter / "smollm2-135m-int4"

    def work(generator: Any) -> None:
        model.step_seconds(generator, 5, 2)

    runs = scripts["node_times"].profiled(folder, "model.onnx", 1, 16, work)
    assert len(runs) == 4, "the prompt and a token behind each but the last"
    assert all(run.nodes["MatMulNBits"] > 0 for run in runs)
