"""Size estimate: predicted file size, memory and speed of a decoder. Pure.

A ``Shape`` and the storage formats of its matrices give a ``Footprint``. A footprint and the benchmark
results of a board give the memory need and the tokens/s for a context length. The efficiencies below were
measured with onnxruntime 1.32 on x86-64 with AVX-512, as CPU time of one thread, which other load hardly
changes. The page ``docs/operations/boards.md`` compares predictions with measurements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgeslm.bundle.model_shape import EMBEDDING, FLOAT_BYTES, HEAD, Matrix, Shape
from edgeslm.hardware.board_profiles import Board

REST = "*"
"""Key in ``Formats`` for all groups that aren't listed."""

RUNTIME_BYTES = 100_000_000
"""Bytes of memory that Python, onnxruntime and onnxruntime-genai take, including the peak while loading. With
SmolLM2-135M, the process has 44 MB before the model is loaded; loading adds 24 MB of code and buffers, and a
few tens of MB more at the peak."""
TOKENIZER_BYTES_A_TOKEN = 350
"""Memory of the tokenizer per token of the vocabulary, measured as 49 MB for the 151,936 tokens of Qwen2.5
and 16 MB for the 49,152 tokens of SmolLM2."""
TOKENIZER_FILE_BYTES_A_TOKEN = 90
"""Size of ``tokenizer.json`` per token of the vocabulary, measured as 72 bytes (SmolLM2), 76 (Qwen2.5), 112
(Mistral) and 134 (Gemma)."""
GRAPH_BYTES_A_LAYER = 28_500
"""Total size, per layer, of the graph files for generate, adapters and score, without weights; with the
recipe w8a8, they are twice as large."""
PREFILL_CHUNK = 128
"""Number of prompt tokens per forward pass; larger chunks need more memory (24 MB for 512 tokens) and aren't
faster."""

DECODE_EFFICIENCY = 0.85
"""Memory bandwidth that the matrix products of a layer reach, as a share of the board's measured bandwidth
(0.83 to 0.86 were measured)."""
LAYER_SECONDS = 15e-6
"""Decode time in seconds per layer and token, in addition to the time to read the weights."""
MEETING_SECONDS = 45e-6
"""Time of thread synchronization in seconds per layer and token, measured as 30 to 60 microseconds with two
threads on SmolLM2-135M and Qwen2.5-0.5B."""
DECODE_ATTENTION = 0.1
"""Speed of float32 attention over the cache for one new token, relative to ``int4_gflops``."""
PREFILL_ATTENTION = 0.45
"""Speed of float32 attention for the tokens of a prompt, relative to ``int4_gflops``."""
ELEMENT_OPERATIONS = 250
"""Cost of norms, activations and requantization per value, expressed as a number of operations of a matrix
product."""
VECTOR_COMPUTE = 0.7
"""Share of the board's compute speed that a matrix-vector product reaches. Measured: 272 GFLOPS on a board
with 382 GFLOPS, with weights quantized in groups of 128."""


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """Storage format of matrices. ``bits`` is the number of bits per weight: an average if layers differ, 32
    for float. Each group of ``group_size`` weights has a scale; with a ``group_size`` of 0, each row is one
    group.

    Scales take two bytes in the file and four in memory.
    """

    bits: float
    group_size: int = 0
    scale_bytes: int = 2
    zero_points: bool = False

    def stored_bytes(self, matrix: Matrix) -> int:
        """Bytes of a matrix in the file: quantized weights, scales and, with ``zero_points``, a zero point of
        ``bits`` bits for each group."""
        if self.bits == 32:
            return matrix.weights * FLOAT_BYTES
        groups, width = self._groups(matrix)
        row = int(groups * (width * self.bits / 8 + self.scale_bytes))
        if self.zero_points:
            row += math.ceil(groups * self.bits / 8)
        return matrix.rows * row * matrix.count

    def resident_bytes(self, matrix: Matrix) -> int:
        """Bytes of a matrix in memory after loading. onnxruntime repacks the quantized weights, with a scale
        and a sum for each group (MLAS, ``qnbitgemm.h``), and keeps the original scales in float32, too. For
        Qwen2.5-0.5B in int4, 44 bytes per 64 weights were measured."""
        if self.bits == 32:
            return matrix.weights * FLOAT_BYTES
        groups, width = self._groups(matrix)
        return int(matrix.rows * groups * (width * self.bits / 8 + 3 * FLOAT_BYTES) * matrix.count)

    def _groups(self, matrix: Matrix) -> tuple[int, int]:
        """Number of groups per row, and number of columns per group; the last group of a row is padded."""
        width = self.group_size or matrix.columns
        return math.ceil(matrix.columns / width), width


