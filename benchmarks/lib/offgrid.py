"""The starter's weights as a float GGUF, and a copy of them moved off the 4-bit grid.

The starter comes as Q4_1: its matrices hold sixteen values a block already, so quantizing them to 4 bits with
the same blocks loses little. The copy computes the same function from other numbers: each norm weight is
multiplied by a random factor per channel, and the matrices that read it are divided by it. Both are written
as F32, the only type that holds them exactly, with the metadata of the source. It reads GGUFs of Llama-like
decoders (norms without an offset).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeslm_export.sources.gguf import EMBEDDING, HEAD, read_gguf_header, tied_copy

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Weights = npt.NDArray[np.float32]
    Scales = Mapping[str, Weights]

DEVIATION: Final = 0.1
"""Of the logarithm of the factors."""
SEED: Final = 7
READERS: Final = {
    "attn_norm": ("attn_q", "attn_k", "attn_v"),
    "ffn_norm": ("ffn_gate", "ffn_up"),
}
"""Norm of a block -> the matrices of that block that read it. The last norm feeds the head, which is the
embedding too, and stays."""

_NORM_OF: Final = {reader: norm for norm, readers in READERS.items() for reader in readers}
_NAME: Final = re.compile(r"(blk\.\d+)\.(\w+)\.weight")


def draw_scales(blocks: int, width: int, seed: int = SEED, deviation: float = DEVIATION) -> Scales:
    """Factors [width] for each norm weight of the blocks, by its name in the GGUF."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return {
        f"blk.{block}.{norm}.weight": torch.exp(torch.randn(width, generator=generator) * deviation).numpy()
        for block in range(blocks)
        for norm in READERS
    }


def move(name: str, values: Weights, scales: Scales) -> Weights:
    """The tensor ``name`` of the copy.

    :param values: [width] of a norm or [outputs, inputs] of a matrix.
    """
    if name in scales:
        return values * scales[name]
    # Rows of queries and keys lie in another order in a GGUF than in a checkpoint; columns don't.
    return values / scales[norm] if (norm := _norm_before(name)) in scales else values


def move_squares(name: str, squares: Weights, scales: Scales) -> Weights:
    """What the copy sees as mean squares [inputs] of the inputs of the matrix ``name``."""
    return squares * scales[norm] ** 2 if (norm := _norm_before(name)) in scales else squares


def _norm_before(name: str) -> str:
    """Name of the norm whose output the matrix ``name`` reads, or ""."""
    match = _NAME.fullmatch(name)
    if match is None or match[2] not in _NORM_OF:
        return ""
    return f"{match[1]}.{_NORM_OF[match[2]]}.weight"


def scales_of(gguf: Path) -> Scales:
    """The factors for a file of this shape."""
    from gguf import GGUFReader

    fields = GGUFReader(gguf).fields
    architecture = fields["general.architecture"].contents()
    blocks, width = (
        int(fields[f"{architecture}.{key}"].contents()) for key in ("block_count", "embedding_length")
    )
    return draw_scales(blocks, width)


def write_floats(source: Path, out: Path, scales: Scales | None = None) -> None:
    """Writes ``source`` dequantized to F32, moved by ``scales`` when there are any. Of two copies of a tied
    embedding the better one is written."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(source)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    if better := tied_copy(source, read_gguf_header(source)):
        stored[EMBEDDING] = stored[better]
        del stored[HEAD]
    tensors = ((name, dequantize(tensor.data, tensor.tensor_type)) for name, tensor in stored.items())
    if scales:
        tensors = ((name, move(name, values, scales)) for name, values in tensors)
    _write(reader, tensors, out)


def _write(reader: Any, tensors: Iterable[tuple[str, Weights]], out: Path) -> None:
    import numpy as np
    from gguf import GGUFValueType, GGUFWriter, LlamaFileType

    part = out.with_suffix(".part")
    writer = GGUFWriter(part, arch=reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in (
            "general.architecture",
            "general.file_type",
        ):
            element = field.types[1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], element)
    writer.add_file_type(LlamaFileType.ALL_F32)
    for name, values in tensors:
        writer.add_tensor(name, np.ascontiguousarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(out)
