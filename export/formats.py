"""How a quantized matrix is stored: bits and group size, and the bytes that makes. Pure.

onnxruntime calls the group size ``block_size``; this package does so only where the graph is written.
"""

from __future__ import annotations

from dataclasses import dataclass

SCALE_BYTES = 2
"""Scales are stored as float16 and widened when the graph is loaded: the kernels want float32."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a matrix is stored."""

    bits: int
    group_size: int

    @property
    def lowest(self) -> int:
        return -(1 << (self.bits - 1))

    @property
    def highest(self) -> int:
        return (1 << (self.bits - 1)) - 1

    def groups(self, columns: int) -> int:
        """Groups a row; the last one is padded."""
        return -(-columns // self.group_size)

    def bytes(self, rows: int, columns: int) -> int:
        """Of codes and scales."""
        groups = self.groups(columns)
        return rows * groups * (self.group_size * self.bits // 8 + SCALE_BYTES)
