"""Weight formats: bits and group size of a quantized matrix, and its size in bytes. Pure Python.

onnxruntime calls the group size ``block_size``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

STEPS: Final = 127
"""Number of integer codes for activations on each side of the zero point. The zero point is 128, since the
x86 kernels take unsigned codes."""

SCALE_BYTES = 2
"""Bytes of a scale. Scales are stored as float16; the kernels take float32, so loading a graph widens the
scales."""

ROW = 0
"""Value of ``group_size`` that means a whole row: one scale for each output."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a matrix is stored and multiplied: with a scale for each group (``MatMulNBits``), or with a scale
    for each row (``group_size`` is ``ROW``, 8 bits) as an integer product."""

    bits: int
    group_size: int

    @property
    def by_row(self) -> bool:
        return self.group_size == ROW

    @property
    def lowest(self) -> int:
        return -(1 << (self._range_bits - 1))

    @property
    def highest(self) -> int:
        return (1 << (self._range_bits - 1)) - 1

    @property
    def _range_bits(self) -> int:
        """Number of bits that codes use. Integer products use only 7 of 8 bits, so that the sum of two
        products can't saturate the 16-bit accumulators of x86 processors without VNNI."""
        return self.bits - 1 if self.by_row else self.bits

    def width(self, columns: int) -> int:
        """Number of columns in a group."""
        return columns if self.by_row else self.group_size

    def groups(self, columns: int) -> int:
        """Number of groups in a row; the last group is padded."""
        return -(-columns // self.width(columns))

    def bytes(self, rows: int, columns: int) -> int:
        """Size of codes and scales in bytes."""
        groups = self.groups(columns)
        return rows * groups * (self.width(columns) * self.bits // 8 + SCALE_BYTES)
