"""The weights of a bundle in the transformers model that it is of: those that the graph computes with."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when the inference library is imported

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
import transformers
from edgeslm_export.models.decoder import ExportOrder, export_model
from edgeslm_export.quantize.recipe import find_recipe
from edgeslm_export.sources.checkpoint import examine_local
from edgeslm_export.train.dequantized_model import fill_stored
from onnx import TensorProto, helper

from edgeslm.engine.calls import Sampling
from edgeslm.engine.worker.decoder import Decoder, _last_logits
from edgeslm.engine.worker.kv_cache import SlotKey
from edgeslm.engine.worker.prompt import Encoded
from edgeslm.errors import ExportError
from tests.support.export.tiny_models import SHAPE, byte_tokenizer, decoder
from tests.support.taught import change_manifest

pytestmark = pytest.mark.export
Floats = npt.NDArray[np.float32]
LAYERS = range(SHAPE["num_hidden_layers"])


def load(checkpoint: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)


def matrices(bundle: Path) -> dict[str, Floats]:
    """What each ``MatMulNBits`` of the bundle makes of the unit vectors: its matrix, by the name of its node.
    The runtime's own kernel says so."""
    model = onnx.load(bundle / "model.onnx")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    casts = {node.output[0]: node for node in model.graph.node if node.op_type == "Cast"}
    found = {}
    for node in model.graph.node:
        if node.op_type != "MatMulNBits":
            continue
        numbers = {attribute.name: attribute.i for attribute in node.attribute}
        inner = [casts[name] for name in node.input if name in casts]
        product = helper.make_node(
            "MatMulNBits",
            ["x", *node.input[1:]],
            ["y"],
            domain="com.microsoft",
            **{**numbers, "accuracy_level": 1},
        )
        used = [tensors[name] for part in (*inner, product) for name in part.input if name in tensors]
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
        graph = helper.make_graph([*inner, product], "one", [x], [y], used)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        alone = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        session = onnxruntime.InferenceSession(alone.SerializeToString(), providers=["CPUExecutionProvider"])
        (columns,) = session.run(None, {"x": np.eye(numbers["K"], dtype=np.float32)})
        found[node.name] = columns.T
    return found


def of_layer(found: dict[str, Floats], layer: int, product: str) -> Floats:
    (name,) = [name for name in found if f"layers.{layer}/" in name and f"/{product}/" in name]
    return found[name]


def test_the_model_has_the_matrices_that_the_graph_computes_with(tiny: Path, int4_base: Path) -> None:
    model, found = load(tiny / "plain"), matrices(int4_base)
    assert fill_stored(model, int4_base) == 7 * len(LAYERS)
    assert len(found) == 4 * len(LAYERS) + 1  # the graph packs what reads the same input; and the head
    for layer in LAYERS:
        block = model.model.layers[layer]
        for product, parts in {
            "qkv_proj": (block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj),
            "o_proj": (block.self_attn.o_proj,),
            "gate_up_proj": (block.mlp.gate_proj, block.mlp.up_proj),
            "down_proj": (block.mlp.down_proj,),
        }.items():
            own = torch.cat([part.weight for part in parts]).detach().numpy()
            assert own == pytest.approx(of_layer(found, layer, product), abs=1e-6), (layer, product)


def test_matrices_by_row_are_the_checkpoints_to_a_hundredth(tiny: Path, by_row_base: Path) -> None:
    model, own = load(tiny / "plain"), load(tiny / "plain")
    assert fill_stored(model, by_row_base) == 7 * len(LAYERS)
    modules = dict(own.named_modules())
    for name, module in model.named_modules():
        if name.endswith("_proj"):
            weight, stored = modules[name].weight.detach().numpy(), module.weight.detach().numpy()
            assert not (stored == weight).all()
            assert np.linalg.norm(stored - weight) < 0.03 * np.linalg.norm(weight), name


def test_only_the_layers_matrices_are_replaced(tiny: Path, int4_base: Path) -> None:
    before, after = load(tiny / "plain"), load(tiny / "plain")
    fill_stored(after, int4_base)
    changed = {
        name
        for (name, old), new in zip(before.state_dict().items(), after.state_dict().values(), strict=True)
        if not torch.equal(old, new)
    }
    assert changed == {name for name in before.state_dict() if name.endswith("_proj.weight")}


