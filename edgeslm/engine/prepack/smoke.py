"""Smoke test of a bundle on this machine, before a node serves requests with the bundle.

The test loads the bundle, compares its answers with its golden answers (``golden``) and runs a request. The
test compares the CPU time of the request with the CPU time of the same request to the current bundle, since
absolute limits and wall-clock times are meaningless on a busy machine.

The test runs in a child process (a job) that executes this module, so a crash, a hang or a lack of memory
affects nothing else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from edgeslm.bundle.manifest import Bundle, load_bundle, memory_need, verify_bundle
from edgeslm.engine.prepack.golden import MOST_APART, divergences, load_golden
from edgeslm.engine.prepack.prepare import graph_of
from edgeslm.engine.worker.room import RESERVE_BYTES
from edgeslm.errors import BundleError
from edgeslm.hardware.board import peak_rss_bytes, read_memory, usable_cores
from edgeslm.ipc.job import PYTHON, Job, JobError, Progress, serve, yield_processors

MODULE: Final = "edgeslm.engine.prepack.smoke"
TIMEOUT_S: Final = 300.0
"""Time limit of the test in seconds, in addition to the time to read the files; the limit is generous, since
the CPU may be busy."""
SLOWEST_BYTES_PER_S: Final = 5_000_000
"""Assumed reading speed of a busy SD card, in bytes per second; a low value, since the test reads the files
twice."""
_TOKENS: Final = 512
"""Number of tokens in the KV cache for which memory must be available before the test."""
_TEXTS: Final = (
    "All quiet on line 2.",
    "Spindle 3 of press 4 smells of burnt oil, and its guard door is open.",
)
_ROUNDS: Final = 20


class Smoke(BaseModel):
    """Results of a smoke test. ``divergences`` lists, in nats, how far the machine's answers diverge from the
    golden answers. ``request_s`` is the CPU time of a request in seconds. ``beside_s`` is the CPU time of the
    same request to the bundle to be replaced. ``peak_bytes`` is the peak memory of the test's process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    divergences: tuple[float, ...] = ()
    request_s: float
    beside_s: float | None = None
    peak_bytes: int


