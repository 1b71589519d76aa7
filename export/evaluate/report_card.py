"""Report card: measures a bundle's size, speed and memory, its accuracy, and its fidelity to the float model.

The engine that devices use runs in a child process (``edgeslm_export.evaluate.report_card``), so that peak
memory is the bundle's alone and a crash becomes a one-sentence error. ``task_eval`` evaluates labelled rows,
``reference`` compares with the float model.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm_export.data.rows import FieldsRow, LabelledRow, load_answers
from edgeslm_export.evaluate.reference import compare
from edgeslm_export.jobs.subprocess_job import OnProgress, Reporter, run_module
from edgeslm_export.sources.checkpoint import Origin
from edgeslm_export.sources.corpus import Corpus

from edgeslm.bundle.manifest import REPORT, Bundle, load_bundle, verify_bundle
from edgeslm.config.loader import Task as TaskSection
from edgeslm.engine.calls import OnText
from edgeslm.errors import EdgeslmError, ExportError
from edgeslm.hardware.board import peak_rss_bytes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from edgeslm_export.evaluate.task_eval import Exam

    from edgeslm.engine.worker.encoder import Encoder

_QUESTION = "What do you need to boil water?"
_SENTENCE = "The night shift found the pump running hot and changed its bearing before noon. "
_LABELS = ("machine", "person", "weather")
_PROMPT_TOKENS = 256
_NEW_TOKENS = 32
_EMBEDDED_TEXTS = 64


def default_threads() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def measure_bundle(
    folder: Path,
    *,
    threads: int | None = None,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> dict[str, Any]:
    """Loads a decoder or encoder bundle in a new process and measures it.

    :param threads: threads for inference; by default ``default_threads()``.
    :return: a dict with ``load_ms``, ``peak_rss_bytes`` and ``threads``; for a decoder also
        ``prompt_tokens``, ``prefill_tps``, ``decode_tps`` and ``sample``; for an encoder also ``texts_per_s``
        and ``ms_per_text``.
    :raises ExportError: the bundle doesn't load or doesn't work.
    """
    return _in_child({"step": "measure"}, folder, threads, "loading the bundle", on_progress, debug)


def examine_bundle(
    folder: Path,
    exam: Exam,
    *,
    threads: int | None = None,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> dict[str, Any]:
    """Evaluates a bundle on labelled rows in a new process. :return: see ``task_eval.take_exam``."""
    task = {"step": "examine", "exam": exam.encode()}
    return _in_child(task, folder, threads, "asking the bundle", on_progress, debug)


def _in_child(
    task: dict[str, Any],
    folder: Path,
    threads: int | None,
    what: str,
    on_progress: OnProgress | None,
    debug: bool,
) -> dict[str, Any]:
    task = {**task, "bundle": str(folder.resolve()), "threads": threads or default_threads()}
    return run_module("evaluate.report_card", task, what, on_progress=on_progress, debug=debug)


def measure_adapter(
    base: Path, adapter: Path, *, on_progress: OnProgress | None = None, debug: bool = False
) -> dict[str, Any]:
    """Loads a base with an adapter bundle in a new process and runs it with and without the adapter.

    :return: a dict with ``load_ms``, ``peak_rss_bytes``, ``threads`` and ``sample``.
    :raises ExportError: the bundles don't load, or they compute values that aren't finite.
    """
    task = {"step": "measure", "adapter": str(adapter.resolve())}
    return _in_child(task, base, None, "loading the adapter", on_progress, debug)


def evaluate_learned(
    bundle: Bundle,
    base: Path,
    rows: Sequence[LabelledRow] | Sequence[FieldsRow],
    *,
    max_error: float | None = None,
    with_answers: bool = False,
    threads: int | None = None,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> dict[str, Any]:
    """Evaluates a learned task (a head or an adapter) on labelled rows, through the engine.

    :param base: the bundle that the head or adapter extends; for a head with its own encoder, the bundle
        itself.
    :param max_error: the error rate allowed among answered rows; the task abstains from the other rows.
    :raises ExportError: the bundle has no learned task, or the rows don't fit the task's kind or labels.
    :raises ConfigError: the task's calibration can't guarantee ``max_error``.
    """
    from edgeslm_export.evaluate.task_eval import Exam

    learned = bundle.manifest.learned
    if learned is None:
        raise ExportError(f"{bundle.path} has no trained task.")
    for row in rows:
        if isinstance(row, LabelledRow) != (learned.kind == "classify"):
            needed = "a label" if learned.kind == "classify" else "fields"
            raise ExportError(f"{bundle.path} was trained to {learned.kind}; its rows need {needed}.")
        if isinstance(row, LabelledRow) and row.label not in learned.labels:
            raise ExportError(
                f"Row {row.number} has the label {row.label!r}, which {bundle.path} doesn't know; "
                f"it knows {', '.join(learned.labels)}."
            )
    section = TaskSection.model_validate(
        {"kind": learned.kind, "learned": str(bundle.path), "overflow": "head", "max_error": max_error},
        strict=False,
    )
    exam = Exam(learned.task, section, rows, bundle.path, with_answers=with_answers)
    exam.make_task()
    report = examine_bundle(base, exam, threads=threads, on_progress=on_progress, debug=debug)
    return {**report, "learned_from": learned.rows}


def load_encoder(path: Path, threads: int | None = None) -> Encoder:
    """Loads the engine's encoder. :raises BundleError: the bundle isn't an encoder's, or is damaged."""
    from edgeslm.engine.worker.encoder import Encoder

    return Encoder(path, threads or default_threads())


