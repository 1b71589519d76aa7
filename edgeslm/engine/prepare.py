"""A decoder bundle made ready for this machine: its weights on disk as the processor's kernels read them.

At each start onnxruntime lays quantized weights out anew, and keeps the result in memory of its own. With the
result in a file (its option ``save_external_prepacked_constant_initializers``) it maps that instead: the
system can give the pages back, and several engines share them. It still reads the weights as they were, by
which it knows the file's parts again.

What is written fits one processor and one version of the libraries, so it is kept with their key in a cache
below the state folder, and the bundle stays what it is. It is asked to compute what the bundle computes
before it is kept, and how many threads are fastest is measured with it.

``python -m edgeslm.engine.prepare BUNDLE GRAPH CACHE`` is the child process that makes it: it alone loads the
libraries.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from edgeslm.bundle import Bundle, FileEntry, file_digest, load_bundle, verify_bundle
from edgeslm.errors import BundleError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

log = logging.getLogger("edgeslm.prepare")

CACHE: Final = "prepared"
"""Folder below the state folder."""
COMMAND: Final = (sys.executable, "-P", "-m", "edgeslm.engine.prepare")
_INDEX: Final = "prepared.json"
_GRAPH: Final = "model.onnx"
_WEIGHTS: Final = "model.onnx.data"
_LIBRARIES: Final = ("onnxruntime", "onnxruntime-genai")
_OF_PROCESSOR: Final = ("model name", "flags", "Features", "CPU implementer", "CPU variant", "CPU part")
"""Keys of /proc/cpuinfo by which the libraries choose kernels, on x86 and on ARM."""
_ROOM: Final = 3
"""Times the weights' bytes that have to be free: what is written holds them in both layouts."""
_CLOSE: Final = 1e-3
"""By how much of the largest logit others may differ: they are the same kernels on the same numbers."""
_PROMPT_TOKENS, _NEW_TOKENS, _ROUNDS = 128, 16, 3
"""Of the request that threads are measured with."""
_WORTH: Final = 0.95
"""More threads have to take at most this share of the time of fewer: they cost power and others' time."""
_BUSY: Final = 0.5
"""Programs that want a processor, for each there is: with more, threads are measured against them."""


class Index(BaseModel):
    """``prepared.json``: what was made, for what.

    ``seconds`` are those of a usual request by threads; ``threads`` 0 where the machine was too busy to tell.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    bundle: str
    graph: str
    machine: str
    threads: int
    seconds: dict[int, float]
    files: tuple[FileEntry, ...]

    def render(self) -> str:
        """For a person."""
        lines = [f"prepared: {sum(file.bytes for file in self.files) / 1e6:.0f} MB for this processor"]
        for threads, seconds in sorted(self.seconds.items()):
            chosen = "  taken where threads: auto" if threads == self.threads else ""
            request = f"{_PROMPT_TOKENS} prompt tokens and {_NEW_TOKENS} new ones"
            lines.append(f"  {threads} threads: {1000 * seconds:.0f} ms for {request}{chosen}")
        if not self.threads:
            lines.append("  The machine is busy, so auto takes all; prepare again when it is idle.")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Prepared:
    """``graph`` stands in for the bundle's; ``threads`` were the fastest, 0 if that isn't known."""

    graph: Path
    threads: int

    def seen_from(self, bundle: Path) -> str:
        """Where the runtime looks for graphs."""
        return os.path.relpath(self.graph.resolve(), bundle.resolve())


def machine_key(root: Path = Path("/")) -> str:
    """What the layout of prepared weights depends on: the processor and the libraries."""
    try:
        lines = (root / "proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    processor = sorted({line for line in lines if line.partition("\t")[0].strip(": ") in _OF_PROCESSOR})
    versions = [f"{name} {version(name)}" for name in _LIBRARIES]
    key = json.dumps([platform.machine(), processor, versions])
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def find_prepared(bundle: Bundle, graph: str, cache: Path) -> Prepared | None:
    """What was made of the bundle's ``graph`` for this machine, if it is there and whole."""
    folder = _folder(bundle, graph, cache)
    try:
        index = Index.model_validate_json((folder / _INDEX).read_bytes())
        if (index.bundle, index.graph) != (bundle.digest, graph):
            return None
        if index.machine != machine_key():
            log.info("%s is for another processor or version; edgeslm prepare makes it anew", folder)
            return None
        for file in index.files:
            if file_digest(folder / file.path) != file.sha256:
                log.warning("%s is damaged; edgeslm prepare makes it anew", folder / file.path)
                return None
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.warning("%s can't be used (%s); edgeslm prepare makes it anew", folder, type(error).__name__)
        return None
    return Prepared(folder / _GRAPH, index.threads)


