"""Packing of quantized matrices: codes and scales, and their byte layout in onnxruntime.

A matrix [rows, columns] (outputs, inputs) is stored as integer codes and one float16 scale for each group of
adjacent columns in a row. The weight is ``code * scale``, with codes from -2^(bits-1) to 2^(bits-1) - 1.
Scales may be negative. There are no zero points, since ARM kernels don't take zero points and a tied
embedding with zero points doesn't load.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from edgeslm_export.quantize.formats import Format

Made = dict[tuple[str, Format], "Quantized"]
"""Quantized matrices by name and format."""
_PROBED = 8
"""Number of rows that ``recover`` checks first, so that most matrices in other formats are rejected early."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """``codes`` int8 [rows, columns], ``scales`` float16 [rows, groups].

    Inputs are divided by ``smoothing``, float32 [columns], and the codes are those of the matrix after its
    columns were multiplied by ``smoothing``. ``reach`` is the largest magnitude of the smoothed inputs, if
    one scale serves all tokens.
    """

    codes: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float16]
    format: Format
    smoothing: npt.NDArray[np.float32] | None = None
    reach: float | None = None

    def pack(self) -> npt.NDArray[np.uint8]:
        """Codes as [rows, groups, bytes of a group], for formats with a scale for each group.

        Codes are offset by half the range, and a byte has two 4-bit codes, the first one in the low bits. The
        layout is that of input ``B`` of ``MatMulNBits`` (onnxruntime's ContribOperators.md).
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
        """The dequantized matrix, float32 [rows, columns]."""
        columns = self.codes.shape[1]
        scales = self.scales.astype(np.float32).repeat(self.format.width(columns), axis=1)[:, :columns]
        weights = self.codes * scales
        return weights if self.smoothing is None else weights / self.smoothing


def unpack(
    packed: npt.NDArray[np.uint8], scales: npt.NDArray[np.floating], form: Format, columns: int
) -> Quantized:
    """The inverse of ``Quantized.pack``; ``scales`` are [rows, groups] or flat."""
    rows = packed.shape[0]
    unsigned = packed.reshape(rows, -1)
    if form.bits == 4:
        unsigned = np.stack([unsigned & 15, unsigned >> 4], axis=2).reshape(rows, -1)
    codes = (unsigned.astype(np.int16) + form.lowest).astype(np.int8)[:, :columns]
    return Quantized(codes, scales.reshape(rows, -1).astype(np.float16), form)


def recover(weights: npt.NDArray[np.float32], form: Format) -> Quantized | None:
    """The codes and scales that represent ``weights`` exactly; None if the format can't represent them.

    For tensors of a GGUF in Q4_0 or Q8_0 (ggml-common.h: one float16 scale for 32 signed codes) this restores
    the original codes, even if a converter reordered the rows. The scale of a group is found by dividing the
    group's largest weight by each possible code, since products of a float16 and a small integer are exact in
    float32.
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
    for divisor in range(form.lowest, 0):  # there is one more code below zero than above
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


def _key(name: str, form: Format) -> str:
    return f"{name}.{form.bits}-{form.group_size}"


def write_codes(file: Path, made: Made) -> None:
    """Writes a file of ``codes/``; see ``worker``."""
    arrays: dict[str, Any] = {}
    for (name, form), matrix in made.items():
        key = _key(name, form)
        arrays[f"{key}.codes"], arrays[f"{key}.scales"] = matrix.codes, matrix.scales
        for what, value in (("smoothing", matrix.smoothing), ("reach", matrix.reach)):
            if value is not None:
                arrays[f"{key}.{what}"] = value
    np.savez(file.with_suffix(".npz"), **arrays)


def load_codes(folder: Path, formats: Mapping[str, Format]) -> Iterator[tuple[str, Quantized]]:
    """Every matrix in ``codes/``, by name, in the format that ``formats`` lists for it."""
    for file in sorted(folder.glob("*.npz")):
        with np.load(file, allow_pickle=False) as arrays:
            for name, form in formats.items():
                key = _key(name, form)
                if f"{key}.codes" in arrays:
                    smoothing, reach = (arrays.get(f"{key}.{what}") for what in ("smoothing", "reach"))
                    yield (
                        name,
                        Quantized(
                            arrays[f"{key}.codes"],
                            arrays[f"{key}.scales"],
                            form,
                            smoothing,
                            None if reach is None else float(reach),
                        ),
                    )
