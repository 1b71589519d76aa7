"""Decoder methods: train a task's LoRA adapter for a decoder bundle, on that bundle's weights.

``lora`` trains with the base in float32, ``qlora`` with the base in four bits, which takes an eighth of the
memory. The adapter is evaluated with the quantized bundle, row by row, as on a device. ``classify`` and
``extract`` differ only in how labelled rows are converted to token rows.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeslm_export.data.rows import FieldsRow, LabelledRow
from edgeslm_export.evaluate.report_card import examine_bundle
from edgeslm_export.evaluate.task_eval import Exam, Rows
from edgeslm_export.jobs.checkpoint_notes import Notes
from edgeslm_export.jobs.resources import check_resources
from edgeslm_export.models.adapter import (
    arrange,
    check_base,
    head_sizes,
    load_base,
    write_bundle,
    write_files,
)
from edgeslm_export.models.lora import load_lora
from edgeslm_export.sources.checkpoint import Origin
from edgeslm_export.train.job import TrainingJob
from edgeslm_export.train.loop import Schedule
from edgeslm_export.train.lora_training import AdapterShape, TokenRow, check_installed, train_decoder
from edgeslm_export.train.sft_rows import RowEncoder
from edgeslm_export.train.spec import (
    ENOUGH_TESTED_SLOWLY,
    QLORA,
    Budget,
    TaskSpec,
    Trial,
    epochs_to_take,
    folds_to_try,
    make_trial,
    rows_aside,
)

from edgeslm.bundle.manifest import AdapterSection, Bundle, Manifest, Source, load_bundle
from edgeslm.config.loader import Task as TaskSection
from edgeslm.errors import plural
from edgeslm.tasks import make_task

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.floating[Any]]
    Integers = npt.NDArray[np.int64]

RANK: Final = 12
"""Rank of adapters. With this rank an adapter for SmolLM2-135M takes 8 MB, since the packed product of
queries, keys and values has a single low-rank branch with three times the rank."""
_RATE: Final = 8e-4
_BATCH: Final = 32
_SMALL_BATCH: Final = 8
_ROWS_FOR_LARGE_BATCH: Final = 1000
BYTES_A_WEIGHT: Final = {"lora": 7, "qlora": 3}
"""Memory that a training takes, in bytes a weight of the base: the weights (float32 for ``lora``; four bits,
with some parts in float, for ``qlora``) and the activations."""


@dataclass(frozen=True, slots=True)
class AdapterTask:
    """The task of an adapter. ``learned`` is the manifest's entry for the task, and ``section`` the task's
    configuration in evaluations.

    ``encode`` turns rows, given by their indices, into token rows, with None in place of rows that are too
    long. ``rows`` are the rows for evaluation.
    """

    learned: Mapping[str, Any]
    section: TaskSection
    rows: Rows
    encode: Callable[[RowEncoder, Integers], Sequence[TokenRow | None]]


class AdapterTrainer:
    """Trains and evaluates adapters of one base."""

    def __init__(
        self,
        method: str,
        base: Path,
        origin: Origin,
        task: AdapterTask,
        budget: Budget,
        notes: Notes,
        work: Path,
    ) -> None:
        """:raises ExportError: a library is missing, or the base takes no adapters."""
        check_installed("nf4" if method == QLORA else "stored")
        self.method, self.base = method, load_bundle(base)
        self._branches = load_base(self.base)
        self._origin, self._task, self._budget = origin, task, budget
        self._notes, self._work = notes, work
        self._device = budget.device_for(origin.weights, BYTES_A_WEIGHT[method])
        self._encoder = RowEncoder(
            base, make_task(str(task.learned["task"]), TaskSection(), self._planned_bundle())
        )

    def teach(
        self, rows: Integers, name: str, schedule: Schedule, aside: Sequence[int] = ()
    ) -> tuple[Path, dict[str, Any]]:
        """Trains an adapter on ``rows``; ``aside`` are the indices in ``rows`` of the validation rows.
        :return: the LoRA folder, and figures of the training."""
        self._budget.begin(name)
        out = self._work / f"lora-{name}"
        encoded = self._task.encode(self._encoder, rows)
        kept = [number for number, row in enumerate(encoded) if row is not None]
        watched = [place for place, number in enumerate(kept) if number in set(aside)]
        need = BYTES_A_WEIGHT[self.method]
        check_resources(self._origin.weights, self._origin.weights * 5, self._work, need)
        job = TrainingJob(
            self._origin.path.resolve(),
            out,
            schedule,
            watched,
            self._notes.state(name),
            self._budget.on_progress,
            self._budget.debug,
            self._device,
        )
        shape = AdapterShape(RANK, "nf4" if self.method == QLORA else "stored")
        taught = [row for row in encoded if row is not None]
        said = train_decoder(job, self._origin.architecture, self.base.path, taught, shape)
        if missing := len(encoded) - len(kept):
            self._budget.announce(f"{plural(missing, 'text')} left out: too long to learn from.")
        return out, said

    def ask(self, folder: Path, rows: Integers) -> dict[str, Any]:
        """Evaluates the base with the LoRA in ``folder`` on ``rows``. :return: the report of ``take_exam``,
        with ``answers``."""
        with tempfile.TemporaryDirectory(dir=self._work) as name:
            adapter = Path(name) / "adapter"
            adapter.mkdir()
            lora = load_lora(folder)
            values = self._arranged(folder)
            write_bundle(adapter, lora, self.base, values, learned=dict(self._task.learned))
            task, budget = self._task, self._budget
            asked = [task.rows[row] for row in rows.tolist()]
            exam = Exam(str(task.learned["task"]), task.section, asked, adapter, with_answers=True)
            return examine_bundle(self.base.path, exam, on_progress=budget.on_progress, debug=budget.debug)

    def write(self, folder: Path, stage: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Writes the LoRA in ``folder`` as an adapter's files into ``stage``. :return: the manifest's fields
        and the report."""
        fields, report = write_files(stage, load_lora(folder), self.base, self._arranged(folder))
        fields["licence"] = self.base.manifest.source.licence
        return fields, report

    @property
    def bytes(self) -> int:
        return self.base.weight_bytes

    def _arranged(self, folder: Path) -> dict[str, Any]:
        lora = load_lora(folder)
        check_base(lora, self.base, self._branches)
        return arrange(lora, self._branches, head_sizes(self.base))

    def _planned_bundle(self) -> Bundle:
        """A placeholder for the adapter's bundle, which doesn't exist yet; its manifest has the fields that a
        task needs."""
        manifest = Manifest.model_validate(
            {
                "name": "-",
                "kind": "adapter",
                "architecture": "",
                "source": Source(id=""),
                "files": (),
                "adapter": AdapterSection(base="", rank=1, targets=()),
                "learned": {"rows": 0, **self._task.learned},
                "created": "",
            }
        )
        return Bundle(Path("-"), manifest, "")