def test_the_model_then_computes_what_the_engine_does(tiny: Path, int4_base: Path) -> None:
    ids = list(b"the pump runs hot and loud tonight")
    engine = Decoder(int4_base, 1)
    try:
        slot = engine._slot(Encoded(ids, None, len(ids)), len(ids) + 1, SlotKey(), Sampling(), lambda: False)
        expected = _last_logits(slot.generator)
    finally:
        engine.close()
    model = load(tiny / "plain")
    (head,) = (matrix for name, matrix in matrices(int4_base).items() if "lm_head" in name)
    with torch.no_grad():  # the embedding reads the same matrix; neither is one of the layers'
        model.lm_head.weight.copy_(torch.from_numpy(head))

    def distance() -> float:
        with torch.no_grad():
            return float(np.abs(model(torch.tensor([ids])).logits[0, -1].numpy() - expected).max())

    before = distance()
    fill_stored(model, int4_base)
    assert distance() < before / 4


def test_a_model_that_is_packed_itself_is_filled_too(tmp_path: Path) -> None:
    """Phi-3's checkpoints have queries, keys and values in one matrix, and gate and up in another."""
    tokenizer, checkpoint = byte_tokenizer(), tmp_path / "phi3"
    torch.manual_seed(7)
    tokens = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    decoder("phi3", **tokens).save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    out = tmp_path / "bundle"
    export_model(examine_local(checkpoint, "decoder"), out, ExportOrder(find_recipe("int4")))
    model, found = load(checkpoint), matrices(out)
    assert fill_stored(model, out) == 4 * len(LAYERS)
    for layer in LAYERS:
        block = model.model.layers[layer]
        queries, keys = SHAPE["hidden_size"], SHAPE["hidden_size"] // 2
        qkv = block.self_attn.qkv_proj.weight.detach().numpy()
        gate_up = block.mlp.gate_up_proj.weight.detach().numpy()
        assert qkv[:queries] == pytest.approx(_part(found, layer, "q_proj", "qkv_proj")[:queries], abs=1e-6)
        assert qkv[-keys:] == pytest.approx(_part(found, layer, "v_proj", "qkv_proj")[-keys:], abs=1e-6)
        assert gate_up == pytest.approx(of_layer(found, layer, "gate_up_proj"), abs=1e-6)


def _part(found: dict[str, Floats], layer: int, own: str, packed: str) -> Floats:
    """The product that ``own`` is, or is a part of."""
    there = any(f"/{own}/" in name for name in found)
    return of_layer(found, layer, own if there else packed)


# --- refusals ----------------------------------------------------------------------------------------


def test_another_checkpoint_is_refused(int4_base: Path) -> None:
    torch.manual_seed(8)
    other = decoder("llama", vocab_size=259)
    with pytest.raises(ExportError, match=r"another model than this checkpoint: model\.layers\.0\."):
        fill_stored(other, int4_base)


def test_a_checkpoint_of_another_shape_is_refused(int4_base: Path) -> None:
    wider = decoder("llama", vocab_size=259, hidden_size=128)
    with pytest.raises(ExportError, match="was made of another model"):
        fill_stored(wider, int4_base)


def test_zero_points_are_refused(tiny: Path, int4_base: Path, tmp_path: Path) -> None:
    """No recipe makes them, other exporters do."""
    base = Path(shutil.copytree(int4_base, tmp_path / "base"))
    graph = onnx.load(base / "model_lora.onnx", load_external_data=False)
    for node in graph.graph.node:
        if node.op_type == "MatMulNBits":
            node.input.append("zero_points")
    onnx.save(graph, base / "model_lora.onnx")
    files = json.loads((base / "manifest.json").read_text())["files"]
    sizes = {file["path"]: {**file, "bytes": (base / file["path"]).stat().st_size} for file in files}
    change_manifest(base, files=list(sizes.values()))
    with pytest.raises(ExportError, match="quantized with zero points, which can't be trained on"):
        fill_stored(load(tiny / "plain"), base)


def test_a_bundle_that_generates_nothing_is_refused(tiny: Path, int4_base: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(int4_base, tmp_path / "base"))
    change_manifest(base, graphs={})
    with pytest.raises(ExportError, match="has no graph to generate with"):
        fill_stored(load(tiny / "plain"), base)
