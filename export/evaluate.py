"""The report card: does a bundle work, how large and how fast is it, how often is its head right.

This module and ``golden`` import the engine: what is measured is what a device runs. Decoders
and encoders are loaded in a child process (``python -m edgeslm_export.evaluate``), so that peak memory is
theirs and a crash is a sentence.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm_export.child import OFFLINE, OnProgress, Reporter, run_child
from edgeslm_export.rows import LabelledRow
from edgeslm_export.statistics import accuracy_report

from edgeslm.bundle import REPORT, Bundle, load_bundle, verify_bundle
from edgeslm.errors import EdgeslmError, ExportError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgeslm.engine.encoder import Encoder

_QUESTION = "What do you need to boil water?"
_SENTENCE = "The night shift found the pump running hot and changed its bearing before noon. "
_PROMPT_TOKENS = 256
_NEW_TOKENS = 32
_EMBEDDED_TEXTS = 64


def default_threads() -> int:
    """One a core of those this process may use."""
    return len(os.sched_getaffinity(0))


def measure_bundle(
    folder: Path,
    *,
    threads: int | None = None,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> dict[str, Any]:
    """Loads a decoder or encoder bundle in a fresh process, uses it and measures it.

    :param threads: of the inference; by default ``default_threads()``.
    :return: ``load_ms``, ``peak_rss_bytes``, ``threads``; of a decoder ``prompt_tokens``, ``prefill_tps``,
        ``decode_tps`` and ``sample``; of an encoder ``texts_per_s``, ``ms_per_text``.
    :raises ExportError: it doesn't load, or doesn't do its work.
    """
    task = {"bundle": str(folder.resolve()), "threads": threads or default_threads()}
    command = [sys.executable, "-m", "edgeslm_export.evaluate"]
    return run_child(
        command, task, "loading the bundle", on_progress=on_progress, debug=debug, environment=OFFLINE
    )


def measure_adapter(
    base: Path, adapter: Path, *, on_progress: OnProgress | None = None, debug: bool = False
) -> dict[str, Any]:
    """Loads a base with an adapter bundle in a fresh process and generates with and without the adapter.

    :return: ``load_ms``, ``peak_rss_bytes``, ``threads`` and ``sample``.
    :raises ExportError: they don't load, or compute no numbers.
    """
    task = {
        "bundle": str(base.resolve()),
        "adapter": str(adapter.resolve()),
        "threads": default_threads(),
    }
    command = [sys.executable, "-m", "edgeslm_export.evaluate"]
    return run_child(
        command, task, "loading the adapter", on_progress=on_progress, debug=debug, environment=OFFLINE
    )


def evaluate_head(
    head: Bundle, encoder: Path, rows: Sequence[LabelledRow], threads: int | None = None
) -> dict[str, Any]:
    """Accuracy of a learned head on labelled rows, through the engine.

    :raises ExportError: a label that the head doesn't know, or no rows.
    :raises BundleError: the encoder isn't the one that the head was learned on.
    """
    import numpy as np

    from edgeslm.engine.encoder import load_head

    section = head.manifest.head
    if section is None:
        raise ExportError(f"{head.path} is no learned head.")
    for row in rows:
        if row.label not in section.labels:
            raise ExportError(
                f"Row {row.number} has the label {row.label!r}, which the head doesn't know; "
                f"it knows {', '.join(section.labels)}."
            )
    loaded = load_encoder(encoder, threads)
    learned = load_head(head.path, loaded.bundle)
    started = time.perf_counter()
    vectors = embed_texts(loaded, [row.text for row in rows])
    probabilities = learned.probabilities(vectors)
    seconds = time.perf_counter() - started
    truth = np.array([section.labels.index(row.label) for row in rows])
    report = accuracy_report(probabilities, truth, section.labels)
    return {**report, "ms_per_text": round(seconds * 1000 / len(rows), 2)}


def load_encoder(path: Path, threads: int | None = None) -> Encoder:
    """The engine's encoder. :raises BundleError: it isn't one, or is damaged."""
    from edgeslm.engine.encoder import Encoder

    return Encoder(path, threads or default_threads())


def embed_texts(encoder: Encoder, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Vectors [n, dimension] float32; texts longer than the context keep their head."""
    vectors, _, _ = encoder.embed(texts, "head")
    return vectors


def size_report(bundle: Bundle) -> dict[str, Any]:
    """What the manifest alone tells: ``bytes`` of the bundle, ``kind``, ``name``, ``digest``."""
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "kind": manifest.kind,
        "digest": bundle.digest,
        "bytes": bundle.weight_bytes,
    }


def _kept_figures(path: Path) -> dict[str, Any]:
    """What the export compared with the float model, which isn't here any more: from ``report.json``."""
    file = path / REPORT
    kept = json.loads(file.read_bytes()) if file.is_file() else {}
    return {key: kept[key] for key in ("cosine_to_float", "rank_agreement", "golden") if key in kept}


