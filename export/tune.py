"""A task learned from labelled messages: each way to learn it is tried on held-out rows, the best is taken.

``head`` leaves the encoder as it is and learns a classifier on its embeddings: seconds, and several tasks
share one encoder. ``encoder`` teaches the encoder itself: minutes, more often right, and the task brings its
own encoder along; from few rows it is taught by pairs of them, from more by their labels. What a way is
worth is always measured through the bundle's int8 graph as a device runs it, and temperature scaling (Guo et
al. 2017, section 4.2) on the same held-out rows makes its probabilities honest.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from edgeslm_export.checkpoint import Origin, examine_local
from edgeslm_export.child import OnProgress
from edgeslm_export.contrast import MISSING, contrast_encoder, is_installed
from edgeslm_export.encoder import fill_encoder, read_pooling
from edgeslm_export.evaluate import embed_texts, load_encoder
from edgeslm_export.finetune import LONGEST, load_layer, schedule_for, teach_encoder
from edgeslm_export.head import fit_layer, learn, split_folds
from edgeslm_export.package import created_at, runtime_versions, staged, write_manifest, write_report
from edgeslm_export.resources import check_resources
from edgeslm_export.rows import LabelledRow, bare_text, load_rows

from edgeslm.bundle import Manifest, Source, load_bundle
from edgeslm.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.floating[Any]]
    Integers = npt.NDArray[np.int64]

HEAD: Final = "head"
ENCODER: Final = "encoder"
NEEDS_BUNDLE: Final = (
    "The method head needs an encoder's bundle (made by edgeslm-export encoder): name it with --encoder."
)
NEEDS_CHECKPOINT: Final = "The method encoder needs an encoder's checkpoint: name it with --encoder."
FEWEST_ROWS: Final = 2
"""Rows of each label that are needed: one to learn from and one to test with."""
ROWS_FOR_LABELS: Final = 250
"""With fewer, an encoder is taught by pairs of rows instead of by their labels. Pairs were measured with 50
rows and labels with 1,000; where they cross was not."""
_STRENGTH: Final = 30.0
"""Of the classifier on an encoder that was taught by pairs: its embeddings lie apart already."""
_ROWS_FOR_ONE_FOLD: Final = 500
"""From so many rows on a fifth of them is enough to test a taught encoder; with fewer each fifth in turn."""
_WEIGHTS: Final = "head.npz"
_MADE: Final = "bundle"
_BYTES_A_WEIGHT: Final = 20
"""Weights, gradients and AdamW's two moments in float32, and some activations."""


@dataclass(frozen=True, slots=True)
class Task:
    """What TASK.yaml says. ``labels`` is empty when the data decides; ``model`` is "" when none is named."""

    name: str
    labels: tuple[str, ...]
    model: str


