"""Bundles: what ``edgeslm-export`` writes and a device runs. The contract between the two.

A bundle is a folder that never changes once made: ``manifest.json``, the model, its tokenizer files and
``report.json``. The manifest lists every other file with size and SHA-256, so the digest of the manifest
is the identity of the bundle. This module reads, verifies and does the memory arithmetic; it knows no
inference library.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeslm.arithmetic import rough_memory_bytes
from edgeslm.errors import BundleError

MANIFEST = "manifest.json"
REPORT = "report.json"
FORMAT = 1

Kind = Literal["decoder", "encoder", "adapter", "head"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Section):
    """One file of the bundle; ``path`` is relative, with forward slashes, and never leaves the folder."""

    path: str
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Source(_Section):
    """Where the weights came from."""

    id: str
    revision: str = ""
    licence: str = ""


class WeightGroup(_Section):
    """Bits and group size of the weights whose name matches ``group`` (``*`` is the rest)."""

    group: str
    bits: int
    group_size: int


class Quantization(_Section):
    recipe: str
    groups: tuple[WeightGroup, ...] = ()


class Graphs(_Section):
    """ONNX files by purpose."""

    generate: str | None = None
    score: str | None = None
    encode: str | None = None


class EncoderSection(_Section):
    """How an encoder's token vectors become one vector."""

    dimension: int
    pooling: Literal["mean", "cls"] = "mean"
    normalize: bool = True


class HeadSection(_Section):
    """A learned classifier on an encoder's embeddings.

    ``weights`` names an ``.npz`` with ``weight`` [labels, dimension] and ``bias`` [labels], float32;
    probabilities are ``softmax((weight @ x + bias) / temperature)``.
    """

    task: str
    labels: tuple[str, ...]
    encoder: str = Field(description="digest of the encoder bundle, sha256:<hex>")
    weights: str = "head.npz"
    temperature: float = Field(gt=0, allow_inf_nan=False)
    rows: int = Field(description="labelled rows it learned from")


class Manifest(_Section):
    format: Literal[1] = 1
    name: str = Field(min_length=1)
    kind: Kind
    architecture: str
    source: Source
    files: tuple[FileEntry, ...]
    quantization: Quantization | None = None
    context_length: int = Field(default=0, ge=0)
    kv_bytes_per_token: int = Field(default=0, ge=0)
    graphs: Graphs = Graphs()
    encoder: EncoderSection | None = None
    head: HeadSection | None = None
    runtime: dict[str, str] = Field(default_factory=dict)
    created: str = Field(description="UTC time, ISO 8601: SOURCE_DATE_EPOCH, else the source's revision date")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk whose manifest was read."""

    path: Path
    manifest: Manifest
    digest: str
    """``sha256:<hex>`` of ``manifest.json``."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of everything the model maps or loads."""
        return sum(f.bytes for f in self.manifest.files)


def short_digest(digest: str) -> str:
    """The first twelve hex digits, as they appear in results and on screens."""
    return digest[: len("sha256:") + 12]


def load_bundle(path: Path) -> Bundle:
    """Reads the manifest and checks that every file is there with its size.

    :raises BundleError: with a sentence that names the file.
    """
    manifest_path = path / MANIFEST
    try:
        if not path.is_dir():
            raise BundleError(f"{path}: there is no such folder")
        raw = manifest_path.read_bytes()
    except FileNotFoundError:
        raise BundleError(f"{manifest_path}: missing, so this folder is no bundle") from None
    except OSError as error:
        raise BundleError(f"{manifest_path}: {error.strerror}") from None
    manifest = parse_manifest(raw, str(manifest_path))
    for entry in manifest.files:
        file = path / entry.path
        try:
            if not file.is_file():
                raise BundleError(f"{file}: missing, though the manifest lists it")
            size = file.stat().st_size
        except OSError as error:
            raise BundleError(f"{file}: {error.strerror}") from None
        if size != entry.bytes:
            raise BundleError(f"{file}: {size} bytes, the manifest says {entry.bytes}")
    return Bundle(path, manifest, "sha256:" + hashlib.sha256(raw).hexdigest())


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """:raises BundleError: not JSON, an unknown format or field, or a path outside the folder or the list."""
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: not JSON ({error})") from None
    if not isinstance(data, dict):
        raise BundleError(f"{where}: not a JSON object")
    if data.get("format") != FORMAT:
        raise BundleError(f"{where}: format {data.get('format')!r}; this version reads format {FORMAT}")
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{where}: {key}: {first['msg']}") from None
    for entry in manifest.files:
        parts = Path(entry.path).parts
        if not parts or Path(entry.path).is_absolute() or ".." in parts:
            raise BundleError(f"{where}: {entry.path!r} is not a path inside the bundle")
    if manifest.kind in ("encoder", "head") and getattr(manifest, manifest.kind) is None:
        raise BundleError(f"{where}: of kind {manifest.kind}, but without the section {manifest.kind!r}")
    if manifest.kind in ("decoder", "encoder") and not manifest.context_length:
        raise BundleError(f"{where}: context_length is missing")
    # Only what is listed has a digest, so only that may be loaded.
    listed = {entry.path for entry in manifest.files}
    for used in _files_in_use(manifest):
        if used not in listed:
            raise BundleError(f"{where}: {used!r} is used but not among its files")
    return manifest


def _files_in_use(manifest: Manifest) -> list[str]:
    graphs = manifest.graphs
    named = [graphs.generate, graphs.score, graphs.encode, manifest.head.weights if manifest.head else None]
    return [name for name in named if name is not None]


def file_digest(file: Path) -> str:
    """SHA-256 of a file as hex, read in pieces."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify_bundle(bundle: Bundle) -> None:
    """Compares every file with its digest.

    :raises BundleError: naming the first file that differs.
    """
    for entry in bundle.manifest.files:
        file = bundle.path / entry.path
        try:
            digest = file_digest(file)
        except OSError as error:
            raise BundleError(f"{file}: {error.strerror}") from None
        if digest != entry.sha256:
            raise BundleError(
                f"{file}: its SHA-256 differs from the manifest's; the file was changed or damaged"
            )


def memory_need(manifest: Manifest, tokens: int) -> int:
    """Bytes to expect for a loaded model with room for ``tokens`` in its cache, from the sizes of its files.

    ``edgeslm.expectation`` is more exact where the model's shape is known.
    """
    weights = sum(f.bytes for f in manifest.files if f.path.endswith((".onnx", ".data")))
    tokenizer = sum(f.bytes for f in manifest.files if f.path == "tokenizer.json")
    return rough_memory_bytes(weights, tokenizer, manifest.kv_bytes_per_token * tokens)
