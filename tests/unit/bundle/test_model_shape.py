"""Weights and cache of published models, from the sizes in their configs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.bundle.model_shape import FAMILIES, INT8_CACHE_BYTES, read_shape
from edgeslm.errors import ShapeError
from tests.support.published_configs import PUBLISHED

QWEN, _ = PUBLISHED["Qwen2.5-0.5B"]
NEEDED = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "vocab_size", "max_position_embeddings"),
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_many_weights_as_published(name: str) -> None:
    config, weights = PUBLISHED[name]
    assert read_shape(config).weights == weights


@pytest.mark.parametrize(
    ("name", "kib"), [("Qwen2.5-0.5B", 6), ("SmolLM2-135M", 4 * 11.25), ("Phi-3-mini-4k", 192)]
)
def test_the_cache_of_a_token(name: str, kib: float) -> None:
    """It has bytes, but floats for the smallest model."""
    assert read_shape(PUBLISHED[name][0]).kv_bytes_per_token == kib * 1024


def test_a_cache_that_is_small_in_float32_stays_float32() -> None:
    whole = 2 * 24 * 2 * 64 * 4  # bytes of a token of Qwen2.5-0.5B
    for tokens, item in ((INT8_CACHE_BYTES // whole, 4), (INT8_CACHE_BYTES // whole + 1, 1)):
        shape = read_shape({**QWEN, "max_position_embeddings": tokens})
        assert shape.kv_bytes_per_token == whole * item // 4


def test_every_other_layer_of_gemma_2_has_a_window() -> None:
    shape = read_shape(PUBLISHED["Gemma-2-2B"][0])
    assert (shape.window, shape.windowed_layers) == (4096, 13)


def test_a_window_that_is_off_is_none() -> None:
    assert read_shape(QWEN).windowed_layers == 0


def test_layer_types_say_which_layers_have_a_window() -> None:
    kinds = ["sliding_attention"] * 3 + ["full_attention"] * 21
    shape = read_shape({**QWEN, "use_sliding_window": True, "sliding_window": 128, "layer_types": kinds})
    assert (shape.window, shape.windowed_layers) == (128, 3)


def test_long_rope_has_two_tables_of_positions() -> None:
    phi, _ = PUBLISHED["Phi-3-mini-4k"]
    long = {
        **phi,
        "max_position_embeddings": 131072,
        "rope_scaling": {"short_factor": [1.0], "type": "longrope"},
    }
    assert read_shape(long).short_context == 4096
    assert read_shape(long).cache_item_bytes == 4
    assert read_shape(phi).short_context == 0


@pytest.mark.parametrize("key", NEEDED)
def test_a_missing_key_is_named(key: str) -> None:
    config = {name: value for name, value in QWEN.items() if name != key}
    with pytest.raises(ShapeError, match=rf"config.json says nothing of {key}"):
        read_shape(config)


def test_gemma_must_name_its_head_dim() -> None:
    config = {**PUBLISHED["Gemma-2-2B"][0], "head_dim": None}
    with pytest.raises(ShapeError, match="nothing of head_dim"):
        read_shape(config)


@pytest.mark.parametrize("value", [0, -1, 1.5, "896", True, [896], 2**60])
def test_a_size_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ShapeError, match="hidden_size, where a positive whole number belongs"):
        read_shape({**QWEN, "hidden_size": value})


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ShapeError, match="14 attention heads for 4 key-value heads"):
        read_shape({**QWEN, "num_key_value_heads": 4})
    with pytest.raises(ShapeError, match="hidden_size of 900, which 14 heads"):
        read_shape({**QWEN, "hidden_size": 900})


@pytest.mark.parametrize("names", [None, [], "Qwen2ForCausalLM", ["MambaForCausalLM"], [7]])
def test_an_unknown_architecture_lists_the_known(names: Any) -> None:
    with pytest.raises(ShapeError, match=r"whose sizes aren't known; known are Gemma, .*Qwen3"):
        read_shape({**QWEN, "architectures": names})


@given(
    st.sampled_from(sorted(FAMILIES)),
    st.dictionaries(
        st.sampled_from([*NEEDED, "head_dim", "sliding_window", "layer_types", "tie_word_embeddings"]),
        st.none()
        | st.integers(-5, 5000)
        | st.booleans()
        | st.text(max_size=3)
        | st.lists(st.text(max_size=3)),
    ),
)
def test_any_config_gives_a_shape_or_a_sentence(architecture: str, changes: dict[str, Any]) -> None:
    try:
        shape = read_shape({**QWEN, "architectures": [architecture], **changes})
    except ShapeError as error:
        assert str(error).endswith(".")
    else:
        assert shape.weights == sum(shape.weights_by_group().values()) > 0
