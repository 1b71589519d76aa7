"""int8 of an encoder's graph: near the float one, row by row, on ONNX graphs made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeslm_export.graph.encoder_worker import quantize, quantize_tables, scale_rows

pytestmark = pytest.mark.export


class FakeReporter:
    def progress(self, done: int, total: int, what: str) -> None:
        pass


def _model(opset: int, rows: int = 200) -> Any:
    """ids -> table -> product with weights."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(7)
    table = random.standard_normal((rows, 32)).astype(np.float32)
    table[5] *= 100  # one loud token
    table[6] = 0
    weight = random.standard_normal((32, 16)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["vectors"]),
            helper.make_node("MatMul", ["vectors", "weight"], ["out"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, None])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, None, 16])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def _run(model: Any, ids: list[int]) -> np.ndarray:
    import onnxruntime as ort

    data = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"ids": np.array([ids], np.int64)})[0][0])


@pytest.mark.parametrize("opset", [14, 18])
def test_a_loud_token_doesnt_coarsen_the_others(opset: int, tmp_path: Path) -> None:
    import onnx

    model = _model(opset)
    source = tmp_path / "model.onnx"
    onnx.save(model, source)
    quantize({"source": str(source), "out": str(tmp_path / "int8.onnx")}, FakeReporter())  # type: ignore[arg-type]
    alone, beside = _run(tmp_path / "int8.onnx", [9]), _run(tmp_path / "int8.onnx", [9, 5, 6])
    wanted = _run(model, [9, 5, 6])
    for found, row in zip(beside[:2], wanted[:2], strict=True):
        assert found @ row / np.linalg.norm(found) / np.linalg.norm(row) > 0.999
    assert np.abs(alone[0] - beside[0]).max() < 0.05 * np.abs(wanted[0]).max()
    assert np.array_equal(beside[2], np.zeros(16))  # a row of zeros divides by nothing
    assert np.isfinite(beside).all()


@pytest.mark.parametrize("opset", [14, 18])
def test_spreading_alone_changes_nothing(opset: int) -> None:
    model = _model(opset)
    wanted = _run(model, [1, 5, 9])
    scale_rows(model)
    assert np.allclose(_run(model, [1, 5, 9]), wanted, rtol=1e-5, atol=1e-4)


def test_a_table_has_a_scale_a_row() -> None:
    model = _model(18)
    wanted = _run(model, [1, 5, 6])
    quantize_tables(model)
    assert {tensor.name for tensor in model.graph.initializer} == {"weight", "table_int8", "table_scale"}
    assert np.abs(_run(model, [1, 5, 6]) - wanted).max() < 0.02 * np.abs(wanted).max()


def test_small_tables_and_those_that_are_used_otherwise_stay() -> None:
    from onnx import helper

    small = _model(18, rows=10)
    quantize_tables(small)
    assert "table" in {tensor.name for tensor in small.graph.initializer}
    tied = _model(18)
    tied.graph.node.append(helper.make_node("Transpose", ["table"], ["turned"]))
    quantize_tables(tied)
    assert "table" in {tensor.name for tensor in tied.graph.initializer}
