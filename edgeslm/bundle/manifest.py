"""Bundles: what ``edgeslm-export`` writes and a device runs. The contract between the two.

A bundle is a folder that never changes once made: ``manifest.json``, the model, its tokenizer files and
``report.json``. The manifest lists every other file with size and SHA-256, so the digest of the manifest
is the identity of the bundle. ``model.sig`` alone is not listed: a signature of that identity comes after it.
This module reads, verifies and does the memory arithmetic; it knows no inference library and no signature.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, ValidationError

from edgeslm.bundle import genai_config
from edgeslm.bundle.bounded_files import (
    DEEPEST,
    MANIFEST_BYTES,
    MOST_FILES,
    MOST_VALUES,
    count_values,
    file_fault,
    read_whole,
)
from edgeslm.bundle.learned_task import LearnedSection, Section
from edgeslm.bundle.size_estimate import rough_memory_bytes
from edgeslm.errors import BundleError

MANIFEST = "manifest.json"
REPORT = "report.json"
SIGNATURE = "model.sig"
FORMAT = 1

Kind = Literal["decoder", "encoder", "adapter", "head"]


class FileEntry(Section):
    """One file of the bundle; ``path`` is relative, with forward slashes, and never leaves the folder."""

    path: str
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Source(Section):
    """Where the weights came from."""

    id: str
    revision: str = ""
    licence: str = ""


class WeightGroup(Section):
    """Bits and group size of the weights whose name matches ``group`` (``*`` is the rest)."""

    group: str
    bits: int
    group_size: int


class Quantization(Section):
    recipe: str
    groups: tuple[WeightGroup, ...] = ()
    written: tuple[WeightGroup, ...] | None = Field(None, description="of a token that follows alone")


class Graphs(Section):
    """ONNX files by purpose."""

    generate: str | None = None
    score: str | None = None
    adapters: str | None = Field(default=None, description="`generate` with inputs for LoRA matrices")
    encode: str | None = None

    def for_calls(self, *, adapters: bool) -> str | None:
        """What an engine loads of a decoder whose calls name ``adapters``, or none."""
        return self.adapters if adapters else self.generate


QUESTION_SHARE = 4
"""A question takes at most one part in so many of the tokens that a reader reads at once."""


class EncoderSection(Section):
    """How an encoder's token vectors become one vector.

    ``prompts`` are words that the model was trained to find before a text, by their purpose
    (``{"query": "query: ", "passage": "passage: "}``); whoever embeds a text puts them there.
    """

    dimension: int
    pooling: Literal["mean", "cls"] = "mean"
    normalize: bool = True
    prompts: dict[str, str] | None = None


class HeadSection(Section):
    """A learned classifier on an encoder's embeddings: on those of another bundle, or on the bundle's own.

    ``weights`` names an ``.npz`` with ``weight`` [labels, dimension] and ``bias`` [labels], float32;
    probabilities are ``softmax(weight @ x + bias)``, before they are calibrated. Of an ``extract`` task the
    rows are the options of its fields, one field after the other, and ``place_weight`` [fields, 3, dimension]
    and ``place_bias`` [fields, 3] say of each token's vector whether a field begins, ends and stands there.
    It may have ``centroids`` [groups, dimension], unit vectors in the middle of what was learned from.
    """

    encoder: str | None = Field(
        default=None, description="digest of the encoder bundle, sha256:<hex>; none: this bundle has its own"
    )
    weights: str = "head.npz"
    reads: Literal["pairs"] | None = Field(
        default=None,
        description="`pairs`: a reader, which tells of a question and a text together how likely one answers "
        "the other, as `sigmoid(weight @ x + bias)` with `weight` [1, dimension]; it has its own encoder",
    )


class AdapterSection(Section):
    """LoRA matrices for the graph ``adapters`` of one decoder bundle.

    ``weights`` names an ``.onnx_adapter`` file: float32, by the names of the graph's inputs, scaled.
    """

    base: str = Field(description="digest of the decoder bundle, sha256:<hex>")
    weights: str = "adapter.onnx_adapter"
    rank: int = Field(ge=1, description="the largest of its ranks")
    targets: tuple[str, ...]


class Manifest(Section):
    format: Literal[1] = 1
    name: str = Field(min_length=1)
    release: int | None = Field(
        default=None, strict=True, ge=0, lt=2**53, description="counts up among bundles of a name; none: 0"
    )
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
    adapter: AdapterSection | None = None
    learned: LearnedSection | None = None
    runtime: dict[str, str] = Field(default_factory=dict)
    created: str = Field(description="UTC time, ISO 8601: SOURCE_DATE_EPOCH, else the source's revision date")

    @property
    def weights(self) -> tuple[FileEntry, ...]:
        """Graphs and what they compute with."""
        return tuple(entry for entry in self.files if entry.path.endswith((".onnx", ".data")))

    @property
    def is_reader(self) -> bool:
        """Whether it tells how likely a text answers a question."""
        return self.head is not None and self.head.reads == "pairs"

    @property
    def embeds(self) -> bool:
        """Whether its vectors stand for texts: those of a reader stand for pairs."""
        return self.model_kind == "encoder" and not self.is_reader

    @property
    def model_kind(self) -> Literal["decoder", "encoder"] | None:
        """What an engine can load it as; None for what only adds to another bundle."""
        if self.kind in ("decoder", "encoder"):
            return self.kind
        brings_its_own = self.kind == "head" and self.head is not None and self.head.encoder is None
        return "encoder" if brings_its_own else None


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


def load_bundle(path: Path, digest: str | None = None) -> Bundle:
    """Reads the manifest and checks that the folder holds what it lists: plain files of these sizes, no more.

    A file that isn't listed has no digest, and loaders of tokenizers take what lies there under a known name.
    Links lead to what may change without the bundle. The folder itself may be one. What the bundle tells the
    runtime is held to ``edgeslm.bundle.genai_config``: it runs code that it is told to.

    :param digest: what the bundle must be, as it was seen before.
    :raises BundleError: with a sentence that names the file.
    """
    manifest_path = path / MANIFEST
    try:
        if not path.is_dir():
            raise BundleError(f"{path}: there is no such folder")
        _check_plain(manifest_path, manifest_path.lstat())
        raw = read_whole(manifest_path, MANIFEST_BYTES)
    except FileNotFoundError:
        raise BundleError(f"{manifest_path}: missing, so this folder is no bundle") from None
    except OSError as error:
        raise BundleError(f"{manifest_path}: {error.strerror}") from None
    found = "sha256:" + hashlib.sha256(raw).hexdigest()
    if digest is not None and found != digest:
        raise BundleError(f"{manifest_path}: another bundle than at the start; restart to use it")
    bundle = Bundle(path, parse_manifest(raw, str(manifest_path)), found)
    _check_folder(bundle)
    _check_runtime(bundle)
    return bundle


def _check_runtime(bundle: Bundle) -> None:
    files = {entry.path for entry in bundle.manifest.files}
    if genai_config.FILE not in files:
        return
    file = bundle.path / genai_config.FILE
    try:
        raw = read_whole(file, MANIFEST_BYTES)
    except OSError as error:
        raise BundleError(f"{file}: {error.strerror}") from None
    genai_config.check_genai_config(raw, files, str(file))


def _check_folder(bundle: Bundle) -> None:
    expected = {entry.path: entry.bytes for entry in bundle.manifest.files}
    found = dict(_walk(bundle.path))
    for name, status in sorted(found.items()):
        file = bundle.path / name
        _check_plain(file, status)
        if name in (MANIFEST, SIGNATURE):
            continue
        if name not in expected:
            raise BundleError(f"{file}: not listed in the manifest; take it out of the bundle")
        if status.st_size != expected[name]:
            raise BundleError(f"{file}: {status.st_size} bytes, the manifest says {expected[name]}")
    if missing := sorted(set(expected) - set(found)):
        raise BundleError(f"{bundle.path / missing[0]}: missing, though the manifest lists it")


def _check_plain(file: Path, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise BundleError(f"{file}: a link, where a bundle has plain files; copy the bundle again")
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no plain file"
        raise BundleError(f"{file}: {kind}, where a bundle has a plain file; copy the bundle again")


def _walk(folder: Path, inside: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Everything below ``folder`` but plain folders, by its path in the bundle; no link is followed.

    :raises BundleError: a folder that can't be read, or too many inside one another.
    """
    if inside.count("/") >= DEEPEST:
        raise BundleError(f"{folder / inside}: deeper than the {DEEPEST} levels that a bundle may have")
    try:
        with os.scandir(folder / inside) as entries:
            for entry in entries:
                name = f"{inside}{entry.name}"
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    yield from _walk(folder, f"{name}/")
                else:
                    yield name, status
    except OSError as error:
        raise BundleError(f"{error.filename or folder / inside}: {error.strerror}") from None


