"""Size estimate: predicted file size, memory and speed of a decoder. Pure.

A ``Shape`` and the storage formats of its matrices give a ``Footprint``; with a board's figures, that gives
memory and tokens/s for a context. Efficiencies were measured with onnxruntime 1.32 on x86-64 with AVX-512
(CPU time of one thread, which other load hardly changes); checks: ``docs/operations/boards.md``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgeslm.bundle.model_shape import EMBEDDING, HEAD, Matrix, Shape
from edgeslm.hardware.board_profiles import Board

FLOAT_BYTES = 4
REST = "*"
"""Key in ``Formats`` for all groups that aren't listed."""

RUNTIME_BYTES = 100_000_000
"""Python, the two libraries and the peak while loading (SmolLM2-135M: 44 MB before a model, 24 MB of code and
buffers after; loading peaks a few tens of MB above)."""
TOKENIZER_BYTES_A_TOKEN = 350
"""Memory of the tokenizer: Qwen2.5 49 MB for 151,936 tokens, SmolLM2 16 MB for 49,152."""
TOKENIZER_FILE_BYTES_A_TOKEN = 90
"""tokenizer.json: 72 (SmolLM2), 76 (Qwen2.5), 112 (Mistral), 134 (Gemma) bytes per token."""
GRAPH_BYTES_A_LAYER = 28_500
"""The three graphs (generate, adapters, score) without weights; twice as much with the recipe w8a8."""
PREFILL_CHUNK = 128
"""Prompt tokens per forward pass: larger chunks need more memory (24 MB at 512) and aren't faster."""

DECODE_EFFICIENCY = 0.85
"""Bandwidth of a layer's matrix products relative to one long product. Measured: 0.83 to 0.86."""
LAYER_SECONDS = 15e-6
"""Time per layer and token in addition to reading the weights."""
MEETING_SECONDS = 45e-6
"""Thread synchronization per layer and token: 30 to 60 microseconds with two threads, measured on
SmolLM2-135M and Qwen2.5-0.5B."""
DECODE_ATTENTION = 0.1
"""Speed of float32 attention over the cache for one new token, relative to ``int4_gflops``."""
PREFILL_ATTENTION = 0.45
"""The same for the tokens of a prompt."""
ELEMENT_OPERATIONS = 250
"""Cost of one value in norms, activations and requantization, in operations of a matrix product."""
VECTOR_COMPUTE = 0.7
"""Share of the compute that a matrix-vector product reaches (272 of 382 GFLOPS, group 128)."""


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """Storage format of matrices: ``bits`` per weight (an average if mixed, 32 for float), in groups of
    ``group_size`` (0: a row is a group).

    Scales take two bytes in the file and four in memory.
    """

    bits: float
    group_size: int = 0
    scale_bytes: int = 2
    zero_points: bool = False

    def stored_bytes(self, matrix: Matrix) -> int:
        """Bytes in the file: codes, scales and, if asymmetric, zero points of ``bits`` each, packed by
        row."""
        if self.bits == 32:
            return matrix.weights * FLOAT_BYTES
        groups, width = self._groups(matrix)
        row = int(groups * (width * self.bits / 8 + self.scale_bytes))
        if self.zero_points:
            row += math.ceil(groups * self.bits / 8)
        return matrix.rows * row * matrix.count

    def resident_bytes(self, matrix: Matrix) -> int:
        """Bytes after loading: the repacked copy has codes, a scale and a sum for each group (MLAS,
        ``qnbitgemm.h``); the float32 scales stay too. Measured on Qwen2.5-0.5B int4: 44 bytes per 64
        weights."""
        if self.bits == 32:
            return matrix.weights * FLOAT_BYTES
        groups, width = self._groups(matrix)
        return int(matrix.rows * groups * (width * self.bits / 8 + 3 * FLOAT_BYTES) * matrix.count)

    def _groups(self, matrix: Matrix) -> tuple[int, int]:
        """Groups per row, with the last one padded, and columns per group."""
        width = self.group_size or matrix.columns
        return math.ceil(matrix.columns / width), width


FLOAT = WeightFormat(32)
Formats = Mapping[str, WeightFormat]
"""Weight group (``Matrix.group`` or ``embedding``) -> format; ``*``: all others."""


