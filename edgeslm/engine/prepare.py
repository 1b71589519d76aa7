"""A decoder bundle made ready for this machine: its weights on disk as the processor's kernels read them.

At each start onnxruntime lays quantized weights out anew, and keeps the result in memory of its own. With the
result in a file (its option ``save_external_prepacked_constant_initializers``) it maps that instead: the
system can give the pages back, and several engines share them. It still reads the weights as they were, by
which it knows the file's parts again.

What is written fits one processor and one version of the libraries, so it is kept with their key in a cache
below the state folder, and the bundle stays what it is. It is asked to compute what the bundle computes
before it is kept, and how many threads are fastest is measured with it.

``python -m edgeslm.engine.prepare`` is the child process that makes it: it alone loads the libraries, and it
alone writes, as the user to whom the state folder belongs.
"""

from __future__ import annotations

import fcntl
import filecmp
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeslm.board import usable_cores
from edgeslm.bundle import Bundle, FileEntry, file_digest, load_bundle, verify_bundle
from edgeslm.engine.prepared import (
    CACHE,
    GRAPH,
    INDEX,
    NEW_TOKENS,
    PROMPT_TOKENS,
    SCORE,
    WEIGHTS,
    Index,
    Prepared,
    folder_of,
    machine_key,
)
from edgeslm.errors import BundleError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

COMMAND: Final = (sys.executable, "-P", "-m", "edgeslm.engine.prepare")
_ROOM: Final = 6
"""Times the weights' bytes that have to be free: what is written holds them in both layouts, and twice for a
moment, as each graph writes them."""
_CLOSE: Final = 1e-3
"""By how much of the largest logit others may differ: they are the same kernels on the same numbers."""
_ROUNDS: Final = 3
_WORTH: Final = 0.95
"""More threads have to take at most this share of the time of fewer: they cost power and others' time."""
_BUSY: Final = 0.5
"""Programs that want a processor, for each there is: with more, threads would be measured against them."""


def graph_of(bundle: Bundle, *, adapters: bool) -> str:
    """The graph that an engine loads, of a model whose calls name ``adapters`` or not.

    :raises BundleError: there is none.
    """
    graph = bundle.manifest.graphs.for_calls(adapters=adapters)
    if bundle.manifest.kind != "decoder" or graph is None:
        what = "graph that takes adapters" if adapters else "decoder's graph"
        raise BundleError(f"{bundle.path}: it has no {what}; what is no decoder needs no preparing")
    return graph


def prepare(bundle: Bundle, graph: str, state_dir: Path, *, command: Sequence[str] = COMMAND) -> Index:
    """Makes it, or makes it anew; an engine that runs keeps what it has mapped.

    Root makes it as the user of the state folder: nothing that this user put there may lead root astray, and
    what is made has to be the user's.

    :raises BundleError: the bundle is damaged, what was made doesn't compute what it computes, or it can't be
        written.
    """
    if not state_dir.is_dir() and os.geteuid() == 0:
        raise BundleError(f"{state_dir}: missing; start the node once, or make it for the node's user")
    identity: dict[str, Any] = {}
    if os.geteuid() == 0 and (owner := state_dir.stat()).st_uid:
        identity = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    task = {
        "bundle": str(bundle.path.resolve()),
        "digest": bundle.digest,
        "graph": graph,
        "cache": str(state_dir / CACHE),
        "shows": sys.stderr.isatty(),
    }
    try:
        done = subprocess.run(
            command,
            input=json.dumps(task),
            stdout=subprocess.PIPE,
            stderr=None if task["shows"] else subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
            **identity,
        )
    except OSError as error:
        raise BundleError(f"{bundle.path} can't be prepared: {error.strerror}") from None
    status, last = done.returncode, done.stdout.strip().rpartition("\n")[2]
    if status != 0 or not last:
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        words = (done.stderr or "").strip().rpartition("\n")[2][-300:]
        raise BundleError(f"{bundle.path} can't be prepared: its process ended unexpectedly ({how}) {words}")
    said = json.loads(last)
    if "error" in said:
        raise BundleError(said["error"])
    return Index.model_validate(said)


# --- in the child ----------------------------------------------------------------------------------


def make(bundle: Bundle, graph: str, cache: Path, shows: bool = False) -> Index:
    """:raises BundleError: see ``prepare``. :raises OSError: what the disk says."""

    def show(step: str) -> None:
        if shows:
            print(f"\r\033[K{step}", end="", file=sys.stderr, flush=True)  # noqa: T201

    cache.mkdir(parents=True, exist_ok=True, mode=0o755)
    is_idle = os.getloadavg()[0] <= _BUSY * usable_cores()  # before its own work counts
    with _alone(cache, show):
        for left in cache.glob(".*"):  # by one that was killed
            shutil.rmtree(left, ignore_errors=True)
        _check_room(bundle, cache)
        folder, stage = folder_of(bundle, graph, cache), cache / ".stage"
        stage.mkdir(mode=0o755)
        try:
            show("laying out the weights")
            verify_bundle(bundle)
            _write(bundle.path / graph, stage)
            if graph == bundle.manifest.graphs.generate:
                _write_score(bundle, stage)
            verify_bundle(bundle)  # it was the bundle's that were laid out, not what came in their place
            show("comparing what it computes")
            _check(bundle, graph, stage)
            seconds: dict[int, float] = {}
            for threads in _choices() if is_idle else []:
                show(f"measuring with {threads} threads")
                seconds[threads] = _time(bundle, stage, threads)
            index = Index(
                bundle=bundle.digest,
                graph=graph,
                machine=machine_key(),
                cores=usable_cores(),
                threads=fastest(seconds) if seconds else usable_cores(),
                seconds={threads: round(value, 4) for threads, value in seconds.items()},
                files=tuple(_entry(file) for file in sorted(stage.iterdir())),
            )
            (stage / INDEX).write_text(index.model_dump_json(indent=1))
            _sync(stage)
            if folder.exists():
                folder.rename(cache / ".old")
            stage.rename(folder)
        finally:
            show("")
            for left in cache.glob(".*"):
                shutil.rmtree(left, ignore_errors=True)
    return index