def check_adapter(adapter: Bundle, base: Bundle) -> Bundle:
    """``adapter``, if it is one for the decoder bundle ``base``.

    :raises BundleError: no adapter, or of another base; or a base whose graph takes none.
    """
    if adapter.manifest.adapter is None:
        raise BundleError(
            f"{adapter.path}: a bundle of kind {adapter.manifest.kind}, where an adapter is needed"
        )
    if base.manifest.graphs.adapters is None:
        raise BundleError(
            f"{base.path}: it has no graph that takes adapters; export it again with this version of edgeslm"
        )
    if adapter.manifest.adapter.base != base.digest:
        raise BundleError(
            f"{adapter.path}: made for the base {short_digest(adapter.manifest.adapter.base)}, and "
            f"{base.path} is {short_digest(base.digest)}; "
            f"make it anew with edgeslm-export adapter --base {base.path}"
        )
    return adapter


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """:raises BundleError: not JSON, too large, an unknown format or field, a path outside the folder or the
    list, or a file that no bundle has.
    """
    try:
        data = json.loads(raw) if len(raw) <= MANIFEST_BYTES else None
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: not JSON ({error})") from None
    if len(raw) > MANIFEST_BYTES or count_values(data, MOST_VALUES) > MOST_VALUES:
        raise BundleError(f"{where}: larger than any manifest")
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
    if len(manifest.files) > MOST_FILES:
        raise BundleError(f"{where}: lists more than {MOST_FILES} files")
    for entry in manifest.files:
        inside = PurePosixPath(entry.path)
        if (
            not inside.parts
            or inside.is_absolute()
            or ".." in inside.parts
            or str(inside) != entry.path
            or "\0" in entry.path
            or len(inside.parts) > DEEPEST
        ):
            raise BundleError(f"{where}: {entry.path!r} is not a path inside the bundle")
        if entry.path in (MANIFEST, SIGNATURE):
            raise BundleError(f"{where}: lists {entry.path}, which is made after its list of files")
        if fault := file_fault(entry.path, entry.bytes):
            raise BundleError(f"{where}: {fault}")
    if manifest.kind in ("encoder", "head", "adapter") and getattr(manifest, manifest.kind) is None:
        raise BundleError(f"{where}: of kind {manifest.kind}, but without the section {manifest.kind!r}")
    if fault := _learned_fault(manifest):
        raise BundleError(f"{where}: {fault}")
    if manifest.model_kind is not None and not manifest.context_length:
        raise BundleError(f"{where}: context_length is missing")
    has_encoder = manifest.encoder is not None and manifest.graphs.encode is not None
    if manifest.head is not None and manifest.head.encoder is None and not has_encoder:
        raise BundleError(f"{where}: a head that names no encoder, in a bundle that has none")
    # Only what is listed has a digest, so only that may be loaded.
    listed = {entry.path for entry in manifest.files}
    for used in _files_in_use(manifest):
        if used not in listed:
            raise BundleError(f"{where}: {used!r} is used but not among its files")
    return manifest


