"""PEFT adapters on tiny float bases: the same numbers as PEFT, and what doesn't fit is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeslm_export.graph.lora_graph import Branch
from edgeslm_export.models.adapter import FILE, arrange, export_adapter
from edgeslm_export.models.lora import CONFIG, WEIGHTS, Lora, Pair, load_lora

from edgeslm.bundle.manifest import load_bundle
from edgeslm.engine.calls import Sampling
from edgeslm.engine.worker.decoder import Decoder, _last_logits
from edgeslm.engine.worker.kv_cache import SlotKey
from edgeslm.engine.worker.prompt import Encoded
from edgeslm.errors import BundleError, ExportError
from tests.support.export.fixtures import Cases
from tests.support.export.tiny_adapters import CASES

pytestmark = pytest.mark.export


def logits(decoder: Decoder, ids: list[int], adapter: Path | None) -> Any:
    """After the last of ``ids``, along the way of a request."""
    name = None if adapter is None else str(adapter)
    prompt = Encoded(ids, None, len(ids))
    slot = decoder._slot(prompt, len(ids) + 1, SlotKey(adapter=name), Sampling(), lambda: False)
    return _last_logits(slot.generator)


@pytest.mark.parametrize("name", CASES)
def test_an_adapter_gives_the_logits_of_peft(name: str, cases: Cases, tmp_path: Path) -> None:
    case, out = cases / name, tmp_path / "adapter"
    manifest, measured = export_adapter(case / "lora", out, case / "base")
    assert manifest.adapter is not None
    assert manifest.adapter.base == load_bundle(case / "base").digest
    assert measured["sample"]["tokens"] > 0

    expected = json.loads((case / "expected.json").read_text())
    decoder = Decoder(case / "base", 1, dict.fromkeys([out]))
    plain = Decoder(case / "base", 1)
    try:
        ids = expected["ids"]
        adapted = logits(decoder, ids, out)
        assert np.abs(adapted - expected["adapted"]).max() < 1e-3
        assert np.abs(adapted - expected["plain"]).max() > 0.01, "the adapter changes nothing"
        # Without an adapter, the graph that takes one computes what the plain graph does.
        assert (logits(decoder, ids, None) == logits(plain, ids, None)).all()
        assert np.abs(logits(plain, ids, None) - expected["plain"]).max() < 1e-3
    finally:
        decoder.close()
        plain.close()


def test_the_same_adapter_gives_the_same_bytes(cases: Cases, tmp_path: Path) -> None:
    case = cases / "llama"
    for name in ("one", "two"):
        export_adapter(case / "lora", tmp_path / name, case / "base")
    assert load_bundle(tmp_path / "one").digest == load_bundle(tmp_path / "two").digest


def test_the_weights_are_float32_and_scaled(cases: Cases, tmp_path: Path) -> None:
    import onnxruntime

    case = cases / "rslora"
    export_adapter(case / "lora", tmp_path / "out", case / "base")
    values = onnxruntime.AdapterFormat.read_adapter(str(tmp_path / "out" / FILE)).get_parameters()
    lora = load_lora(case / "lora")
    q, v = (lora.pairs[0, "self_attn", name] for name in ("q_proj", "v_proj"))
    assert q.scale == 12 / 2
    b = values["model.layers.0.attn.qkv_proj.lora_B"].numpy()
    assert b.dtype == np.float32
    assert (b[:4, :64] == q.b.T * np.float32(6)).all()
    assert (b[4:, 96:] == v.b.T * np.float32(6)).all()
    assert not b[:4, 64:].any()
    assert not b[4:, :96].any()


def test_a_packed_pair_is_cut_for_products_of_their_own() -> None:
    random = np.random.default_rng(5)
    pair = Pair(random.random((2, 8), np.float32), random.random((12, 2), np.float32), 0.5)
    lora = Lora(Path("lora"), {(0, "mlp", "gate_up_proj"): pair}, "", "")
    branches = [Branch(0, "mlp", name, 8, 6) for name in ("gate_proj", "up_proj")]
    values = arrange(lora, branches, {})
    for branch, rows in zip(branches, (slice(0, 6), slice(6, 12)), strict=True):
        assert (values[branch.a] == pair.a.T).all()
        assert (values[branch.b] == pair.b[rows].T * np.float32(0.5)).all()


# -- refusals --------------------------------------------------------------------------------------


@pytest.fixture
def lora(cases: Cases, tmp_path: Path) -> Path:
    """A folder of its own, to be spoilt."""
    return Path(shutil.copytree(cases / "llama" / "lora", tmp_path / "lora"))


def change(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **fields}))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"peft_type": "IA3"}, "only LORA"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"lora_bias": True}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [1, 2]}, "embeddings"),
        ({"layer_replication": [[0, 2]]}, "replicated"),
        ({"alora_invocation_tokens": [5]}, "aLoRA"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model"),
        ({"r": 8}, "rank"),
        ({"auto_mapping": {"base_model_class": "Qwen2ForCausalLM"}}, "Qwen2ForCausalLM"),
    ],
)
def test_an_adapter_that_is_more_than_pairs_is_refused(
    fields: dict[str, Any], sentence: str, lora: Path, cases: Cases, tmp_path: Path
) -> None:
    change(lora, **fields)
    with pytest.raises(ExportError, match=sentence):
        export_adapter(lora, tmp_path / "out", cases / "llama" / "base")
    assert not (tmp_path / "out").exists()


def replace_weights(folder: Path, **changes: Any) -> None:
    """Writes the weights anew; a key's ``__`` stands for a dot, None takes the tensor out."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    for key, value in changes.items():
        name = key.replace("__", ".")
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value
    save_file(tensors, folder / WEIGHTS)


