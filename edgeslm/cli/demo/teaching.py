"""Training for the demo, on a few labelled messages."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeslm.cli.demo.material import LabelledMessage
from edgeslm.teaching.lesson import Lesson


@dataclass(frozen=True, slots=True)
class TrainedTask:
    """A trained task: head folder, number of training rows, training time, cross-validated accuracy."""

    task: str
    folder: Path
    rows: int
    seconds: float
    accuracy: float


def teach(
    folder: Path, task: str, labels: Mapping[str, str], rows: Sequence[LabelledMessage], encoder: Path
) -> TrainedTask:
    """Trains ``task`` on ``rows`` and stores its head below ``folder``.

    :raises EdgeslmError: training isn't installed here, or failed.
    """
    lesson = Lesson(task, labels, encoder, folder / "lessons" / task)
    lesson.check()
    lesson.work.mkdir(parents=True, exist_ok=True)
    out = folder / "learned" / task
    started = time.monotonic()
    report = lesson.train([{"text": row.text, "label": row.label} for row in rows], out)
    return TrainedTask(task, out, len(rows), time.monotonic() - started, float(report["accuracy"]))
