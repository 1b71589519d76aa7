"""Weight prepacking of a decoder bundle: stores its weights in the layout of this CPU's kernels.

Without prepacking, onnxruntime makes a reordered copy of the quantized weights in private memory at each
start. With the option ``save_external_prepacked_constant_initializers`` onnxruntime writes the copy to a file
and maps the file into memory, so the system can evict the pages and several workers share them. A start still
reads the original weights, since onnxruntime uses them to find the prepacked weights in the file.

A prepacked bundle is valid for one CPU model and one version of the libraries; the file ``prepared.json`` in
the bundle records both. The prepacked bundle is stored in a cache below the state folder; the original bundle
is not changed. The module ``trial`` tests the prepacked bundle before it goes into the cache.

Prepacking runs in a child process (a job) that executes this module. Only the child loads the inference
libraries and writes files; it runs as the owner of the state folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import filecmp
import os
import shutil
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from edgeslm.bundle.manifest import Bundle, FileEntry, load_bundle, verify_bundle
from edgeslm.engine.prepack import trial
from edgeslm.engine.worker.prepared import (
    CACHE,
    GRAPH,
    INDEX,
    SCORE,
    WEIGHTS,
    Index,
    Prepared,
    block_digest,
    find_prepared,
    folder_of,
    folder_start,
    machine_key,
)
from edgeslm.errors import BundleError, SelfTestError
from edgeslm.hardware.board import read_memory, usable_cores
from edgeslm.ipc.job import PYTHON, Job, JobError, Progress, serve, yield_processors

MODULE: Final = "edgeslm.engine.prepack.prepare"
_ROOM: Final = 6
"""Free disk space needed, as a multiple of the size of the weights. The result contains the original and the
prepacked weights; while the job prepacks the graph ``score``, the disk holds both sets of weights twice."""
_MEMORY: Final = 4
"""Available memory needed for background prepacking, as a multiple of the size of the weights. Slightly more
than half of this memory is private, the rest is mapped files."""
_SHARE: Final = 0.25
"""Largest share of the free disk space that background prepacking may take."""
_UNUSED_S: Final = 30 * 24 * 3600.0
"""Seconds after which an unused prepacked bundle is removed if the node's configuration doesn't name the
original bundle."""


def graph_of(bundle: Bundle, *, adapters: bool) -> str:
    """The graph file that an engine loads for calls with or without ``adapters``.

    :raises BundleError: the bundle has no such graph, or isn't a decoder.
    """
    graph = bundle.manifest.graphs.for_calls(adapters=adapters)
    if bundle.manifest.kind != "decoder" or graph is None:
        what = "graph that takes adapters" if adapters else "decoder's graph"
        raise BundleError(f"{bundle.path}: it has no {what}; only decoders can be prepared")
    return graph


async def prepare(
    bundle: Bundle,
    graph: str,
    state_dir: Path,
    *,
    background: bool = False,
    keep: Collection[str] = (),
    command: Sequence[str] = PYTHON,
) -> Index:
    """Prepacks a bundle and replaces an older prepacked bundle; running engines continue to use the files
    that they have mapped. Cancelling the call ends the job at once.

    If the caller is root, the job runs as the owner of the state folder. The prepacked files must belong to
    the owner of the state folder. Besides, root must not write to a folder of another user, since this user
    could redirect the writes with links.

    :param background: run in the background: use idle CPU time and at most a quarter of the free disk space,
        and remove results that were unused for a month, except those of bundles whose digests are in
        ``keep``.
    :param command: command line that runs the child's module; the default is this Python.
    :raises SelfTestError: this machine's answers differ from the golden answers of the build machine.
    :raises BundleError: the bundle is damaged, the prepacked graph gives different logits, or the result
        can't be written.
    """
    if not state_dir.is_dir() and os.geteuid() == 0:
        raise BundleError(f"{state_dir}: missing; start the node once, or make it for the node's user")
    user = None
    if os.geteuid() == 0 and (owner := state_dir.stat()).st_uid:
        user = owner.st_uid, owner.st_gid
    order = PrepackOrder(
        bundle=bundle.path.resolve(),
        digest=bundle.digest,
        graph=graph,
        cache=state_dir / CACHE,
        keep=tuple(keep) if background else None,
    )
    try:
        with (
            Job(MODULE, command=command, runs_as=user) as job,
            _terminal_progress(background=background) as show,
        ):
            found = await job.in_thread(
                job.ask,
                order.model_dump(mode="json"),
                timeout_s=None,
                memory_bytes=None,
                on_progress=show,
            )
    except JobError as error:
        raise BundleError(f"{bundle.path} can't be prepared: {error}") from None
    except OSError as error:
        raise BundleError(f"{bundle.path} can't be prepared: {error.strerror}") from None
    if "error" in found:
        raise (SelfTestError if found.get("is_self_test") else BundleError)(found["error"])
    return Index.model_validate(found)


@contextlib.contextmanager
def _terminal_progress(*, background: bool) -> Iterator[Progress]:
    """Shows the current step on one line of the terminal, unless the job runs in the background."""
    if background or not sys.stderr.isatty():
        yield lambda step: None
        return

    def show(step: Any) -> None:
        print(f"\r\033[K{step}", end="", file=sys.stderr, flush=True)  # noqa: T201

    try:
        yield show
    finally:
        show("")


# --- in the child ----------------------------------------------------------------------------------


class PrepackOrder(BaseModel):
    """The job's input. ``keep`` lists the digests of bundles whose prepacked bundles must not be removed;
    None if the job doesn't run in the background."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Path
    digest: str
    graph: str
    cache: Path
    keep: tuple[str, ...] | None