class _Order(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Path
    digest: str
    adapters: bool
    beside: Path | None


async def smoke_test(
    bundle: Bundle,
    *,
    beside: Bundle | None,
    adapters: bool = False,
    workers: int = 1,
    slowest: float,
    command: Sequence[str] = PYTHON,
    root: Path = Path("/"),
    timeout_s: float = TIMEOUT_S,
) -> Smoke:
    """Runs the test, which takes some seconds at low priority. Cancelling the call ends the test at once.

    :param beside: the bundle to be replaced, if any.
    :param slowest: largest allowed CPU time of a request, as a multiple of the CPU time that a request to
        ``beside`` takes.
    :param adapters: whether the node will use the bundle with adapters; if so, the test runs the decoder's
        graph for adapters.
    :param workers: number of workers that the node will start with this bundle; the memory must suffice for
        all workers.
    :param command: command line that runs the child's module; the default is this Python.
    :raises BundleError: the bundle fails the test; the error's text gives the reason.
    """
    needed = workers * memory_need(bundle.manifest, _TOKENS) + RESERVE_BYTES
    memory = read_memory(root)
    if memory is not None and memory.available < needed:
        raise BundleError(
            f"{bundle.path.name}: too large for this device: it takes {needed / 1e6:.0f} MB of memory "
            f"next to the serving model, and {memory.available / 1e6:.0f} MB are available"
        )
    order = _Order(
        bundle=bundle.path.resolve(),
        digest=bundle.digest,
        adapters=adapters,
        beside=None if beside is None else beside.path.resolve(),
    )
    limit_s = timeout_s + sum(entry.bytes for entry in bundle.manifest.files) / SLOWEST_BYTES_PER_S
    try:
        with Job(MODULE, command=command) as job:
            answer = await job.in_thread(
                job.ask,
                order.model_dump(mode="json"),
                timeout_s=limit_s,
                memory_bytes=None,
                threads=usable_cores(),
            )
    except JobError as error:
        if error.reason == "time":
            raise BundleError(
                f"{bundle.path.name}: its test was ended after {limit_s:.0f} s: it hangs"
            ) from None
        raise BundleError(f"{bundle.path.name} fails its test: {error}") from None
    except OSError as error:
        raise BundleError(f"{bundle.path.name} fails its test: {error.strerror}") from None
    if "error" in answer:
        raise BundleError(answer["error"])
    seen = Smoke.model_validate(answer)
    if wrong := [one for one in seen.divergences if not one <= MOST_APART]:
        raise BundleError(
            f"{bundle.path.name}: {len(wrong)} of {len(seen.divergences)} golden answers differ from those "
            f"of the build machine (largest divergence {max(wrong):.2f} nats, {MOST_APART} are allowed)"
        )
    if seen.beside_s is not None and seen.request_s > slowest * seen.beside_s:
        raise BundleError(
            f"{bundle.path.name}: too slow: a request takes {seen.request_s / seen.beside_s:.1f} times as "
            f"long as now, and {slowest:g} times are allowed (updates.slowest)"
        )
    return seen


# --- in the child ----------------------------------------------------------------------------------


def _test(order: _Order) -> Smoke:
    bundle = load_bundle(order.bundle, order.digest)
    verify_bundle(bundle)
    beside_s = None
    if order.beside is not None:
        other = load_bundle(order.beside)
        if other.manifest.model_kind == bundle.manifest.model_kind:
            beside_s = _request_s(other, order.adapters)
    apart: tuple[float, ...] = ()
    if bundle.manifest.model_kind == "decoder" and (golden := load_golden(bundle)) is not None:
        from edgeslm.engine.worker.loading import PLAIN

        model = PLAIN.load(bundle.path, graph_of(bundle, adapters=False), usable_cores())
        apart = tuple(round(one, 4) for one in divergences(model, golden))
        del model
    request_s = _request_s(bundle, order.adapters)
    return Smoke(divergences=apart, request_s=request_s, beside_s=beside_s, peak_bytes=peak_rss_bytes())


def _request_s(bundle: Bundle, adapters: bool) -> float:
    """CPU seconds of a request, as the minimum of a few runs."""
    if bundle.manifest.model_kind == "decoder":
        from edgeslm.engine.prepack.trial import time_request

        graph = graph_of(bundle, adapters=adapters)
        return time_request(bundle, graph, usable_cores(), of_processor=True).request
    import numpy as np

    from edgeslm.engine.calls import Read
    from edgeslm.engine.worker.encoder import Encoder

    encoder, taken = Encoder(bundle.path, usable_cores(), digest=bundle.digest), []
    for _ in range(_ROUNDS):
        started = time.process_time()
        if bundle.manifest.is_reader:
            encoder.run(Read(_TEXTS[0], _TEXTS))
        vectors, _, _ = encoder.embed(_TEXTS, "error")
        taken.append(time.process_time() - started)
    if not np.isfinite(vectors).all() or np.allclose(vectors[0], vectors[1]):
        raise BundleError(f"{bundle.path.name}: its vectors are unusable: all alike, or not finite")
    return min(taken)


def _answer(told: Any, progress: Progress) -> dict[str, Any]:
    """Runs the job; returns the fields of ``Smoke``, or ``{"error": ...}``."""
    order = _Order.model_validate(told)
    yield_processors(wholly=False)
    try:
        return _test(order).model_dump()
    except BundleError as error:
        return {"error": str(error)}
    except Exception as error:  # the libraries raise many kinds
        return {"error": f"{order.bundle.name}: can't be loaded: {error}"}


if __name__ == "__main__":
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import
    os.umask(0o077)
    serve(_answer)
