"""Bytes and speeds of a decoder: exact sizes, and what must hold for every shape and board."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.bundle.model_shape import Matrix, Shape, read_shape
from edgeslm.bundle.size_estimate import FLOAT, WeightFormat, decode_tps, footprint, memory_bytes, prefill_tps
from edgeslm.hardware.board_profiles import Board, load_board
from tests.support.published_configs import PUBLISHED

INT4 = {"*": WeightFormat(4, 64)}
INT8 = {"*": WeightFormat(8, 32), "embedding": FLOAT}
BOARD = Board("b", "a board", 4, 8 * 10**9, 15.0, 200.0, 220.0)
QWEN = read_shape(PUBLISHED["Qwen2.5-0.5B"][0])

shapes = st.builds(
    Shape,
    architecture=st.just("LlamaForCausalLM"),
    layers=st.integers(1, 80),
    hidden=st.integers(1, 150).map(lambda n: 64 * n),
    inner=st.integers(1, 450).map(lambda n: 64 * n),
    vocab=st.integers(1, 300_000),
    heads=st.integers(1, 64).map(lambda n: 2 * n),
    kv_heads=st.sampled_from([1, 2]),
    head_dim=st.sampled_from([64, 96, 128, 256]),
    tied=st.booleans(),
    context_length=st.integers(1, 200_000),
)


def test_a_matrix_in_the_file() -> None:
    matrix = Matrix("mlp_down", 10, 128, 2)
    assert WeightFormat(4, 64).stored_bytes(matrix) == 20 * 2 * (32 + 2)
    assert WeightFormat(4, 64, zero_points=True).stored_bytes(matrix) == 20 * (2 * (32 + 2) + 1)
    assert WeightFormat(4, 64, scale_bytes=4).stored_bytes(matrix) == 20 * 2 * (32 + 4)
    assert WeightFormat(5.5, 64).stored_bytes(matrix) == 20 * 2 * (44 + 2)
    assert WeightFormat(8, 128).stored_bytes(matrix) == 20 * (128 + 2)
    assert FLOAT.stored_bytes(matrix) == 20 * 128 * 4


def test_a_row_is_padded_to_whole_groups() -> None:
    assert WeightFormat(4, 64).stored_bytes(Matrix("m", 10, 65, 1)) == 10 * 2 * (32 + 2)


def test_full_size_qwen_as_it_was_exported() -> None:
    """286,528,000 bytes of model.onnx.data, made when scales took four bytes."""
    wide = {"*": WeightFormat(4, 64, scale_bytes=4)}
    assert footprint(QWEN, wide).weight_bytes == 286_528_000


def test_an_untied_embedding_is_stored_as_its_group_says() -> None:
    untied = footprint(replace(QWEN, tied=False), INT4).weight_bytes
    assert untied - footprint(QWEN, INT4).weight_bytes == QWEN.vocab * QWEN.hidden // 64 * (32 + 2)


def test_a_tied_embedding_is_stored_once() -> None:
    assert footprint(QWEN, {"*": WeightFormat(8, 32)}).weight_bytes == footprint(QWEN, INT8).weight_bytes


@pytest.mark.parametrize(
    ("context", "prefill", "decode_ms"), [(128, 174, 20.94), (512, 171, 23.37), (1024, 157, 26.24)]
)
def test_speeds_that_were_measured_on_one_core(context: int, prefill: float, decode_ms: float) -> None:
    """Qwen2.5-0.5B int4, CPU time of one thread; the board's figures from the gauge in the same minutes."""
    core = Board("core", "one Zen 4 core", 1, 0, 16.3, 141.0, 165.0)
    foot = footprint(QWEN, INT4)
    assert prefill_tps(foot, core, context) == pytest.approx(prefill, rel=0.1)
    assert 1000 / decode_tps(foot, core, context) == pytest.approx(decode_ms, rel=0.1)


def test_memory_that_was_measured() -> None:
    """The peak of the engine's process with about 300 tokens, in slots of 512."""
    assert memory_bytes(footprint(QWEN, INT4), 512) == pytest.approx(611_000_000, rel=0.1)
    small = read_shape(PUBLISHED["SmolLM2-135M"][0])
    assert memory_bytes(footprint(small, INT4), 512) == pytest.approx(260_000_000, rel=0.1)


def test_a_pi_5_as_published() -> None:
    """llama.cpp, Qwen2.5-0.5B Q4_0: prefill 290, decode 34 tokens/s."""
    board, foot = load_board("pi5-8gb"), footprint(QWEN, INT4)
    assert prefill_tps(foot, board, 128) == pytest.approx(290, rel=0.2)
    assert decode_tps(foot, board, 128) == pytest.approx(34, rel=0.4)  # ours reads a quarter fewer bytes


@given(shapes, st.integers(1, 100_000))
def test_what_holds_for_every_shape(shape: Shape, tokens: int) -> None:
    small, large = footprint(shape, INT4), footprint(shape, INT8)
    assert small.weight_bytes < large.weight_bytes
    assert small.token_bytes <= small.weight_bytes < small.file_bytes
    assert small.token_bytes < small.resident_bytes
    assert memory_bytes(small, tokens) < memory_bytes(small, tokens + 1)
    assert memory_bytes(small, tokens) < memory_bytes(large, tokens)
    assert decode_tps(small, BOARD, tokens) >= decode_tps(small, BOARD, tokens + 1) > 0
    assert decode_tps(small, BOARD, tokens) > decode_tps(large, BOARD, tokens)
    assert prefill_tps(small, BOARD, tokens) > 0


@given(shapes, st.integers(1, 100_000))
def test_single_tokens_with_weights_of_their_own_are_as_fast_as_those(shape: Shape, tokens: int) -> None:
    apart, small, large = footprint(shape, INT8, INT4), footprint(shape, INT4), footprint(shape, INT8)
    assert decode_tps(apart, BOARD, tokens) == decode_tps(small, BOARD, tokens)
    assert prefill_tps(apart, BOARD, tokens) == prefill_tps(large, BOARD, tokens)
    assert apart.weight_bytes > large.weight_bytes
    assert apart.resident_bytes > large.resident_bytes


@given(shapes, st.integers(1, 10_000))
def test_a_faster_board_is_never_slower(shape: Shape, tokens: int) -> None:
    foot = footprint(shape, INT4)
    faster = replace(BOARD, read_gbs=30.0, int4_gflops=400.0, int8_gflops=440.0)
    assert decode_tps(foot, faster, tokens) > decode_tps(foot, BOARD, tokens)
    assert prefill_tps(foot, faster, tokens) > prefill_tps(foot, BOARD, tokens)
