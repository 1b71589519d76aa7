"""Prepacked bundles in the cache, which are used only if undamaged and written by the node's user.

The module ``prepare`` creates prepacked bundles. A prepacked bundle is valid for one CPU model and one
version of the libraries; the file ``prepared.json`` in the bundle records both.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import mmap
import os
import platform
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeslm.bundle.manifest import Bundle, FileEntry
from edgeslm.engine.libraries import LIBRARIES, installed
from edgeslm.hardware.board import read_text, usable_cores
from edgeslm.storage.file_ownership import is_ours

log = logging.getLogger("edgeslm.engine")

CACHE: Final = "prepared"
"""Name of the folder of the cache, below the state folder."""
INDEX: Final = "prepared.json"
GRAPH: Final = "model.onnx"
WEIGHTS: Final = "model.onnx.data"
SCORE: Final = "score.onnx"
"""File of the prepacked graph ``score``; it exists only if this graph has the same prepacked weights as the
main graph."""
_OF_PROCESSOR: Final = (
    *("model name", "flags"),
    *("Features", "CPU implementer", "CPU variant", "CPU part"),
    *("isa", "uarch"),
)
"""Keys of /proc/cpuinfo whose values determine which kernels the runtime chooses, on x86, ARM and RISC-V."""
PROMPT_TOKENS, NEW_TOKENS = 128, 16
"""Number of prompt tokens and generated tokens of the request that is measured to find the fastest number of
threads."""
BLOCK_BYTES: Final = 2**24
"""Size, in bytes, of the blocks that ``block_digest`` hashes; a different size would change the digests."""


class Index(BaseModel):
    """Content of ``prepared.json``.

    For each number of threads, ``seconds`` has the time of a typical request and ``prompt_seconds`` the time
    of its prefill; both are empty if the machine was too busy to measure. ``threads`` is the fastest number
    of threads on ``cores`` usable cores, or equals ``cores`` if nothing was measured. ``divergences`` lists,
    in nats, how far the machine's answers diverge from the golden answers. The digests in ``files`` are
    computed by ``block_digest``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[2] = 2
    bundle: str
    graph: str
    machine: str
    cores: int = Field(ge=1)
    threads: int = Field(ge=1)
    seconds: dict[int, float]
    prompt_seconds: dict[int, float] = Field(default_factory=dict)
    divergences: tuple[float, ...] = ()
    files: tuple[FileEntry, ...]

    def render(self) -> str:
        """Formats the index for the terminal."""
        lines = [f"{sum(file.bytes for file in self.files) / 1e6:.0f} MB for this processor"]
        for threads, seconds in sorted(self.seconds.items()):
            request = f"{PROMPT_TOKENS} prompt tokens and {NEW_TOKENS} new ones"
            chosen = "  used with threads: auto" if threads == self.threads else ""
            several = "threads" if threads > 1 else "thread"
            lines.append(f"  {threads} {several}: {1000 * seconds:.0f} ms for {request}{chosen}")
        if not self.seconds:
            lines.append("  too busy to compare threads: auto takes all cores; repeat edgeslm prepare later")
        if self.divergences:
            count, most = len(self.divergences), max(self.divergences)
            alike = f"{count} of {count} answers as on the build machine (largest divergence {most:.3f} nats)"
            lines.append(f"  self-test: {alike}")
        else:
            lines.append("  no self-test: the bundle has no golden answers; export it again to add them")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Prepacked files to load. ``graph`` replaces the bundle's main graph, ``score`` the bundle's graph
    ``score``. ``threads`` is the fastest number of threads, 0 if unknown. For each number of threads,
    ``prompt_seconds`` has the prefill time of ``PROMPT_TOKENS`` tokens."""

    graph: Path
    threads: int
    score: Path | None = None
    prompt_seconds: Mapping[int, float] = field(default_factory=dict)

    def seen_from(self, bundle: Path) -> str:
        """Path of the graph relative to the bundle, as the runtime expects it."""
        return os.path.relpath(self.graph.resolve(), bundle.resolve())


def machine_key(root: Path = Path("/")) -> str:
    """Digest of the CPU and the library versions, on which the layout of prepacked weights depends."""
    lines = (read_text(root / "proc/cpuinfo") or "").splitlines()
    processor = sorted({line for line in lines if line.partition("\t")[0].strip(": ") in _OF_PROCESSOR})
    versions = [installed(module) for module in LIBRARIES]
    key = json.dumps([platform.machine(), processor, versions])
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def folder_of(bundle: Bundle, graph: str, cache: Path) -> Path:
    """Folder of a bundle's prepacked graph. The folder's name doesn't depend on the machine, so a prepacked
    graph for another machine is overwritten."""
    return cache / f"{folder_start(bundle.digest)}{graph.replace('/', '-')}"


def folder_start(digest: str) -> str:
    """Prefix of the names of all folders that hold prepacked graphs of a bundle."""
    return f"{digest.removeprefix('sha256:')[:24]}-"


def block_digest(file: Path, block_bytes: int = BLOCK_BYTES) -> str:
    """SHA-256 (hex) of the SHA-256 digests of the file's blocks.

    All cores hash blocks in parallel. The file is mapped into memory, since each call that reads a piece
    would need the interpreter lock, which another thread holds while it imports libraries at start. With a
    mapped file, a disk error kills the process; the node then restarts it without the prepacked files.
    """
    with file.open("rb") as stream, ThreadPoolExecutor(usable_cores()) as pool:
        if not os.fstat(stream.fileno()).st_size:  # an empty file can't be mapped
            return hashlib.sha256().hexdigest()
        with mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as content, memoryview(content) as view:
            content.madvise(mmap.MADV_WILLNEED)  # the disk reads ahead of the threads
            starts = range(0, len(view), block_bytes)
            blocks = pool.map(lambda at: hashlib.sha256(view[at : at + block_bytes]).digest(), starts)
            return hashlib.sha256(b"".join(blocks)).hexdigest()


def find_prepared(bundle: Bundle, graph: str, cache: Path) -> Prepared | None:
    """The prepacked ``graph`` of the bundle for this machine, if it is present, undamaged and writable only
    by the node's user."""
    folder = folder_of(bundle, graph, cache)
    try:
        _check_owner(folder, stat.S_IFDIR)
        names = [name for name in (INDEX, GRAPH, WEIGHTS, SCORE) if name != SCORE or (folder / name).exists()]
        for name in names:
            _check_owner(folder / name, stat.S_IFREG)
        index = Index.model_validate_json((folder / INDEX).read_bytes())
        if index.machine != machine_key():
            log.info("%s is for another processor or version; edgeslm prepare recreates it", folder)
            return None
        digests = {file.path: file.sha256 for file in index.files}
        found = {name: block_digest(folder / name) for name in names[1:]}
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.warning("%s can't be used (%s); edgeslm prepare recreates it", folder, type(error).__name__)
        return None
    if (index.bundle, index.graph, digests) != (bundle.digest, graph, found):
        log.warning("%s is damaged; edgeslm prepare recreates it", folder)
        return None
    mark_used(folder)
    as_measured = index.cores == usable_cores()
    return Prepared(
        folder / GRAPH,
        index.threads if as_measured else 0,
        folder / SCORE if SCORE in found else None,
        index.prompt_seconds if as_measured else {},
    )


def mark_used(folder: Path) -> None:
    """Marks a folder as used, so that ``prepare`` doesn't remove it."""
    with contextlib.suppress(OSError):  # owned by root, or missing
        os.utime(folder)


def _check_owner(path: Path, kind: int) -> None:
    """:raises OSError: the file has the wrong type, or others can write it."""
    status = path.lstat()
    if stat.S_IFMT(status.st_mode) != kind or not is_ours(status):
        raise PermissionError(f"{path} can be written by others")
