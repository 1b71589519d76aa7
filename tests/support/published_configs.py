"""Sizes from published ``config.json`` files, and the numbers of weights from the models' pages."""

from __future__ import annotations

from typing import Any


def _config(architecture: str, **values: Any) -> dict[str, Any]:
    return {"architectures": [architecture], **values}


def _qwen2(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int, tied: bool) -> Any:
    return _config(
        "Qwen2ForCausalLM",
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocab,
        max_position_embeddings=32768,
        sliding_window=32768,
        use_sliding_window=False,
        tie_word_embeddings=tied,
    )


def _smollm2(hidden: int, inner: int, layers: int, heads: int, kv_heads: int) -> Any:
    return _config(
        "LlamaForCausalLM",
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=49152,
        max_position_embeddings=8192,
        attention_bias=False,
        mlp_bias=False,
        tie_word_embeddings=True,
    )


PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "Qwen2.5-0.5B": (_qwen2(896, 4864, 24, 14, 2, 151936, True), 494_032_768),
    "Qwen2.5-1.5B": (_qwen2(1536, 8960, 28, 12, 2, 151936, True), 1_543_714_304),
    "Qwen2.5-3B": (_qwen2(2048, 11008, 36, 16, 2, 151936, True), 3_085_938_688),
    "Qwen2.5-7B": (_qwen2(3584, 18944, 28, 28, 4, 152064, False), 7_615_616_512),
    "SmolLM2-135M": (_smollm2(576, 1536, 30, 9, 3), 134_515_008),
    "SmolLM2-360M": (_smollm2(960, 2560, 32, 15, 5), 361_821_120),
    "SmolLM2-1.7B": (_smollm2(2048, 8192, 24, 32, 32), 1_711_376_384),
    "Phi-3-mini-4k": (
        _config(
            "Phi3ForCausalLM",
            hidden_size=3072,
            intermediate_size=8192,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            vocab_size=32064,
            max_position_embeddings=4096,
            original_max_position_embeddings=4096,
            rope_scaling=None,
            sliding_window=2047,
            tie_word_embeddings=False,
        ),
        3_821_079_552,
    ),
    "Gemma-2-2B": (
        # It doesn't set tie_word_embeddings; the family's default is true.
        _config(
            "Gemma2ForCausalLM",
            hidden_size=2304,
            intermediate_size=9216,
            num_hidden_layers=26,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=256,
            vocab_size=256000,
            max_position_embeddings=8192,
            sliding_window=4096,
            attention_bias=False,
        ),
        2_614_341_888,
    ),
    "Mistral-7B-v0.3": (
        _config(
            "MistralForCausalLM",
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            vocab_size=32768,
            max_position_embeddings=32768,
            sliding_window=None,
            tie_word_embeddings=False,
        ),
        7_248_023_552,
    ),
}
