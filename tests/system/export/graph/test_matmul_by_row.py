"""Products of integers by row: as the builder writes them into a bundle, and as the runtime computes them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when the inference library is imported

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from edgeslm_export.graph.lora_graph import Product, find_products, load_branches
from edgeslm_export.graph.matmul_by_row import smoothing_of

from edgeslm.bundle.manifest import load_bundle
from edgeslm.engine.calls import Generate, Prompt, Text, Turn
from edgeslm.engine.worker.decoder import Decoder
from tests.support.export.tiny_models import SHAPE

pytestmark = pytest.mark.export
Floats = npt.NDArray[np.float32]
LAYERS = SHAPE["num_hidden_layers"]


class Graph:
    """A bundle's graph with its weights, of which one product at a time can be asked: the one for adapters,
    where each token has a scale of its own (``fixed_scales``)."""

    def __init__(self, bundle: Path) -> None:
        self.model = onnx.load(bundle / "model_lora.onnx")
        self.products = find_products(self.model)
        self.makers = {name: node for node in self.model.graph.node for name in node.output}
        self._tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}

    def run(self, product: Product, x: Floats) -> Any:
        nodes, names = [], [product.last.output[0]]
        while names:
            node = self.makers.get(names.pop())
            if node is not None and node not in nodes:
                nodes.append(node)
                names += [name for name in node.input if name != product.source]
        order = [node for node in self.model.graph.node if node in nodes]
        used = {name for node in order for name in node.input} & self._tensors.keys()
        graph = onnx.helper.make_graph(
            order,
            "one",
            [onnx.helper.make_tensor_value_info(product.source, onnx.TensorProto.FLOAT, None)],
            [onnx.helper.make_tensor_value_info(product.last.output[0], onnx.TensorProto.FLOAT, None)],
            [self._tensors[name] for name in used],
        )
        alone = onnx.helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=10)
        session = onnxruntime.InferenceSession(alone.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {product.source: x})[0]

    def weights(self, product: Product) -> Any:
        """[outputs, inputs], by what the graph stores."""
        codes, _, scales = (self._value(name) for name in product.weighing.input[1:4])
        factors = smoothing_of(product.weighing.input[0], self.makers)
        assert (factors is None) == (product.branch.matrix == "o_proj")
        smoothing = 1.0 if factors is None else self._value(factors)
        return codes.T.astype(np.float32) * scales[:, None] * smoothing

    def _value(self, name: str) -> Any:
        node = self.makers.get(name)
        if node is None:
            return onnx.numpy_helper.to_array(self._tensors[name])
        if node.op_type == "Cast":
            return self._value(node.input[0]).astype(np.float32)
        return None  # a constant


@pytest.fixture(scope="module")
def graph(by_row_base: Path) -> Graph:
    return Graph(by_row_base)


def test_every_product_of_a_layer_is_of_integers_and_the_head_is_not(graph: Graph) -> None:
    assert [product.weighing.op_type for product in graph.products] == ["MatMulIntegerToFloat"] * 4 * LAYERS
    kinds = [node.op_type for node in graph.model.graph.node]
    assert kinds.count("MatMulNBits") == 1
    assert kinds.count("QuantizeLinear") == 4 * LAYERS  # what several read becomes codes once


def test_a_product_is_that_of_its_weights_whatever_the_size_of_a_token(graph: Graph) -> None:
    x = np.random.default_rng(3).normal(size=(1, 5, SHAPE["hidden_size"])).astype(np.float32)
    x *= np.array([1, 1e-3, 1e4, 0, 1], np.float32)[:, None]
    for product in graph.products:
        if product.branch.inputs != SHAPE["hidden_size"]:
            continue
        found, expected = graph.run(product, x), x @ graph.weights(product).T
        assert np.isfinite(found).all()
        assert (found[0, 3] == 0).all()
        error = np.abs(found - expected).max(axis=2)
        assert (error <= 0.03 * np.abs(expected).max(axis=2)).all(), product.branch


def test_what_is_computed_for_a_token_does_not_depend_on_the_others(graph: Graph) -> None:
    """One scale for all made it so, and the same request got other answers behind another one."""
    product = graph.products[0]
    x = np.random.default_rng(4).normal(size=(1, 6, product.branch.inputs)).astype(np.float32)
    x[0, 2] *= 1000
    together = graph.run(product, x)
    for token in range(6):
        assert (graph.run(product, x[:, token : token + 1])[0, 0] == together[0, token]).all()


def test_an_adapter_reads_what_the_product_reads_and_adds_to_what_it_gives(
    by_row_base: Path, graph: Graph
) -> None:
    manifest = load_bundle(by_row_base).manifest
    assert len(load_branches(by_row_base / str(manifest.graphs.adapters))) == 4 * LAYERS
    taken = onnx.load(by_row_base / str(manifest.graphs.adapters), load_external_data=False)
    for product in graph.products:
        (adapted,) = (node for node in taken.graph.node if product.branch.a in node.input)
        assert adapted.input[0] == product.source
        assert not adapted.input[0].endswith("Codes/output_0")
        assert adapted.op_type == "MatMul"
        (sum_,) = (node for node in taken.graph.node if product.last.output[0] in node.input)
        assert sum_.op_type == "Add"


def test_the_engine_writes_with_it(by_row_base: Path) -> None:
    engine = Decoder(by_row_base, 1)
    try:
        prompt = Prompt((Turn("user", (Text("the pump runs hot"),)),))
        outputs = [engine.generate(Generate(prompt, 8)) for _ in range(2)]
    finally:
        engine.close()
    assert outputs[0].text == outputs[1].text
    assert outputs[0].cost.completion_tokens > 0
