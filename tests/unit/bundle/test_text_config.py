"""The plain decoder within other configs, and its sizes."""

from __future__ import annotations

from typing import Any

from edgeslm.bundle.model_shape import read_shape
from edgeslm.bundle.text_config import served_context, text_config

GEMMA_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152},
}
"""What the published file of Gemma 3 4B says; the other sizes are transformers' defaults."""
MINISTRAL: dict[str, Any] = {
    "architectures": ["Mistral3ForConditionalGeneration"],
    "text_config": {
        "hidden_size": 3072,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 131072,
        "max_position_embeddings": 262144,
        "model_type": "ministral3",
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 16.0,
            "original_max_position_embeddings": 16384,
            "llama_4_scaling_beta": 0.1,
        },
    },
}
GRANITE: dict[str, Any] = {
    "architectures": ["GraniteMoeHybridForCausalLM"],
    "hidden_size": 2560,
    "intermediate_size": 512,
    "shared_intermediate_size": 8192,
    "num_hidden_layers": 2,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "vocab_size": 100352,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "num_local_experts": 0,
    "layer_types": ["attention", "attention"],
    "position_embedding_type": "rope",
}


def test_gemma_3_of_a_multimodal_file() -> None:
    shape = read_shape(GEMMA_4B)
    assert shape.architecture == "Gemma3ForCausalLM"
    assert (shape.heads, shape.kv_heads, shape.head_dim, shape.vocab) == (8, 4, 256, 262_208)
    assert (shape.window, shape.windowed_layers) == (1024, 29)
    assert shape.tied
    assert shape.weights == 3_880_263_168  # 4.3 billion with the vision tower


def test_ministral_is_served_up_to_its_original_context() -> None:
    shape = read_shape(MINISTRAL)
    assert shape.architecture == "Ministral3ForCausalLM"
    assert shape.tied
    assert shape.context_length == 16384
    plain = {**MINISTRAL["text_config"], "rope_parameters": {"rope_type": "default"}}
    assert served_context(plain, 262144) == 262144


def test_granite_4_without_mamba_is_a_granite() -> None:
    plain = text_config(GRANITE)
    assert plain["architectures"] == ["GraniteForCausalLM"]
    assert plain["intermediate_size"] == 8192
    assert read_shape(GRANITE).inner == 8192
    for changes in ({"layer_types": ["mamba", "attention"]}, {"num_local_experts": 8}):
        changed = {**GRANITE, **changes}
        assert text_config(changed) is changed


def test_a_plain_config_stays_as_it_is() -> None:
    plain = {"architectures": ["LlamaForCausalLM"], "text_config": {"hidden_size": 1}}
    assert text_config(plain) is plain
    assert text_config({}) == {}
    odd = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": [1]}
    assert text_config(odd) is odd
