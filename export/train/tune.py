"""Task training: trains a task on labelled messages by several methods and keeps the best on held-out rows.

``head`` trains a classifier on a frozen encoder's embeddings, which takes seconds, and several tasks can
share one encoder. ``encoder`` fine-tunes the encoder on labels or spans, which takes minutes and is more
accurate, but each task has its own encoder. ``lora`` and ``qlora`` train an adapter for a decoder, which
takes minutes to hours; a decoder can also write fields. Methods are evaluated through the graph that a device
runs, and their confidence is calibrated on the same held-out rows.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from edgeslm_export.bundle.writer import created_at, staged, write_manifest, write_report
from edgeslm_export.data.rows import FieldsRow, LabelledRow, bare_text, digest_rows, equal_texts, load_answers
from edgeslm_export.evaluate.task_eval import check_answers, schema_of, without_nulls
from edgeslm_export.jobs.checkpoint_notes import Notes
from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.train.extract_methods import FieldTrial
from edgeslm_export.train.field_spec import FieldSpec
from edgeslm_export.train.logistic_head import split_folds
from edgeslm_export.train.loop import reproducible
from edgeslm_export.train.methods import make_field_methods, make_methods
from edgeslm_export.train.spec import (
    AnyTrial,
    Budget,
    Inputs,
    Method,
    TaskSpec,
    Trial,
    drift_reference,
    tell_interim,
)
from edgeslm_export.train.training_cost import timed

from edgeslm import __version__
from edgeslm.bundle.calibration import Calibration, find_threshold
from edgeslm.bundle.manifest import Manifest, Source, load_bundle
from edgeslm.config import loader
from edgeslm.config.loader import LEARNABLE
from edgeslm.config.loader import Task as TaskSection
from edgeslm.errors import ExportError, plural

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.floating[Any]]
    Integers = npt.NDArray[np.int64]

FEWEST_ROWS: Final = 2
"""Minimum number of rows of each label: one for training and one for testing."""
FEWEST_FIELD_ROWS: Final = 10
RISKS: Final = (0.1, 0.05, 0.02, 0.01)
"""Error rates for which the report shows the coverage."""
_MUCH_SLOWER: Final = 4
"""A method counts as much slower if it takes more than this many times as long as another. A fine-tuned
encoder is as fast as the original, a decoder a hundred times slower."""
_PARTS: Final = 5
_MADE: Final = "bundle"


@dataclass(frozen=True, slots=True)
class Task:
    """The task to train, read from the user's file TASK.yaml. ``labels`` is empty if the labels come from the
    rows; ``section`` is the task's entry in the file."""

    name: str
    section: TaskSection

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.section.labels or ())

    @property
    def instruction(self) -> str:
        """The decoder's instruction in training and on the device; it is short, as every request has it."""
        return self.section.instruction or self.name


def load_task(file: Path) -> Task:
    """Reads one entry of ``tasks:`` with its ``name``; keys such as ``learned`` or ``threshold`` are ignored.

    :raises ConfigError: the file has no such entry.
    :raises ExportError: the task is of a kind that can't be trained.
    """
    ignored = ("learned", "adapter", "max_error", "threshold", "examples")
    name, section = loader.load_task(file, None, {"learned": "-"}, ignored)
    if section.kind not in (None, *LEARNABLE):
        raise ExportError(
            f"{file}: the task {name} is of kind {section.kind}; only classify and extract are learned."
        )
    return Task(name, section)


def read_rows(task: Task, data: Path) -> list[LabelledRow] | list[FieldsRow]:
    """Reads the rows of a task. :raises ExportError: rows are invalid, too few, or not of the task's kind."""
    rows = load_answers(data)
    has_fields = isinstance(rows[0], FieldsRow)
    if task.section.kind is not None and has_fields != (task.section.kind == "extract"):
        have = "fields" if has_fields else "a label"
        raise ExportError(
            f"The task {task.name} is of kind {task.section.kind} and the rows of {data} have {have}; rows "
            "with a label are for classify, rows with fields for extract."
        )
    schema = task.section.output_schema
    if schema or task.labels:
        check_answers(data, rows, (schema or {}).get("properties", {}) if has_fields else task.labels, schema)
    check_rows(task, rows, data)
    return rows


