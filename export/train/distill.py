"""Distillation: trains a student on a teacher's labels for unlabelled messages (Hinton et al., 2015).

The teacher is a learned task's bundle, a decoder with an instruction, a decoder's checkpoint, which is
exported first, or a model on a server (``remote_teacher``). The teacher gives each text a probability for
every label (soft labels). Uncertain texts are dropped, or the user is asked for their labels. Teacher and
student are evaluated on labelled rows that neither was trained on. For comparison, a second student, trained
on hand labels, is evaluated on the same rows. Answers of teacher and user are saved, so that an interrupted
command resumes.
"""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from edgeslm_export.data.rows import LabelledRow, bare_text
from edgeslm_export.evaluate.report_card import evaluate_learned, examine_bundle
from edgeslm_export.evaluate.task_eval import Exam
from edgeslm_export.jobs.checkpoint_notes import Notes
from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.jobs.subprocess_job import OnProgress
from edgeslm_export.sources.checkpoint import Origin
from edgeslm_export.train import tune
from edgeslm_export.train.logistic_head import split_folds
from edgeslm_export.train.remote_teacher import Answer, RemoteTeacher
from edgeslm_export.train.spec import SURE, Budget, Inputs, TaskSpec
from edgeslm_export.train.tune import FEWEST_ROWS, Task, check_rows

from edgeslm import __version__
from edgeslm.bundle.learned_task import LearnedSection
from edgeslm.bundle.manifest import Bundle, Manifest, Source, load_bundle
from edgeslm.config.loader import Task as TaskSection
from edgeslm.errors import ExportError

_FEWEST = 20
_RECIPE = "int8"
"""Recipe for exporting a teacher's checkpoint. The result is close to the float model, and the recipe needs
no calibration text."""

BLOCK = 500
"""Number of texts that are labelled between two saves. The teacher is loaded again for each block, which
takes seconds."""
_USER_LABELS = "typed.jsonl"


class AskUser(Protocol):
    """Asks the user for the label of a text, with the teacher's guess.

    :return: the label, or None to drop the text.
    :raises EOFError: the user wants no more questions.
    """

    def __call__(self, text: str, labels: Sequence[str], guess: str, /) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Examinee:
    """A bundle to evaluate. ``base`` is the base bundle of a head or an adapter, else the bundle's own
    folder."""

    bundle: Bundle
    base: Path

    @property
    def bytes(self) -> int:
        base = 0 if self.base == self.bundle.path else load_bundle(self.base).weight_bytes
        return base + self.bundle.weight_bytes


@dataclass(frozen=True, slots=True)
class Teacher(Examinee):
    """``bundle`` is a learned task's bundle or a decoder. If a checkpoint was exported to be the teacher,
    ``revision`` is the checkpoint's revision."""

    revision: str = ""

    @property
    def is_taught(self) -> bool:
        return self.bundle.manifest.learned is not None

    def exam(self, task: Task, rows: Sequence[LabelledRow], *, with_answers: bool = False) -> Exam:
        """The evaluation by which this teacher labels ``rows`` or is tested on them."""
        if self.is_taught:
            section = TaskSection.model_validate({"kind": "classify", "overflow": "head"})
            return Exam(task.name, section, rows, self.bundle.path, with_answers=with_answers)
        plain = task.section.model_dump(exclude_unset=True, by_alias=True, exclude={"learned"})
        section = TaskSection.model_validate(
            {**plain, "kind": "classify", "model": "model", "overflow": "head"}
        )
        return Exam(task.name, section, rows, with_answers=with_answers)

    @property
    def learned(self) -> LearnedSection | None:
        return self.bundle.manifest.learned

    @property
    def identity(self) -> str:
        """Distinguishes its answers from those of other teachers."""
        return self.revision or self.bundle.digest

    def asks(self, task: Task) -> object:
        """What it is asked, besides the text."""
        return self.exam(task, []).encode()["section"]

    def answers(
        self, task: Task, rows: Sequence[LabelledRow], budget: Budget, on_progress: OnProgress | None
    ) -> list[Answer]:
        """An answer for each row."""
        exam = self.exam(task, rows, with_answers=True)
        report = examine_bundle(self.base, exam, on_progress=on_progress, debug=budget.debug)
        found: list[Answer] = report["answers"]
        return found

    def examine(self, task: Task, rows: Sequence[LabelledRow], budget: Budget) -> dict[str, Any]:
        """Its report on labelled rows."""
        exam = self.exam(task, rows)
        return examine_bundle(self.base, exam, on_progress=budget.on_progress, debug=budget.debug)


