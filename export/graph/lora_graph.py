"""LoRA graph: a copy of a decoder's graph with a low-rank branch at each matrix product, for adapters.

``model_lora.onnx`` reads the same ``model.onnx.data`` as ``model.onnx``, so a bundle grows by the graph's
nodes only, not by weights. For each product ``x W`` of a layer the graph computes ``x A B`` and adds the two
(LoRA, arXiv:2106.09685). A and B are graph inputs, by default empty (rank 0); an adapter supplies them. Works
on graphs of onnxruntime-genai's builder, float or quantized (``MatMul``, ``MatMulNBits`` or
``matmul_by_row``), and finds the products by the names of their nodes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeslm_export.graph.matmul_by_row import BY_ROW, INTEGERS, source_of_codes
from edgeslm_export.graph.onnx_edit import makers_of
from edgeslm_export.graph.recurrent_state import state_inputs

GRAPH = "model_lora.onnx"

_NODE = re.compile(r"/model/layers\.(?P<layer>\d+)/(?P<block>attn|mlp)/(?P<matrix>\w+)/(?P<kind>MatMul\w*)")


@dataclass(frozen=True, slots=True)
class Branch:
    """The low-rank branch of one matrix product in one layer, [inputs] to [outputs]."""

    layer: int
    block: str
    matrix: str
    """Name of the matrix, for example ``q_proj``, or of several matrices packed into one, for example
    ``qkv_proj``."""
    inputs: int
    outputs: int

    @property
    def path(self) -> str:
        return f"model.layers.{self.layer}.{self.block}.{self.matrix}"

    @property
    def a(self) -> str:
        """Name of the graph input A, float32 [inputs, rank]."""
        return f"{self.path}.lora_A"

    @property
    def b(self) -> str:
        """Name of the graph input B, float32 [rank, outputs], whose values include the LoRA's scale."""
        return f"{self.path}.lora_B"


def write_lora_graph(folder: Path) -> bool:
    """Writes ``model_lora.onnx`` next to the plain graph of a bundle.

    :return: false, with nothing written, if the graph has no matrix product for an adapter, or layers with
        a recurrent state, whose matrices no adapter of PEFT's is mapped to.
    """
    import onnx

    model = onnx.load(folder / "model.onnx", load_external_data=False)
    if state_inputs(model.graph) or not add_branches(model):
        return False
    onnx.save(model, folder / GRAPH)
    return True


def load_branches(graph: Path) -> list[Branch]:
    """The branches of a graph that :func:`write_lora_graph` wrote."""
    import onnx

    model = onnx.load(graph, load_external_data=False)
    inputs = {value.name for value in model.graph.input}
    branches = (product.branch for product in find_products(model))
    return [branch for branch in branches if {branch.a, branch.b} <= inputs]


def add_branches(model: Any) -> list[Branch]:
    """Adds a low-rank branch to each matrix product in the layers of ``model`` (an ``onnx.ModelProto``), in
    place.

    Each product, packed or not, gets three nodes. A node costs about a microsecond a token, which matters for
    small models. An empty B has one column instead of ``outputs``, so that an unused branch adds one zero a
    token instead of a whole row of zeros.
    """
    from onnx import TensorProto, helper

    found = {product.last.name: product for product in find_products(model)}
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.name not in found:
            continue
        source, branch = found[node.name].source, found[node.name].branch
        out, name = node.output[0], f"{node.name.rpartition('/')[0]}/lora"
        node.output[0] = f"{name}/base"
        nodes += [
            helper.make_node("MatMul", [source, branch.a], [f"{name}/A/output_0"], f"{name}/A/MatMul"),
            helper.make_node(
                "MatMul", [f"{name}/A/output_0", branch.b], [f"{name}/B/output_0"], f"{name}/B/MatMul"
            ),
            helper.make_node("Add", [node.output[0], f"{name}/B/output_0"], [out], f"{name}/Add"),
        ]
        rank = f"rank of {branch.path}"
        for value, shape, empty in (
            (branch.a, [branch.inputs, rank], [branch.inputs, 0]),
            (branch.b, [rank, f"outputs of {branch.path}"], [0, 1]),
        ):
            model.graph.initializer.append(helper.make_tensor(value, TensorProto.FLOAT, empty, []))
            model.graph.input.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, shape))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return [product.branch for product in found.values()]


@dataclass(frozen=True, slots=True)
class Product:
    """A layer's matrix product. ``source`` is the input's name, ``weighing`` the node that has the weights,
    and ``last`` the node that computes the result. ``weighing`` and ``last`` are the same node, except in
    products of ``matmul_by_row``."""

    source: str
    weighing: Any
    last: Any
    branch: Branch


def find_products(model: Any) -> list[Product]:
    """The matrix products of a model's layers."""
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    makers = makers_of(model.graph)
    found = []
    for node in model.graph.node:
        match = _NODE.fullmatch(node.name)
        if match is None:
            continue
        weighing, source = node, node.input[0]
        if node.op_type == "MatMulNBits":
            numbers = {attribute.name: attribute.i for attribute in node.attribute}
            inputs, outputs = numbers["K"], numbers["N"]
        elif node.op_type == "MatMul" and len(shapes.get(node.input[1], ())) == 2:
            inputs, outputs = shapes[node.input[1]]
        elif match["kind"].endswith(BY_ROW):  # only the product's last node has this name
            weighing = node if node.op_type == INTEGERS else makers[node.input[0]]
            inputs, outputs = shapes[weighing.input[1]]
            source = source_of_codes(weighing.input[0], makers)
        else:
            continue
        branch = Branch(int(match["layer"]), match["block"], match["matrix"], inputs, outputs)
        found.append(Product(source, weighing, node, branch))
    return found