def _learned_fault(manifest: Manifest) -> str | None:
    """What doesn't fit together in what was learned."""
    learned = manifest.learned
    if manifest.head is not None and manifest.head.reads == "pairs":
        if manifest.head.encoder is not None:
            return "head.encoder: a reader has an encoder of its own"
        return "a reader, which learns no task, but with the section 'learned'" if learned else None
    if learned is None:
        return "a head, but without the section 'learned'" if manifest.head is not None else None
    if manifest.kind not in ("head", "adapter"):
        return f"of kind {manifest.kind}, which learns no task, but with the section 'learned'"
    return learned.fault(has_head=manifest.head is not None)


def _files_in_use(manifest: Manifest) -> list[str]:
    graphs = manifest.graphs
    named = [graphs.generate, graphs.score, graphs.adapters, graphs.encode]
    named += [section.weights for section in (manifest.head, manifest.adapter) if section is not None]
    return [name for name in named if name is not None]


def file_digest(file: Path) -> str:
    """SHA-256 of a file as hex, read in pieces."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify_bundle(bundle: Bundle, but: Collection[FileEntry] = ()) -> None:
    """Compares every file with its digest.

    :param but: files that won't be read.
    :raises BundleError: naming the first file that differs.
    """
    for entry in bundle.manifest.files:
        if entry in but:
            continue
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

    ``edgeslm.bundle.performance`` is more exact where the model's shape is known.
    """
    weights = sum(f.bytes for f in manifest.weights)
    tokenizer = sum(f.bytes for f in manifest.files if f.path == "tokenizer.json")
    return rough_memory_bytes(weights, tokenizer, manifest.kv_bytes_per_token * tokens)
