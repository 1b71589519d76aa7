"""Weight prepacking of a decoder bundle: its weights on disk as this processor's kernels read them.

At each start onnxruntime lays quantized weights out anew, and keeps the result in memory of its own. With the
result in a file (its option ``save_external_prepacked_constant_initializers``) it maps that instead: the
system can give the pages back, and several engines share them. It still reads the weights as they were, by
which it knows the file's parts again.

What is written fits one processor and one version of the libraries, so it is kept with their key in a cache
below the state folder, and the bundle stays what it is. Before it is kept it is put to the test (``trial``).

A job makes it, whose child is this module: it alone loads the libraries, and it alone writes, as the user to
whom the state folder belongs.
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
"""Times the weights' bytes that have to be free: what is written holds them in both layouts, and twice for a
moment, as each graph writes them."""
_MEMORY: Final = 4
"""Times the weights' bytes of memory that have to be available where nobody asked: a bit more than half of
them are the process's own, the rest is what it maps."""
_SHARE: Final = 0.25
"""Of what is free on the disk, all that is taken where nobody asked."""
_UNUSED_S: Final = 30 * 24 * 3600.0
"""After so long without use what was prepared of a bundle that the node doesn't name is taken away."""


def graph_of(bundle: Bundle, *, adapters: bool) -> str:
    """The graph that an engine loads, of a model whose calls name ``adapters`` or not.

    :raises BundleError: there is none.
    """
    graph = bundle.manifest.graphs.for_calls(adapters=adapters)
    if bundle.manifest.kind != "decoder" or graph is None:
        what = "graph that takes adapters" if adapters else "decoder's graph"
        raise BundleError(f"{bundle.path}: it has no {what}; what is no decoder needs no preparing")
    return graph


async def prepare(
    bundle: Bundle,
    graph: str,
    state_dir: Path,
    *,
    unasked: bool = False,
    keep: Collection[str] = (),
    command: Sequence[str] = PYTHON,
) -> Index:
    """Makes it, or makes it anew; an engine that runs keeps what it has mapped. Cancelled, it ends at once.

    Root makes it as the user of the state folder: nothing that this user put there may lead root astray, and
    what is made has to be the user's.

    :param unasked: it is in nobody's way: it takes the time that processors have left, a quarter of the free
        disk at most, and removes what was prepared of bundles other than ``keep``, by their digests, and
        wasn't used for a month.
    :param command: what runs the child's module, in place of this Python.
    :raises SelfTestError: what was made says other things than the bundle said on the build machine.
    :raises BundleError: the bundle is damaged, what was made doesn't compute what it computes, or it can't be
        written.
    """
    if not state_dir.is_dir() and os.geteuid() == 0:
        raise BundleError(f"{state_dir}: missing; start the node once, or make it for the node's user")
    user = None
    if os.geteuid() == 0 and (owner := state_dir.stat()).st_uid:
        user = owner.st_uid, owner.st_gid
    order = _PrepackOrder(
        bundle=bundle.path.resolve(),
        digest=bundle.digest,
        graph=graph,
        cache=state_dir / CACHE,
        keep=tuple(keep) if unasked else None,
    )
    try:
        with Job(MODULE, command=command, runs_as=user) as job, _screen(unasked=unasked) as show:
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
def _screen(*, unasked: bool) -> Iterator[Progress]:
    """Shows one step after the other in a line of the terminal, if somebody waits there."""
    if unasked or not sys.stderr.isatty():
        yield lambda step: None
        return

    def show(step: Any) -> None:
        print(f"\r\033[K{step}", end="", file=sys.stderr, flush=True)  # noqa: T201

    try:
        yield show
    finally:
        show("")


# --- in the child ----------------------------------------------------------------------------------