def prepare(bundle: Bundle, graph: str, cache: Path, *, command: Sequence[str] = COMMAND) -> Index:
    """Makes it, or makes it anew; an engine that runs keeps what it has mapped.

    :raises BundleError: the bundle is damaged, or what was made doesn't compute what it computes.
    """
    weights = sum(file.bytes for file in bundle.manifest.weights)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        free, needed = shutil.disk_usage(cache).free, _ROOM * weights
    except OSError as error:
        raise BundleError(f"{cache}: {error.strerror}") from None
    if free < needed:
        wanted = f"{needed / 1e6:.0f} MB are needed to prepare {bundle.path}"
        raise BundleError(f"{cache}: {wanted}, {free / 1e6:.0f} MB are free")
    with _alone(cache):
        done = subprocess.run(
            [*command, str(bundle.path), graph, str(cache)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
        )
    last = done.stdout.strip().rpartition("\n")[2]
    if done.returncode < 0:
        how = f"its process was ended by signal {-done.returncode}"
        raise BundleError(f"{bundle.path} can't be prepared: {how}")
    if done.returncode:
        raise BundleError(last or f"{bundle.path} can't be prepared: {done.stderr.strip()[-200:]}")
    return Index.model_validate_json(last)


def _folder(bundle: Bundle, graph: str, cache: Path) -> Path:
    """One for each bundle and graph, whatever the machine: what another one left is of no use any more."""
    return cache / f"{bundle.digest.removeprefix('sha256:')[:24]}-{Path(graph).stem}"


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """One at a time: two would need twice the disk and measure each other."""
    import fcntl

    with (cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --- in the child ----------------------------------------------------------------------------------


def make(bundle: Bundle, graph: str, cache: Path) -> Index:
    """:raises BundleError: see ``prepare``."""
    verify_bundle(bundle)
    folder = _folder(bundle, graph, cache)
    for left in cache.glob(f".{folder.name}.*"):  # by one that was killed
        shutil.rmtree(left, ignore_errors=True)
    stage = cache / f".{folder.name}.{os.getpid()}"
    stage.mkdir()
    try:
        _write(bundle.path / graph, stage)
        _check(bundle, graph, stage)
        is_busy = os.getloadavg()[0] > _BUSY * len(os.sched_getaffinity(0))
        seconds = {threads: _time(bundle, stage, threads) for threads in _choices()}
        index = Index(
            bundle=bundle.digest,
            graph=graph,
            machine=machine_key(),
            threads=0 if is_busy else fastest(seconds),
            seconds={threads: round(value, 4) for threads, value in seconds.items()},
            files=tuple(
                FileEntry(path=name, bytes=(stage / name).stat().st_size, sha256=file_digest(stage / name))
                for name in (_GRAPH, _WEIGHTS)
            ),
        )
        (stage / _INDEX).write_text(index.model_dump_json(indent=1))
        _sync(stage)
        if folder.exists():
            old = cache / f".{folder.name}.old"
            folder.rename(old)
            stage.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            stage.rename(folder)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    return index


def fastest(seconds: dict[int, float]) -> int:
    """The fewest threads than which no more are worth it."""
    best, *others = sorted(seconds)
    for threads in others:
        if seconds[threads] < _WORTH * seconds[best]:
            best = threads
    return best


def _choices() -> list[int]:
    cores = len(os.sched_getaffinity(0))
    return sorted({1, 2, 4, max(1, cores // 2), cores} & set(range(1, cores + 1)))


def _write(graph: Path, stage: Path) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3  # that it is for this machine alone is known
    options.optimized_model_filepath = str(stage / _GRAPH)
    for key, value in (
        ("optimized_model_external_initializers_file_name", _WEIGHTS),
        ("optimized_model_external_initializers_min_size_in_bytes", "1024"),
        ("save_external_prepacked_constant_initializers", "1"),
    ):
        options.add_session_config_entry(f"session.{key}", value)
    ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def _check(bundle: Bundle, graph: str, stage: Path) -> None:
    """A prompt and two steps of decoding, which take different kernels."""
    import numpy as np

    wanted = _logits(bundle, graph)
    found = _logits(bundle, Prepared(stage / _GRAPH, 0).seen_from(bundle.path))
    off = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    if not off <= _CLOSE:
        raise BundleError(
            f"{bundle.path}: what was prepared computes other numbers (by {off:.1%}), so it is not used"
        )


def _logits(bundle: Bundle, graph: str) -> npt.NDArray[np.float64]:
    import numpy as np

    generator = _generator(bundle, graph, len(os.sched_getaffinity(0)))
    found = []
    generator.append_tokens(_tokens(bundle, 32))
    for _ in range(3):
        found.append(np.asarray(generator.get_logits(), np.float64).ravel())
        generator.generate_next_token()
    return np.concatenate(found)


def _time(bundle: Bundle, stage: Path, threads: int) -> float:
    """Seconds of a request, the least of a few."""
    taken = []
    for _ in range(_ROUNDS):
        generator = _generator(bundle, Prepared(stage / _GRAPH, 0).seen_from(bundle.path), threads)
        started = time.perf_counter()
        generator.append_tokens(_tokens(bundle, _PROMPT_TOKENS))
        for _ in range(_NEW_TOKENS):
            generator.generate_next_token()
        taken.append(time.perf_counter() - started)
    return min(taken)


def _tokens(bundle: Bundle, count: int) -> npt.NDArray[np.int32]:
    import numpy as np

    settings = json.loads((bundle.path / "genai_config.json").read_text("utf-8"))["model"]
    count = min(count, bundle.manifest.context_length - _NEW_TOKENS)
    return np.random.default_rng(0).integers(0, settings["vocab_size"], count).astype(np.int32)


def _generator(bundle: Bundle, graph: str, threads: int) -> Any:
    import onnxruntime_genai as og

    from edgeslm.engine.loading import load_model

    model = load_model(bundle.path, graph, threads)
    params = og.GeneratorParams(model)
    most = min(bundle.manifest.context_length, _PROMPT_TOKENS + _NEW_TOKENS + 1)
    params.set_search_options(max_length=most, min_length=most, do_sample=False)
    return og.Generator(model, params)


def _sync(folder: Path) -> None:
    for file in (*folder.iterdir(), folder):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def main(argv: Sequence[str]) -> int:
    """Prints the index as one line of JSON, or what is wrong."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import
    try:
        index = make(load_bundle(Path(argv[0])), argv[1], Path(argv[2]))
    except BundleError as error:
        print(error)  # noqa: T201
        return 1
    except Exception as error:  # of the libraries and of the disk
        print(f"{argv[0]} can't be prepared: {error}")  # noqa: T201
        return 1
    print(index.model_dump_json())  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
