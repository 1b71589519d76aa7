"""A student learns what a teacher says of messages that nobody labelled (Hinton et al. 2015).

The teacher is a bundle that was taught the task, a decoder that is told it, or a decoder's checkpoint, which
is exported first. Each text gets the teacher's share of every label; texts that it isn't sure of are dropped
or asked about. The student learns the shares, and both, with a student of as many hand labels where there are
some, are tried on labelled rows that none of them has seen.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeslm_export.checkpoint import Origin
from edgeslm_export.evaluate import evaluate_learned, examine_bundle
from edgeslm_export.exam import Exam
from edgeslm_export.head import split_folds
from edgeslm_export.lesson import SURE, Effort, Ground, Lesson
from edgeslm_export.rows import LabelledRow, bare_text
from edgeslm_export.tune import Task, check_rows, learn, learn_labels

from edgeslm.bundle import Bundle, Manifest, Source, load_bundle
from edgeslm.config import Task as TaskSection
from edgeslm.errors import ExportError

_FEWEST = 20
_RECIPE = "int8"
"""Of a checkpoint that teaches: near to its float original, and no text is needed to make it."""

AskUser = Callable[[str, Sequence[str], str], str | None]
"""A text, the labels and the teacher's guess; the user's label, or None to drop it."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """``bundle`` was taught the task or is a decoder; ``base`` is what a head or an adapter adds to."""

    bundle: Bundle
    base: Path

    @property
    def is_taught(self) -> bool:
        return self.bundle.manifest.learned is not None

    @property
    def bytes(self) -> int:
        base = 0 if self.base == self.bundle.path else load_bundle(self.base).weight_bytes
        return base + self.bundle.weight_bytes

    def exam(self, task: Task, rows: Sequence[LabelledRow], *, with_answers: bool = False) -> Exam:
        """The rows as this teacher is asked them."""
        if self.is_taught:
            section = TaskSection.model_validate({"kind": "classify", "overflow": "head"})
            return Exam(task.name, section, rows, self.bundle.path, with_answers=with_answers)
        plain = task.section.model_dump(exclude_unset=True, by_alias=True, exclude={"learned"})
        section = TaskSection.model_validate(
            {**plain, "kind": "classify", "model": "model", "overflow": "head"}
        )
        return Exam(task.name, section, rows, with_answers=with_answers)


@dataclass(frozen=True, slots=True)
class Labelled:
    """What a teacher made of texts: ``shares`` [texts, labels]; ``dropped`` texts it wasn't sure of."""

    texts: list[str]
    shares: list[list[float]]
    dropped: int
    asked: int


def labels_of(teacher: Teacher, task: Task) -> tuple[str, ...]:
    """:raises ExportError: the teacher knows other labels than the task, or nobody says which there are."""
    learned = teacher.bundle.manifest.learned
    if learned is None:
        if not task.labels:
            raise ExportError(
                "A teacher that was taught nothing has to be told the labels: put them in TASK.yaml."
            )
        return task.labels
    if learned.kind != "classify":
        raise ExportError(f"{teacher.bundle.path} was taught {learned.kind}; only classify is distilled.")
    if task.labels and set(task.labels) != set(learned.labels):
        raise ExportError(
            f"{teacher.bundle.path} knows the labels {', '.join(learned.labels)}, and the task has "
            f"{', '.join(task.labels)}."
        )
    return learned.labels


def ask_teacher(
    teacher: Teacher,
    task: Task,
    texts: Sequence[str],
    effort: Effort,
    *,
    sure: float = SURE,
    ask_user: AskUser | None = None,
) -> Labelled:
    """The teacher's shares of each text; each text counts once.

    :raises ExportError: too few are left to learn from.
    """
    labels = labels_of(teacher, task)
    single = list({bare_text(text): text for text in texts}.values())
    rows = [LabelledRow(number, text, labels[0]) for number, text in enumerate(single, 1)]
    exam = teacher.exam(task, rows, with_answers=True)
    report = examine_bundle(teacher.base, exam, on_progress=effort.on_progress, debug=effort.debug)
    kept: list[str] = []
    shares: list[list[float]] = []
    dropped = asked = 0
    for text, answer in zip(single, report["answers"], strict=True):
        if answer is None:
            dropped += 1
        elif answer["confidence"] >= sure:
            kept.append(text)
            shares.append([answer["scores"][label] for label in labels])
        elif ask_user is not None and (label := ask_user(text, labels, answer["label"])) is not None:
            asked += 1
            kept.append(text)
            shares.append([float(label == other) for other in labels])
        else:
            dropped += 1
    if len(kept) < _FEWEST:
        raise ExportError(
            f"The teacher is sure of {len(kept)} texts of {len(single)}; at least {_FEWEST} are needed. "
            "Give it more texts, or a lower --sure."
        )
    return Labelled(kept, shares, dropped, asked)