def check_rows(task: Task, rows: Sequence[LabelledRow | FieldsRow], data: Path) -> None:
    """:raises ExportError: too few rows, or too few rows of a label."""
    if any(isinstance(row, FieldsRow) for row in rows):
        if len(rows) < FEWEST_FIELD_ROWS:
            have = plural(len(rows), "row")
            raise ExportError(f"{data} has {have}; at least {FEWEST_FIELD_ROWS} are needed.")
        return
    labelled = [row for row in rows if isinstance(row, LabelledRow)]
    labels = labels_of(task, labelled)
    if len(labels) < 2:
        raise ExportError(f"{data} has one label only ({labels[0]}); at least two are needed to tell apart.")
    counts = Counter(label for _, label in {(bare_text(row.text), row.label) for row in labelled})
    for label in labels:
        if counts[label] < FEWEST_ROWS:
            raise ExportError(
                f"{data} has {counts[label]} different texts with the label {label!r}; add some (at least "
                f"{FEWEST_ROWS}, 20 or more to be useful) or remove it from the task."
            )


def labels_of(task: Task, rows: Sequence[LabelledRow]) -> tuple[str, ...]:
    """The task's labels; if it has none, the labels of the rows."""
    return task.labels or tuple(sorted({row.label for row in rows}))


def tune(
    task: Task, data: Path, out: Path, inputs: Inputs, budget: Budget
) -> tuple[Manifest, dict[str, Any]]:
    """Trains ``task`` on ``data`` and writes the bundle ``out``.

    :return: the manifest, and the report with ``texts_per_s`` and ``bytes`` of each method that was tried.
    :raises ExportError: invalid rows, too few rows of a label, or a method that ``inputs`` don't allow.
    :raises BundleError: an input isn't a bundle or is damaged.
    """
    return learn(task, read_rows(task, data), data.name, out, inputs, budget)


def learn(
    task: Task,
    rows: Sequence[LabelledRow | FieldsRow],
    name: str,
    out: Path,
    inputs: Inputs,
    budget: Budget,
    doubted: Collection[int] = (),
) -> tuple[Manifest, dict[str, Any]]:
    """Does the same as ``tune``, for rows in memory. :param name: name of the rows, for the manifest. :param
    doubted: the ``number`` of each row that isn't trained on."""
    source = Source(id=name, revision=f"sha256:{digest_rows(rows)}")
    if isinstance(rows[0], FieldsRow):
        fields = [row for row in rows if isinstance(row, FieldsRow)]
        return learn_fields(make_field_spec(task, fields), source, out, inputs, budget)
    labelled = [row for row in rows if isinstance(row, LabelledRow)]
    return learn_labels(make_spec(task, labelled, doubted, budget.recalls), source, out, inputs, budget)


def make_spec(
    task: Task,
    rows: Sequence[LabelledRow],
    doubted: Collection[int] = (),
    recalls: Mapping[str, float] = MappingProxyType({}),
) -> TaskSpec:
    """:param doubted: the ``number`` of each row that isn't trained on. :param recalls: the wanted recall by
    label.
    :raises ExportError: a label in ``recalls`` isn't the task's.
    """
    import numpy as np

    labels = labels_of(task, rows)
    if unknown := [label for label in recalls if label not in labels]:
        raise ExportError(f"--recall: {unknown[0]!r} is none of the labels {', '.join(labels)}.")
    truth = np.array([labels.index(row.label) for row in rows], np.int64)
    texts = [row.text for row in rows]
    out = [place for place, row in enumerate(rows) if row.number in set(doubted)]
    folds = split_folds(truth, len(labels), texts, out)
    wanted = {labels.index(label): recall for label, recall in recalls.items()}
    about = task.name, texts, truth, labels, folds
    return TaskSpec(*about, instruction=task.instruction, doubted=out, recalls=wanted)