FLOAT = WeightFormat(32)
Formats = Mapping[str, WeightFormat]
"""Maps each weight group (``Matrix.group`` or ``embedding``) to its storage format; ``*`` stands for all
groups that aren't listed."""


def format_of(formats: Formats, group: str) -> WeightFormat:
    return formats.get(group) or formats[REST]


@dataclass(frozen=True, slots=True)
class Footprint:
    """Sizes of a decoder in bytes: its files, the weights that are read for each token, and the memory
    without a KV cache."""

    shape: Shape
    formats: Formats
    written: Formats
    """Storage formats of the weights that decoding uses; equal to ``formats`` if there are no separate decode
    weights."""
    weight_bytes: int
    """Size of ``model.onnx.data``."""
    file_bytes: int
    """Size of the whole bundle."""
    prompt_bytes: int
    """Bytes of all matrices, including the head, that prefill reads for each chunk of a prompt."""
    token_bytes: int
    """Bytes of all matrices, including the head, that decoding reads for each token."""
    resident_bytes: int
    """Memory of the runtime, the tokenizer and the weights, after loading and without a KV cache."""


def footprint(shape: Shape, formats: Formats, written: Formats | None = None) -> Footprint:
    """Computes the footprint of a decoder. An embedding that is tied to the head is stored once, in the
    format of the head; any other embedding has the format that ``formats`` gives for the group ``embedding``.

    :param written: formats of a second set of weights, which decoding uses instead of those in ``formats``;
        None if there is one set. With two sets, the file holds the head once, but the runtime repacks it
        twice.
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
    """Memory of the engine process: the runtime, the weights, a KV cache of ``tokens`` tokens, and the
    activations of one prefill chunk.

    The cache is allocated in full, even for layers with a window (``slide_key_value_cache`` is off for CPUs).
    """
    shape = foot.shape
    values = 10 * shape.hidden + 4 * shape.inner
    return foot.resident_bytes + shape.kv_bytes_per_token * tokens + PREFILL_CHUNK * values * FLOAT_BYTES


STATE_COPIES = 3
"""Number of copies that a sequence has of its recurrent state: before and after a step, and the kept one."""


def rough_memory_bytes(weight_bytes: int, tokenizer_bytes: int, cache_bytes: int) -> int:
    """Memory of the engine process for a bundle with unknown shape, from its file sizes.

    The estimate multiplies the size of the weights by 1.5, since repacked weights take 22 % more than in the
    file and an embedding that is shared with the head is in memory twice. With 512 tokens, the estimate is
    258 MB for SmolLM2-135M (241 to 278 MB were measured) and 595 MB for Qwen2.5-0.5B (611 MB were measured).
    """
    return weight_bytes * 3 // 2 + tokenizer_bytes * 9 // 2 + cache_bytes + RUNTIME_BYTES


def _operation_seconds(formats: Formats, board: Board, group: str, operations: float) -> float:
    """Time in seconds that the board takes for ``operations`` with the weights of a group. For an average of
    4 to 8 bits per weight, the function interpolates between the times for 4 and 8 bits."""
    eight = min(max((format_of(formats, group).bits - 4) / 4, 0.0), 1.0)
    return operations * ((1 - eight) / board.int4_gflops + eight / board.int8_gflops) / 1e9


def _reach(shape: Shape, tokens: float) -> float:
    """Number of tokens to which a token attends, summed over the layers."""
    near = min(tokens, shape.window) if shape.window else tokens
    return (shape.layers - shape.windowed_layers) * tokens + shape.windowed_layers * near


def _attention_seconds(shape: Shape, board: Board, tokens: float, share: float) -> float:
    operations = 4 * shape.heads * shape.head_dim * _reach(shape, tokens)
    return operations / (share * board.int4_gflops * 1e9)


def decode_tps(foot: Footprint, board: Board, context: int) -> float:
    """Decode speed in tokens/s after ``context`` tokens; all matrices and the cache are read for each token.

    The estimate is a roofline model of matrix-vector products (Williams et al., 2009,
    doi:10.1145/1498765.1498785).
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
    """Prefill speed in tokens/s of a prompt of ``tokens`` tokens, computed in chunks; the head is computed
    once per chunk."""
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
