"""Model shape: sizes and number of weights of a decoder, from its published ``config.json``.

The module adds properties of the model families that aren't in ``config.json``. Pure. The module
``size_estimate`` computes file size, memory and speed from the shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeslm.bundle.text_config import refusal, served_context, text_config
from edgeslm.errors import ShapeError

EMBEDDING = "embedding"
HEAD = "head"
FLOAT_BYTES = 4
INT8_CACHE_BYTES = 500_000_000
"""Size of a float32 KV cache for the whole context, in bytes, from which an export makes the cache int8."""


@dataclass(frozen=True, slots=True)
class Family:
    """Properties of a model family that aren't in its config but in transformers' ``modeling_*.py``.

    If ``qkv_bias`` is None, the config's ``attention_bias`` applies. With ``own_head_dim`` or
    ``own_kv_heads``, the config must have the key (``head_dim`` or ``num_key_value_heads``), because its
    default is only in the code of transformers. With ``two_tables``, windowed layers have a position table of
    their own.
    """

    tied: bool = False
    qkv_bias: bool | None = None
    output_bias: bool = True
    norms: int = 2
    qk_norm: bool = False
    own_head_dim: bool = False
    own_kv_heads: bool = False
    two_tables: bool = False
    window_every: int = 0
    """If the config has no ``layer_types``, each ``window_every``-th layer has full attention, and the other
    layers have an attention window. With 0, no layer has a window; with -1, all layers have a window."""


FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family(),
    "Ministral3ForCausalLM": Family(qkv_bias=False, own_head_dim=True, own_kv_heads=True, window_every=-1),
    "MistralForCausalLM": Family(qkv_bias=False, own_kv_heads=True, window_every=-1),
    "Qwen2ForCausalLM": Family(qkv_bias=True, output_bias=False, own_kv_heads=True),
    "Qwen3ForCausalLM": Family(qk_norm=True, own_head_dim=True, own_kv_heads=True),
    "Phi3ForCausalLM": Family(qkv_bias=False, window_every=-1),
    "GemmaForCausalLM": Family(tied=True, own_head_dim=True, own_kv_heads=True),
    "Gemma2ForCausalLM": Family(tied=True, norms=4, own_head_dim=True, own_kv_heads=True, window_every=2),
    "Gemma3ForCausalLM": Family(
        tied=True,
        norms=4,
        qk_norm=True,
        own_head_dim=True,
        own_kv_heads=True,
        two_tables=True,
        window_every=6,
    ),
    "GraniteForCausalLM": Family(),
    "SmolLM3ForCausalLM": Family(tied=True, own_kv_heads=True),
}


@dataclass(frozen=True, slots=True)
class Matrix:
    """``count`` matrices of equal size [rows, columns]; each quantization group is part of a row."""

    group: str
    rows: int
    columns: int
    count: int

    @property
    def weights(self) -> int:
        return self.rows * self.columns * self.count


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a decoder. There are ``windowed_layers`` layers that attend to the last ``window`` tokens; the
    other layers attend to all tokens."""

    architecture: str
    layers: int
    hidden: int
    inner: int
    vocab: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    context_length: int
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    norms: int = 2
    qk_norm: bool = False
    window: int = 0
    windowed_layers: int = 0
    rotary_dim: int = 0
    short_context: int = 0
    """Number of rows in the second position table: the short one of Phi-3's LongRoPE, or that of Gemma 3's
    windowed layers; 0 for other models."""
    cache_item_bytes: int = FLOAT_BYTES
    """Bytes of a number in the KV cache."""

    def matrices(self) -> tuple[Matrix, ...]:
        """All weight matrices of a forward pass. The exporter fuses the matrices q, k and v, and also gate
        and up."""
        width = self.heads * self.head_dim
        joined = width + 2 * self.kv_heads * self.head_dim
        return (
            Matrix("attention_qkv", joined, self.hidden, self.layers),
            Matrix("attention_output", self.hidden, width, self.layers),
            Matrix("mlp_gate_up", 2 * self.inner, self.hidden, self.layers),
            Matrix("mlp_down", self.hidden, self.inner, self.layers),
            Matrix(HEAD, self.vocab, self.hidden, 1),
        )

    def weights_by_group(self) -> dict[str, int]:
        """Number of weights per group, as stored in a checkpoint; 0 for a head that shares the weights of the
        embedding."""
        groups = {matrix.group: matrix.weights for matrix in self.matrices()}
        groups[EMBEDDING] = self.vocab * self.hidden
        if self.tied:
            groups[HEAD] = 0
        norms = self.layers * (self.norms * self.hidden + (2 * self.head_dim if self.qk_norm else 0))
        groups["norms"] = norms + self.hidden
        joined = (self.heads + 2 * self.kv_heads) * self.head_dim
        groups["biases"] = self.layers * (
            self.qkv_bias * joined
            + self.output_bias * self.hidden
            + self.mlp_bias * (2 * self.inner + self.hidden)
        )
        return groups

    @property
    def weights(self) -> int:
        return sum(self.weights_by_group().values())

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of the KV cache of all layers per token. The engine caches all tokens, even for layers with
        an attention window."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.cache_item_bytes