class _PrepackOrder(BaseModel):
    """What the child is told. ``keep`` is None where somebody asked for it, and waits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Path
    digest: str
    graph: str
    cache: Path
    keep: tuple[str, ...] | None


def make(bundle: Bundle, order: _PrepackOrder, show: Progress) -> Index:
    """:raises BundleError: see ``prepare``. :raises OSError: what the disk says."""
    graph, cache = order.graph, order.cache
    cache.mkdir(parents=True, exist_ok=True, mode=0o755)
    with _alone(cache, show):
        _clear(cache, order.keep)
        folder, stage = folder_of(bundle, graph, cache), cache / ".stage"
        if order.keep is not None and find_prepared(
            bundle, graph, cache
        ):  # another node has made it meanwhile
            return Index.model_validate_json((folder / INDEX).read_bytes())
        _check_room(bundle, cache, unasked=order.keep is not None)
        stage.mkdir(mode=0o755)
        try:
            show("laying out the weights")
            verify_bundle(bundle)
            _write(bundle.path / graph, stage)
            if graph == bundle.manifest.graphs.generate:
                _write_score(bundle, stage)
            verify_bundle(bundle)  # it was the bundle's that were laid out, not what came in their place
            show("comparing what it computes")
            laid_out = Prepared(stage / GRAPH, 0).seen_from(bundle.path)
            trial.check_same(bundle, graph, laid_out)
            # The answers are those of the graph that takes no adapters; one that does may round otherwise.
            plain = bundle.manifest.graphs.generate
            apart = trial.test_itself(bundle, laid_out if plain in (None, graph) else str(plain))
            show("measuring threads")
            measured = trial.time_threads(bundle, laid_out)
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
def _alone(cache: Path, show: Progress) -> Iterator[None]:
    """One at a time: two would need twice the disk and measure each other."""
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


def _clear(cache: Path, keep: Collection[str] | None) -> None:
    """Removes what one that was killed left and, but of the bundles ``keep``, what nobody used for a month:
    another node with this state folder may have its own there."""
    for left in cache.glob(".*"):
        shutil.rmtree(left, ignore_errors=True)
    if keep is None:
        return
    for folder in cache.glob("*-*"):
        is_kept = any(folder.name.startswith(folder_start(digest)) for digest in keep)
        if not is_kept and time.time() - folder.stat().st_mtime > _UNUSED_S:
            shutil.rmtree(folder, ignore_errors=True)


def _check_room(bundle: Bundle, cache: Path, *, unasked: bool) -> None:
    weights = sum(file.bytes for file in bundle.manifest.weights)
    free, needed = shutil.disk_usage(cache).free, _ROOM * weights
    if free * (_SHARE if unasked else 1) < needed:
        of = ", a quarter of which may be taken unasked" if unasked else ""
        wanted = f"{needed / 1e6:.0f} MB are needed to prepare {bundle.path}"
        raise BundleError(f"{cache}: {wanted}, {free / 1e6:.0f} MB are free{of}")
    memory, needed = read_memory(Path("/")), _MEMORY * weights
    if unasked and memory is not None and memory.available < needed:
        wanted = f"{needed / 1e6:.0f} MB of memory are needed to prepare {bundle.path} unasked"
        raise BundleError(f"{wanted}, {memory.available / 1e6:.0f} MB are available")


def _write(graph: Path, stage: Path) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3  # that it is for this machine alone is known
    options.optimized_model_filepath = str(stage / GRAPH)
    for key, value in (
        ("optimized_model_external_initializers_file_name", WEIGHTS),
        ("optimized_model_external_initializers_min_size_in_bytes", "1024"),
        ("save_external_prepacked_constant_initializers", "1"),
    ):
        options.add_session_config_entry(f"session.{key}", value)
    ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def _write_score(bundle: Bundle, stage: Path) -> None:
    """The graph that scores labels, if it gets the same weights and computes the same: it then maps the same
    file. Without it labels are scored one after the other."""
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
    except Exception:  # the runtime, which raises many kinds, refuses the graph: an engine would too
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
    """The index, or ``{"error": ...}``."""
    order = _PrepackOrder.model_validate(told)
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