def make(bundle: Bundle, order: PrepackOrder, show: Progress) -> Index:
    """:raises BundleError: see ``prepare``. :raises OSError: a file can't be written."""
    graph, cache = order.graph, order.cache
    cache.mkdir(parents=True, exist_ok=True, mode=0o755)
    with _cache_lock(cache, show):
        _remove_stale(cache, order.keep)
        folder, stage = folder_of(bundle, graph, cache), cache / ".stage"
        if order.keep is not None and find_prepared(
            bundle, graph, cache
        ):  # another node has made it in the meantime
            return Index.model_validate_json((folder / INDEX).read_bytes())
        memory = read_memory(Path("/"))
        check_room(
            bundle,
            cache,
            free_bytes=shutil.disk_usage(cache).free,
            available_bytes=None if memory is None else memory.available,
            background=order.keep is not None,
        )
        stage.mkdir(mode=0o755)
        try:
            show("laying out the weights")
            verify_bundle(bundle)
            _write(bundle.path / graph, stage)
            if graph == bundle.manifest.graphs.generate:
                _write_score(bundle, stage)
            verify_bundle(bundle)  # the bundle could have been replaced while it was read
            show("comparing what it computes")
            prepacked = Prepared(stage / GRAPH, 0).seen_from(bundle.path)
            trial.check_same(bundle, graph, prepacked)
            # The golden answers are of the graph without adapters; the other one may round differently.
            plain = bundle.manifest.graphs.generate
            apart = trial.test_itself(bundle, prepacked if plain in (None, graph) else str(plain))
            show("measuring threads")
            measured = trial.time_threads(bundle, prepacked)
            seconds = {threads: round(one.request, 4) for threads, one in measured.items()}
            index = Index(
                bundle=bundle.digest,
                graph=graph,
                machine=machine_key(),
                cores=usable_cores(),
                threads=trial.fastest(seconds) if seconds else usable_cores(),
                seconds=seconds,
                prompt_seconds={threads: round(one.prompt, 4) for threads, one in measured.items()},
                divergences=apart,
                files=tuple(_entry(file) for file in sorted(stage.iterdir())),
            )
            (stage / INDEX).write_text(index.model_dump_json(indent=1))
            _sync(stage)
            if folder.exists():
                folder.rename(cache / ".old")
            stage.rename(folder)
        finally:
            for left in cache.glob(".*"):
                shutil.rmtree(left, ignore_errors=True)
    return index


def _entry(file: Path) -> FileEntry:
    return FileEntry(path=file.name, bytes=file.stat().st_size, sha256=block_digest(file))