def evaluate_bundle(
    path: Path,
    *,
    rows: Sequence[LabelledRow] | None = None,
    encoder: Path | None = None,
    threads: int | None = None,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> dict[str, Any]:
    """The report card of a bundle of any kind.

    :param rows: labelled rows, for a head.
    :param encoder: the encoder bundle of a head.
    :raises ExportError: rows for a bundle that takes none, or a head without rows or encoder.
    :raises BundleError: a damaged bundle.
    """
    bundle = load_bundle(path)
    verify_bundle(bundle)
    report = size_report(bundle)
    if bundle.manifest.kind == "head":
        if not rows or encoder is None:
            raise ExportError(
                f"{path} is a learned head: name labelled rows and its encoder (--encoder BUNDLE)."
            )
        return {**report, **evaluate_head(bundle, encoder, rows, threads)}
    if rows is not None:
        raise ExportError(
            f"{path} is a bundle of kind {bundle.manifest.kind}; labelled rows are for learned heads."
        )
    report |= _kept_figures(path)
    return {**report, **measure_bundle(path, threads=threads, on_progress=on_progress, debug=debug)}


# --- the child -------------------------------------------------------------------------------------


def _measure(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    folder, threads = Path(task["bundle"]), int(task["threads"])
    reporter.progress(0, 3, "loading")
    if "adapter" in task:
        report = _measure_adapter(folder, task["adapter"], threads, reporter)
    elif load_bundle(folder).manifest.kind == "decoder":
        report = _measure_decoder(folder, threads, reporter)
    else:
        report = _measure_encoder(folder, threads)
    return {
        **report,
        "threads": threads,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _measure_decoder(folder: Path, threads: int, reporter: Reporter) -> dict[str, Any]:
    from edgeslm.engine.calls import Generate, Prompt, Score, Text, Turn
    from edgeslm.engine.decoder import Decoder

    started = time.perf_counter()
    try:
        decoder = Decoder(folder, threads)
        load_ms = (time.perf_counter() - started) * 1000
        reporter.progress(1, 3, "generating")
        question = Prompt((Turn("user", (Text(_QUESTION),)),))
        said = decoder.generate(Generate(question, _NEW_TOKENS))
        scored = decoder.score(Score(question, ("yes", "no")))
        reporter.progress(2, 3, "measuring")
        # About 1 token in 4.5 letters of English; what doesn't fit a short context is cut.
        text = _SENTENCE * math.ceil(_PROMPT_TOKENS * 4.5 / len(_SENTENCE))
        long = Prompt((Turn("user", (Text(text, cut=True), " Continue this story.")),), overflow="head")
        timed = decoder.generate(Generate(long, _NEW_TOKENS))
    except EdgeslmError as error:
        raise ExportError(f"The bundle doesn't work: {error}") from None
    if not said.cost.completion_tokens:
        raise ExportError("The bundle loads and generates nothing; the source's weights may be damaged.")
    if not all(math.isfinite(probability) for probability in scored.probabilities):
        raise ExportError(
            "The bundle computes numbers that aren't finite; the source's weights may be damaged."
        )
    cost = timed.cost
    decoded = max(cost.completion_tokens - 1, 0)
    decoder.close()
    return {
        "load_ms": round(load_ms, 1),
        "prompt_tokens": cost.prompt_tokens,
        "prefill_tps": round(cost.prompt_tokens * 1000 / cost.prefill_ms, 1),
        "decode_tps": round(decoded * 1000 / cost.decode_ms, 1) if decoded and cost.decode_ms else None,
        "sample": {"prompt": _QUESTION, "text": said.text, "tokens": said.cost.completion_tokens},
    }


def _measure_adapter(folder: Path, adapter: str, threads: int, reporter: Reporter) -> dict[str, Any]:
    from edgeslm.engine.calls import Generate, Prompt, Score, Text, Turn
    from edgeslm.engine.decoder import Decoder

    started = time.perf_counter()
    question = Prompt((Turn("user", (Text(_QUESTION),)),))
    try:
        decoder = Decoder(folder, threads, {Path(adapter): None})
        load_ms = (time.perf_counter() - started) * 1000
        reporter.progress(1, 3, "generating")
        said = decoder.generate(Generate(question, _NEW_TOKENS, adapter=adapter))
        scored = decoder.score(Score(question, ("yes", "no"), adapter=adapter))
        plain = decoder.score(Score(question, ("yes", "no")))
    except EdgeslmError as error:
        raise ExportError(f"The adapter doesn't work: {error}") from None
    if not all(math.isfinite(number) for number in (*scored.probabilities, *plain.probabilities)):
        raise ExportError("Base and adapter compute numbers that aren't finite; its weights may be damaged.")
    decoder.close()
    return {
        "load_ms": round(load_ms, 1),
        "sample": {"prompt": _QUESTION, "text": said.text, "tokens": said.cost.completion_tokens},
    }


def _measure_encoder(folder: Path, threads: int) -> dict[str, Any]:
    import numpy as np

    started = time.perf_counter()
    encoder = load_encoder(folder, threads)
    load_ms = (time.perf_counter() - started) * 1000
    texts = [f"{_SENTENCE}Report {number}." for number in range(_EMBEDDED_TEXTS)]
    embed_texts(encoder, texts[:1])
    started = time.perf_counter()
    vectors = [embed_texts(encoder, [text]) for text in texts]
    seconds = time.perf_counter() - started
    if not np.isfinite(np.concatenate(vectors)).all():
        raise ExportError(
            "The bundle computes numbers that aren't finite; the source's weights may be damaged."
        )
    return {
        "load_ms": round(load_ms, 1),
        "ms_per_text": round(seconds * 1000 / len(texts), 2),
        "texts_per_s": round(len(texts) / seconds, 1),
        "dimension": int(vectors[0].shape[1]),
    }


if __name__ == "__main__":
    sys.exit(Reporter().run(_measure))
