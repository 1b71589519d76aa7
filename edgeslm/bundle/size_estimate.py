"""Size estimate: bytes, memory and speed of a decoder, predicted in this one place.

Pure: a ``Shape`` and how its matrices are stored give a ``Footprint``; with a board's figures it gives memory
for a context and tokens/s. Efficiencies are measured with onnxruntime 1.32 on x86-64 with AVX-512 (one
thread, its own CPU time, which a busy machine hardly changes); ``docs/operations/boards.md`` has the commands
that check them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgeslm.bundle.model_shape import EMBEDDING, HEAD, Matrix, Shape
from edgeslm.hardware.board_profiles import Board

FLOAT_BYTES = 4
REST = "*"
"""The key of ``Formats`` for every group that has none of its own."""

RUNTIME_BYTES = 100_000_000
"""Python, the two libraries and what loading takes for a moment (SmolLM2-135M: 44 MB before a model, 24 MB of
code and buffers after; the peak of loading is a few tens of MB above what stays)."""
TOKENIZER_BYTES_A_TOKEN = 350
"""Memory of the tokenizer: Qwen2.5 49 MB for 151,936 tokens, SmolLM2 16 MB for 49,152."""
TOKENIZER_FILE_BYTES_A_TOKEN = 90
"""tokenizer.json: 72 (SmolLM2), 76 (Qwen2.5), 112 (Mistral), 134 (Gemma) bytes a token."""
GRAPH_BYTES_A_LAYER = 28_500
"""The three graphs, plain, with branches for adapters and for labels in one pass, without their weights; by
the recipe w8a8 twice as much."""
PREFILL_CHUNK = 128
"""Prompt tokens a forward pass: activations of more cost memory (24 MB at 512) and gain no speed."""

DECODE_EFFICIENCY = 0.85
"""Of the rate at which one long product reads; a layer's are shorter. Measured 0.83 to 0.86."""
LAYER_SECONDS = 15e-6
"""What a layer costs one token beside reading its weights."""
MEETING_SECONDS = 45e-6
"""What several threads lose a layer and token by waiting for one another, after each of its products: 30 to
60 microseconds with two threads, measured on SmolLM2-135M and Qwen2.5-0.5B."""
DECODE_ATTENTION = 0.1
"""Speed of float32 attention over the cache for one new token, as a share of int4's."""
PREFILL_ATTENTION = 0.45
"""The same for the tokens of a prompt."""
ELEMENT_OPERATIONS = 250
"""Operations of a matrix product that one value of norms, activations and requantization costs as much as."""
VECTOR_COMPUTE = 0.7
"""Share of the compute that a product with a single row reaches (272 of 382 GFLOPS, group 128)."""


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """How matrices are stored: ``bits`` in groups (a row is one where ``group_size`` is 0), an average where
    some have 4 and some 8, or 32 for float.

    Scales take two bytes in the file and four in memory.
    """

    bits: float
    group_size: int = 0
    scale_bytes: int = 2
    zero_points: bool = False

    def stored_bytes(self, matrix: Matrix) -> int:
        """In the file: codes, scales and, if asymmetric, zero points of ``bits`` each, packed by row."""
        if self.bits == 32:
            return matrix.weights * FLOAT_BYTES
        groups, width = self._groups(matrix)
        row = int(groups * (width * self.bits / 8 + self.scale_bytes))
        if self.zero_points:
            row += math.ceil(groups * self.bits / 8)
        return matrix.rows * row * matrix.count

    def resident_bytes(self, matrix: Matrix) -> int:
        """After loading: the repacked copy holds codes, a scale and a sum for each group (MLAS,
        ``qnbitgemm.h``), and the widened scales stay beside it. Measured on Qwen2.5-0.5B int4:
        44 bytes for each 64 weights."""
        if self.bits == 32:
            return matrix.weights * FLOAT_BYTES
        groups, width = self._groups(matrix)
        return int(matrix.rows * groups * (width * self.bits / 8 + 3 * FLOAT_BYTES) * matrix.count)

    def _groups(self, matrix: Matrix) -> tuple[int, int]:
        """Groups a row, the last one padded, and their columns."""
        width = self.group_size or matrix.columns
        return math.ceil(matrix.columns / width), width


