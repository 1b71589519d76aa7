"""GGUF header reader: reads metadata and tensor list in a fraction of a second and checks the file's size.

The ``gguf`` package needs seconds for a large vocabulary and trusts every length in the file. Format: the
GGUF specification of ggml (``docs/gguf.md``), versions 2 and 3.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeslm.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAGIC = b"GGUF"
EMBEDDING: Final = "token_embd.weight"
HEAD: Final = "output.weight"
_COMPARED_ROWS: Final = 256
_EXACT_DIFFERENCE: Final = 1e-5
_ROUNDED_DIFFERENCE: Final = 12.0
"""Squared difference of two copies of a matrix, as a share of its sum of squares: at most the first number
for float types, and the second one divided by 4 to the power of the bits for others. The error of uniform
rounding is a quarter of it. Embedding and head that aren't tied differ by more than 1."""
_DEFAULT_ALIGNMENT = 32
_MOST_METADATA, _MOST_TENSORS, _MOST_NESTED = 100_000, 1_000_000, 4

# Metadata value types of the specification: number -> struct format.
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9

# ggml tensor types: number -> (name, elements of a block, bytes of a block).
_BLOCKS = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    name: str
    kind: str
    """ggml's name of the tensor's type, for example ``Q4_1``."""
    shape: tuple[int, ...]
    """Dimensions, the fastest-varying one first, as in ggml."""
    offset: int
    """Offset in bytes from the start of the data section."""
    bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """A GGUF file's metadata and tensor list. Arrays in the metadata are reduced to their length. ``data_at``
    is the position of the data section in the file."""

    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]
    data_at: int

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)


def tied_copy(file: Path, header: GgufHeader) -> str | None:
    """Many files hold an embedding that is tied to the head twice, quantized to different types. They don't
    say so; a sample of rows does, which differ by no more than quantization errors.

    :return: the name of the copy with more bytes; None if embedding and head are one tensor or aren't tied.
    """
    import numpy as np

    found = {tensor.name: tensor for tensor in header.tensors}
    if not (EMBEDDING in found and HEAD in found and found[EMBEDDING].shape == found[HEAD].shape):
        return None
    embedding, head = found[EMBEDDING], found[HEAD]
    count = embedding.shape[-1]
    rows = range(0, count, max(1, count // _COMPARED_ROWS))
    one, other = (_read_rows(file, header, tensor, rows) for tensor in (embedding, head))
    difference, size = float(np.square(one - other).sum()), float(np.square(other).sum())
    bits = min(embedding.bytes, head.bytes) * 8 // math.prod(head.shape)
    if not difference <= max(_EXACT_DIFFERENCE, _ROUNDED_DIFFERENCE / 4**bits) * size:
        return None
    return EMBEDDING if embedding.bytes > head.bytes else HEAD


def _read_rows(file: Path, header: GgufHeader, tensor: GgufTensor, rows: range) -> npt.NDArray[np.float32]:
    """Rows of a matrix, dequantized: [rows, columns]."""
    import numpy as np
    from gguf import GGMLQuantizationType, dequantize

    row_bytes = tensor.bytes // tensor.shape[-1]
    data = np.memmap(file, np.uint8, "r", header.data_at + tensor.offset, (tensor.shape[-1], row_bytes))
    kind = GGMLQuantizationType[tensor.kind]
    found: npt.NDArray[np.float32] = dequantize(np.ascontiguousarray(data[list(rows)]), kind)
    return found


class _Damaged(Exception):
    """Raised if the bytes contradict the format."""


class _Cursor:
    """Reads little-endian values from a buffer, never past its end."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self._data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self._data):
            raise _Damaged("it ends inside its header")
        piece = self._data[self.at : end]
        self.at = end
        return piece

    def scalar(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def string(self) -> str:
        return self.take(self.scalar("<Q")).decode("utf-8", "replace")

    def skip_array(self, depth: int = 0) -> int:
        """Skips an array. :return: the number of its elements."""
        kind, count = self.scalar("<I"), self.scalar("<Q")
        if kind in _SCALARS:
            self.take(count * struct.calcsize(_SCALARS[kind]))
        elif kind == _STRING:
            for _ in range(count):
                self.take(self.scalar("<Q"))
        elif kind == _ARRAY and depth < _MOST_NESTED:
            for _ in range(count):
                self.skip_array(depth + 1)
        else:
            raise _Damaged(f"its header holds a value of the unknown type {kind}")
        return int(count)

    def value(self) -> Any:
        kind = self.scalar("<I")
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.skip_array()
        raise _Damaged(f"its header holds a value of the unknown type {kind}")


def read_gguf_header(file: Path) -> GgufHeader:
    """Reads metadata and tensor list and checks that the file is long enough for them.

    :raises ExportError: not a GGUF file, an unknown version, or a truncated or damaged file.
    """
    size = file.stat().st_size
    if size < len(MAGIC):
        raise ExportError(f"{file} has only {size} bytes, so it is not a GGUF file; download it again.")
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[: len(MAGIC)] != MAGIC:
            raise ExportError(
                f"{file} doesn't begin with GGUF, so it is not a GGUF file; check the download."
            )
        try:
            header, end = _parse(_Cursor(data))
        except _Damaged as damage:
            raise ExportError(
                f"{file} is truncated or damaged: {damage} ({size:,} bytes); download it again."
            ) from None
    if end > size:
        raise ExportError(
            f"{file} is truncated: it has {size:,} bytes and its header speaks of {end:,}; download it again."
        )
    return header


def _parse(cursor: _Cursor) -> tuple[GgufHeader, int]:
    cursor.take(len(MAGIC))
    version = cursor.scalar("<I")
    if version not in (2, 3):
        raise _Damaged(f"version {version} of the format is not understood, only 2 and 3 are")
    tensor_count, metadata_count = cursor.scalar("<Q"), cursor.scalar("<Q")
    if metadata_count > _MOST_METADATA or tensor_count > _MOST_TENSORS:
        raise _Damaged(f"it speaks of {metadata_count:,} settings and {tensor_count:,} tensors")
    metadata: dict[str, Any] = {}
    for _ in range(metadata_count):
        key = cursor.string()
        metadata[key] = cursor.value()
    tensors = tuple([_parse_tensor(cursor) for _ in range(tensor_count)])
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise _Damaged("its alignment is not a positive number")
    start = -(-cursor.at // alignment) * alignment
    end = max((start + tensor.offset + tensor.bytes for tensor in tensors), default=cursor.at)
    return GgufHeader(metadata, tensors, start), end


def _parse_tensor(cursor: _Cursor) -> GgufTensor:
    name = cursor.string()
    dimensions = cursor.scalar("<I")
    if dimensions > 8:
        raise _Damaged(f"tensor {name!r} has {dimensions} dimensions")
    shape = tuple(cursor.scalar("<Q") for _ in range(dimensions))
    kind, offset = cursor.scalar("<I"), cursor.scalar("<Q")
    if kind not in _BLOCKS:
        raise _Damaged(f"tensor {name!r} is of the unknown type {kind}")
    label, elements, size = _BLOCKS[kind]
    return GgufTensor(name, label, shape, offset, -(-math.prod(shape) // elements) * size)
