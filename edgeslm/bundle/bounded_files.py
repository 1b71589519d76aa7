"""Bundle files: allowed file types, and size limits of files that are read into memory.

Bundles are untrusted. Only file types that the runtime reads are allowed, so a bundle can't contain
libraries. Sizes are checked before reading.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from edgeslm.errors import BundleError

MOST_FILES: Final = 1000
DEEPEST: Final = 16
"""Maximum number of levels in the path of a bundle's file; the file name counts as one level."""
MOST_VALUES: Final = 50_000
"""Largest number of JSON values in a manifest, since parsed JSON takes many times the memory of its text."""
MANIFEST_BYTES: Final = 1_000_000
LARGEST_BYTES: Final = {
    ".onnx": None,  # weights, memory-mapped
    ".data": None,
    ".onnx_adapter": None,
    ".npz": None,
    ".sqlite": None,  # a document collection
    ".json": 128_000_000,  # a tokenizer with 260,000 tokens has 33 MB
    ".jinja": 1_000_000,
    ".model": 16_000_000,  # SentencePiece
    ".txt": 16_000_000,  # vocabulary and merges
}
"""Maps each allowed file suffix to the largest file size in bytes, or to None for no limit."""
_SMALL: Final = {
    "genai_config.json": MANIFEST_BYTES,
    "config.json": MANIFEST_BYTES,
    "generation_config.json": MANIFEST_BYTES,
    "report.json": 1_000_000,
    "golden.json": 4_000_000,
    "tokenizer_config.json": 16_000_000,
}
"""Maps file names to the largest file size in bytes; these limits are stricter than those of
``LARGEST_BYTES``."""


def file_fault(path: str, size: int) -> str | None:
    """What is wrong with the path or size of a file in a manifest; None if valid."""
    name = path.rpartition("/")[2]
    ending = Path(name).suffix
    if ending not in LARGEST_BYTES:
        kinds = ", ".join(LARGEST_BYTES)
        return f"{path!r} is not a file of a bundle, whose names end in {kinds}"
    most = _SMALL.get(name, LARGEST_BYTES[ending])
    if most is not None and size > most:
        return f"{path!r} has {size} bytes, and may have {most}"
    return None


def read_whole(file: Path, most: int) -> bytes:
    """Reads a whole file.

    :raises OSError: the file can't be read.
    :raises BundleError: the file has more than ``most`` bytes.
    """
    with file.open("rb") as stream:
        raw = stream.read(most + 1)
    if len(raw) > most:
        raise BundleError(f"{file}: larger than the {most} bytes that it may have")
    return raw


def count_values(data: Any, most: int) -> int:
    """Number of values in parsed JSON, including objects and lists; counting stops as soon as the number
    exceeds ``most``."""
    found, left = 0, [data]
    while left and found <= most:
        found += 1
        value = left.pop()
        if isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
    return found + len(left)