Q = "base_model__model__model__layers__{}__self_attn__q_proj__lora_{}__weight"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({Q.format(0, "A"): None}, "only lora_B"),
        ({Q.format(0, "A"): np.zeros((2, 64), np.float32)}, "don't fit"),
        ({Q.format(0, "A"): np.zeros((3, 64), np.int32)}, "type I32"),
        ({Q.format(0, "A"): np.full((3, 64), np.nan, np.float32)}, "finite"),
        ({Q.format(0, "A"): np.zeros((3, 32), np.float32)}, "32 inputs"),
        ({Q.format(0, "B"): np.zeros((32, 3), np.float32)}, "32 outputs"),
        (
            {
                Q.format(2, "A"): np.zeros((3, 64), np.float32),
                Q.format(2, "B"): np.zeros((64, 3), np.float32),
            },
            "layer 2, .* has 2 layers",
        ),
        ({"base_model__model__lm_head__lora_A__weight": np.zeros((3, 64), np.float32)}, "lm_head"),
        (
            {
                key.format(0): np.zeros(shape, np.float32)
                for key, shape in (
                    ("base_model__model__model__layers__{}__mlp__fc1__lora_A__weight", (4, 64)),
                    ("base_model__model__model__layers__{}__mlp__fc1__lora_B__weight", (64, 4)),
                )
            },
            "mlp.fc1",
        ),
    ],
)
def test_weights_that_dont_fit_are_refused(
    changes: dict[str, Any], sentence: str, lora: Path, cases: Cases, tmp_path: Path
) -> None:
    replace_weights(lora, **changes)
    with pytest.raises(ExportError, match=sentence):
        export_adapter(lora, tmp_path / "out", cases / "llama" / "base")


def test_a_folder_without_its_files_or_with_damaged_ones_is_refused(
    lora: Path, cases: Cases, tmp_path: Path
) -> None:
    base = cases / "llama" / "base"
    (lora / WEIGHTS).write_bytes((lora / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(ExportError, match="damaged"):
        export_adapter(lora, tmp_path / "out", base)
    (lora / WEIGHTS).unlink()
    with pytest.raises(ExportError, match="save_pretrained"):
        export_adapter(lora, tmp_path / "out", base)
    (lora / CONFIG).write_text("[")
    with pytest.raises(ExportError, match="not JSON"):
        export_adapter(lora, tmp_path / "out", base)
    (lora / CONFIG).unlink()
    with pytest.raises(ExportError, match="PEFT did not save this folder"):
        export_adapter(lora, tmp_path / "out", base)
    with pytest.raises(ExportError, match="no such folder"):
        export_adapter(tmp_path / "none", tmp_path / "out", base)


def test_bfloat16_is_read_without_loss(lora: Path) -> None:
    a, b = np.array([[1.5, -2.0]], np.float32), np.array([[3.0], [0.25]], np.float32)
    header, data = {}, b""
    for letter, value in (("A", a), ("B", b)):
        upper = (value.view(np.uint32) >> 16).astype("<u2").tobytes()
        header[f"base_model.model.model.layers.0.self_attn.q_proj.lora_{letter}.weight"] = {
            "dtype": "BF16",
            "shape": list(value.shape),
            "data_offsets": [len(data), len(data) + len(upper)],
        }
        data += upper
    encoded = json.dumps(header).encode()
    (lora / WEIGHTS).write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
    change(lora, r=1, rank_pattern={})
    pair = load_lora(lora).pairs[0, "self_attn", "q_proj"]
    assert (pair.a == a).all()
    assert (pair.b == b).all()


def test_a_base_without_lora_inputs_is_refused(cases: Cases, tmp_path: Path) -> None:
    base = Path(shutil.copytree(cases / "llama" / "base", tmp_path / "base"))
    manifest = json.loads((base / "manifest.json").read_text())
    del manifest["graphs"]["adapters"]
    (base / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ExportError, match="export it again"):
        export_adapter(cases / "llama" / "lora", tmp_path / "out", base)


# -- the engine ------------------------------------------------------------------------------------


def test_an_adapter_of_another_base_or_damaged_is_refused(cases: Cases, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_adapter(cases / "llama" / "lora", out, cases / "llama" / "base")
    with pytest.raises(BundleError, match="made for the base sha256"):
        Decoder(cases / "mistral" / "base", 1, dict.fromkeys([out]))
    with pytest.raises(BundleError, match="where an adapter is needed"):
        Decoder(cases / "llama" / "base", 1, dict.fromkeys([cases / "mistral" / "base"]))
    data = bytearray((out / FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (out / FILE).write_bytes(data)
    with pytest.raises(BundleError, match=FILE):
        Decoder(cases / "llama" / "base", 1, dict.fromkeys([out]))