AnyTeacher = Teacher | RemoteTeacher


@dataclass(frozen=True, slots=True)
class PseudoLabelled:
    """Texts with soft labels, ``shares`` [texts, labels]. ``dropped`` counts texts that were dropped as
    uncertain, ``asked`` texts that the user labelled, and ``left_out`` the texts of each label that is too
    rare to be learned."""

    texts: list[str]
    shares: list[list[float]]
    labels: tuple[str, ...]
    dropped: int = 0
    asked: int = 0
    left_out: dict[str, int] = field(default_factory=dict)


def labels_of(teacher: AnyTeacher, task: Task) -> tuple[str, ...]:
    """:raises ExportError: the teacher was trained for another task than classify, teacher and task name
    different labels, or neither of them names labels."""
    learned = teacher.learned
    if learned is None or isinstance(teacher, RemoteTeacher):
        if not task.labels:
            raise ExportError("An untrained teacher needs the labels: put them in TASK.yaml.")
        return task.labels
    if learned.kind != "classify":
        raise ExportError(f"{teacher.bundle.path} was trained to {learned.kind}; only classify is distilled.")
    if task.labels and set(task.labels) != set(learned.labels):
        raise ExportError(
            f"{teacher.bundle.path} knows the labels {', '.join(learned.labels)}, and the task has "
            f"{', '.join(task.labels)}."
        )
    return learned.labels


def find_notes(teacher: AnyTeacher, task: Task, texts: Sequence[str]) -> Notes:
    """The folder of saved answers for these texts, this task and this teacher. The folder is the same for
    every value of ``--sure``."""
    order = [__version__, teacher.identity, task.name, teacher.asks(task), list(texts)]
    return Notes(cache_folder() / f"distill-{hashlib.sha256(json.dumps(order).encode()).hexdigest()[:16]}")


def ask_teacher(
    teacher: AnyTeacher,
    task: Task,
    texts: Sequence[str],
    notes: Notes,
    budget: Budget,
    *,
    sure: float = SURE,
    ask_user: AskUser | None = None,
    block: int = BLOCK,
) -> PseudoLabelled:
    """Labels each distinct text with the teacher. Saved answers are reused. If a text has a saved label from
    the user, that label replaces the teacher's answer, even if the teacher is certain.

    :param sure: confidence below which a text is dropped, or the user is asked.
    :param notes: saved answers for this teacher, task and texts. :param block: number of texts that are
        labelled between two saves.
    :raises ExportError: too few texts or labels are left.
    """
    labels = labels_of(teacher, task)
    single = list({bare_text(text): text for text in texts}.values())
    file = notes.folder / _USER_LABELS
    typed = _load_user_labels(file, len(single), labels)
    by_user = sum(label is not None for label in typed.values())
    answers = _answers(teacher, task, single, notes, budget, by_user, block)
    kept: list[str] = []
    shares: list[list[float]] = []
    for place, (text, answer) in enumerate(zip(single, answers, strict=True)):
        is_sure = answer is not None and answer["confidence"] >= sure
        if answer is not None and not is_sure and place not in typed and ask_user is not None:
            try:
                typed[place] = ask_user(text, labels, answer["label"])
                _save_user_label(file, place, typed[place])
            except EOFError:  # further texts stay unanswered and aren't saved
                ask_user = None
        if (label := typed.get(place)) is not None:
            kept.append(text)
            shares.append([float(label == other) for other in labels])
        elif answer is not None and is_sure and place not in typed:
            kept.append(text)
            shares.append([answer["scores"][label] for label in labels])
    if len(kept) < _FEWEST:
        raise ExportError(
            f"The teacher is sure of {len(kept)} texts of {len(single)}; at least {_FEWEST} are needed. "
            "Give it more texts, or a lower --sure."
        )
    asked = sum(label is not None for label in typed.values())
    return _without_rare(PseudoLabelled(kept, shares, labels, len(single) - len(kept), asked), budget)


