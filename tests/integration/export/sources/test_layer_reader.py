"""A model read layer by layer computes what the whole one does, and gives its memory back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from edgeslm_export.sources.checkpoint import DECODERS
from edgeslm_export.sources.corpus import BATCH
from edgeslm_export.sources.layer_reader import LayeredModel

from edgeslm.errors import ExportError
from tests.support.export.tiny_models import FAMILIES, decoder

torch.set_num_threads(1)  # what is so small is only slowed down by more
VOCABULARY = 60
IDS = torch.randint(3, VOCABULARY, (BATCH + 2, 24), generator=torch.Generator().manual_seed(5))


def _tiny(name: str, **settings: Any) -> Any:
    torch.manual_seed(7)
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    return decoder(name, vocab_size=VOCABULARY, **{**ends, **settings})


def _saved(model: Any, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    return folder


def _logits(model: LayeredModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        hidden, calls = model.embed(ids), model.calls(ids[:BATCH])
        for number in range(len(model.layers)):
            with model.borrowed(number):
                hidden = model.run(number, hidden, calls)
        return model.logits(hidden)


def _expected(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(IDS).logits
    return logits


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", FAMILIES)
def test_layer_by_layer_gives_the_logits_of_the_whole_model(name: str, tied: bool, tmp_path: Path) -> None:
    # The window is shorter than the text: masks of Gemma's layers differ.
    own = {"sliding_window": 8} if name == "gemma2" else {}
    whole = _tiny(name, tie_word_embeddings=tied, **own)
    model = LayeredModel(_saved(whole, tmp_path / name))
    assert model.tied is tied
    assert (_logits(model, IDS) - _expected(whole)).abs().max() < 1e-4


@pytest.mark.parametrize("architecture", DECODERS)
def test_every_supported_architecture_can_be_read(architecture: str, tmp_path: Path) -> None:
    """Phi, whose final norm has a name of its own, could not."""
    own: dict[str, dict[str, Any]] = {
        "GraniteForCausalLM": {"logits_scaling": 3.0, "embedding_multiplier": 2.0},
        "Ernie4_5ForCausalLM": {"head_dim": 16},
        "Gemma3ForCausalLM": {"head_dim": 16},
        "HunYuanDenseV1ForCausalLM": {"head_dim": 16},
        "Qwen3_5ForCausalLM": {"layer_types": ["linear_attention", "full_attention"]},
    }
    whole = _tiny(architecture.removesuffix("ForCausalLM"), **own.get(architecture, {}))
    model = LayeredModel(_saved(whole, tmp_path / "model"))
    assert (_logits(model, IDS) - _expected(whole)).abs().max() < 1e-4


def test_borrowed_layers_give_their_memory_back(tmp_path: Path) -> None:
    model = LayeredModel(_saved(_tiny("llama"), tmp_path / "model"))
    assert all(parameter.is_meta for layer in model.layers for parameter in layer.parameters())
    with model.borrowed(1) as layer:
        assert not any(parameter.is_meta for parameter in layer.parameters())
        assert all(parameter.is_meta for parameter in model.layers[0].parameters())
    assert all(parameter.is_meta for parameter in model.layers[1].parameters())
    with pytest.raises(RuntimeError), model.borrowed(0):
        raise RuntimeError
    assert all(parameter.is_meta for parameter in model.layers[0].parameters())
    with model.borrowed(0) as layer:  # what was changed while it was borrowed is forgotten
        assert layer.mlp.up_proj.weight.abs().max() > 0
        layer.mlp.up_proj.weight.zero_()
    model.load_layer(0)
    assert model.layers[0].mlp.up_proj.weight.abs().max() > 0


@pytest.mark.parametrize("how", ["shards", "bin", "half"])
def test_weights_may_be_in_shards_in_bin_files_or_in_half_precision(how: str, tmp_path: Path) -> None:
    whole = _tiny("qwen2")
    folder = tmp_path / "model"
    if how == "half":
        whole = whole.to(torch.bfloat16)
    _saved(whole, folder, **({"max_shard_size": "60KB"} if how == "shards" else {}))
    if how == "shards":
        assert len(list(folder.glob("*.safetensors"))) > 1
    if how == "bin":
        torch.save(whole.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    assert (_logits(LayeredModel(folder), IDS) - _expected(whole.float())).abs().max() < 1e-4


def test_a_configuration_that_says_nothing_of_tied_embeddings_means_its_familys_default(
    tmp_path: Path,
) -> None:
    whole = _tiny("llama", tie_word_embeddings=False)
    folder = _saved(whole, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["tie_word_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    model = LayeredModel(folder)
    assert not model.tied
    assert (_logits(model, IDS) - _expected(whole)).abs().max() < 1e-4


def test_without_matrices_only_small_parameters_are_filled(tmp_path: Path) -> None:
    model = LayeredModel(_saved(_tiny("qwen2"), tmp_path / "model"), matrices=False)
    model.load_layer(0)
    attention = model.layers[0].self_attn
    assert attention.q_proj.weight.is_meta
    assert not attention.q_proj.bias.is_meta
    assert not model.layers[0].input_layernorm.weight.is_meta
    assert model.model.model.embed_tokens.weight.is_meta


def test_matrices_have_the_names_of_the_checkpoint(tmp_path: Path) -> None:
    whole = _tiny("phi3")
    names = set(LayeredModel(_saved(whole, tmp_path / "model")).matrices())
    assert {"lm_head", "model.layers.1.self_attn.qkv_proj", "model.layers.0.mlp.gate_up_proj"} < names
    assert {f"{name}.weight" for name in names} <= set(whole.state_dict())


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    whole = _tiny("llama")
    with torch.no_grad():
        whole.model.layers[1].mlp.up_proj.weight[3, 3] = torch.nan
    model = LayeredModel(_saved(whole, tmp_path / "model"))
    with pytest.raises(ExportError, match=r"1\.mlp\.up_proj\.weight holds numbers that aren't finite"):
        model.load_layer(1)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    whole = _tiny("llama")
    state = whole.state_dict()
    del state["model.layers.0.mlp.up_proj.weight"]
    folder = _saved(whole, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(ExportError, match=r"no weights model\.layers\.0\.mlp\.up_proj\.weight"):
        LayeredModel(folder).load_layer(0)
