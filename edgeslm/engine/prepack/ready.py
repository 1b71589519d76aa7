"""Ready models: runs a folder of onnxruntime-genai once, records its golden answers and makes it a bundle.

The folder has been judged (``edgeslm.bundle.ready_model``) and holds only the files of the bundle. The model
runs in a child process (a job) that executes this module, so a crash, a hang or a lack of memory affects
nothing else. The checks use the engine as a node does: chat template, generation, labels scored after
rewinding the cache.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from edgeslm.bundle.manifest import Manifest, Source, load_bundle
from edgeslm.bundle.ready_model import ReadyModel, amend
from edgeslm.bundle.size_estimate import rough_memory_bytes
from edgeslm.bundle.writer import write_manifest, write_report
from edgeslm.engine.calls import Generate, Prompt, Score, Text, Turn
from edgeslm.engine.prepack.golden import record_answers
from edgeslm.engine.worker.room import RESERVE_BYTES
from edgeslm.errors import BundleError, EdgeslmError
from edgeslm.hardware.board import peak_rss_bytes, read_memory, usable_cores
from edgeslm.ipc.job import PYTHON, Job, JobError, Progress, serve, yield_processors

MODULE: Final = "edgeslm.engine.prepack.ready"
TIMEOUT_S: Final = 300.0
"""Time limit of the job in seconds, in addition to the time to read the files."""
SLOWEST_BYTES_PER_S: Final = 2_000_000
"""Assumed speed of a busy SD card, in bytes per second; the job reads and hashes the files several times."""
MOST_APART: Final = 1e-3
"""Largest allowed difference of a label's probability between two orders of scoring. Rewinding a cache that
can't be rewound gives differences of 0.01 to 1; the order in which kernels add gives less than 1e-4."""
_TOKENS: Final = 512
_PROMPT: Final = "The bearing of pump 7 was greased on Monday and ran hot on Wednesday. How urgent is that?"
_LABELS: Final = ("urgent", "urgent, stop it", "not urgent", "not known", "later", "later this week")
"""Labels with common beginnings, so that their tree has branches and the cache is rewound."""
_NEW_TOKENS: Final = 24


class ReadyTrial(BaseModel):
    """Measurements of a ready model on this machine.

    :ivar answers: number of golden answers.
    :ivar labels_apart: largest difference of a label's probability between two orders of scoring.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    answers: int
    labels_apart: float
    load_ms: float
    prefill_tps: float
    decode_tps: float
    peak_rss_bytes: int
    threads: int
    sample: dict[str, Any]


class _Order(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    fields: dict[str, Any]
    report: dict[str, Any]


def check_memory(name: str, weight_bytes: int, kv_bytes_per_token: int = 0, root: Path = Path("/")) -> None:
    """:raises BundleError: a model with weights of this size doesn't fit into the available memory."""
    needed = rough_memory_bytes(weight_bytes, 0, kv_bytes_per_token * _TOKENS) + RESERVE_BYTES
    memory = read_memory(root)
    if memory is not None and memory.available < needed:
        raise BundleError(
            f"{name}: too large for this machine: it takes {needed / 1e6:.0f} MB of memory, and "
            f"{memory.available / 1e6:.0f} MB are available"
        )


def make_bundle(
    folder: Path,
    ready: ReadyModel,
    source: Source,
    created: str,
    *,
    command: Sequence[str] = PYTHON,
    root: Path = Path("/"),
    timeout_s: float = TIMEOUT_S,
    release: int | None = None,
) -> tuple[Manifest, ReadyTrial]:
    """Makes ``folder``, which has exactly the files ``ready.files``, a bundle: writes ``golden.json``,
    ``report.json`` and ``manifest.json``, and checks the engine on it.

    :raises BundleError: the model can't be loaded or fails a check; the text gives the reason.
    """
    amend(folder, ready)
    weights = sum((folder / name).stat().st_size for name in ready.files)
    check_memory(source.id, weights, ready.kv_bytes_per_token, root)
    fields = {**ready.manifest_fields(source, created), "release": release}
    order = _Order(folder=folder.resolve(), fields=fields, report=ready.report())
    limit_s = timeout_s + weights / SLOWEST_BYTES_PER_S
    try:
        with Job(MODULE, command=command) as job:
            answer = job.ask(
                order.model_dump(mode="json"), timeout_s=limit_s, memory_bytes=None, threads=usable_cores()
            )
    except JobError as error:
        if error.reason == "time":
            raise BundleError(f"{source.id}: its test was ended after {limit_s:.0f} s: it hangs") from None
        raise BundleError(f"{source.id} can't be run: {error}") from None
    except OSError as error:
        raise BundleError(f"{source.id} can't be run: {error.strerror}") from None
    if "error" in answer:
        raise BundleError(str(answer["error"]).replace(str(order.folder), source.id))
    return load_bundle(folder).manifest, ReadyTrial.model_validate(answer)