def learn_labels(
    spec: TaskSpec, source: Source, out: Path, inputs: Inputs, budget: Budget
) -> tuple[Manifest, dict[str, Any]]:
    """Trains a classify task. :return, raises: as ``tune``."""
    shares = [] if spec.shares is None else spec.shares.tolist()
    doubted, labels = list(spec.doubted), list(spec.labels)
    what = [source.revision, doubted, spec.name, labels, spec.instruction, shares]
    notes = Notes(_notes_folder(what, inputs, budget))
    budget = timed(budget, spec, inputs, notes)
    with staged(out) as stage:
        with tempfile.TemporaryDirectory(prefix="work-", dir=stage) as name:
            work = Path(name)
            methods = make_methods(inputs, spec, budget, notes, work)
            tried = try_methods(methods, budget)
            trials = [trial for _, trial in tried]
            best, fields = write_best(tried, budget, work)
            for file in (work / _MADE).iterdir():
                file.rename(stage / file.name)
        calibration = best.fitted.calibration
        if spec.shares is not None:  # error rates against a teacher's labels guarantee nothing
            calibration = calibration.model_copy(update={"risk": ()})
        report = _report(trials, best, calibration, spec) | fields.pop("report", {})
        learned = {
            "task": spec.name,
            "kind": "classify",
            "labels": spec.labels,
            "rows": len(spec.learned),
            "calibration": calibration,
            "reference": drift_reference(
                best.distances,
                [verdict.confidence for verdict in best.fitted.verdicts],
                [verdict.best for verdict in best.fitted.verdicts],
                len(spec.labels),
            ),
        }
        if "adapter" in fields:
            learned["instruction"] = spec.instruction
        manifest = _finish(stage, spec.name, source, fields, learned, report)
    notes.remove()
    return manifest, {**report, **best.figures, "measured": _measurements(trials)}


def make_field_spec(task: Task, rows: Sequence[FieldsRow]) -> FieldSpec:
    given = task.section.output_schema or schema_of(rows)
    update = {
        "kind": "extract",
        "output_schema": given,
        "learned": None,
        "model": "model",
        "overflow": "head",
    }
    section = task.section.model_copy(update=update)
    texts = [row.text for row in rows]
    fields = [without_nulls(row.fields, given) for row in rows]
    groups = [row.group for row in rows]
    folds = split_rows(texts, groups)
    return FieldSpec(task.name, section, texts, fields, folds, task.instruction, groups)


def learn_fields(
    spec: FieldSpec, source: Source, out: Path, inputs: Inputs, budget: Budget
) -> tuple[Manifest, dict[str, Any]]:
    """Trains an extract task. :return, raises: as ``tune``."""
    what = [source.revision, spec.learned, spec.instruction, list(spec.groups)]
    notes = Notes(_notes_folder(what, inputs, budget))
    budget = timed(budget, spec, inputs, notes)
    with staged(out) as stage:
        with tempfile.TemporaryDirectory(prefix="work-", dir=stage) as name:
            work = Path(name)
            tried = try_methods(make_field_methods(inputs, spec, budget, notes, work), budget)
            best, fields = write_best(tried, budget, work)
            for file in (work / _MADE).iterdir():
                file.rename(stage / file.name)
        trials = [trial for _, trial in tried]
        report = {
            "kind": fields["kind"],
            "method": best.method,
            "learned_from": len(spec.texts),
            "rows": len(best.held),
            **reproducible(best.figures),
            **_guarantees(best.calibration),
            "methods": {
                trial.method: {
                    "held_out": len(trial.held),
                    "exact": trial.figures["exact"],
                    "interval": trial.figures["exact_interval"],
                    "calibration_error": trial.figures.get("calibration_error"),
                }
                for trial in trials
            },
            **fields.pop("report", {}),
        }
        learned = {
            **spec.learned,
            **fields.pop("learned"),
            "calibration": best.calibration,
            "reference": best.reference,
        }
        manifest = _finish(stage, spec.name, source, fields, learned, report)
    notes.remove()
    return manifest, {**report, **best.figures, "measured": _measurements(trials)}


def split_rows(texts: Sequence[str], groups: Sequence[str] = ()) -> list[tuple[Integers, Integers]]:
    """Five folds of training and test rows; equal texts and the texts of a group stay together."""
    import numpy as np

    members = equal_texts(texts, groups)
    order = np.random.default_rng(0).permutation(len(members))
    folds = []
    for tested in np.array_split(order, min(_PARTS, len(members))):
        test = np.sort(np.array([row for group in tested.tolist() for row in members[group]], np.int64))
        folds.append((np.setdiff1d(np.arange(len(texts)), test), test))
    return folds


def _finish(
    stage: Path,
    name: str,
    source: Source,
    fields: dict[str, Any],
    learned: Mapping[str, Any],
    report: Mapping[str, Any],
) -> Manifest:
    """Writes report and manifest; the bundle's licence is that of the trained model."""
    write_report(stage, report)
    whole = {
        "name": f"{name}-{fields['kind']}",
        "source": source.model_copy(update={"licence": fields.pop("licence", "")}),
        "created": created_at(""),
        "learned": learned,
        **fields,
    }
    return write_manifest(stage, whole)