def _entry(file: Path) -> FileEntry:
    return FileEntry(path=file.name, bytes=file.stat().st_size, sha256=file_digest(file))


@contextmanager
def _alone(cache: Path, show: Callable[[str], None]) -> Iterator[None]:
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


def _check_room(bundle: Bundle, cache: Path) -> None:
    needed = _ROOM * sum(file.bytes for file in bundle.manifest.weights)
    free = shutil.disk_usage(cache).free
    if free < needed:
        wanted = f"{needed / 1e6:.0f} MB are needed to prepare {bundle.path}"
        raise BundleError(f"{cache}: {wanted}, {free / 1e6:.0f} MB are free")


def fastest(seconds: dict[int, float]) -> int:
    """The fewest threads than which no more are worth it."""
    best, *others = sorted(seconds)
    for threads in others:
        if seconds[threads] < _WORTH * seconds[best]:
            best = threads
    return best


def _choices() -> list[int]:
    cores = usable_cores()
    return sorted({1, 2, 4, max(1, cores // 2), cores} & set(range(1, cores + 1)))


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
            wanted = _scores(bundle, bundle.path / bundle.manifest.graphs.score)
            if not _off(_scores(bundle, stage / SCORE), wanted) <= _CLOSE:
                (stage / SCORE).unlink()
    except OSError:
        raise
    except Exception:  # the runtime, which raises many kinds, refuses the graph: an engine would too
        (stage / SCORE).unlink(missing_ok=True)
    finally:
        shutil.rmtree(apart)


def _check(bundle: Bundle, graph: str, stage: Path) -> None:
    """A prompt and two steps of decoding, which take different kernels."""
    wanted = _logits(bundle, graph)
    off = _off(_logits(bundle, Prepared(stage / GRAPH, 0).seen_from(bundle.path)), wanted)
    if not off <= _CLOSE:
        raise BundleError(
            f"{bundle.path}: what was prepared computes other numbers (by {off:.1%}), so it is not used"
        )


def _off(found: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]) -> float:
    """By how much of the largest number the others differ at most."""
    import numpy as np

    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def _scores(bundle: Bundle, graph: Path) -> npt.NDArray[np.float64]:
    import numpy as np

    from edgeslm.engine.labels import make_tree
    from edgeslm.engine.prompt import Encoded
    from edgeslm.engine.scorer import Scorer

    scorer = Scorer(graph, _settings(bundle), (0,), usable_cores())
    ids = _tokens(bundle, 16).tolist()
    found = scorer.score(Encoded(ids, None, 8), make_tree([ids[:1], ids[:2], ids[1:3], ids[:3]]))
    return np.array([found[label] for label in sorted(found)])


def _logits(bundle: Bundle, graph: str) -> npt.NDArray[np.float64]:
    import numpy as np

    generator = _generator(_load(bundle, graph, usable_cores()))
    found = []
    generator.append_tokens(_tokens(bundle, 32))
    for _ in range(3):
        found.append(np.asarray(generator.get_logits(), np.float64).ravel())
        generator.generate_next_token()
    return np.concatenate(found)


def _time(bundle: Bundle, stage: Path, threads: int) -> float:
    """Seconds of a request, the least of a few."""
    model, taken = _load(bundle, Prepared(stage / GRAPH, 0).seen_from(bundle.path), threads), []
    for _ in range(_ROUNDS):
        generator = _generator(model)
        started = time.perf_counter()
        generator.append_tokens(_tokens(bundle, PROMPT_TOKENS))
        for _ in range(NEW_TOKENS):
            generator.generate_next_token()
        taken.append(time.perf_counter() - started)
        del generator  # before its model
    return min(taken)


def _tokens(bundle: Bundle, count: int) -> npt.NDArray[np.int32]:
    import numpy as np

    count = min(count, bundle.manifest.context_length - NEW_TOKENS - 1)
    return np.random.default_rng(0).integers(0, _settings(bundle)["vocab_size"], count).astype(np.int32)


def _settings(bundle: Bundle) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((bundle.path / "genai_config.json").read_text("utf-8"))["model"]
    return read


def _load(bundle: Bundle, graph: str, threads: int) -> Any:
    from edgeslm.engine.loading import PLAIN

    return PLAIN.load(bundle.path, graph, threads)


def _generator(model: Any) -> Any:
    import onnxruntime_genai as og

    params = og.GeneratorParams(model)
    most = PROMPT_TOKENS + NEW_TOKENS + 1
    params.set_search_options(max_length=most, min_length=most, do_sample=False)
    return og.Generator(model, params)


def _sync(folder: Path) -> None:
    for file in (*folder.iterdir(), folder):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def main() -> None:
    """The task as JSON on standard input; the index or ``{"error": ...}`` as a line on standard output."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import
    os.umask(0o022)
    task = json.load(sys.stdin)
    path = Path(task["bundle"])
    said: dict[str, Any]
    try:
        index = make(load_bundle(path, task["digest"]), task["graph"], Path(task["cache"]), task["shows"])
        said = index.model_dump()
    except BundleError as error:
        said = {"error": str(error)}
    except OSError as error:
        said = {"error": f"{error.filename or task['cache']}: {error.strerror}"}
    except Exception as error:  # the libraries raise many kinds
        said = {"error": f"{path} can't be prepared: {error}"}
    print(json.dumps(said))  # noqa: T201


if __name__ == "__main__":
    main()
