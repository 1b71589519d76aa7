"""Quantized matrices: what a float matrix becomes, and the bytes it takes in onnxruntime's products.

A matrix [rows, columns] (outputs, inputs) is stored as integer codes and one float16 scale for each group of
neighbouring columns in a row: ``weight = code * scale``, symmetric, codes from -2^(bits-1) to 2^(bits-1) - 1.
Scales may be negative. Everything is symmetric because that is what is fast everywhere: the kernels of ARM
take nothing else, and a tied embedding with zero points doesn't load. Plain numpy; knows no models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from edgeslm_export.quantize.formats import Format

_PROBED = 8
"""Rows that are looked at before all of them."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """``codes`` int8 [rows, columns], ``scales`` float16 [rows, groups].

    What it reads is divided by ``smoothing``, float32 [columns], where there is one: the codes are of a
    matrix whose columns were multiplied by it. ``reach`` is the largest magnitude that it reads then, where
    one scale serves all tokens.
    """

    codes: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float16]
    format: Format
    smoothing: npt.NDArray[np.float32] | None = None
    reach: float | None = None

    def pack(self) -> npt.NDArray[np.uint8]:
        """[rows, groups, bytes of a group]: offset by half the range, two 4-bit codes a byte, the first one
        low; of matrices in groups.

        The layout of input ``B`` in onnxruntime's ContribOperators.md, ``MatMulNBits``.
        """
        rows, columns = self.codes.shape
        form = self.format
        groups = form.groups(columns)
        padded = np.zeros((rows, groups * form.group_size), np.int8)
        padded[:, :columns] = self.codes
        unsigned = (padded.astype(np.int16) - form.lowest).astype(np.uint8)
        if form.bits == 4:
            return (unsigned[:, 0::2] | (unsigned[:, 1::2] << 4)).astype(np.uint8).reshape(rows, groups, -1)
        return unsigned.reshape(rows, groups, -1)

    def weights(self) -> npt.NDArray[np.float32]:
        """The matrix that is computed with, float32 [rows, columns]."""
        columns = self.codes.shape[1]
        scales = self.scales.astype(np.float32).repeat(self.format.width(columns), axis=1)[:, :columns]
        weights = self.codes * scales
        return weights if self.smoothing is None else weights / self.smoothing


def unpack(
    packed: npt.NDArray[np.uint8], scales: npt.NDArray[np.floating], form: Format, columns: int
) -> Quantized:
    """The inverse of ``Quantized.pack``; ``scales`` are [rows, groups] or one after the other."""
    rows = packed.shape[0]
    unsigned = packed.reshape(rows, -1)
    if form.bits == 4:
        unsigned = np.stack([unsigned & 15, unsigned >> 4], axis=2).reshape(rows, -1)
    codes = (unsigned.astype(np.int16) + form.lowest).astype(np.int8)[:, :columns]
    return Quantized(codes, scales.reshape(rows, -1).astype(np.float16), form)


def recover(weights: npt.NDArray[np.float32], form: Format) -> Quantized | None:
    """The codes and scales that give ``weights`` to the last bit, or None where there are none.

    So the blocks of a GGUF's Q4_0 and Q8_0 (ggml-common.h: one float16 scale for 32 signed codes) are taken
    over as they are, whatever order a converter put the rows in. A group's scale is one of its largest
    magnitude divided by a whole number: products of a float16 and a small integer are exact in float32.
    """
    rows, columns = weights.shape
    if columns % form.group_size or (rows > _PROBED and recover(weights[:_PROBED], form) is None):
        return None
    grouped = weights.reshape(rows, -1, form.group_size)
    place = np.abs(grouped).argmax(axis=2, keepdims=True)
    largest = np.take_along_axis(grouped, place, axis=2)
    codes = np.zeros(grouped.shape, np.int8)
    scales = np.zeros(grouped.shape[:2], np.float16)
    missing = largest[..., 0] != 0
    for divisor in range(form.lowest, 0):  # the codes' range reaches further below zero than above it
        for sign in (1, -1) if -divisor <= form.highest else (1,):
            if not missing.any():
                return Quantized(codes.reshape(rows, columns), scales, form)
            candidates = np.nonzero(missing)
            values = grouped[candidates]
            scale = largest[candidates] / np.float32(divisor * sign)
            found = np.rint(values / scale)
            exact = (found * scale == values).all(axis=1) & (
                scale[:, 0].astype(np.float16).astype(np.float32) == scale[:, 0]
            )
            exact &= (found >= form.lowest).all(axis=1) & (found <= form.highest).all(axis=1)
            hit = tuple(axis[exact] for axis in candidates)
            codes[hit] = found[exact].astype(np.int8)
            scales[hit] = scale[exact, 0].astype(np.float16)
            missing[hit] = False
    return None if missing.any() else Quantized(codes.reshape(rows, columns), scales, form)
