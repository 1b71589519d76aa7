"""A student learns what a teacher says of messages that nobody labelled (Hinton et al. 2015).

The teacher is a bundle that was taught the task, a decoder that is told it, or a decoder's checkpoint, which
is exported first. Each text gets the teacher's share of every label; texts that it isn't sure of are dropped
or asked about. The student learns the shares, and both, with a student of as many hand labels where there are
some, are tried on labelled rows that none of them has seen. What teacher and user said is noted: a command
that was interrupted asks neither of them twice.
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
from edgeslm_export.train.logistic_head import split_folds
from edgeslm_export.train.spec import SURE, Budget, Inputs, TaskSpec
from edgeslm_export.train.tune import FEWEST_ROWS, Task, check_rows, learn, learn_labels

from edgeslm import __version__
from edgeslm.bundle.manifest import Bundle, Manifest, Source, load_bundle
from edgeslm.config.loader import Task as TaskSection
from edgeslm.errors import ExportError

_FEWEST = 20
_RECIPE = "int8"
"""Of a checkpoint that teaches: near to its float original, and no text is needed to make it."""

_BLOCK = 500
"""Texts that the teacher is asked between two notes. It is loaded once more for each, which takes seconds."""
_TYPED = "typed.jsonl"

Answer = Mapping[str, Any] | None
"""A result of classify; None where there is none."""


class AskUser(Protocol):
    """Asks the user for the label of a text, with the teacher's guess.

    :return: the label, or None to drop the text.
    :raises EOFError: no more shall be asked.
    """

    def __call__(self, text: str, labels: Sequence[str], guess: str, /) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Examinee:
    """A bundle, and the ``base`` that a head or an adapter adds to; of others the bundle's own folder."""

    bundle: Bundle
    base: Path

    @property
    def bytes(self) -> int:
        base = 0 if self.base == self.bundle.path else load_bundle(self.base).weight_bytes
        return base + self.bundle.weight_bytes


@dataclass(frozen=True, slots=True)
class Teacher(Examinee):
    """``bundle`` was taught the task or is a decoder; ``revision`` is that of the checkpoint that it was just
    made of, if it was."""

    revision: str = ""

    @property
    def is_taught(self) -> bool:
        return self.bundle.manifest.learned is not None

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
class PseudoLabelled:
    """What is made of texts: ``shares`` [texts, labels]; ``dropped`` texts the teacher wasn't sure of,
    ``asked`` ones that the user labelled; ``left_out`` says of labels that aren't learned how many texts had
    them."""

    texts: list[str]
    shares: list[list[float]]
    labels: tuple[str, ...]
    dropped: int = 0
    asked: int = 0
    left_out: dict[str, int] = field(default_factory=dict)


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


def find_notes(teacher: Teacher, task: Task, texts: Sequence[str]) -> Notes:
    """What was said of these texts before: of the same task, by the same teacher, of whichever ``--sure``."""
    asked = teacher.exam(task, []).encode()["section"]
    who = teacher.revision or teacher.bundle.digest
    order = [__version__, who, task.name, asked, list(texts)]
    return Notes(cache_folder() / f"distill-{hashlib.sha256(json.dumps(order).encode()).hexdigest()[:16]}")


def ask_teacher(
    teacher: Teacher,
    task: Task,
    texts: Sequence[str],
    notes: Notes,
    budget: Budget,
    *,
    sure: float = SURE,
    ask_user: AskUser | None = None,
) -> PseudoLabelled:
    """The teacher's shares of each text; each text counts once. What ``notes`` have isn't asked again, and
    what the user said before counts whether or not the teacher is sure, and without ``ask_user`` too.

    :param notes: of this teacher, task and texts.
    :raises ExportError: too few texts or labels are left to learn from.
    """
    labels = labels_of(teacher, task)
    single = list({bare_text(text): text for text in texts}.values())
    file = notes.folder / _TYPED
    typed = _load_typed(file, len(single), labels)
    by_user = sum(label is not None for label in typed.values())
    answers = _answers(teacher, task, single, notes, budget, by_user)
    kept: list[str] = []
    shares: list[list[float]] = []
    for place, (text, answer) in enumerate(zip(single, answers, strict=True)):
        is_sure = answer is not None and answer["confidence"] >= sure
        if answer is not None and not is_sure and place not in typed and ask_user is not None:
            try:
                typed[place] = ask_user(text, labels, answer["label"])
                _note_typed(file, place, typed[place])
            except EOFError:  # no word on the texts that follow, so nothing is noted of them
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
    teacher: Teacher, task: Task, texts: Sequence[str], notes: Notes, budget: Budget, by_user: int
) -> list[Answer]:
    """Block by block, each noted when it is done. :param by_user: texts that the user labelled before."""
    any_label = labels_of(teacher, task)[0]  # which one is right nobody knows, and nothing is made of it
    rows = [LabelledRow(number, text, any_label) for number, text in enumerate(texts, 1)]
    blocks = {f"teacher-{start}": rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)}
    noted = {name: found["answers"] for name in blocks if (found := notes.load(name)) is not None}
    if before := sum(map(len, noted.values())):
        yours = f", {by_user} of them by you" if by_user else ""
        budget.announce(f"{before} texts were labelled before{yours}; to ask anew remove {notes.folder}.")
    answers: list[Answer] = []
    for name, block in blocks.items():
        if name not in noted:
            on_progress = _part_of(budget.on_progress, len(answers), len(block), len(rows))
            exam = teacher.exam(task, block, with_answers=True)
            report = examine_bundle(teacher.base, exam, on_progress=on_progress, debug=budget.debug)
            noted[name] = report["answers"]
            notes.save(name, {"answers": noted[name]})
        answers += noted[name]
    return answers