def _notes_folder(what: Sequence[Any], inputs: Inputs, budget: Budget) -> Path:
    """The folder for results of exactly this training, from which the same command resumes."""
    on = [load_bundle(folder).digest for folder in (inputs.bundle, inputs.base) if folder is not None]
    on += [origin.source.revision for origin in (inputs.checkpoint, inputs.decoder) if origin is not None]
    order = [__version__, what, on, list(budget.methods), budget.seconds]
    return cache_folder() / f"tune-{hashlib.sha256(json.dumps(order).encode()).hexdigest()[:16]}"


def try_methods(
    methods: Sequence[Method[AnyTrial]], budget: Budget
) -> list[tuple[Method[AnyTrial], AnyTrial]]:
    """Tries each method. If a method fails, the user is told and the next method is tried; if no method
    succeeds, the last method's error is raised."""
    tried: list[tuple[Method[AnyTrial], AnyTrial]] = []
    for number, method in enumerate(methods, 1):
        try:
            tried.append((method, trial := method.try_out()))
            if number < len(methods):
                budget.announce(tell_interim(trial))
        except ExportError as error:
            if number == len(methods) and not tried:
                raise
            budget.announce(f"{error} So it is left out.")
    return tried


def write_best(
    tried: Sequence[tuple[Method[AnyTrial], AnyTrial]], budget: Budget, work: Path
) -> tuple[AnyTrial, dict[str, Any]]:
    """Writes the best trial's bundle (if that fails, the first trial's bundle) into a new folder, since the
    manifest lists all files of the folder.
    :return: the trial, and the manifest's fields."""
    best = choose([trial for _, trial in tried])
    method, made = next(method for method, trial in tried if trial is best), work / _MADE
    made.mkdir()
    try:
        return best, method.write(made)
    except ExportError as error:
        first_method, first = tried[0]
        if best is first:
            raise
        budget.announce(f"{error} So {first.method} is taken.")
    shutil.rmtree(made)
    made.mkdir()
    return first, first_method.write(made)


def choose(trials: Sequence[AnyTrial]) -> AnyTrial:
    """The best trial: a later trial replaces an earlier one if it is better on the rows that both held out.

    Better means more right answers, or equally many and a lower loss; the loss shows differences even with
    few rows. A method that is much slower on a device must be better by more than one standard error of the
    difference.
    """
    import numpy as np

    best = trials[0]
    for trial in trials[1:]:
        _, mine, theirs = np.intersect1d(trial.held, best.held, return_indices=True)
        gained = trial.right[mine].astype(float) - best.right[theirs]
        saved = best.losses[theirs] - trial.losses[mine]
        errors = 1 if trial.texts_per_s < best.texts_per_s / _MUCH_SLOWER else 0
        if _is_more(gained, errors) or (gained.sum() >= 0 and _is_more(saved, errors)):
            best = trial
    return best


def _is_more(differences: Floats, errors: int) -> bool:
    """Whether the mean of ``differences`` is above 0 by more than ``errors`` standard errors."""
    return bool(differences.sum() > errors * math.sqrt((differences**2).sum()))


def _measurements(trials: Sequence[Trial] | Sequence[FieldTrial]) -> dict[str, Any]:
    return {
        trial.method: {
            "texts_per_s": round(trial.texts_per_s, 1),
            "bytes": trial.bytes,
            "peak_rss": trial.figures.get("peak_rss"),
        }
        for trial in trials
    }


def _guarantees(calibration: Calibration | None) -> dict[str, Any]:
    """A dict: coverage at ``RISKS``, and the lowest error rate that the held-out rows can guarantee."""
    if calibration is None or not calibration.risk:
        return {}
    least = min(point.error for point in calibration.risk)
    return {"coverage": _coverage(calibration), "least_error": round(least, 4)}


def _coverage(calibration: Calibration) -> dict[str, float | None]:
    """Coverage at each error rate of ``RISKS``; None for a rate that the held-out rows can't guarantee."""
    points = {str(risk): find_threshold(calibration, risk) for risk in RISKS}
    return {risk: None if point is None else point.coverage for risk, point in points.items()}


def _report(trials: Sequence[Trial], best: Trial, calibration: Calibration, spec: TaskSpec) -> dict[str, Any]:
    """The report: figures of the chosen method and, for comparison, some figures of each method."""
    compared = ("accuracy", "interval", "calibration_error")
    return {
        "method": best.method,
        "learned_from": len(spec.learned),
        **reproducible(best.figures),
        **_guarantees(calibration),
        "methods": {
            trial.method: {"held_out": len(trial.held), **{key: trial.figures[key] for key in compared}}
            for trial in trials
        },
    }
