"""One scale for all tokens: the same products in two nodes, where calibration saw that tokens are alike."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when the inference library is imported

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from edgeslm_export.graph.decode_graph import READS, keep_part
from edgeslm_export.graph.fixed_scales import fix_scales
from edgeslm_export.graph.matmul_by_row import INTEGERS, REACH, smooths
from edgeslm_export.graph.onnx_edit import replace

from edgeslm.engine.calls import Generate, Prompt, Score, Text, Turn
from edgeslm.engine.worker.decoder import Decoder
from tests.support.export.fixtures import export_calibrated
from tests.support.export.tiny_models import SHAPE, write_decoder

pytestmark = pytest.mark.export
Floats = npt.NDArray[np.float32]
LAYERS = SHAPE["num_hidden_layers"]
TOKENS = list(b"the pump on line 4 runs hot, and nobody knows why")


def graph_of(folder: Path, name: str = "model.onnx") -> Any:
    return onnx.load(folder / name, load_external_data=False)


def by_token(folder: Path) -> Any:
    """The graph with scales of tokens and nodes that smooth: that for adapters, without their branches."""
    model = graph_of(folder, "model_lora.onnx")
    sums = {node.input[0]: node.output[0] for node in model.graph.node if node.name.endswith("/lora/Add")}
    for node in model.graph.node:
        node.output[:] = [sums.get(name, name) for name in node.output]
    replace(model.graph, [node for node in model.graph.node if "/lora/" not in node.name])
    for values in (model.graph.input, model.graph.initializer):
        for value in [value for value in values if ".lora_" in value.name]:
            values.remove(value)
    return model


def hidden(folder: Path, model: Any) -> Floats:
    """What the layers make of some tokens, whatever the head does with it: [tokens, size]."""
    (norm,) = (node for node in model.graph.node if "final_norm" in node.name)
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(norm.output[0], onnx.TensorProto.FLOAT, None)
    )
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    decoder = json.loads((folder / "genai_config.json").read_bytes())["model"]["decoder"]
    empty = np.zeros((1, decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
    inputs = {value.name for value in session.get_inputs()}
    feeds: dict[str, Any] = {name: empty for name in inputs if name.startswith("past")}
    feeds |= {
        "input_ids": np.array([TOKENS], np.int64),
        "attention_mask": np.ones((1, len(TOKENS)), np.int64),
        "position_ids": np.arange(len(TOKENS))[None],
    }
    (found,) = session.run([norm.output[0]], {name: feeds[name] for name in inputs})
    return np.asarray(found[0])


def test_products_whose_tokens_are_alike_are_two_nodes(by_row_base: Path) -> None:
    kinds = Counter(node.op_type for node in graph_of(by_row_base).graph.node)
    nodes = graph_of(by_row_base, "model_lora.onnx").graph.node
    codes = [node for node in nodes if node.op_type == "QuantizeLinear"]
    alike = sum(any(entry.key == REACH for entry in node.metadata_props) for node in codes)
    assert kinds[INTEGERS] == len(codes) == 4 * LAYERS
    assert alike >= 2 * LAYERS  # those behind norms at least
    assert kinds["Abs"] == kinds["ReduceMax"] == kinds["Div"] == len(codes) - alike


def test_nothing_smooths_any_more_but_for_adapters(by_row_base: Path) -> None:
    for name in ("model.onnx", "model_score.onnx"):
        assert not any(smooths(node) for node in graph_of(by_row_base, name).graph.node)
    assert sum(smooths(node) for node in graph_of(by_row_base, "model_lora.onnx").graph.node) == 3 * LAYERS


def test_it_computes_nearly_what_scales_of_tokens_compute(by_row_base: Path) -> None:
    fixed = hidden(by_row_base, graph_of(by_row_base))
    own = hidden(by_row_base, graph_of(by_row_base, "model_lora.onnx"))
    assert not np.array_equal(fixed, own)
    assert np.linalg.norm(fixed - own) < 0.05 * np.linalg.norm(own)


def test_smoothing_is_the_same_in_weights_as_in_nodes(by_row_base: Path, tmp_path: Path) -> None:
    """With scales of tokens, which one code more or less doesn't hide."""
    shutil.copytree(by_row_base, tmp_path / "base")
    model = by_token(by_row_base)
    for node in model.graph.node:
        del node.metadata_props[:]
    wanted = hidden(by_row_base, model)
    onnx.save(model, tmp_path / "base" / "model.onnx")
    fix_scales(tmp_path / "base")
    folded = graph_of(tmp_path / "base")
    assert not any(smooths(node) for node in folded.graph.node)
    assert sum(node.op_type == "Abs" for node in folded.graph.node) == 4 * LAYERS
    found = hidden(tmp_path / "base", folded)
    assert np.linalg.norm(found - wanted) < 0.01 * np.linalg.norm(wanted)


def test_what_others_read_too_keeps_its_node(by_row_base: Path, tmp_path: Path) -> None:
    shutil.copytree(by_row_base, tmp_path / "base")
    model = by_token(by_row_base)
    (first, *_) = (node for node in model.graph.node if smooths(node))
    model.graph.node.append(onnx.helper.make_node("Neg", [first.input[0]], ["another"], name="/another"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("another", onnx.TensorProto.FLOAT, None))
    onnx.save(model, tmp_path / "base" / "model.onnx")
    fix_scales(tmp_path / "base")
    assert [node.name for node in graph_of(tmp_path / "base").graph.node if smooths(node)] == [first.name]


def test_what_is_new_lies_behind_the_weights_once(by_row_base: Path) -> None:
    places = [
        {tensor.name: str(tensor.external_data) for tensor in graph_of(by_row_base, name).graph.initializer}
        for name in ("model.onnx", "model_score.onnx")
    ]
    new = [name for name in places[0] if name.endswith(("/smoothed", "/step"))]
    assert len(new) > 3 * LAYERS
    assert all(places[0][name] == places[1][name] for name in new)


@pytest.mark.parametrize("name", ["phi3", "gemma2", "mistral", "qwen2", "qwen3"])
def test_each_family_has_one_scale_and_computes_nearly_the_same(name: str, tmp_path: Path) -> None:
    """And is read in several tokens, written one by one, and asked for labels."""
    torch.manual_seed(7)
    write_decoder(tmp_path / name, name, tie_word_embeddings=name not in {"mistral", "phi3"})
    folder = export_calibrated(tmp_path / name, tmp_path / "bundle", "w8a8-w4")
    plain = graph_of(folder)
    keep_part(plain.graph, READS)
    kinds = Counter(node.op_type for node in plain.graph.node)
    assert kinds[INTEGERS] - kinds["Abs"] >= 2 * LAYERS
    fixed, own = hidden(folder, plain), hidden(folder, by_token(folder))
    own = own[-len(fixed) :]  # the last layer's products read what is asked for alone
    assert np.linalg.norm(fixed - own) < 0.2 * np.linalg.norm(own)  # of random weights, which nothing taught
    decoder = Decoder(folder, 1)
    try:
        prompt = Prompt((Turn("user", (Text("the pump runs hot"),)),))
        assert decoder.generate(Generate(prompt, 4)).cost.completion_tokens
        assert sum(decoder.score(Score(prompt, ("hot", "cold"))).probabilities) == pytest.approx(1)
    finally:
        decoder.close()


def test_other_recipes_stay_as_they_are(int4_base: Path, tmp_path: Path) -> None:
    shutil.copytree(int4_base, tmp_path / "base")
    fix_scales(tmp_path / "base")
    for file in int4_base.iterdir():
        assert (tmp_path / "base" / file.name).read_bytes() == file.read_bytes()
