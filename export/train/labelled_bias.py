"""Label bias of an untrained model from a few labelled messages, as a node fits it to corrections.

Nodes divide by the biases, as by those of ``label_bias``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from edgeslm_export.data.rows import LabelledRow
from edgeslm_export.evaluate.report_card import examine_bundle
from edgeslm_export.evaluate.task_eval import Exam
from edgeslm_export.jobs.subprocess_job import OnProgress
from edgeslm_export.train.label_bias import check_untaught

from edgeslm.bundle.calibration import FEWEST_LABELLED, MOST_LABELLED, LabelledBias
from edgeslm.config.loader import Task as TaskSection
from edgeslm.engine.worker.label_bias import fit_bias
from edgeslm.errors import ExportError


def measure_labelled_bias(
    name: str,
    section: TaskSection,
    bundle: Path,
    rows: Sequence[LabelledRow],
    *,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> LabelledBias:
    """Runs the task on labelled rows, and fits each label's bias.

    :raises ExportError: the task is not for an untrained model, or there are too few rows.
    """
    if section.kind != "classify" or not section.labels:
        raise ExportError(f"The task {name} must be of kind classify and list its labels.")
    check_untaught(bundle)
    if len(rows) < FEWEST_LABELLED:
        raise ExportError(f"{len(rows)} labelled rows are too few; at least {FEWEST_LABELLED} are needed.")
    if len(rows) > MOST_LABELLED:
        rows = random.Random(0).sample(list(rows), MOST_LABELLED)
    exam = Exam(name, section.model_copy(update={"calibration": "none"}), rows, with_answers=True)
    report = examine_bundle(bundle, exam, on_progress=on_progress, debug=debug)
    pairs = [
        (answer["scores"], row.label) for answer, row in zip(report["answers"], rows, strict=True) if answer
    ]
    return fit_bias([scores for scores, _ in pairs], [label for _, label in pairs], tuple(section.labels))