def distil(
    task: Task, teacher: Teacher, said: Labelled, source: Source, out: Path, ground: Ground, effort: Effort
) -> tuple[Manifest, dict[str, Any]]:
    """Teaches the student ``out``. Its report's accuracy is agreement with the teacher on held-out texts.

    :raises ExportError: as ``tune``, and a label that the teacher never gave.
    """
    import numpy as np

    labels = labels_of(teacher, task)
    shares = np.array(said.shares)
    truth = shares.argmax(axis=1)
    counts = np.bincount(truth, minlength=len(labels))
    for label, count in zip(labels, counts.tolist(), strict=True):
        if count < 2:
            raise ExportError(
                f"The teacher gave the label {label!r} to {count} texts; give it texts of that kind, or take "
                "the label out of the task."
            )
    folds = split_folds(truth, len(labels), said.texts)
    lesson = Lesson(task.name, said.texts, truth, labels, folds, shares, task.instruction)
    return learn_labels(lesson, source, out, ground, effort)


def compare(
    task: Task,
    teacher: Teacher,
    student: Path,
    student_base: Path,
    test: Sequence[LabelledRow],
    hand: Sequence[LabelledRow],
    ground: Ground,
    effort: Effort,
    *,
    learned_from: int,
) -> list[dict[str, Any]]:
    """Teacher, student, and a student of ``learned_from`` hand labels (or as many as there are), on ``test``.

    :return: for each ``who``, ``labels`` that it learned from, and the figures of the test.
    """
    how: dict[str, Any] = {"on_progress": effort.on_progress, "debug": effort.debug}
    learned = teacher.bundle.manifest.learned
    asked = examine_bundle(teacher.base, teacher.exam(task, test), **how)
    rows = [_figures("teacher", learned.rows if learned else 0, asked, teacher.bytes)]
    bundle = load_bundle(student)
    report = evaluate_learned(bundle, student_base, test, **how)
    size = bundle.weight_bytes + (0 if student_base == student else load_bundle(student_base).weight_bytes)
    rows.append(_figures("student", 0, report, size))
    chosen = random.Random(0).sample(list(hand), min(len(hand), learned_from))
    if hand and _can_learn(task, chosen, effort):
        with tempfile.TemporaryDirectory(prefix="hand-") as name:
            other = Path(name) / "student"
            learn(task, chosen, "hand labels", other, ground, effort)
            base = other if student_base == student else student_base
            report = evaluate_learned(load_bundle(other), base, test, **how)
            rows.append(_figures("student of hand labels", len(chosen), report, size))
    return rows


def _can_learn(task: Task, rows: Sequence[LabelledRow], effort: Effort) -> bool:
    """Whether a draw of hand labels has enough of each; else that is said: the student is made by then."""
    try:
        check_rows(task, rows, Path("The draw of hand labels"))
    except ExportError as error:
        effort.announce(f"{error} So no student of hand labels is shown.")
        return False
    return True


def export_teacher(origin: Origin, out: Path, effort: Effort) -> Path:
    """A decoder's checkpoint as a bundle that can be asked."""
    from edgeslm_export.convert import Order, export_model
    from edgeslm_export.recipe import find_recipe

    order = Order(find_recipe(_RECIPE))
    export_model(origin, out, order, on_progress=effort.on_progress, debug=effort.debug)
    return out


def _figures(who: str, labels: int, report: dict[str, Any], size: int) -> dict[str, Any]:
    return {
        "who": who,
        "labels": labels,
        "accuracy": report["accuracy"],
        "interval": report["interval"],
        "calibration_error": report["calibration_error"],
        "texts_per_s": round(1000 / report["ms_per_row"], 1),
        "bytes": size,
    }
