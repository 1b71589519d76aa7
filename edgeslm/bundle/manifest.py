"""Bundle manifest: the format of bundles, which ``edgeslm-export`` writes and a device runs.

A bundle is an immutable folder with ``manifest.json``, the model, its tokenizer files and ``report.json``.
The manifest lists the size and the SHA-256 of every other file, so the digest of the manifest identifies the
whole bundle. The manifest doesn't list ``model.sig``, since this file signs the manifest. This module loads
and verifies bundles and estimates their memory; ``signature`` checks signatures.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

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
from edgeslm.bundle.size_estimate import STATE_COPIES, rough_memory_bytes
from edgeslm.errors import BundleError

if TYPE_CHECKING:
    from edgeslm.bundle.zero_shot import ZeroShotSection
else:

    def _read_zero_shot(value: Any) -> Any:
        """Loads the classes of the section only for bundles that have it: they take 0.3 MB of the daemon."""
        from edgeslm.bundle.zero_shot import read_section

        return None if value is None else read_section(value)

    ZeroShotSection = Annotated[Any, BeforeValidator(_read_zero_shot)]

MANIFEST = "manifest.json"
REPORT = "report.json"
SIGNATURE = "model.sig"
FORMAT = 1

Kind = Literal["decoder", "encoder", "adapter", "head"]


class FileEntry(Section):
    """A file of the bundle; ``path`` is relative to the bundle's folder, with forward slashes."""

    path: str
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Source(Section):
    """Where the weights came from."""

    id: str
    revision: str = ""
    licence: str = ""


class WeightGroup(Section):
    """Bits and group size of the weights that ``group`` names; ``*`` stands for all weights that aren't
    listed."""

    group: str
    bits: int
    group_size: int


class Quantization(Section):
    recipe: str
    groups: tuple[WeightGroup, ...] = ()
    written: tuple[WeightGroup, ...] | None = Field(None, description="formats of separate decode weights")


class Graphs(Section):
    """The ONNX files of a bundle, by purpose."""

    generate: str | None = None
    score: str | None = None
    adapters: str | None = Field(default=None, description="`generate` with inputs for LoRA matrices")
    encode: str | None = None

    def for_calls(self, *, adapters: bool) -> str | None:
        """The decoder graph to load for calls with or without ``adapters``."""
        return self.adapters if adapters else self.generate


QUESTION_SHARE = 4
"""A reader truncates a question to its context length divided by this number."""


class EncoderSection(Section):
    """How an encoder's token vectors become one vector.

    ``prompts`` maps a purpose, such as ``query``, to the prefix with which the model was trained; callers add
    this prefix to the text.
    """

    dimension: int
    pooling: Literal["mean", "cls"] = "mean"
    normalize: bool = True
    prompts: dict[str, str] | None = None


class HeadSection(Section):
    """A linear head on the embeddings of an encoder; the encoder is in another bundle or in this bundle.

    ``weights`` names an ``.npz`` file with ``weight`` [labels, dimension] and ``bias`` [labels] in float32;
    uncalibrated probabilities are ``softmax(weight @ x + bias)``. For the task ``extract``, each row of
    ``weight`` is one option of a field; the rows of a field are adjacent. The file of an ``extract`` head
    also has ``place_weight`` [fields, 3, dimension] and ``place_bias`` [fields, 3], which score for each
    token whether a field's span starts, ends or continues there. The optional ``centroids`` [groups,
    dimension] are unit vectors of clusters of the training rows. ``heads.HiddenLayers`` has the arrays
    of layers before the last one.
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
    activation: Literal["gelu", "relu", "tanh"] | None = Field(
        default=None, description="of the layer `dense`; none: tanh"
    )


class AdapterSection(Section):
    """LoRA matrices for the graph ``adapters`` of one decoder bundle.

    ``weights`` names an ``.onnx_adapter`` file with scaled float32 matrices, which have the names of the
    graph's inputs.
    """

    base: str = Field(description="digest of the decoder bundle, sha256:<hex>")
    weights: str = "adapter.onnx_adapter"
    rank: int = Field(ge=1, description="the largest of its ranks")
    targets: tuple[str, ...]


class Manifest(Section):
    format: Literal[1] = 1
    name: str = Field(min_length=1)
    release: int | None = Field(
        default=None,
        strict=True,
        ge=0,
        lt=2**53,
        description="rises with each bundle of the name; none: 0",
    )
    kind: Kind
    architecture: str
    source: Source
    files: tuple[FileEntry, ...]
    quantization: Quantization | None = None
    context_length: int = Field(default=0, ge=0)
    kv_bytes_per_token: int = Field(default=0, ge=0)
    state_bytes: int | None = Field(None, ge=0, description="recurrent state of a sequence")
    graphs: Graphs = Graphs()
    encoder: EncoderSection | None = None
    zero_shot: ZeroShotSection | None = None
    head: HeadSection | None = None
    adapter: AdapterSection | None = None
    learned: LearnedSection | None = None
    runtime: dict[str, str] = Field(default_factory=dict)
    created: str = Field(description="UTC time, ISO 8601: SOURCE_DATE_EPOCH, else the source's revision date")

    @property
    def weights(self) -> tuple[FileEntry, ...]:
        """The graph files and weight files."""
        return tuple(entry for entry in self.files if entry.path.endswith((".onnx", ".data")))

    @property
    def is_reader(self) -> bool:
        """Whether the model is a reader, which scores how likely a text answers a question."""
        return self.head is not None and self.head.reads == "pairs"

    @property
    def embeds(self) -> bool:
        """Whether the model computes embeddings of texts; false for readers and zero-shot models."""
        return self.model_kind == "encoder" and not self.is_reader and self.zero_shot is None

    @property
    def model_kind(self) -> Literal["decoder", "encoder"] | None:
        """The kind of model that an engine can load; None if this bundle only extends another one."""
        if self.kind in ("decoder", "encoder"):
            return self.kind
        brings_its_own = self.kind == "head" and self.head is not None and self.head.encoder is None
        return "encoder" if brings_its_own else None


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk with its parsed manifest."""

    path: Path
    manifest: Manifest
    digest: str
    """``sha256:<hex>`` of ``manifest.json``."""

    @property
    def weight_bytes(self) -> int:
        """Total size of all listed files in bytes."""
        return sum(f.bytes for f in self.manifest.files)