def _part_of(on_progress: OnProgress | None, before: int, rows: int, of: int) -> OnProgress | None:
    """Shows the progress of ``rows`` as that of all, ``before`` of which are done."""
    if on_progress is None:
        return None
    return lambda done, total, what: on_progress(before + done * rows // max(1, total), of, what)


def _load_typed(file: Path, texts: int, labels: Sequence[str]) -> dict[int, str | None]:
    """What the user said of texts, by their places; a line that was torn is skipped."""
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


def _note_typed(file: Path, place: int, label: str | None) -> None:
    """The line's end comes first: an answer after a torn line still has a line of its own."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write("\n" + json.dumps([place, label]))


def _without_rare(said: PseudoLabelled, budget: Budget) -> PseudoLabelled:
    """Without the labels that fewer than two texts have, one to learn from and one to test with, and without
    those texts. The shares of the labels that are left sum to 1 again.

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
    """Teaches the student ``out``. Its report's accuracy is agreement with the teacher on held-out texts.

    :raises ExportError: as ``tune``.
    """
    import numpy as np

    shares = np.array(said.shares)
    truth = shares.argmax(axis=1)
    folds = split_folds(truth, len(said.labels), said.texts)
    spec = TaskSpec(task.name, said.texts, truth, said.labels, folds, shares, task.instruction)
    return learn_labels(spec, source, out, inputs, budget)


def compare(
    task: Task,
    teacher: Teacher,
    student: Examinee,
    test: Sequence[LabelledRow],
    hand: Sequence[LabelledRow],
    inputs: Inputs,
    budget: Budget,
    *,
    learned_from: int,
) -> list[dict[str, Any]]:
    """Teacher, student, and a student of ``learned_from`` hand labels (or as many as there are), on ``test``.
    A row whose label a student didn't learn counts against it.

    :return: for each ``who``, ``labels`` that it learned from, and the figures of the test.
    """
    learned = teacher.bundle.manifest.learned
    exam = teacher.exam(task, test)
    asked = examine_bundle(teacher.base, exam, on_progress=budget.on_progress, debug=budget.debug)
    rows = [_figures("teacher", learned.rows if learned else 0, asked, teacher)]
    rows.append(_figures("student", 0, _examine_student(student, test, budget), student))
    chosen = random.Random(0).sample(list(hand), min(len(hand), learned_from))
    if hand and (spec := _hand_spec(task, chosen, budget)) is not None:
        with tempfile.TemporaryDirectory(prefix="hand-") as name:
            out = Path(name) / "student"
            learn(*spec, "hand labels", out, inputs, budget)
            other = Examinee(load_bundle(out), out if student.base == student.bundle.path else student.base)
            report = _examine_student(other, test, budget)
            rows.append(_figures("student of hand labels", len(spec[1]), report, other))
    return rows


def _examine_student(student: Examinee, test: Sequence[LabelledRow], budget: Budget) -> dict[str, Any]:
    """``evaluate_learned``, where rows may have labels that the student didn't learn: those it gets wrong, as
    it will on a device. To leave them out would praise it for what it can't do."""
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
    """What a draw of hand labels can teach, without the labels that it has too few of, as with the teacher's.

    :return: None where two labels aren't left; that is only said: the student is made by then.
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
    """A decoder's checkpoint as a bundle that can be asked."""
    from edgeslm_export.models.decoder import ExportOrder, export_model
    from edgeslm_export.quantize.recipe import find_recipe

    order = ExportOrder(find_recipe(_RECIPE))
    export_model(origin, out, order, on_progress=budget.on_progress, debug=budget.debug)
    return out


def _figures(who: str, labels: int, report: dict[str, Any], examinee: Examinee) -> dict[str, Any]:
    return {
        "who": who,
        "labels": labels,
        "accuracy": report["accuracy"],
        "interval": report["interval"],
        "calibration_error": report["calibration_error"],
        "texts_per_s": round(1000 / report["ms_per_row"], 1),
        "bytes": examinee.bytes,
    }