FLOAT = WeightFormat(32)
Formats = Mapping[str, WeightFormat]
"""Weight group (``Matrix.group`` or ``embedding``) -> how it is stored; ``*`` is the rest."""


def format_of(formats: Formats, group: str) -> WeightFormat:
    return formats.get(group) or formats[REST]


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of a decoder: in its files, read for each new token, and in memory without a cache."""

    shape: Shape
    formats: Formats
    written: Formats
    """How the weights are stored that compute a token which follows alone: ``formats``, or others."""
    weight_bytes: int
    """``model.onnx.data``."""
    file_bytes: int
    """The whole bundle."""
    prompt_bytes: int
    """Read for each piece of a prompt: all matrices and the head."""
    token_bytes: int
    """The same for each decoded token."""
    resident_bytes: int
    """Weights after loading, tokenizer and runtime."""


def footprint(shape: Shape, formats: Formats, written: Formats | None = None) -> Footprint:
    """A tied embedding is stored once, with its head; any other is stored as ``embedding`` says.

    :param written: where single tokens have weights of their own; the head is stored once, laid out twice.
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
    # A shared one is kept a second time, in the layout that looking up needs; of a float one only the rows
    # that were asked for are ever read.
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
    """What the engine's process takes with room for ``tokens``: weights, cache and a chunk's activations.

    The cache is allocated whole, windows or not (``slide_key_value_cache`` is off for CPUs).
    """
    shape = foot.shape
    values = 10 * shape.hidden + 4 * shape.inner
    return foot.resident_bytes + shape.kv_bytes_per_token * tokens + PREFILL_CHUNK * values * FLOAT_BYTES


def rough_memory_bytes(weight_bytes: int, tokenizer_bytes: int, cache_bytes: int) -> int:
    """The same for a bundle of which only the sizes of its files are known.

    Weights half as much again: repacked ones take 22 % more than in the file, and one that is shared with
    the embedding is kept twice. SmolLM2-135M with 512 tokens: 258 MB, measured 241 to 278; Qwen2.5-0.5B:
    595 MB, measured 611.
    """
    return weight_bytes * 3 // 2 + tokenizer_bytes * 9 // 2 + cache_bytes + RUNTIME_BYTES


def _operation_seconds(formats: Formats, board: Board, group: str, operations: float) -> float:
    """At the rate for 4 bits, for 8, or for the mixture that an average of bits says."""
    eight = min(max((format_of(formats, group).bits - 4) / 4, 0.0), 1.0)
    return operations * ((1 - eight) / board.int4_gflops + eight / board.int8_gflops) / 1e9


def _reach(shape: Shape, tokens: float) -> float:
    """Tokens that are looked at, summed over the layers."""
    near = min(tokens, shape.window) if shape.window else tokens
    return (shape.layers - shape.windowed_layers) * tokens + shape.windowed_layers * near


def _attention_seconds(shape: Shape, board: Board, tokens: float, share: float) -> float:
    operations = 4 * shape.heads * shape.head_dim * _reach(shape, tokens)
    return operations / (share * board.int4_gflops * 1e9)


def decode_tps(foot: Footprint, board: Board, context: int) -> float:
    """Tokens/s after ``context`` tokens: all matrices are read once, and the cache is looked through.

    Roofline model (Williams et al., 2009, doi:10.1145/1498765.1498785) of a product with one row.
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
    """Tokens/s of a prompt of ``tokens``, computed in chunks; the head is computed once for each chunk."""
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
    # A short prompt reads all weights for few tokens.
    return 1 / max(seconds, foot.prompt_bytes / (board.read_gbs * 1e9 * DECODE_EFFICIENCY) / chunk)