def load_task(file: Path) -> Task:
    """Reads one entry of ``tasks:`` with its ``name``.

    :raises ExportError: not such an entry, or a task that isn't classification.
    """
    try:
        # Every scalar a text, as labels are in the configuration: one called yes stays yes.
        data = yaml.load(file.read_text("utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise ExportError(f"{file} can't be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise ExportError(f"{file} is not YAML{line}: {getattr(error, 'problem', None) or error}.") from None
    if not isinstance(data, dict):
        raise ExportError(f"{file} is no task; write name:, kind: classify and labels: into it.")
    name, kind, labels = data.get("name"), data.get("kind", "classify"), data.get("labels") or ()
    if not isinstance(name, str) or not name:
        raise ExportError(f"{file} has no name; add name: with the task's name.")
    if kind != "classify":
        raise ExportError(
            f"{file}: the task {name} is of kind {kind}; only classify can be learned from labels."
        )
    if not isinstance(labels, (Mapping, Sequence)) or isinstance(labels, str):
        raise ExportError(f"{file}: labels must be a list, or a mapping of labels to what they mean.")
    wrong = [label for label in labels if not isinstance(label, str)]
    if wrong:
        raise ExportError(f"{file}: the label {wrong[0]!r} is no text; write one text a label.")
    return Task(name, tuple(labels), str(data.get("model") or ""))


@dataclass(frozen=True, slots=True)
class Ground:
    """What can be learned on: an encoder's bundle, its float checkpoint, or both."""

    bundle: Path | None = None
    checkpoint: Origin | None = None


@dataclass(frozen=True, slots=True)
class Effort:
    """How it is learned: ``method`` is HEAD, ENCODER or None for the best, ``seconds`` 0 no limit."""

    method: str | None = None
    seconds: float = 0.0
    announce: Callable[[str], None] = print
    on_progress: OnProgress | None = None
    debug: bool = False


@dataclass(frozen=True, slots=True)
class Lesson:
    """Rows to learn from, and the folds to try a way of learning with. ``truth`` [rows] are indices of
    ``labels``."""

    texts: Sequence[str]
    truth: Integers
    labels: tuple[str, ...]
    folds: Sequence[tuple[Integers, Integers]]


@dataclass(frozen=True, slots=True)
class Trial:
    """What one way of learning says of the rows ``held`` that it did not learn from.

    ``logits`` [held, labels] come from the engine; ``figures`` go into the report.
    """

    method: str
    held: Integers
    logits: Floats
    figures: dict[str, Any]
    texts_per_s: float
    temperature: float


def tune(
    task: Task, data: Path, out: Path, ground: Ground, effort: Effort
) -> tuple[Manifest, dict[str, Any]]:
    """Learns ``task`` from ``data`` and writes the bundle ``out``.

    :return: the manifest, and the report with ``texts_per_s`` and ``bytes`` of each way that was tried.
    :raises ExportError: rows that can't be used, too few of a label, or a way that ``ground`` doesn't allow.
    :raises BundleError: the encoder's bundle is none or is damaged.
    """
    import numpy as np

    rows, labels = read_rows(task, data)
    truth = np.array([labels.index(row.label) for row in rows], np.int64)
    texts = [row.text for row in rows]
    lesson = Lesson(texts, truth, labels, split_folds(truth, len(labels), texts))
    with staged(out) as stage:
        with tempfile.TemporaryDirectory(prefix="work-", dir=stage) as name:
            work = Path(name)
            ways = _ways(ground, lesson, effort, work)
            trials = _try_out(ways, effort)
            best, fields = _write_best(ways, trials, lesson, effort, work)
            for file in (work / _MADE).iterdir():
                file.rename(stage / file.name)
        report = _report(trials, best, lesson) | fields.pop("report", {})
        write_report(stage, report)
        fields |= {
            "name": f"{task.name}-head",
            "kind": "head",
            "source": Source(
                id=data.name, revision=f"sha256:{_digest(rows)}", licence=fields.pop("licence", "")
            ),
            "created": created_at(""),
        }
        fields["head"] |= {
            "task": task.name,
            "labels": labels,
            "weights": _WEIGHTS,
            "temperature": best.temperature,
            "rows": len(rows),
        }
        manifest = write_manifest(stage, fields)
    measured = {
        trial.method: {"texts_per_s": round(trial.texts_per_s, 1), "bytes": way.bytes}
        for trial, way in zip(trials, ways, strict=False)
    }
    return manifest, {**report, "measured": measured}


def _try_out(ways: Sequence[_Way], effort: Effort) -> list[Trial]:
    """A trial of each way. One that can't be gone is left out, with its sentence, where there is another."""
    trials: list[Trial] = []
    for way in ways:
        try:
            trials.append(way.try_out())
        except ExportError as error:
            if not trials:
                raise
            effort.announce(f"{error} So the encoder stays as it is.")
    return trials


def _write_best(
    ways: Sequence[_Way], trials: Sequence[Trial], lesson: Lesson, effort: Effort, work: Path
) -> tuple[Trial, dict[str, Any]]:
    """Writes the bundle of the best trial into a folder apart from the rest of the work, which its manifest
    must not list; where that fails, the first one's. :return: which one it was, and the manifest's fields."""
    best, made = choose(trials, lesson.truth), work / _MADE
    made.mkdir()
    try:
        return best, ways[trials.index(best)].write(made)
    except ExportError as error:
        if best is trials[0]:
            raise
        effort.announce(f"{error} So the encoder stays as it is.")
    shutil.rmtree(made)
    made.mkdir()
    return trials[0], ways[0].write(made)


def read_rows(task: Task, data: Path) -> tuple[list[LabelledRow], tuple[str, ...]]:
    """:return: the rows, and the labels: the task's, else those of the rows.

    :raises ExportError: rows that can't be used, or too few of a label.
    """
    rows = load_rows(data, task.labels)
    labels = task.labels or tuple(sorted({row.label for row in rows}))
    _check_counts(rows, labels, data)
    return rows, labels


def choose(trials: Sequence[Trial], truth: Integers) -> Trial:
    """The first trial, unless a later one is right on more of the rows that both held out, by more than one
    standard error of the difference: what costs more has to be better, not luckier."""
    import numpy as np

    best = trials[0]
    for trial in trials[1:]:
        shared, mine, theirs = np.intersect1d(trial.held, best.held, return_indices=True)
        right = trial.logits[mine].argmax(1) == truth[shared]
        before = best.logits[theirs].argmax(1) == truth[shared]
        won, lost = int((right & ~before).sum()), int((before & ~right).sum())
        if won - lost > math.sqrt(won + lost):
            best = trial
    return best


# --- ways ------------------------------------------------------------------------------------------


class _HeadWay:
    """A head on the encoder's bundle."""

    def __init__(self, bundle: Path, lesson: Lesson) -> None:
        self._bundle, self._lesson = load_bundle(bundle), lesson
        self.bytes = self._bundle.weight_bytes

    def try_out(self) -> Trial:
        lesson = self._lesson
        encoder = load_encoder(self._bundle.path)
        started = time.monotonic()
        vectors = embed_texts(encoder, lesson.texts)
        speed = len(vectors) / max(1e-9, time.monotonic() - started)
        self._learned = learn(vectors, lesson.truth, len(lesson.labels), lesson.folds)
        figures = {"strength": self._learned.strength}
        return _trial(HEAD, self._learned.held, self._learned.logits, lesson, figures, speed)

    def write(self, stage: Path) -> dict[str, Any]:
        _save_layer(stage, self._learned.weight, self._learned.bias)
        return {
            "architecture": "logistic-regression",
            "context_length": self._bundle.manifest.context_length,
            "head": {"encoder": self._bundle.digest},
            "licence": self._bundle.manifest.source.licence,
            "runtime": runtime_versions("onnxruntime", "scikit-learn"),
        }


class _EncoderWay:
    """The encoder itself, taught: once for each fold that is tested on, then on all rows."""

    def __init__(self, origin: Origin, lesson: Lesson, effort: Effort, work: Path) -> None:
        self._origin, self._lesson, self._effort, self._work = origin, lesson, effort, work
        self._section, context_length = read_pooling(origin.path)
        self._length = min(LONGEST, context_length)
        self.bytes = 0
        self._folds = lesson.folds if len(lesson.texts) < _ROWS_FOR_ONE_FOLD else lesson.folds[:1]
        self._by_pairs = len(lesson.texts) < ROWS_FOR_LABELS
        self._rows_taught = sum(len(train) for train, _ in self._folds) + len(lesson.texts)

    def try_out(self) -> Trial:
        import numpy as np

        held, logits, seconds = [], [], 0.0
        for number, (train, test) in enumerate(self._folds):
            folder = self._work / f"fold-{number}"
            folder.mkdir()
            _, (weight, bias) = self._teach(train, folder)
            encoder = load_encoder(folder)
            started = time.monotonic()
            vectors = embed_texts(encoder, [self._lesson.texts[row] for row in test])
            seconds += time.monotonic() - started
            held.append(test)
            logits.append(vectors @ weight.T + bias)
            self.bytes = encoder.bundle.weight_bytes
            shutil.rmtree(folder)
        rows = np.concatenate(held)
        speed = len(rows) / max(1e-9, seconds)
        figures = {"taught_by": "pairs" if self._by_pairs else "labels"}
        return _trial(ENCODER, rows, np.concatenate(logits), self._lesson, figures, speed)

    def write(self, stage: Path) -> dict[str, Any]:
        import numpy as np

        fields, layer = self._teach(np.arange(len(self._lesson.texts)), stage)
        _save_layer(stage, *layer)
        base = self._origin.source
        return {
            **{key: fields[key] for key in _ENCODER_FIELDS},
            "head": {},
            "report": {**fields["report"], "base": f"{base.id} {base.revision}".strip()},
            "licence": self._origin.source.licence,
            "runtime": runtime_versions("onnxruntime", "torch", "transformers"),
        }

    def _teach(self, rows: Integers, folder: Path) -> tuple[dict[str, Any], tuple[Floats, Floats]]:
        """Teaches the checkpoint from ``rows`` and makes an encoder's bundle of it in ``folder``.

        :return: its manifest's fields, and ``weight`` and ``bias`` of the layer.
        """
        effort, lesson, taught = self._effort, self._lesson, self._work / "taught"
        texts, truth = [lesson.texts[row] for row in rows], lesson.truth[rows]
        seconds = effort.seconds * len(rows) / self._rows_taught
        how: dict[str, Any] = {"on_progress": effort.on_progress, "debug": effort.debug}
        check_resources(self._origin.weights, self._origin.weights * 8, self._work, _BYTES_A_WEIGHT)
        source = (self._origin.path, taught, self._section, self._length, texts, truth.tolist())
        if self._by_pairs:
            contrast_encoder(*source, seconds=seconds, **how)
        else:
            schedule = replace(schedule_for(len(lesson.texts)), seconds=seconds)
            teach_encoder(*source, len(lesson.labels), schedule, **how)
        origin = examine_local(taught, "encoder", self._origin.source)
        fields, likeness = fill_encoder(origin, folder, effort.announce, **how)
        fields["report"] = {"cosine_to_float": likeness["cosine_to_float"]}
        if self._by_pairs:
            vectors = embed_texts(load_encoder(folder), texts)
            layer: tuple[Floats, Floats] = fit_layer(vectors, truth, _STRENGTH, len(lesson.labels))
        else:
            layer = load_layer(taught)
        shutil.rmtree(taught)
        return fields, layer


_ENCODER_FIELDS: Final = ("architecture", "quantization", "context_length", "graphs", "encoder")
_Way = _HeadWay | _EncoderWay


def _ways(ground: Ground, lesson: Lesson, effort: Effort, work: Path) -> list[_Way]:
    """What is tried, the cheapest first. :raises ExportError: the wanted method isn't possible here."""
    ways: list[_Way] = []
    if ground.bundle is not None and effort.method != ENCODER:
        ways.append(_HeadWay(ground.bundle, lesson))
    few = len(lesson.texts) < ROWS_FOR_LABELS and not is_installed()
    if few and ways and ground.checkpoint is not None:
        effort.announce(f"{MISSING} Only a head is tried.")
    elif ground.checkpoint is not None and effort.method != HEAD:
        ways.append(_EncoderWay(ground.checkpoint, lesson, effort, work))
    if not ways:
        raise ExportError(NEEDS_BUNDLE if effort.method == HEAD else NEEDS_CHECKPOINT)
    return ways


def _trial(
    method: str, held: Integers, logits: Floats, lesson: Lesson, figures: dict[str, Any], speed: float
) -> Trial:
    from edgeslm_export.statistics import accuracy_report, calibrated, fit_temperature

    truth = lesson.truth[held]
    temperature = round(fit_temperature(logits, truth), 4)
    report = accuracy_report(calibrated(logits, truth), truth, lesson.labels)
    return Trial(method, held, logits, {**report, **figures}, speed, temperature)


def _save_layer(folder: Path, weight: Floats, bias: Floats) -> None:
    import numpy as np

    np.savez(folder / _WEIGHTS, weight=weight.astype(np.float32), bias=bias.astype(np.float32))


def _check_counts(rows: Sequence[LabelledRow], labels: Sequence[str], data: Path) -> None:
    if len(labels) < 2:
        raise ExportError(f"{data} has one label only ({labels[0]}); at least two are needed to tell apart.")
    counts = Counter(label for _, label in {(bare_text(row.text), row.label) for row in rows})
    for label in labels:
        if counts[label] < FEWEST_ROWS:
            raise ExportError(
                f"{data} has {counts[label]} different texts with the label {label!r}; add some (at least "
                f"{FEWEST_ROWS}, 20 or more to be useful) or take it out of the task."
            )


def _report(trials: Sequence[Trial], best: Trial, lesson: Lesson) -> dict[str, Any]:
    """The figures of the way that was taken, and of each the ones to compare by."""
    compared = ("accuracy", "interval", "calibration_error")
    return {
        "kind": "head",
        "method": best.method,
        "learned_from": len(lesson.texts),
        **best.figures,
        "temperature": best.temperature,
        "methods": {
            trial.method: {"held_out": len(trial.held), **{key: trial.figures[key] for key in compared}}
            for trial in trials
        },
    }


def _digest(rows: Sequence[LabelledRow]) -> str:
    """SHA-256 of the rows' content: the same for a CSV and for JSON lines."""
    content = "\n".join(json.dumps([row.text, row.label]) for row in rows)
    return hashlib.sha256(content.encode()).hexdigest()
