"""Text configs: the plain decoder within a model whose ``config.json`` has more than that.

Multimodal models hold a decoder of a known family beside their vision tower, and Granite 4 without Mamba and
without experts is a Granite with other names. Their sizes and weights are those of the plain decoder. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

MULTIMODAL: Final = (
    "Gemma3ForConditionalGeneration",
    "Lfm2VlForConditionalGeneration",
    "Mistral3ForConditionalGeneration",
    "Qwen3_5ForConditionalGeneration",
)
GRANITE_HYBRID: Final = "GraniteMoeHybridForCausalLM"
MINISTRAL: Final = "Ministral3ForCausalLM"
LFM2: Final = "Lfm2ForCausalLM"
QWEN3_5: Final = "Qwen3_5ForCausalLM"

_GEMMA3: Final[Mapping[str, Any]] = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262_208,
    "max_position_embeddings": 131_072,
}
"""Sizes that ``Gemma3TextConfig`` of transformers has by default, which published files leave out."""

_REASONS: Final[Mapping[str, str]] = {
    "Gemma4": "its layers share caches and have own embeddings, which the engine's cache doesn't know",
    "Gemma3n": "its layers share caches and have own embeddings, which the builder doesn't write",
    "Lfm2Audio": "it answers in speech as well; take an LFM2 for text",
    "Lfm3": "onnxruntime-genai's builder doesn't know its layers",
    "Qwen3Next": "onnxruntime-genai's builder doesn't know its layers",
    "Olmo": "the builder's graph computes other logits than the model",
}


def refusal(architecture: str, config: Mapping[str, Any]) -> str | None:
    """Why an architecture can't be exported, where more than "unknown" is known."""
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    experts = text.get("num_local_experts") or text.get("num_experts") if isinstance(text, dict) else None
    if architecture == GRANITE_HYBRID and "mamba" in _layer_types(config):
        return "onnxruntime-genai's builder writes no Mamba layers; take the model without -h"
    if experts or (architecture != GRANITE_HYBRID and re.search(r"Moe|MoE|GptOss", architecture)):
        return "it is a mixture of experts, whose graph the builder writes for CUDA alone"
    if architecture == GRANITE_HYBRID:
        return "its attention has no rotary positions"
    return next((why for start, why in _REASONS.items() if architecture.startswith(start)), None)


def _layer_types(config: Mapping[str, Any]) -> set[str]:
    """Kinds of a Granite hybrid's layers; without the key they are all Mamba's, as in transformers."""
    kinds = config.get("layer_types") or config.get("layers_block_type") or ["mamba"]
    names = {"linear_attention": "mamba", "full_attention": "attention"}
    return {names.get(kind, str(kind)) for kind in kinds} if isinstance(kinds, list) else {"mamba"}


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of the plain decoder; ``config`` itself if it is one already, or isn't known."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    inner = config.get("text_config")
    if name in MULTIMODAL and isinstance(inner, dict):
        if name.startswith("Gemma3"):
            return {**_GEMMA3, **inner, "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}
        if name.startswith("Lfm2Vl"):
            return {**inner, "architectures": [LFM2], "model_type": "lfm2"}
        if name.startswith("Qwen3_5"):
            return {**inner, "architectures": [QWEN3_5], "model_type": "qwen3_5_text"}
        kind = MINISTRAL if inner.get("model_type") == "ministral3" else "MistralForCausalLM"
        tied = config.get("tie_word_embeddings", inner.get("tie_word_embeddings", False))
        return {**inner, "tie_word_embeddings": tied, "architectures": [kind]}
    is_plain = _layer_types(config) == {"attention"} and not config.get("num_local_experts")
    if name == GRANITE_HYBRID and is_plain and config.get("position_embedding_type") == "rope":
        plain = {
            key: value for key, value in config.items() if not key.startswith(("mamba", "layer", "time_"))
        }
        return {
            **plain,
            "architectures": ["GraniteForCausalLM"],
            "model_type": "granite",
            "intermediate_size": config.get("shared_intermediate_size"),
        }
    return config


def served_context(config: Mapping[str, Any], context: int) -> int:
    """The context length that an export serves. Ministral 3 scales the queries of later tokens, which the
    graph doesn't; up to its original context the scale is 1."""
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    original = rope.get("original_max_position_embeddings") if isinstance(rope, dict) else None
    is_scaled = isinstance(rope, dict) and rope.get("llama_4_scaling_beta")
    return min(context, original) if is_scaled and isinstance(original, int) else context
