"""Model catalog: common chat models from 0.1 to 7 billion weights, and which of them suits a board.

The sizes are those of the published ``config.json`` files. ``size_estimate`` computes memory and speed from
them, so nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from edgeslm.bundle.model_shape import EMBEDDING, HEAD, Shape, read_shape
from edgeslm.bundle.performance import Expectation, expect
from edgeslm.bundle.size_estimate import REST, Footprint, Formats, WeightFormat, footprint, memory_bytes
from edgeslm.hardware.board_profiles import Board

CONTEXT: Final = 8192
"""Context length, in tokens, for which a model is chosen."""
DAEMON_BYTES: Final = 60_000_000
"""Memory of the daemon."""
ENCODER_BYTES: Final = 160_000_000
"""Memory of the process of a small encoder: MiniLM in int8 and the libraries."""
SYSTEM_BYTES: Final = 440_000_000
"""Memory of a board that the operating system and other services use."""

_HEAD_FORMAT: Final = WeightFormat(8, 64)
FORMATS: Final[Formats] = {REST: WeightFormat(4.8, 32), HEAD: _HEAD_FORMAT, EMBEDDING: _HEAD_FORMAT}
"""Storage formats of the default recipe of ``edgeslm-export model``."""
RECIPE: Final = "auto"


@dataclass(frozen=True)
class KnownModel:
    """A published model. ``weights`` is the number of parameters, from the model's page; ``config`` has the
    sizes of its ``config.json``. ``is_open`` tells whether the licence allows any use without a registration
    or a share of users."""

    name: str
    source: str
    licence: str
    weights: int
    config: Mapping[str, Any]
    is_open: bool = True

    @cached_property
    def shape(self) -> Shape:
        return read_shape(self.config, self.source)

    @cached_property
    def footprint(self) -> Footprint:
        return footprint(self.shape, FORMATS)


def _config(
    architecture: str,
    hidden: int,
    inner: int,
    layers: int,
    heads: int,
    kv_heads: int,
    vocab: int,
    *,
    context: int,
    tied: bool = True,
    **more: Any,
) -> dict[str, Any]:
    return {
        "architectures": [f"{architecture}ForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        "tie_word_embeddings": tied,
        **more,
    }


_APACHE: Final = "Apache-2.0"
_QWEN2: Final[Mapping[str, Any]] = {"context": 32768, "sliding_window": 32768, "use_sliding_window": False}

MODELS: Final[tuple[KnownModel, ...]] = (
    KnownModel(
        "SmolLM2-135M",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        _APACHE,
        134_515_008,
        _config("Llama", 576, 1536, 30, 9, 3, 49152, context=8192),
    ),
    KnownModel(
        "SmolLM2-360M",
        "HuggingFaceTB/SmolLM2-360M-Instruct",
        _APACHE,
        361_821_120,
        _config("Llama", 960, 2560, 32, 15, 5, 49152, context=8192),
    ),
    KnownModel(
        "Qwen2.5-0.5B",
        "Qwen/Qwen2.5-0.5B-Instruct",
        _APACHE,
        494_032_768,
        _config("Qwen2", 896, 4864, 24, 14, 2, 151936, **_QWEN2),
    ),
    KnownModel(
        "Llama-3.2-1B",
        "meta-llama/Llama-3.2-1B-Instruct",
        "Llama 3.2",
        1_235_814_400,
        _config("Llama", 2048, 8192, 16, 32, 8, 128256, context=131072, head_dim=64),
        is_open=False,
    ),
    KnownModel(
        "Qwen2.5-1.5B",
        "Qwen/Qwen2.5-1.5B-Instruct",
        _APACHE,
        1_543_714_304,
        _config("Qwen2", 1536, 8960, 28, 12, 2, 151936, **_QWEN2),
    ),
    KnownModel(
        "SmolLM2-1.7B",
        "HuggingFaceTB/SmolLM2-1.7B-Instruct",
        _APACHE,
        1_711_376_384,
        _config("Llama", 2048, 8192, 24, 32, 32, 49152, context=8192),
    ),
    KnownModel(
        "Gemma-2-2B",
        "google/gemma-2-2b-it",
        "Gemma",
        2_614_341_888,
        _config("Gemma2", 2304, 9216, 26, 8, 4, 256000, context=8192, head_dim=256, sliding_window=4096),
        is_open=False,
    ),
    KnownModel(
        "Qwen2.5-3B",
        "Qwen/Qwen2.5-3B-Instruct",
        "Qwen Research",
        3_085_938_688,
        _config("Qwen2", 2048, 11008, 36, 16, 2, 151936, **_QWEN2),
        is_open=False,
    ),
    KnownModel(
        "Llama-3.2-3B",
        "meta-llama/Llama-3.2-3B-Instruct",
        "Llama 3.2",
        3_212_749_824,
        _config("Llama", 3072, 8192, 28, 24, 8, 128256, context=131072, head_dim=128),
        is_open=False,
    ),
    KnownModel(
        "Phi-3-mini-4k",
        "microsoft/Phi-3-mini-4k-instruct",
        "MIT",
        3_821_079_552,
        _config(
            "Phi3",
            3072,
            8192,
            32,
            32,
            32,
            32064,
            context=4096,
            tied=False,
            original_max_position_embeddings=4096,
            sliding_window=2047,
        ),
    ),
    KnownModel(
        "Qwen3-4B",
        "Qwen/Qwen3-4B-Instruct-2507",
        _APACHE,
        4_022_468_096,
        _config("Qwen3", 2560, 9728, 36, 32, 8, 151936, context=262144, head_dim=128),
    ),
    KnownModel(
        "Mistral-7B-v0.3",
        "mistralai/Mistral-7B-Instruct-v0.3",
        _APACHE,
        7_248_023_552,
        _config("Mistral", 4096, 14336, 32, 32, 8, 32768, context=32768, tied=False),
    ),
    KnownModel(
        "Qwen2.5-7B",
        "Qwen/Qwen2.5-7B-Instruct",
        _APACHE,
        7_615_616_512,
        _config("Qwen2", 3584, 18944, 28, 28, 4, 152064, **_QWEN2, tied=False),
    ),
)
"""Ordered by size."""


@dataclass(frozen=True, slots=True)
class Use:
    """What a model is for: a typical request reads ``read`` new tokens and writes ``written``, and somebody
    waits ``seconds`` for it at most."""

    summary: str
    read: int
    written: int
    seconds: float


USES: Final[Mapping[str, Use]] = {
    "labels": Use("a label or a few fields of a short message", 80, 8, 2.0),
    "answers": Use("an answer from five passages of a document", 800, 60, 20.0),
    "text": Use("free text, such as a summary", 1000, 250, 60.0),
}
USUAL: Final = "answers"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model on a board. ``need_bytes`` is the memory with daemon, encoder and ``context`` tokens;
    ``seconds`` is the duration of a typical request of the use, ``typical`` the speed with as many tokens as
    this request reads."""

    model: KnownModel
    context: int
    typical: Expectation
    need_bytes: int
    fits: bool
    seconds: float
    is_fast: bool


def rate(board: Board, room_bytes: int, use: Use, context: int = CONTEXT) -> list[Candidate]:
    """Rates all models of the catalog for a board, ordered by size.

    :param room_bytes: memory for daemon, encoder and model.
    :param context: context length in tokens; a model with a shorter one is rated for its own.
    """
    found = []
    for model in MODELS:
        tokens = min(context, model.shape.context_length)
        need = memory_bytes(model.footprint, tokens) + DAEMON_BYTES + ENCODER_BYTES
        typical = expect(model.footprint, board, use.read)
        seconds = use.read / typical.prefill_tps + use.written / typical.decode_tps
        is_fast = seconds <= use.seconds
        found.append(Candidate(model, tokens, typical, need, need <= room_bytes, seconds, is_fast))
    return found


def choose(candidates: Sequence[Candidate], context: int = CONTEXT) -> Candidate | None:
    """The largest model with an open licence that fits the memory, is fast enough and has the whole context;
    None if there is none."""
    suitable = [
        one for one in candidates if one.model.is_open and one.fits and one.is_fast and one.context == context
    ]
    return max(suitable, key=lambda one: one.model.weights, default=None)
