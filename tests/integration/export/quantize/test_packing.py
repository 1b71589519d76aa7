"""Quantized matrices: the layout is the runtime's own; what lies on a grid comes back exactly."""

from __future__ import annotations

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when the inference library is imported

import gguf
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from edgeslm_export.quantize.formats import Format
from edgeslm_export.quantize.packing import Quantized, recover, unpack
from gguf.quants import dequantize, quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

Q4_0, Q8_0 = Format(4, 32), Format(8, 32)
FORMATS = [Format(bits, group_size) for bits in (4, 8) for group_size in (32, 64, 128)]


def _random(form: Format, rows: int, columns: int, seed: int = 7) -> Quantized:
    random = np.random.default_rng(seed)
    codes = random.integers(form.lowest, form.highest + 1, (rows, columns)).astype(np.int8)
    scales = random.standard_normal((rows, form.groups(columns))).astype(np.float16)
    return Quantized(codes, scales, form)


def _multiplied(matrix: Quantized, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """``x`` times the matrix by the runtime's own kernel, its scales widened by a Cast as in a bundle."""
    rows, columns = matrix.codes.shape
    nodes = [
        helper.make_node("Cast", ["halves"], ["scales"], to=TensorProto.FLOAT),
        helper.make_node(
            "MatMulNBits",
            ["x", "codes", "scales"],
            ["y"],
            domain="com.microsoft",
            K=columns,
            N=rows,
            bits=matrix.format.bits,
            block_size=matrix.format.group_size,
            accuracy_level=1,
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", rows])],
        [
            numpy_helper.from_array(matrix.pack(), "codes"),
            numpy_helper.from_array(matrix.scales, "halves"),
        ],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    product: npt.NDArray[np.float32] = session.run(None, {"x": x})[0]
    return product


@pytest.mark.parametrize("columns", [64, 100, 31])
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_the_runtime_computes_with_the_packed_codes(form: Format, columns: int) -> None:
    matrix = _random(form, 24, columns)
    x = np.random.default_rng(1).standard_normal((3, columns)).astype(np.float32)
    expected = x @ matrix.weights().T
    assert np.abs(_multiplied(matrix, x) - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_a_matrix_packs_into_the_bytes_that_its_format_counts(form: Format) -> None:
    matrix = _random(form, 5, 130)
    assert matrix.pack().dtype == np.uint8
    assert matrix.pack().nbytes + matrix.scales.nbytes == form.bytes(5, 130)


def test_the_first_of_two_codes_is_the_low_half_and_padding_is_zero() -> None:
    codes = np.array([[-8, 7, 1]], np.int8)
    packed = Quantized(codes, np.ones((1, 1), np.float16), Q4_0).pack()
    assert packed[0, 0].tolist() == [0xF0, 0x89, *[0x88] * 14]
    assert Quantized(codes, np.ones((1, 1), np.float16), Q8_0).pack()[0, 0, :4].tolist() == [
        120,
        135,
        129,
        128,
    ]


@given(st.sampled_from(FORMATS), st.integers(1, 9), st.integers(1, 300), st.integers(0, 99), st.booleans())
def test_what_was_packed_is_unpacked(
    form: Format, rows: int, columns: int, seed: int, in_one_line: bool
) -> None:
    """Scales may lie one after the other, as some graphs have them."""
    matrix = _random(form, rows, columns, seed)
    scales = matrix.scales.reshape(-1) if in_one_line else matrix.scales
    found = unpack(matrix.pack(), scales, form, columns)
    assert np.array_equal(found.codes, matrix.codes)
    assert np.array_equal(found.scales, matrix.scales)
    assert found.format == form


# What a scale of a file may be: any float16 that is a number, the smallest subnormal and negative ones too.
HALVES = st.floats(width=16, allow_nan=False, allow_infinity=False)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([Q4_0, Q8_0, Format(4, 64)]), st.lists(HALVES, min_size=1, max_size=6), st.integers(0, 99)
)
def test_whatever_lies_on_a_grid_is_found_to_the_last_bit(
    form: Format, scales: list[float], seed: int
) -> None:
    random = np.random.default_rng(seed)
    reach = random.integers(1, form.highest + 1)  # groups that use a part of the range only
    codes = random.integers(-reach - 1, reach + 1, (len(scales), form.group_size)).astype(np.int8)
    given_ = Quantized(codes, np.array(scales, np.float16)[:, None], form)
    found = recover(given_.weights(), form)
    assert found is not None
    assert np.array_equal(found.weights(), given_.weights())


def test_groups_of_zeros_are_on_every_grid() -> None:
    weights = _random(Q4_0, 12, 64).weights()
    weights[3] = 0
    weights[7, :32] = 0
    found = recover(weights, Q4_0)
    assert found is not None
    assert np.array_equal(found.weights(), weights)
    assert not recover(np.zeros((2, 32), np.float32), Q8_0).weights().any()  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_blocks_of_a_gguf_are_taken_over_as_they_are(kind: str) -> None:
    form = {"Q4_0": Q4_0, "Q8_0": Q8_0}[kind]
    ggml = gguf.GGMLQuantizationType[kind]
    values = np.random.default_rng(2).standard_normal((40, 96)).astype(np.float32) * 0.03
    values[5] = 0
    values[6] *= 1e-5  # subnormal scales
    weights = dequantize(quantize(values, ggml), ggml)
    found = recover(weights, form)
    assert found is not None
    assert np.array_equal(found.weights(), weights)
    permuted = weights[np.random.default_rng(3).permutation(40)]  # as converters do for rotary embeddings
    assert recover(permuted, form) is not None


def test_other_weights_are_on_no_grid() -> None:
    random = np.random.default_rng(4)
    noise = random.standard_normal((20, 64)).astype(np.float32)
    assert recover(noise, Q4_0) is None
    assert recover(noise, Q8_0) is None
    assert recover(_random(Q8_0, 4, 64).weights(), Q4_0) is None
    nearly = _random(Q4_0, 20, 64).weights()
    nearly[19, 63] = np.nextafter(nearly[19, 63], np.float32(9))  # the very last one, beyond the rows probed
    assert recover(nearly, Q4_0) is None
    nearly[0, 0] = np.nan
    assert recover(nearly, Q4_0) is None


def test_a_finer_grid_contains_a_coarser_one_and_wide_groups_need_one_scale() -> None:
    weights = _random(Q4_0, 4, 64).weights()
    eight = recover(weights, Q8_0)
    assert eight is not None
    assert np.array_equal(eight.weights(), weights)
    assert recover(weights, Format(4, 64)) is None
    assert recover(_random(Format(4, 64), 4, 64).weights(), Q4_0) is not None
    assert recover(_random(Q4_0, 4, 48).weights(), Q4_0) is None  # GGUF knows no padded blocks


def test_scales_that_are_no_float16_are_on_no_grid() -> None:
    codes = _random(Q4_0, 4, 32).codes
    codes[:, 0] = 7
    assert recover((codes * np.float32(0.1)).astype(np.float32), Q4_0) is None
