"""Weight formats: bits and group size of a quantized matrix, and the bytes that makes. Pure.

onnxruntime calls the group size ``block_size``; this package does so only where the graph is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

STEPS: Final = 127
"""Codes of activations, up or down from the middle: they are unsigned, since that is what the kernels of x86
take."""

SCALE_BYTES = 2
"""Scales are stored as float16 and widened when the graph is loaded: the kernels want float32."""

ROW = 0
"""The group size that stands for a whole row: one scale for each output."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a matrix is stored, and so how it is computed with: in groups (``MatMulNBits``), or with a scale
    for each row (``group_size`` is ``ROW``; 8 bits then) as a product of integers."""

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
        """A product of integers uses one bit less of eight: two neighbours then can't saturate the sums of 16
        bits that x86 processors without VNNI make."""
        return self.bits - 1 if self.by_row else self.bits

    def width(self, columns: int) -> int:
        """Columns of a group."""
        return columns if self.by_row else self.group_size

    def groups(self, columns: int) -> int:
        """Groups a row; the last one is padded."""
        return -(-columns // self.width(columns))

    def bytes(self, rows: int, columns: int) -> int:
        """Of codes and scales."""
        groups = self.groups(columns)
        return rows * groups * (self.width(columns) * self.bits // 8 + SCALE_BYTES)