class DecoderMethod:
    """Trains an adapter for a classify task: once for each fold, then on all rows."""

    def __init__(
        self,
        method: str,
        base: Path,
        origin: Origin,
        spec: TaskSpec,
        budget: Budget,
        notes: Notes,
        work: Path,
    ) -> None:
        self._method, self._spec, self._budget, self._notes = method, spec, budget, notes
        self._folds = folds_to_try(spec.folds, ENOUGH_TESTED_SLOWLY)
        self._rows_taught = sum(len(train) for train, _ in self._folds) + len(spec.texts)
        self._epochs = 0
        self._trainer = AdapterTrainer(method, base, origin, _label_task(spec), budget, notes, work)

    def try_out(self) -> Trial:
        import numpy as np

        found = [self._try_fold(number, *fold) for number, fold in enumerate(self._folds)]
        self._epochs = epochs_to_take([fold["best_epoch"] for fold in found])
        rows = np.concatenate([test for _, test in self._folds])
        shares = np.concatenate([np.array(fold["shares"]) for fold in found])
        speed = 1000 / (sum(fold["ms_per_row"] for fold in found) / len(found))
        figures = {"epochs": self._epochs, "peak_rss": max(fold["peak_rss"] for fold in found)}
        logits = np.log(np.maximum(shares, 1e-30))
        size = self._trainer.bytes + int(found[0]["adapter_bytes"])
        return make_trial(self._method, rows, logits, self._spec, figures, speed, size)

    def _try_fold(self, number: int, train: Integers, test: Integers) -> dict[str, Any]:
        name = f"{self._method}-{number}"
        if (noted := self._notes.load(name)) is not None:
            return noted
        folder, said = self._trainer.teach(
            train, name, self._schedule(len(train)), rows_aside([self._spec.texts[row] for row in train])
        )
        report = self._trainer.ask(folder, test)
        labels = self._spec.labels
        found = {
            **said,
            "shares": [[answer["scores"][label] for label in labels] for answer in report["answers"]],
            "ms_per_row": report["ms_per_row"],
            "adapter_bytes": sum(file.stat().st_size for file in folder.glob("*.safetensors")),
        }
        shutil.rmtree(folder)
        self._notes.save(name, found)
        self._notes.state(name).unlink(missing_ok=True)
        return found

    def write(self, stage: Path) -> dict[str, Any]:

        rows = self._spec.learned
        folder, _ = self._trainer.teach(rows, f"{self._method}-all", self._schedule(len(rows)))
        fields, report = self._trainer.write(folder, stage)
        return {**fields, "report": {key: report[key] for key in ("rank", "weight_bytes")}}

    def _schedule(self, rows: int) -> Schedule:
        seconds = self._budget.seconds * rows / self._rows_taught
        return schedule_for(len(self._spec.texts)).limited(self._epochs, seconds)


