"""Formats of quantized matrices: ranges and sizes."""

from __future__ import annotations

import pytest
from edgeslm_export.quantize.formats import ROW, Format
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(("bits", "lowest", "highest"), [(4, -8, 7), (8, -128, 127)])
def test_codes_are_signed_integers_of_so_many_bits(bits: int, lowest: int, highest: int) -> None:
    form = Format(bits, 32)
    assert (form.lowest, form.highest) == (lowest, highest)


def test_a_q4_0_block_takes_eighteen_bytes_and_a_q8_0_block_thirty_four() -> None:
    assert Format(4, 32).bytes(1, 32) == 18
    assert Format(8, 32).bytes(1, 32) == 34


def test_a_matrix_by_row_has_one_scale_a_row_and_a_bit_less_of_range() -> None:
    form = Format(8, ROW)
    assert form.by_row
    assert (form.lowest, form.highest) == (-64, 63)
    assert 2 * 255 * -form.lowest < 1 << 15  # two neighbours don't saturate sixteen bits
    assert (form.groups(65), form.width(65)) == (1, 65)
    assert form.bytes(3, 65) == 3 * (65 + 2)


def test_the_last_group_of_a_row_is_padded() -> None:
    form = Format(4, 64)
    assert (form.groups(64), form.groups(65), form.groups(1)) == (1, 2, 1)
    assert form.bytes(3, 65) == form.bytes(3, 128)


@given(st.sampled_from([4, 8]), st.sampled_from([32, 64, 128]), st.integers(1, 300), st.integers(1, 300))
def test_a_matrix_is_as_large_as_its_rows(bits: int, group_size: int, rows: int, columns: int) -> None:
    form = Format(bits, group_size)
    assert form.bytes(rows, columns) == rows * form.bytes(1, columns)
    assert form.bytes(rows, columns) * 8 > rows * columns * bits
    assert form.bytes(rows, columns) < Format(bits, group_size).bytes(rows, columns + group_size)