def embed_texts(encoder: Encoder, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Vectors [texts, dimension] float32; texts longer than the context are truncated."""
    vectors, _, _ = encoder.embed(texts, "head")
    return vectors


def label_texts(encoder: Encoder, texts: Sequence[str], labels: Sequence[str]) -> list[list[float]]:
    """For each text the probabilities of the labels by a zero-shot encoder; of one that finds spans, the
    highest probability of a span for each label."""
    from edgeslm.engine.calls import FindSpans, LabelText

    section = encoder.bundle.manifest.zero_shot
    kind = FindSpans if section is not None and section.kind == "gliner" else LabelText
    return [list(encoder.run(kind(text, tuple(labels), "head")).probabilities) for text in texts]


def classify_texts(encoder: Encoder, texts: Sequence[str]) -> list[list[float]]:
    """For each text the probabilities of the labels by the head that is in the encoder's own bundle."""
    from edgeslm.engine.calls import Classify

    head = str(encoder.bundle.path)
    return [list(encoder.run(Classify(text, head, "head")).probabilities) for text in texts]


def read_lengths(bundle: Path, texts: Sequence[str]) -> tuple[list[int], int]:
    """The number of tokens of each text, special tokens included; and the encoder's context length."""
    from edgeslm.engine.worker.prompt import load_tokenizer

    encoded = load_tokenizer(bundle).encode_batch(list(texts))
    return [len(one.ids) for one in encoded], load_bundle(bundle).manifest.context_length


def size_report(bundle: Bundle) -> dict[str, Any]:
    """A dict with the bundle's ``name``, ``kind``, ``digest`` and ``bytes`` (size of the weights)."""
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "kind": manifest.kind,
        "digest": bundle.digest,
        "bytes": bundle.weight_bytes,
    }