def short_digest(digest: str) -> str:
    """Shortens a digest to its first twelve hex digits, for results and display."""
    return digest[: len("sha256:") + 12]


def load_bundle(path: Path, digest: str | None = None) -> Bundle:
    """Loads the manifest and checks that the folder holds exactly the listed files, as plain files with the
    listed sizes.

    Unlisted files are refused, since they have no digest and tokenizer loaders read files by name. Links are
    refused, since their targets may change; only the folder itself may be a link. The file
    ``genai_config.json`` must pass ``edgeslm.bundle.genai_config``, since its settings can make the runtime
    load code.

    :param digest: required digest of the bundle; None accepts any bundle.
    :raises BundleError: a check failed; the error's text names the file.
    """
    manifest_path = path / MANIFEST
    try:
        if not path.is_dir():
            raise BundleError(f"{path}: there is no such folder")
        _check_plain(manifest_path, manifest_path.lstat())
        raw = read_whole(manifest_path, MANIFEST_BYTES)
    except FileNotFoundError:
        raise BundleError(f"{manifest_path}: missing, so this folder is not a bundle") from None
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
            raise BundleError(f"{file}: not listed in the manifest; remove it from the bundle")
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
    """Yields the path and status of everything below ``folder`` except folders; doesn't follow links.

    :raises BundleError: a folder can't be read, or folders are nested too deep.
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
    """Returns ``adapter`` if it belongs to the decoder bundle ``base``.

    :raises BundleError: the bundle isn't an adapter or has another base, or the base has no graph for
        adapters.
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
            f"export it again with edgeslm-export adapter --base {base.path}"
        )
    return adapter


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """Parses and validates a manifest.

    :raises BundleError: the manifest isn't JSON, is too large, has an unknown format or field, or names a
        path outside the folder, an unlisted file or a file type that isn't allowed.
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
    if manifest.zero_shot is not None and manifest.kind != "encoder":
        raise BundleError(f"{where}: of kind {manifest.kind}, but with the section 'zero_shot'")
    if fault := _learned_fault(manifest):
        raise BundleError(f"{where}: {fault}")
    if manifest.model_kind is not None and not manifest.context_length:
        raise BundleError(f"{where}: context_length is missing")
    has_encoder = manifest.encoder is not None and manifest.graphs.encode is not None
    if manifest.head is not None and manifest.head.encoder is None and not has_encoder:
        raise BundleError(f"{where}: a head that names no encoder, in a bundle that has none")
    # Only listed files have a digest, so only those may be loaded.
    listed = {entry.path for entry in manifest.files}
    for used in _files_in_use(manifest):
        if used not in listed:
            raise BundleError(f"{where}: {used!r} is used but not among its files")
    return manifest


def _learned_fault(manifest: Manifest) -> str | None:
    """What is inconsistent in the section ``learned``; None if valid."""
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
    named += [section.weights for section in (manifest.head, manifest.adapter, manifest.zero_shot) if section]
    return [name for name in named if name is not None]


def file_digest(file: Path) -> str:
    """SHA-256 of a file in hex; the file is read in pieces."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify_bundle(bundle: Bundle, but: Collection[FileEntry] = ()) -> None:
    """Compares every file with its digest.

    :param but: files to skip.
    :raises BundleError: a file differs; the error's text names the first such file.
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
    """Estimates how many bytes of memory a loaded model with a cache of ``tokens`` tokens needs.

    The estimate of ``edgeslm.bundle.performance`` is more accurate if the model's shape is known.
    """
    weights = sum(f.bytes for f in manifest.weights)
    tokenizer = sum(f.bytes for f in manifest.files if f.path == "tokenizer.json")
    cache = manifest.kv_bytes_per_token * tokens + STATE_COPIES * (manifest.state_bytes or 0)
    return rough_memory_bytes(weights, tokenizer, cache)
