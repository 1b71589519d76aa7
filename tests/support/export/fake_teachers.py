"""Fake teachers for tests of distillation: their bundles, the texts, and fake answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgeslm_export.evaluate.task_eval import Exam
from edgeslm_export.jobs.subprocess_job import OnProgress
from edgeslm_export.train.distill import Teacher
from edgeslm_export.train.spec import Budget, TaskSpec
from edgeslm_export.train.tune import Task

from edgeslm.bundle.manifest import load_bundle
from edgeslm.config.loader import Task as TaskSection
from edgeslm.errors import ExportError
from tests.support.export.children import FakeChildren
from tests.support.nodes import write_bundle
from tests.support.taught import write_head

QUIET = Budget(announce=lambda _: None)
FIGURES = {"accuracy": 0.75, "interval": [0.5, 0.9], "calibration_error": 0.02, "ms_per_row": 4.0}
Answer = Mapping[str, Any] | None


def task(*labels: str, **fields: Any) -> Task:
    section = {"labels": list(labels), **fields} if labels else fields
    return Task("topic", TaskSection.model_validate({**section, "learned": "-"}, strict=False))


def texts(number: int) -> list[str]:
    return [f"text {place}" for place in range(number)]


def number_of(text: str) -> int:
    return int(text.rpartition(" ")[2])


def make_head(folder: Path) -> Teacher:
    """A teacher with a learned task: spam or ham."""
    encoder = write_bundle(folder / "encoder", "encoder")
    return Teacher(load_bundle(write_head(folder / "head", load_bundle(encoder).digest)), encoder)


def make_decoder(folder: Path) -> Teacher:
    """A teacher without a learned task."""
    path = write_bundle(folder / "decoder")
    return Teacher(load_bundle(path), path)


class FakeExaminer:
    """Replaces the child that evaluates a bundle: records exams; ``answer`` gives the answer to a text. The
    head or adapter ``refused`` doesn't load."""

    def __init__(self, answer: Callable[[str], Answer]) -> None:
        self.exams: list[Exam] = []
        self.bases: list[Path] = []
        self.answer = answer
        self.refused: Path | None = None

    def __call__(self, task: dict[str, Any], on_progress: OnProgress | None) -> dict[str, Any]:
        exam = Exam.parse(task["exam"])
        if exam.bundle is not None and exam.bundle == self.refused:
            raise ExportError("It doesn't load.")
        self.bases.append(Path(task["bundle"]))
        self.exams.append(exam)
        return {**FIGURES, "answers": [self.answer(row.text) for row in exam.rows]}


Answered = Callable[[Callable[[str], Answer]], FakeExaminer]


def answer_with(children: FakeChildren) -> Answered:
    """A function that replaces the answers of all bundles."""

    def set_up(answer: Callable[[str], Answer]) -> FakeExaminer:
        fake = FakeExaminer(answer)
        children.steps["evaluate.report_card"] = fake
        return fake

    return set_up


class FakeSchool:
    """Replaces ``learn_labels``: raises ``failures`` one by one, then writes a head on the encoder with the
    digest ``encoder`` (None: its own)."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self.specs: list[TaskSpec] = []
        self.encoder: str | None = None

    def __call__(self, spec: TaskSpec, source: object, out: Path, *_: object) -> tuple[None, dict[str, Any]]:
        self.specs.append(spec)
        if self.failures:
            raise self.failures.pop(0)
        write_head(out, self.encoder, labels=list(spec.labels))
        return None, {"method": "encoder", "accuracy": 0.9, "rows": len(spec.texts)}


def said(spam: float) -> dict[str, Any]:
    label = "spam" if spam >= 0.5 else "ham"
    return {"label": label, "confidence": max(spam, 1 - spam), "scores": {"ham": 1 - spam, "spam": spam}}


def in_turn(text: str) -> dict[str, Any]:
    """Spam and ham alternate."""
    return said(0.2 if number_of(text) % 2 else 0.8)


def by_number(text: str) -> dict[str, Any]:
    """The same, with low confidence for every third text."""
    return said(0.55) if number_of(text) % 3 == 0 else in_turn(text)