class _ShapeReader:
    """Reads positive integers and flags from a config; errors name the missing or invalid key."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self._config, self._where = config, where

    def number(self, key: str, default: int | None = None) -> int:
        value = self._config.get(key)
        if value is None:
            value = default
        if value is None:
            raise ShapeError(
                f"{self._where} says nothing of {key}, so nothing can be predicted; take the model's own."
            )
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**40:
            raise ShapeError(f"{self._where} has {value!r} as {key}, where a positive whole number belongs.")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._config.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ShapeError(f"{self._where} has {value!r} as {key}, where true or false belongs.")
        return value


def read_shape(config: Mapping[str, Any], where: str = "config.json") -> Shape:
    """Reads the shape of a model from its config.

    :param config: content of a published ``config.json``.
    :param where: name of the file in error messages.
    :raises ShapeError: the architecture is unknown, a key is missing, or a value is invalid.
    """
    whole, config = config, text_config(config)
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        known = ", ".join(sorted(family.removesuffix("ForCausalLM") for family in FAMILIES))
        if isinstance(name, str) and (why := refusal(name, whole)):
            raise ShapeError(f"{where} has the architecture {name}, which isn't exported: {why}.")
        raise ShapeError(
            f"{where} has the architecture {name or 'of no name'}, whose sizes aren't known; "
            f"known are {known}."
        )
    read = _ShapeReader(config, where)
    hidden, heads, layers = map(read.number, ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    kv_heads = read.number("num_key_value_heads", None if family.own_kv_heads else heads)
    if heads % kv_heads:
        raise ShapeError(
            f"{where} has {heads} attention heads for {kv_heads} key-value heads, which don't divide them."
        )
    if config.get("head_dim") is None and not family.own_head_dim and hidden % heads:
        raise ShapeError(f"{where} has a hidden_size of {hidden}, which {heads} heads don't divide.")
    head_dim = read.number("head_dim", None if family.own_head_dim else hidden // heads)
    context = served_context(config, read.number("max_position_embeddings"))
    window, windowed = _windows(config, family, layers, read)
    bias = read.flag("attention_bias", False) if family.qkv_bias is None else family.qkv_bias
    scaled = config.get("rope_scaling") or config.get("rope_parameters") or {}
    long_rope = isinstance(scaled, dict) and "short_factor" in scaled
    second_table = context if family.two_tables else 0
    if long_rope:
        second_table = read.number("original_max_position_embeddings", 4096)
    cache_values = 2 * layers * kv_heads * head_dim * context
    return Shape(
        architecture=str(name),
        layers=layers,
        hidden=hidden,
        inner=read.number("intermediate_size"),
        vocab=read.number("vocab_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        tied=read.flag("tie_word_embeddings", family.tied),
        context_length=context,
        qkv_bias=bias,
        output_bias=bias and family.output_bias,
        mlp_bias=read.flag("mlp_bias", False),
        norms=family.norms,
        qk_norm=family.qk_norm,
        window=window,
        windowed_layers=windowed,
        rotary_dim=_rotary_dim(config, head_dim),
        short_context=second_table,
        cache_item_bytes=item_bytes_of_cache(cache_values, long_rope=long_rope),
    )


def item_bytes_of_cache(values: int, *, long_rope: bool = False) -> int:
    """Bytes of a number in the KV cache that an export makes: 1 (int8) if a float32 cache would be large,
    otherwise 4. Graphs with LongRoPE, which choose between two position tables, keep float32.

    :param values: number of keys and values that the cache of a whole context has.
    """
    return FLOAT_BYTES if long_rope or values * FLOAT_BYTES < INT8_CACHE_BYTES else 1


def _windows(config: Mapping[str, Any], family: Family, layers: int, read: _ShapeReader) -> tuple[int, int]:
    """The attention window in tokens, and the number of layers that have it."""
    off = config.get("sliding_window") is None or config.get("use_sliding_window") is False
    if off:
        return 0, 0
    window = read.number("sliding_window")
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        return window, min(layers, sum(kind == "sliding_attention" for kind in kinds))
    every = family.window_every
    return (window, layers if every < 0 else layers - layers // every) if every else (0, 0)


def _rotary_dim(config: Mapping[str, Any], head_dim: int) -> int:
    nested = config.get("rope_parameters")
    share = config.get("partial_rotary_factor")
    if share is None and isinstance(nested, dict):
        share = nested.get("partial_rotary_factor")
    return int(head_dim * share) if isinstance(share, int | float) and 0 < share <= 1 else head_dim