# --- in the child ----------------------------------------------------------------------------------


def _try(order: _Order) -> ReadyTrial:
    from edgeslm.engine.worker.decoder import Decoder
    from edgeslm.engine.worker.prompt import ChatTokenizer

    ChatTokenizer(order.folder)  # report a bad tokenizer or template before the model is loaded
    answers = record_answers(order.folder)
    runtime = {package: version(package) for package in ("onnxruntime", "onnxruntime-genai")}
    write_report(order.folder, {**order.report, "golden_answers": answers})
    write_manifest(order.folder, {**order.fields, "runtime": runtime})
    bundle = load_bundle(order.folder)
    began = time.perf_counter()
    decoder = Decoder(order.folder, usable_cores(), digest=bundle.digest)
    load_ms = (time.perf_counter() - began) * 1000
    try:
        prompt = Prompt((Turn("user", (Text(_PROMPT),)),))
        apart = _labels_apart(lambda labels: decoder.score(Score(prompt, labels)).probabilities)
        decoder.forget()
        said = [decoder.generate(Generate(prompt, _NEW_TOKENS)) for _ in range(2)]
        cost = said[0].cost
    finally:
        decoder.close()
    if not apart <= MOST_APART:
        raise BundleError(
            f"{order.folder}: the same labels get other probabilities after its cache was rewound (by "
            f"{apart:.4f}), so labels can't be scored with it"
        )
    if said[0].text != said[1].text:
        raise BundleError(f"{order.folder}: the same prompt gives another text once its cache is reused")
    decoded = max(1, cost.completion_tokens - 1)
    return ReadyTrial(
        answers=answers,
        labels_apart=apart,
        load_ms=round(load_ms, 1),
        prefill_tps=round(1000 * cost.prompt_tokens / max(cost.prefill_ms, 1e-3), 1),
        decode_tps=round(1000 * decoded / max(cost.decode_ms, 1e-3), 1),
        peak_rss_bytes=peak_rss_bytes(),
        threads=decoder.threads,
        sample={"prompt": _PROMPT, "text": said[0].text, "tokens": cost.completion_tokens},
    )


def _labels_apart(score: Callable[[tuple[str, ...]], tuple[float, ...]]) -> float:
    """Largest difference between the labels' probabilities in one order and in the reverse order, whose
    branches are computed after other rewinds.

    :raises BundleError: the probabilities aren't finite or don't add up to 1.
    """
    forward, backward = score(_LABELS), score(_LABELS[::-1])[::-1]
    if not all(map(math.isfinite, (*forward, *backward))) or abs(sum(forward) - 1) > MOST_APART:
        raise BundleError("the probabilities of its labels aren't probabilities")
    return max(abs(one - other) for one, other in zip(forward, backward, strict=True))


def _answer(told: Any, progress: Progress) -> dict[str, Any]:
    """Runs the job; returns the fields of ``ReadyTrial``, or ``{"error": ...}``."""
    order = _Order.model_validate(told)
    yield_processors(wholly=False)
    try:
        return _try(order).model_dump()
    except EdgeslmError as error:
        return {"error": str(error)}
    except Exception as error:  # the libraries raise many kinds
        return {"error": f"{order.folder}: can't be loaded: {error}"}


if __name__ == "__main__":
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import
    serve(_answer)