def _answers(
    teacher: AnyTeacher,
    task: Task,
    texts: Sequence[str],
    notes: Notes,
    budget: Budget,
    by_user: int,
    size: int,
) -> list[Answer]:
    """The teacher's answers, saved after each block. :param by_user: number of texts labelled by the user."""
    any_label = labels_of(teacher, task)[0]  # rows need a label; its accuracy isn't used
    rows = [LabelledRow(number, text, any_label) for number, text in enumerate(texts, 1)]
    if isinstance(teacher, RemoteTeacher):
        size = min(size, teacher.block)
    blocks = {f"teacher-{start}": rows[start : start + size] for start in range(0, len(rows), size)}
    noted = {name: found["answers"] for name in blocks if (found := notes.load(name)) is not None}
    if before := sum(map(len, noted.values())):
        yours = f", {by_user} of them by you" if by_user else ""
        budget.announce(f"{before} texts were labelled before{yours}; to ask again remove {notes.folder}.")
    answers: list[Answer] = []
    for name, block in blocks.items():
        if name not in noted and isinstance(teacher, RemoteTeacher) and teacher.is_spent:
            answers += [None] * len(block)  # not saved: the next run asks for them
            continue
        if name not in noted:
            on_progress = _part_of(budget.on_progress, len(answers), len(block), len(rows))
            noted[name] = teacher.answers(task, block, budget, on_progress)
            notes.save(name, {"answers": noted[name]})
        answers += noted[name]
    return answers


