"""Bundle files: which there may be, and how large those are that are read whole.

A bundle may be a stranger's. What nothing here reads has no place in one, least of all a library, and what is
read into memory is bounded by its size before it is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from edgeslm.errors import BundleError

MOST_FILES: Final = 1000
DEEPEST: Final = 16
"""Folders inside one another, the file included."""
MOST_VALUES: Final = 50_000
"""Numbers, texts, lists and objects of a manifest: a model of it takes many times the memory of its text."""
MANIFEST_BYTES: Final = 1_000_000
LARGEST_BYTES: Final = {
    ".onnx": None,  # weights, which are mapped
    ".data": None,
    ".onnx_adapter": None,
    ".npz": None,
    ".sqlite": None,  # a collection that was shipped
    ".json": 128_000_000,  # a tokenizer with 260,000 tokens has 33 MB
    ".jinja": 1_000_000,
    ".model": 16_000_000,  # of SentencePiece
    ".txt": 16_000_000,  # vocabulary and merges
}
"""By the ending of a file's name; no others are taken. None: as large as the bundle may be."""
_SMALL: Final = {
    "genai_config.json": MANIFEST_BYTES,
    "config.json": MANIFEST_BYTES,
    "generation_config.json": MANIFEST_BYTES,
    "report.json": 1_000_000,
    "golden.json": 4_000_000,
    "tokenizer_config.json": 16_000_000,
}
"""Files of a name that is known."""


def file_fault(path: str, size: int) -> str | None:
    """What is wrong with a file of a bundle, by what the manifest says of it."""
    name = path.rpartition("/")[2]
    ending = Path(name).suffix
    if ending not in LARGEST_BYTES:
        kinds = ", ".join(LARGEST_BYTES)
        return f"{path!r} is no file of a bundle, whose names end in {kinds}"
    most = _SMALL.get(name, LARGEST_BYTES[ending])
    if most is not None and size > most:
        return f"{path!r} has {size} bytes, and may have {most}"
    return None


def read_whole(file: Path, most: int) -> bytes:
    """The bytes of a file. :raises OSError: the disk. :raises BundleError: there are more than ``most``."""
    with file.open("rb") as stream:
        raw = stream.read(most + 1)
    if len(raw) > most:
        raise BundleError(f"{file}: larger than the {most} bytes that it may have")
    return raw


def count_values(data: Any, most: int) -> int:
    """How many values stand in parsed JSON, the containers included; ends soon after ``most``."""
    found, left = 0, [data]
    while left and found <= most:
        found += 1
        value = left.pop()
        if isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
    return found + len(left)