def format_of(formats: Formats, group: str) -> WeightFormat:
    return formats.get(group) or formats[REST]


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of a decoder: in its files, read per token, and in memory without a cache."""

    shape: Shape
    formats: Formats
    written: Formats
    """Formats of the decode weights: ``formats``, or separate ones."""
    weight_bytes: int
    """``model.onnx.data``."""
    file_bytes: int
    """The whole bundle."""
    prompt_bytes: int
    """Read for each chunk of a prompt: all matrices and the head."""
    token_bytes: int
    """The same for each decoded token."""
    resident_bytes: int
    """Weights after loading, tokenizer and runtime."""


def footprint(shape: Shape, formats: Formats, written: Formats | None = None) -> Footprint:
    """A tied embedding is stored once, with its head; any other has the format of ``embedding``.

    :param written: formats of separate decode weights; the head is stored once and repacked twice.
    """
    matrices = shape.matrices()
    stored = sum(format_of(formats, m.group).stored_bytes(m) for m in matrices)
    resident = sum(format_of(formats, m.group).resident_bytes(m) for m in matrices)
    prompt_bytes = token_bytes = stored
    if written is not None:
        token_bytes = sum(format_of(written, m.group).stored_bytes(m) for m in matrices)
        resident += sum(format_of(written, m.group).resident_bytes(m) for m in matrices)
        stored += sum(format_of(written, m.group).stored_bytes(m) for m in matrices if m.group != HEAD)
    embedding = Matrix(EMBEDDING, shape.vocab, shape.hidden, 1)
    head = format_of(formats, HEAD)
    shared = shape.tied
    embedding_bytes = 0 if shared else format_of(formats, EMBEDDING).stored_bytes(embedding)
    # A quantized shared embedding is kept a second time, in the layout of the lookup. A float one isn't: only
    # the rows in use are read.
    copied = int(embedding.weights * head.bits / 8) if shared and head.bits < 32 else 0
    groups = shape.weights_by_group()
    floats = (groups["norms"] + groups["biases"]) * FLOAT_BYTES
    positions = shape.context_length + shape.short_context
    floats += positions * (shape.rotary_dim or shape.head_dim) * FLOAT_BYTES
    weight_bytes = stored + embedding_bytes + floats
    return Footprint(
        shape=shape,
        formats=formats,
        written=written or formats,
        weight_bytes=weight_bytes,
        file_bytes=weight_bytes
        + GRAPH_BYTES_A_LAYER * shape.layers
        + TOKENIZER_FILE_BYTES_A_TOKEN * shape.vocab,
        prompt_bytes=prompt_bytes,
        token_bytes=token_bytes,
        resident_bytes=resident + copied + floats + TOKENIZER_BYTES_A_TOKEN * shape.vocab + RUNTIME_BYTES,
    )


def memory_bytes(foot: Footprint, tokens: int) -> int:
    """Memory of the engine process for ``tokens``: weights, cache and a chunk's activations.

    The cache is allocated in full, even for windowed layers (``slide_key_value_cache`` is off for CPUs).
    """
    shape = foot.shape
    values = 10 * shape.hidden + 4 * shape.inner
    return foot.resident_bytes + shape.kv_bytes_per_token * tokens + PREFILL_CHUNK * values * FLOAT_BYTES


def rough_memory_bytes(weight_bytes: int, tokenizer_bytes: int, cache_bytes: int) -> int:
    """The same for a bundle with unknown shape, from its file sizes.

    Counts weights 1.5 times: repacked ones take 22 % more than in the file, and a shared embedding is kept
    twice. SmolLM2-135M with 512 tokens: 258 MB, measured 241 to 278; Qwen2.5-0.5B: 595 MB, measured 611.
    """
    return weight_bytes * 3 // 2 + tokenizer_bytes * 9 // 2 + cache_bytes + RUNTIME_BYTES


def _operation_seconds(formats: Formats, board: Board, group: str, operations: float) -> float:
    """Seconds at the rate for 4 bits, for 8, or for a mixture by the average bits."""
    eight = min(max((format_of(formats, group).bits - 4) / 4, 0.0), 1.0)
    return operations * ((1 - eight) / board.int4_gflops + eight / board.int8_gflops) / 1e9


def _reach(shape: Shape, tokens: float) -> float:
    """Tokens attended to, summed over the layers."""
    near = min(tokens, shape.window) if shape.window else tokens
    return (shape.layers - shape.windowed_layers) * tokens + shape.windowed_layers * near


def _attention_seconds(shape: Shape, board: Board, tokens: float, share: float) -> float:
    operations = 4 * shape.heads * shape.head_dim * _reach(shape, tokens)
    return operations / (share * board.int4_gflops * 1e9)


def decode_tps(foot: Footprint, board: Board, context: int) -> float:
    """Decode speed in tokens/s after ``context`` tokens: each token reads all matrices and the cache.

    Roofline model (Williams et al., 2009, doi:10.1145/1498765.1498785) of matrix-vector products.
    """
    shape = foot.shape
    reading = foot.token_bytes / (board.read_gbs * 1e9 * DECODE_EFFICIENCY)
    computing = sum(
        _operation_seconds(foot.written, board, matrix.group, 2 * matrix.weights / VECTOR_COMPUTE)
        for matrix in shape.matrices()
    )
    attention = _attention_seconds(shape, board, context, DECODE_ATTENTION)
    layer = LAYER_SECONDS + (MEETING_SECONDS if board.cores > 1 else 0)
    return 1 / (max(reading, computing) + layer * shape.layers + attention)


def prefill_tps(foot: Footprint, board: Board, tokens: int) -> float:
    """Prefill speed in tokens/s of a prompt of ``tokens``, in chunks; the head is computed once per chunk."""
    shape = foot.shape
    seconds = 0.0
    for matrix in shape.matrices():
        if matrix.group != HEAD:
            seconds += _operation_seconds(foot.formats, board, matrix.group, 2 * matrix.weights)
    elements = shape.layers * (2 * shape.inner + 6 * shape.hidden)
    seconds += elements * ELEMENT_OPERATIONS / (board.int4_gflops * 1e9)
    seconds += _attention_seconds(shape, board, tokens / 2, PREFILL_ATTENTION)
    head = next(matrix for matrix in shape.matrices() if matrix.group == HEAD)
    head_bytes = format_of(foot.formats, HEAD).stored_bytes(head)
    chunk = min(tokens, PREFILL_CHUNK)
    seconds += head_bytes / (board.read_gbs * 1e9 * DECODE_EFFICIENCY) / chunk
    # A short prompt is limited by reading all weights for few tokens.
    return 1 / max(seconds, foot.prompt_bytes / (board.read_gbs * 1e9 * DECODE_EFFICIENCY) / chunk)