def schedule_for(rows: int) -> Schedule:
    """Schedule of about 250 steps, in 2 to 12 epochs."""
    batch = _BATCH if rows >= _ROWS_FOR_LARGE_BATCH else _SMALL_BATCH
    return Schedule(min(12, max(2, -(-250 * batch // rows))), batch, _RATE)


def _label_task(spec: TaskSpec) -> AdapterTask:
    import numpy as np

    shares = np.eye(len(spec.labels))[spec.truth] if spec.shares is None else spec.shares

    def encode(encoder: RowEncoder, rows: Integers) -> Sequence[TokenRow | None]:
        return encoder.label_rows(
            [spec.texts[row] for row in rows], spec.labels, [shares[row].tolist() for row in rows]
        )

    learned = {
        "task": spec.name,
        "kind": "classify",
        "labels": list(spec.labels),
        "instruction": spec.instruction,
        "rows": len(spec.texts),
    }
    section = TaskSection.model_validate({"kind": "classify", "model": "model", "overflow": "head"})
    rows = [
        LabelledRow(number, text, spec.labels[truth])
        for number, (text, truth) in enumerate(zip(spec.texts, spec.truth, strict=True), 1)
    ]
    return AdapterTask(learned, section, rows, encode)


def field_adapter_task(
    name: str,
    section: TaskSection,
    instruction: str,
    texts: Sequence[str],
    fields: Sequence[Mapping[str, Any]],
) -> AdapterTask:
    """``AdapterTask`` of an extract task. ``section`` has the task's schema, and whether strings must be
    verbatim in the message."""
    section = section.model_copy(update={"overflow": "head"})

    def encode(encoder: RowEncoder, rows: Integers) -> Sequence[TokenRow | None]:
        return encoder.field_rows([texts[row] for row in rows], [fields[row] for row in rows])

    learned = {
        "task": name,
        "kind": "extract",
        "output_schema": json.loads(json.dumps(section.output_schema)),
        "instruction": instruction,
        "verbatim": section.verbatim,
        "rows": len(texts),
    }
    rows = [
        FieldsRow(number, text, of_row)
        for number, (text, of_row) in enumerate(zip(texts, fields, strict=True), 1)
    ]
    return AdapterTask(learned, section, rows, encode)