def stated(bundle: Bundle) -> dict[str, Any]:
    """Reads fidelity figures from the bundle's ``report.json``, since measuring fidelity would need the
    source.

    :return: a dict with ``stated`` (a decoder's fidelity), ``golden``, ``cosine_to_float`` and
        ``rank_agreement``, each only if ``report.json`` has it.
    """
    try:
        card = json.loads((bundle.path / REPORT).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(card, dict):
        return {}
    names = {"fidelity": "stated", **{key: key for key in ("golden", "cosine_to_float", "rank_agreement")}}
    return {name: card[key] for key, name in names.items() if isinstance(card.get(key), dict)}


@dataclass(frozen=True, slots=True)
class Required:
    """What to measure in addition to size and speed.

    ``data`` is a file of labelled rows; for a decoder, ``task`` may name a task file for these rows. ``base``
    is the base bundle, which a learned task needs, and ``max_error`` a learned task's allowed error rate.
    With ``with_answers``, the report includes a learned task's result for each row. ``reference`` is the
    float model with which a decoder is compared on each of ``corpora``.
    """

    data: Path | None = None
    task: Path | None = None
    base: Path | None = None
    max_error: float | None = None
    with_answers: bool = False
    reference: Origin | None = None
    corpora: Sequence[Corpus] = ()


def evaluate_bundle(
    path: Path,
    wanted: Required,
    *,
    threads: int | None = None,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> dict[str, Any]:
    """The report card of a bundle of any kind.

    :raises ExportError: the measurements ``wanted`` don't fit this kind of bundle, or a trained task lacks
        its rows or base.
    :raises BundleError: the bundle is damaged.
    """
    bundle = load_bundle(path)
    kind = bundle.manifest.kind
    check_wanted(bundle, wanted.data, wanted.task, compared=wanted.reference is not None)
    verify_bundle(bundle)
    report = size_report(bundle)
    if kind in ("head", "adapter") and not bundle.manifest.is_reader:
        if wanted.data is None or wanted.base is None:
            raise ExportError(f"{path} is a trained task: name labelled rows and its base (--base BUNDLE).")
        rows = load_answers(wanted.data)
        how: dict[str, Any] = {"threads": threads, "on_progress": on_progress, "debug": debug}
        how |= {"max_error": wanted.max_error, "with_answers": wanted.with_answers}
        return {**report, **evaluate_learned(bundle, wanted.base, rows, **how)}
    exam = None
    if wanted.data is not None:
        from edgeslm_export.evaluate.task_eval import make_exam

        exam = make_exam(wanted.data, load_answers(wanted.data), wanted.task)
    report |= stated(bundle)
    report |= measure_bundle(path, threads=threads, on_progress=on_progress, debug=debug)
    if wanted.reference is not None:
        report["fidelity"] = compare(
            bundle, wanted.reference, wanted.corpora, threads=threads, on_progress=on_progress, debug=debug
        )
    if exam is not None:
        report |= examine_bundle(path, exam, threads=threads, on_progress=on_progress, debug=debug)
    return report


def check_wanted(bundle: Bundle, data: Path | None, task: Path | None, *, compared: bool) -> None:
    """Checks an evaluation's options before anything slow starts.

    :param compared: whether the bundle is to be compared with a float model.
    :raises ExportError: an option doesn't fit this kind of bundle, or a file is missing.
    """
    kind = bundle.manifest.kind
    what = f"{bundle.path} is a bundle of kind {kind}"
    if kind != "decoder" and compared:
        raise ExportError(f"{what}; only decoders are compared with a float model (--reference).")
    is_untaught = kind == "decoder" or bundle.manifest.zero_shot is not None
    if not is_untaught and task is not None:
        raise ExportError(f"{what}; a task (--task) is for untrained models, a head brings its own.")
    if bundle.manifest.is_reader and (data is not None or task is not None):
        raise ExportError(f"{bundle.path} is a reader; labelled rows are for trained tasks.")
    if kind == "adapter" and bundle.manifest.learned is None:
        raise ExportError(
            f"{bundle.path} is an adapter; evaluate its base with labelled rows and a task that names it "
            "(--task)."
        )
    if kind == "encoder" and not is_untaught and data is not None:
        raise ExportError(f"{what}; labelled rows are for decoders, trained tasks and zero-shot models.")
    if task is not None and data is None:
        raise ExportError("A task (--task) says how rows are read: name the rows too.")
    for file in filter(None, (data, task)):
        if not file.is_file():
            raise ExportError(f"{file} is not a file.")


# --- the child -------------------------------------------------------------------------------------


def _examine(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    from edgeslm_export.evaluate.task_eval import Exam, take_exam

    from edgeslm.engine.calls import Call, Generate, Output, Score
    from edgeslm.engine.worker.main import Engine

    reporter.progress(0, 1, "loading")
    exam = Exam.parse(task["exam"])
    adapter = exam.section.adapter
    if exam.bundle is not None and load_bundle(exam.bundle).manifest.adapter is not None:
        adapter = exam.bundle
    engine = Engine(Path(task["bundle"]), int(task["threads"]), adapters={adapter: None} if adapter else {})

    async def ask(call: Call, on_chunk: OnText | None = None) -> Output:
        if isinstance(call, Score | Generate):
            call = replace(call, adapter=str(adapter) if adapter else None)
        return engine.run(call, lambda text: None, lambda: False)

    try:
        return take_exam(exam, ask, reporter.progress, Path(task["bundle"]))
    finally:
        engine.close()


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
        "peak_rss_bytes": peak_rss_bytes(),
    }


def _measure_decoder(folder: Path, threads: int, reporter: Reporter) -> dict[str, Any]:
    from edgeslm.engine.calls import Generate, Prompt, Score, Text, Turn
    from edgeslm.engine.worker.decoder import Decoder

    started = time.perf_counter()
    try:
        decoder = Decoder(folder, threads)
        load_ms = (time.perf_counter() - started) * 1000
        reporter.progress(1, 3, "generating")
        question = Prompt((Turn("user", (Text(_QUESTION),)),))
        said = decoder.generate(Generate(question, _NEW_TOKENS))
        scored = decoder.score(Score(question, ("yes", "no")))
        reporter.progress(2, 3, "measuring")
        # English has about 4.5 characters a token; a text that exceeds a short context is cut.
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
    from edgeslm.engine.worker.decoder import Decoder

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

    from edgeslm.engine.calls import Read

    started = time.perf_counter()
    encoder = load_encoder(folder, threads)
    load_ms = (time.perf_counter() - started) * 1000
    texts = [f"{_SENTENCE}Report {number}." for number in range(_EMBEDDED_TEXTS)]
    embed_texts(encoder, texts[:1])
    started = time.perf_counter()
    if encoder.bundle.manifest.is_reader:
        for text in texts:
            encoder.run(Read(_QUESTION, (text,)))
        seconds = time.perf_counter() - started
        return {"load_ms": round(load_ms, 1), "ms_per_text": round(seconds * 1000 / len(texts), 2)}
    if encoder.bundle.manifest.zero_shot is not None:
        label_texts(encoder, texts, _LABELS)
        seconds = time.perf_counter() - started
        return {"load_ms": round(load_ms, 1), "ms_per_text": round(seconds * 1000 / len(texts), 2)}
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
    STEPS = {"measure": _measure, "examine": _examine}
    sys.exit(Reporter().run(lambda task, reporter: STEPS[task["step"]](task, reporter)))