@contextlib.contextmanager
def _cache_lock(cache: Path, show: Progress) -> Iterator[None]:
    """Holds the cache's lock, since two jobs at a time would need twice the disk space and disturb each
    other's timings."""
    descriptor = os.open(cache / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            show("waiting for another one to end")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_stale(cache: Path, keep: Collection[str] | None) -> None:
    """Removes the leftovers of killed jobs, and the prepacked bundles that were unused for a month, except
    those of the bundles in ``keep``. More recently used prepacked bundles stay, since other nodes that share
    this state folder may need them."""
    for left in cache.glob(".*"):
        shutil.rmtree(left, ignore_errors=True)
    if keep is None:
        return
    for folder in cache.glob("*-*"):
        is_kept = any(folder.name.startswith(folder_start(digest)) for digest in keep)
        if not is_kept and time.time() - folder.stat().st_mtime > _UNUSED_S:
            shutil.rmtree(folder, ignore_errors=True)


def check_room(
    bundle: Bundle,
    cache: Path,
    *,
    free_bytes: int,
    available_bytes: int | None = None,
    background: bool = False,
) -> None:
    """Checks that there is room for prepacking a bundle.

    :param free_bytes: free space on the cache's disk.
    :param available_bytes: available memory, checked only for background prepacking; None if unknown.
    :raises BundleError: the disk space or the memory is too small.
    """
    weights = sum(file.bytes for file in bundle.manifest.weights)
    needed = _ROOM * weights
    if free_bytes * (_SHARE if background else 1) < needed:
        of = ", a quarter of which may be used in the background" if background else ""
        wanted = f"{needed / 1e6:.0f} MB are needed to prepare {bundle.path}"
        raise BundleError(f"{cache}: {wanted}, {free_bytes / 1e6:.0f} MB are free{of}")
    needed = _MEMORY * weights
    if background and available_bytes is not None and available_bytes < needed:
        wanted = f"{needed / 1e6:.0f} MB of memory are needed to prepare {bundle.path} in the background"
        raise BundleError(f"{wanted}, {available_bytes / 1e6:.0f} MB are available")


def _write(graph: Path, stage: Path) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3  # suppresses the warning that the result fits this machine only
    options.optimized_model_filepath = str(stage / GRAPH)
    for key, value in (
        ("optimized_model_external_initializers_file_name", WEIGHTS),
        ("optimized_model_external_initializers_min_size_in_bytes", "1024"),
        ("save_external_prepacked_constant_initializers", "1"),
    ):
        options.add_session_config_entry(f"session.{key}", value)
    ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def _write_score(bundle: Bundle, stage: Path) -> None:
    """Prepacks the graph that scores labels. The prepacked graph is kept only if its weights file equals that
    of the main graph, so that both graphs can share one file, and if it gives the right scores. Without this
    graph, the main graph scores the labels, one branch of the label tree at a time."""
    if bundle.manifest.graphs.score is None:
        return
    apart = stage / "score"
    apart.mkdir()
    try:
        _write(bundle.path / bundle.manifest.graphs.score, apart)
        if filecmp.cmp(apart / WEIGHTS, stage / WEIGHTS, shallow=False):
            (apart / GRAPH).rename(stage / SCORE)
            if not trial.has_same_scores(bundle, stage / SCORE):
                (stage / SCORE).unlink()
    except OSError:
        raise
    except Exception:  # the runtime raises many kinds; an engine could not load the graph either
        (stage / SCORE).unlink(missing_ok=True)
    finally:
        shutil.rmtree(apart)


def _sync(folder: Path) -> None:
    for file in (*folder.iterdir(), folder):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _answer(told: Any, progress: Progress) -> dict[str, Any]:
    """Runs the job; returns the fields of the index, or ``{"error": ...}``."""
    order = PrepackOrder.model_validate(told)
    if order.keep is not None:
        yield_processors()
    try:
        return make(load_bundle(order.bundle, order.digest), order, progress).model_dump()
    except BundleError as error:
        return {"error": str(error), "is_self_test": isinstance(error, SelfTestError)}
    except OSError as error:
        return {"error": f"{error.filename or order.cache}: {error.strerror}"}
    except Exception as error:  # the libraries raise many kinds
        return {"error": f"{order.bundle} can't be prepared: {error}"}


if __name__ == "__main__":
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import
    os.umask(0o077)
    serve(_answer)