def _part_of(on_progress: OnProgress | None, before: int, rows: int, of: int) -> OnProgress | None:
    """Progress callback for a block of ``rows`` texts: converts the block's progress to that of all texts, of
    which ``before`` are done already."""
    if on_progress is None:
        return None
    return lambda done, total, what: on_progress(before + done * rows // max(1, total), of, what)


def _load_user_labels(file: Path, texts: int, labels: Sequence[str]) -> dict[int, str | None]:
    """The user's labels by index of the text; incomplete lines are skipped."""
    found: dict[int, str | None] = {}
    try:
        lines = file.read_text("utf-8", "replace").split("\n")
    except OSError:
        return found
    for line in lines:
        try:
            place, label = json.loads(line)
        except (ValueError, TypeError):
            continue
        if place in range(texts) and (label is None or label in labels):
            found[place] = label
    return found


def _save_user_label(file: Path, place: int, label: str | None) -> None:
    """Appends a label. A line end is written before the label, so that an incomplete last line doesn't damage
    the new line."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write("\n" + json.dumps([place, label]))


def _without_rare(said: PseudoLabelled, budget: Budget) -> PseudoLabelled:
    """Removes labels with fewer than ``FEWEST_ROWS`` texts and the texts of these labels, and renormalizes
    the shares.

    :raises ExportError: too few labels or texts are left.
    """
    import numpy as np

    shares = np.array(said.shares)
    truth = shares.argmax(axis=1)
    counts = np.bincount(truth, minlength=len(said.labels))
    common = counts >= FEWEST_ROWS
    if common.all():
        return said
    named = list(zip(said.labels, counts.tolist(), strict=True))
    left_out = {label: count for label, count in named if count < FEWEST_ROWS}
    left = tuple(label for label, _ in named if label not in left_out)
    rows = np.flatnonzero(common[truth])
    too_few = f"Too few texts have the labels {_counted(left_out)}"
    advice = "Give the teacher more such texts, take a lower --sure, or --ask."
    if len(left) < 2:
        raise ExportError(f"{too_few}; two labels that {FEWEST_ROWS} texts have are needed. {advice}")
    if len(rows) < _FEWEST:
        raise ExportError(f"{too_few}, and {len(rows)} others are left; {_FEWEST} are needed. {advice}")
    budget.announce(f"{too_few}: the student learns without them and never says them.")
    shares = shares[rows][:, common]
    shares /= shares.sum(axis=1, keepdims=True)
    texts = [said.texts[row] for row in rows]
    return replace(said, texts=texts, shares=shares.tolist(), labels=left, left_out=left_out)


def _counted(labels: Mapping[str, int]) -> str:
    return ", ".join(f"{label!r} ({count})" for label, count in labels.items())


def distil(
    task: Task, said: PseudoLabelled, source: Source, out: Path, inputs: Inputs, budget: Budget
) -> tuple[Manifest, dict[str, Any]]:
    """Trains the student and writes its bundle ``out``. The report's accuracy is the student's agreement with
    the teacher on held-out texts.

    :raises ExportError: as ``tune``.
    """
    import numpy as np

    shares = np.array(said.shares)
    truth = shares.argmax(axis=1)
    folds = split_folds(truth, len(said.labels), said.texts)
    spec = TaskSpec(task.name, said.texts, truth, said.labels, folds, shares, task.instruction)
    return tune.learn_labels(spec, source, out, inputs, budget)


def compare(
    task: Task,
    teacher: AnyTeacher,
    student: Examinee,
    test: Sequence[LabelledRow],
    hand: Sequence[LabelledRow],
    inputs: Inputs,
    budget: Budget,
    *,
    learned_from: int,
) -> list[dict[str, Any]]:
    """Evaluates on ``test``: the teacher, the student, and a student trained on at most ``learned_from`` hand
    labels. Rows whose label a student wasn't trained on count as errors.

    :return: a dict for each model, with ``who`` (teacher, student, or student trained on hand labels),
        ``labels`` (number of labelled rows that it was trained on; 0 for the student, which has the teacher's
        labels), its results on ``test``, and its speed and size.
    """
    learned = teacher.learned
    asked = teacher.examine(task, test, budget)
    size = 0 if isinstance(teacher, RemoteTeacher) else teacher.bytes
    rows = [_figures("teacher", learned.rows if learned else 0, asked, size)]
    rows.append(_figures("student", 0, _examine_student(student, test, budget), student.bytes))
    chosen = random.Random(0).sample(list(hand), min(len(hand), learned_from))
    if hand and (spec := _hand_spec(task, chosen, budget)) is not None:
        with tempfile.TemporaryDirectory(prefix="hand-") as name:
            out = Path(name) / "student"
            tune.learn(*spec, "hand labels", out, inputs, budget)
            other = Examinee(load_bundle(out), out if student.base == student.bundle.path else student.base)
            report = _examine_student(other, test, budget)
            rows.append(_figures("student of hand labels", len(spec[1]), report, other.bytes))
    return rows


def _examine_student(student: Examinee, test: Sequence[LabelledRow], budget: Budget) -> dict[str, Any]:
    """Calls ``evaluate_learned`` on rows that may have labels the student wasn't trained on. Such rows count
    as errors, since a device would answer them wrongly."""
    import numpy as np
    from edgeslm_export.evaluate.metrics import calibration_error, share

    learned = student.bundle.manifest.learned
    known = learned.labels if learned else ()
    asked = [row if row.label in known else replace(row, label=known[0]) for row in test]
    report = evaluate_learned(
        student.bundle,
        student.base,
        asked,
        with_answers=True,
        on_progress=budget.on_progress,
        debug=budget.debug,
    )
    if all(row.label in known for row in test):
        return report
    right = np.array([got["label"] == row.label for got, row in zip(report["answers"], test, strict=True)])
    confidence = np.array([got["confidence"] for got in report["answers"]])
    accuracy = share(right)
    return {
        **report,
        "accuracy": accuracy["share"],
        "interval": accuracy["interval"],
        "calibration_error": round(calibration_error(confidence, right), 4),
    }


def _hand_spec(
    task: Task, rows: Sequence[LabelledRow], budget: Budget
) -> tuple[Task, Sequence[LabelledRow]] | None:
    """Task and rows for a student that is trained on hand labels, without labels that have too few rows.

    :return: the task and the rows; None, after telling the user, if fewer than two labels are left.
    """
    counts = Counter(label for _, label in {(bare_text(row.text), row.label) for row in rows})
    names = task.labels or tuple(sorted(counts))
    left_out = {label: counts[label] for label in names if counts[label] < FEWEST_ROWS}
    if left_out and len(names) - len(left_out) >= 2:
        budget.announce(
            f"Too few of the hand labels drawn are {_counted(left_out)}: their student learns without them."
        )
        rows = [row for row in rows if row.label not in left_out]
        left = {label: text for label, text in (task.section.labels or {}).items() if label not in left_out}
        task = replace(task, section=task.section.model_copy(update={"labels": left or None}))
    try:
        check_rows(task, rows, Path("The draw of hand labels"))
    except ExportError as error:
        budget.announce(f"{error} So no student of hand labels is shown.")
        return None
    return task, rows


def export_teacher(origin: Origin, out: Path, budget: Budget) -> Path:
    """Exports a decoder's checkpoint to a bundle that can label texts."""
    from edgeslm_export.models.decoder import ExportOrder, export_model
    from edgeslm_export.quantize.recipe import find_recipe

    order = ExportOrder(find_recipe(_RECIPE))
    export_model(origin, out, order, on_progress=budget.on_progress, debug=budget.debug)
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
