"""Tiny float bases with PEFT adapters and PEFT's logits, made by a child process with torch.

``python -m tests.support.export.tiny_adapters OUT NAME...`` writes to OUT/NAME: ``base`` (a float decoder
bundle with a LoRA graph), ``lora`` (saved by PEFT) and ``expected.json``: a text's token ids and the logits
after the last one, by the base alone and with the adapter.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.support.export.tiny_models import SHAPE, byte_tokenizer, byte_vocabulary

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # name: class, settings of the model, settings of the adapter
    "llama": (
        "Llama",
        {"tie_word_embeddings": True},
        {
            "target_modules": "all-linear",
            "rank_pattern": {"q_proj": 3, "layers.1.mlp.down_proj": 2},
            "alpha_pattern": {"v_proj": 1},
        },
    ),
    "rslora": ("Llama", {}, {"target_modules": ["q_proj", "v_proj"], "use_rslora": True}),
    "one-layer": ("Llama", {}, {"target_modules": ["up_proj", "k_proj"], "layers_to_transform": [1]}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}, {"target_modules": "all-linear"}),
    "qwen3": ("Qwen3", {"head_dim": 16}, {"target_modules": "all-linear"}),
    "phi3": (
        "Phi3",
        {"original_max_position_embeddings": SHAPE["max_position_embeddings"]},
        {"target_modules": "all-linear"},
    ),
    "gemma2": (
        "Gemma2",
        {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64},
        {"target_modules": "all-linear"},
    ),
    "mistral": ("Mistral", {"sliding_window": None}, {"target_modules": "all-linear"}),
}


def make(name: str, folder: Path) -> None:
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    kind, settings, adapter = CASES[name]
    torch.manual_seed(11)
    config = getattr(transformers, f"{kind}Config")(
        **{**SHAPE, **settings},
        vocab_size=len(byte_vocabulary()),
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    model.save_pretrained(folder / "checkpoint")
    byte_tokenizer().save_pretrained(folder / "checkpoint")
    bundle(folder / "checkpoint", folder / "base", f"{kind}ForCausalLM")

    ids = list(b"the pump runs hot and loud tonight")
    with torch.no_grad():
        plain = model(torch.tensor([ids])).logits[0, -1].tolist()
        # By default PEFT sets B to zero, so the adapter adds nothing; false makes it random.
        lora = LoraConfig(r=4, lora_alpha=12, init_lora_weights=False, task_type="CAUSAL_LM", **adapter)
        adapted = get_peft_model(model, lora).eval()
        logits = adapted(torch.tensor([ids])).logits[0, -1].tolist()
    adapted.save_pretrained(folder / "lora")
    (folder / "expected.json").write_text(json.dumps({"ids": ids, "plain": plain, "adapted": logits}))


def bundle(checkpoint: Path, out: Path, architecture: str) -> None:
    """A float bundle, made with the builder options of recipes."""
    from edgeslm_export.bundle.writer import write_manifest
    from edgeslm_export.graph.last_logits import keep_last_logits
    from edgeslm_export.graph.lora_graph import GRAPH, write_lora_graph
    from edgeslm_export.graph.score_graph import GRAPH as SCORE_GRAPH
    from edgeslm_export.graph.score_graph import write_score_graph
    from edgeslm_export.sources.normalize import make_checkpoint
    from onnxruntime_genai.models.builder import create_model, parse_extra_options

    clean, cache = str(checkpoint.with_name("clean")), str(checkpoint.with_name("cache"))
    make_checkpoint(checkpoint, architecture, Path(clean))
    pairs = ["hf_token=false", "prune_lm_head=true", "fuse_mlp_gate_up=true"]
    options = parse_extra_options(None, clean, str(out), "fp32", "cpu", cache, pairs)
    create_model(None, clean, str(out), "fp32", "cpu", cache, **options)
    score = {"score": SCORE_GRAPH} if write_score_graph(out) else {}
    keep_last_logits(out)
    assert write_lora_graph(out)
    fields = {
        "name": "tiny",
        "kind": "decoder",
        "architecture": architecture,
        "source": {"id": "tiny"},
        "context_length": SHAPE["max_position_embeddings"],
        "kv_bytes_per_token": 1,
        "graphs": {"generate": "model.onnx", "adapters": GRAPH, **score},
        "created": "1970-01-01T00:00:00Z",
    }
    write_manifest(out, fields)


if __name__ == "__main__":
    target, *names = sys.argv[1:]
    for wanted in names:
        make(wanted, Path(target) / wanted)
