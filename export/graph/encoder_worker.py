"""Encoder quantization: child process that makes the weights of an encoder's ONNX graph int8.

Runs as ``python -m edgeslm_export.graph.encoder_worker`` with a task on standard input (see
``subprocess_job``), which has the files ``source`` and ``out``. onnxruntime's dynamic quantization uses one
activation range for all tokens, so a single token with large activations leaves few quantization steps for
the other tokens. This module divides each token's row by its largest magnitude before a product and
multiplies the result by that magnitude (see ``matmul_by_row``). So every row uses the whole range, at the
cost of a few small operations.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from edgeslm_export.graph.onnx_edit import replace
from edgeslm_export.jobs.subprocess_job import Reporter

_LEAST_ROWS = 64
"""Minimum number of rows of an embedding table for it to be quantized: quantizing smaller tables (token
types) would save nothing."""

_TINY = 1e-9
"""Minimum divisor of a row, so that a row of zeros isn't divided by zero."""


def quantize(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Writes the int8 form of the graph ``source`` to ``out``.

    Weights of matrix products have a scale for each output channel and seven bits of range, so that sums of
    int8 products can't saturate on CPUs without VNNI. Embedding tables have a scale for each row.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    reporter.progress(2, 4, "quantizing")
    source, out = Path(task["source"]), Path(task["out"])
    model = onnx.load(source)
    quantize_tables(model)
    scale_rows(model)
    prepared = source.with_name("prepared.onnx")
    onnx.save(model, prepared)
    quantize_dynamic(
        prepared,
        out,
        op_types_to_quantize=["MatMul"],
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
    )
    return {}


def quantize_tables(model: Any) -> None:
    """Quantizes embedding tables (those that only Gather reads) to int8, with a scale for each row."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    tables = {
        tensor.name: tensor
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2 and tensor.dims[0] >= _LEAST_ROWS
    }
    for node in graph.node:
        for place, name in enumerate(node.input):
            if not (node.op_type == "Gather" and place == 0 and _axis(node) == 0):
                tables.pop(name, None)
    nodes = []
    for node in graph.node:
        if node.op_type != "Gather" or node.input[0] not in tables:
            nodes.append(node)
            continue
        table, ids, made = node.input[0], node.input[1], node.output[0]
        nodes += [
            helper.make_node("Gather", [f"{table}_int8", ids], [f"{made}_int8"]),
            helper.make_node("Gather", [f"{table}_scale", ids], [f"{made}_scale"]),
            helper.make_node("Cast", [f"{made}_int8"], [f"{made}_float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{made}_float", f"{made}_scale"], [made]),
        ]
    for name, tensor in tables.items():
        values = numpy_helper.to_array(tensor)
        scale = np.maximum(np.abs(values).max(axis=1, keepdims=True), _TINY).astype(np.float32) / 127
        rounded = np.round(values / scale).astype(np.int8)
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(rounded, f"{name}_int8"))
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
    replace(graph, nodes)


def scale_rows(model: Any) -> None:
    """Divides each row by its largest magnitude before a product with weights, and multiplies the result by
    that magnitude."""
    import numpy as np
    from onnx import helper, numpy_helper

    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    version = next(opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx"))
    graph.initializer.append(numpy_helper.from_array(np.float32(_TINY), "rows_tiny"))
    graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), "rows_axis"))
    nodes, spread = [], set()
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in weights:
            nodes.append(node)
            continue
        rows, made = node.input[0], node.output[0]
        if rows not in spread:
            spread.add(rows)
            largest = (  # the axis became an input in version 18
                helper.make_node("ReduceMax", [f"{rows}_abs", "rows_axis"], [f"{rows}_max"], keepdims=1)
                if version >= 18
                else helper.make_node("ReduceMax", [f"{rows}_abs"], [f"{rows}_max"], axes=[-1], keepdims=1)
            )
            nodes += [
                helper.make_node("Abs", [rows], [f"{rows}_abs"]),
                largest,
                helper.make_node("Max", [f"{rows}_max", "rows_tiny"], [f"{rows}_largest"]),
                helper.make_node("Div", [rows, f"{rows}_largest"], [f"{rows}_spread"]),
            ]
        node.input[0], node.output[0] = f"{rows}_spread", f"{made}_spread_out"
        nodes += [node, helper.make_node("Mul", [f"{made}_spread_out", f"{rows}_largest"], [made])]
    replace(graph, nodes)


def _axis(node: Any) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), 0)


if __name__ == "__main__":
    sys.exit(Reporter().run(quantize))
