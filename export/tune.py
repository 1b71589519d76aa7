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
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from edgeslm_export.head import split_folds
from edgeslm_export.package import created_at, staged, write_manifest, write_report
from edgeslm_export.rows import LabelledRow, bare_text, load_rows
from edgeslm_export.ways import WEIGHTS, Effort, Ground, Lesson, Trial, Way, make_ways

from edgeslm.bundle import Manifest, Source
from edgeslm.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.floating[Any]]
    Integers = npt.NDArray[np.int64]

FEWEST_ROWS: Final = 2
"""Rows of each label that are needed: one to learn from and one to test with."""
_MADE: Final = "bundle"


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
            ways = make_ways(ground, lesson, effort, work)
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
            "weights": WEIGHTS,
            "temperature": best.temperature,
            "rows": len(rows),
        }
        manifest = write_manifest(stage, fields)
    measured = {
        trial.method: {"texts_per_s": round(trial.texts_per_s, 1), "bytes": way.bytes}
        for trial, way in zip(trials, ways, strict=False)
    }
    return manifest, {**report, "measured": measured}


def _try_out(ways: Sequence[Way], effort: Effort) -> list[Trial]:
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
    ways: Sequence[Way], trials: Sequence[Trial], lesson: Lesson, effort: Effort, work: Path
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
