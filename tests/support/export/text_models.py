"""Tiny random checkpoints of each architecture: plain ones, those within others, scaled positions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support import function_gemma
from tests.support.export.tiny_models import SHAPE, byte_tokenizer

_HEADS: Mapping[str, Any] = {"head_dim": 16}
_GEMMA3: Mapping[str, Any] = {
    **_HEADS,
    "query_pre_attn_scalar": 16,
    "sliding_window": 24,
    "num_hidden_layers": 6,
    "max_position_embeddings": 512,
}
LFM2: Mapping[str, Any] = {
    "num_hidden_layers": 4,
    "layer_types": ["conv", "conv", "full_attention", "conv"],
    "block_multiple_of": 32,
}
QWEN3_5: Mapping[str, Any] = {
    **_HEADS,
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
_VISION: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_YARN: Mapping[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 1000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "beta_fast": 8.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
_LONG: Mapping[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "original_max_position_embeddings": 512,
}

_PLAIN: Mapping[str, Mapping[str, Any]] = {
    "Ernie4_5": _HEADS,
    "Gemma": _HEADS,
    "Gemma2": {**_HEADS, "query_pre_attn_scalar": 16, "sliding_window": 24},
    "Gemma3": _GEMMA3,
    "Granite": {"logits_scaling": 3.0, "embedding_multiplier": 2.0},
    "HunYuanDenseV1": _HEADS,
    "Lfm2": LFM2,
    "Llama": {},
    "Mistral": {"sliding_window": None},
    "Nemotron": {"num_attention_heads": 2},
    "Phi": {"num_attention_heads": 2},
    "Phi3": {"original_max_position_embeddings": 512},
    "Qwen2": {},
    "Qwen3": _HEADS,
    "Qwen3_5": QWEN3_5,
    "SmolLM3": {},
}

CASES: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any] | None]] = {
    **{name: (f"{name}ForCausalLM", settings, None) for name, settings in _PLAIN.items()},
    "Gemma 3, stretched": (
        "Gemma3ForCausalLM",
        {
            **_GEMMA3,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        None,
    ),
    "FunctionGemma": ("Gemma3ForCausalLM", {**_GEMMA3, "tie_word_embeddings": True}, None),
    "Gemma 3, multimodal": (
        "Gemma3ForConditionalGeneration",
        _GEMMA3,
        {**_VISION, "model_type": "siglip_vision_model"},
    ),
    "Mistral 3": (
        "Mistral3ForConditionalGeneration",
        {**_HEADS, "model_type": "mistral", "sliding_window": None},
        {**_VISION, "model_type": "pixtral"},
    ),
    "Ministral 3": (
        "Mistral3ForConditionalGeneration",
        {**_HEADS, "model_type": "ministral3", "rope_parameters": {**_YARN, "llama_4_scaling_beta": 0.1}},
        {**_VISION, "model_type": "pixtral"},
    ),
    "LFM2-VL": (
        "Lfm2VlForConditionalGeneration",
        {**LFM2, "model_type": "lfm2"},
        {**_VISION, "model_type": "siglip2_vision_model"},
    ),
    "Qwen3.5, multimodal": (
        "Qwen3_5ForConditionalGeneration",
        {**QWEN3_5, "model_type": "qwen3_5_text"},
        {"hidden_size": 32, "intermediate_size": 64, "depth": 1, "num_heads": 2, "out_hidden_size": 64},
    ),
    "Granite 4": (
        "GraniteMoeHybridForCausalLM",
        {
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "shared_intermediate_size": 128,
            "layer_types": ["full_attention", "full_attention"],
            "position_embedding_type": "rope",
            "embedding_multiplier": 2.0,
            "logits_scaling": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
            "tie_word_embeddings": True,
        },
        None,
    ),
    "Phi-4-mini": (
        "Phi3ForCausalLM",
        {
            "hidden_size": 128,
            "num_attention_heads": 2,
            "tie_word_embeddings": True,
            "max_position_embeddings": 1024,
            "original_max_position_embeddings": 512,
            "rope_parameters": {**_LONG, "short_factor": [1.0] * 24, "long_factor": [2.0] * 24},
        },
        None,
    ),
}
"""Name of a model -> its transformers class, the settings of its decoder, those of a vision tower."""


def write_case(name: str, folder: Path) -> None:
    """Writes the checkpoint as transformers saves it."""
    import torch
    import transformers

    architecture, settings, vision = CASES[name]
    tokenizer = byte_tokenizer()
    if name == "FunctionGemma":
        tokenizer.add_special_tokens({"additional_special_tokens": list(function_gemma.CONTROL)})
        tokenizer.chat_template = function_gemma.TEMPLATE
    tokens = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    text = {**SHAPE, **tokens, "initializer_range": 0.1, **settings}
    model_class = getattr(transformers, architecture)
    if vision is None:
        config = model_class.config_class(**text)
    else:
        config = model_class.config_class(text_config=text, vision_config=dict(vision), mm_tokens_per_image=4)
        config.initializer_range = 0.1
    torch.manual_seed(7)
    model_class(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
