"""Extraction methods: train a span-extracting encoder, or an adapter with which a decoder writes the fields.

An encoder is trained in a minute and answers in milliseconds, with values that are verbatim in the message. A
decoder can fill in the fields of any schema. Methods are evaluated on held-out rows, through the graph that a
device runs.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm_export.bundle.writer import write_manifest
from edgeslm_export.data.rows import FieldsRow
from edgeslm_export.evaluate.metrics import calibration_error
from edgeslm_export.evaluate.report_card import embed_texts, examine_bundle, load_encoder
from edgeslm_export.evaluate.task_eval import Exam, all_same, fields_report
from edgeslm_export.jobs.checkpoint_notes import Notes
from edgeslm_export.sources.checkpoint import Origin
from edgeslm_export.train.calibration import fit_confidence
from edgeslm_export.train.decoder_methods import AdapterTrainer, field_adapter_task
from edgeslm_export.train.decoder_methods import schedule_for as writing_schedule
from edgeslm_export.train.encoder_finetune import schedule_for
from edgeslm_export.train.encoder_methods import (
    WEIGHTS,
    FineTunedEncoder,
    centroids_of_texts,
    distances_from,
    fill_finetuned,
    save_arrays,
)
from edgeslm_export.train.field_spec import FieldSpec, aim_at, plan_fields
from edgeslm_export.train.loop import Schedule
from edgeslm_export.train.span_training import load_arrays, train_spans
from edgeslm_export.train.spec import (
    ENCODER,
    Budget,
    drift_reference,
    rows_aside,
)

from edgeslm.bundle.calibration import Calibration
from edgeslm.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.floating[Any]]
    Integers = npt.NDArray[np.int64]
    Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class FieldTrial:
    """A method's results on the held-out rows ``held``. ``right`` [held] is whether every field of a row is
    right; ``calibration`` is None if the method's results have no confidence."""

    method: str
    held: Integers
    right: Bools
    figures: dict[str, Any]
    texts_per_s: float
    bytes: int
    calibration: Calibration | None = None
    reference: Mapping[str, Any] | None = None

    @property
    def losses(self) -> Floats:
        """Loss of each row, which is 1 if a field is wrong, else 0. A loss from probabilities isn't possible,
        since an answer that a decoder writes has no probability."""
        return (~self.right).astype(float)


class PointerMethod(FineTunedEncoder):
    """Fine-tunes an encoder with layers that extract spans."""

    def __init__(self, origin: Origin, spec: FieldSpec, budget: Budget, notes: Notes, work: Path) -> None:
        """:raises ExportError: an encoder can't extract one of the fields."""
        super().__init__(origin, spec, budget, notes, work)
        self._spec, self._fields = spec, plan_fields(spec)
        schemas = spec.schema["properties"]
        self._aims = [
            [aim_at(field, schemas[field.name], text, of_row.get(field.name)) for field in self._fields]
            for text, of_row in zip(spec.texts, spec.fields, strict=True)
        ]
        self._announce_what_cant_be_found()

    def try_out(self) -> FieldTrial:
        import numpy as np

        found = self._try_folds()
        rows = np.concatenate([test for _, test in self._folds])
        answers = [answer for fold in found for answer in fold["answers"]]
        fields = [answer and answer["fields"] for answer in answers]
        wanted = [self._spec.fields[row] for row in rows.tolist()]
        right = np.array([all_same(*pair) for pair in zip(fields, wanted, strict=True)])
        shares = np.array([answer["confidence"] if answer else 0.0 for answer in answers])
        complete = shares > 0  # a device always abstains if a required field is missing
        if not complete.any():
            raise ExportError(
                "The encoder found the fields that the schema requires in none of the test rows."
            )
        confidence = np.zeros(len(rows))
        calibration, confidence[complete] = fit_confidence(shares[complete], right[complete])
        answerable = float(complete.mean())
        risk = [
            point.model_copy(update={"coverage": point.coverage * answerable}) for point in calibration.risk
        ]
        calibration = calibration.model_copy(update={"risk": tuple(risk)})
        figures = {
            **fields_report(fields, wanted, self._spec.schema),
            "calibration_error": round(calibration_error(confidence, right), 4),
            "epochs": self._epochs,
            "peak_rss": max(fold["peak_rss"] for fold in found),
        }
        speed = 1000 * len(found) / sum(fold["ms_per_row"] for fold in found)
        distances = [distance for fold in found for distance in fold["distances"]]
        reference = drift_reference(distances, confidence.tolist())
        size = found[0]["bytes"]
        return FieldTrial(ENCODER, rows, right, figures, speed, size, calibration, reference)

    def _try_fold(self, folder: Path, train: Integers, test: Integers) -> dict[str, Any]:
        spec, budget = self._spec, self._budget
        aside = rows_aside(self._texts_of(train), spec.groups_of(train))
        fields, centroids, said = self._teach(train, folder, folder.name, aside)
        head = {
            "name": spec.name,
            "kind": "head",
            "head": {"weights": WEIGHTS},
            "learned": {**spec.learned, "fields": self._fields},
        }
        write_manifest(folder, {**{key: fields[key] for key in fields if key != "report"}, **head})
        rows = [FieldsRow(row, spec.texts[row], spec.fields[row]) for row in test.tolist()]
        exam = Exam(spec.name, spec.section, rows, folder, with_answers=True)
        report = examine_bundle(folder, exam, on_progress=budget.on_progress, debug=budget.debug)
        encoder = load_encoder(folder)
        return {
            "answers": report["answers"],
            "ms_per_row": report["ms_per_row"],
            "distances": distances_from(centroids, embed_texts(encoder, [row.text for row in rows])).tolist(),
            "bytes": encoder.bundle.weight_bytes,
            "epochs": said["best_epoch"],
            "peak_rss": said["peak_rss"],
        }

    def write(self, stage: Path) -> dict[str, Any]:
        import numpy as np

        rows = np.arange(len(self._spec.texts))
        fields, _, said = self._teach(rows, stage, f"{ENCODER}-all", ())
        for field, count in zip(self._fields, said["unreadable"], strict=True):
            if count:
                self._budget.announce(
                    f"{count} of {len(rows)} rows have no usable span of {field.name}: it starts or ends "
                    f"within a token, or after the first {self._length} tokens."
                )
        return {**self._head_fields(fields), "learned": {"fields": self._fields}}

    def _teach(
        self, rows: Integers, folder: Path, name: str, aside: Sequence[int]
    ) -> tuple[dict[str, Any], Floats, dict[str, Any]]:
        """Fine-tunes the checkpoint on ``rows`` and writes a head's files to ``folder``.

        :param aside: indices in ``rows`` of the rows for validation.
        :return: the bundle's manifest fields, the centroids of the training texts, and figures of the
            training.
        """
        texts = self._texts_of(rows)
        job = self._job(name, rows, schedule_for(len(self._texts)), aside)
        options = [field.options for field in self._fields]
        aims = [self._aims[row] for row in rows.tolist()]
        said = train_spans(job, self._section, self._length, texts, options, aims)
        fields = fill_finetuned(job.out, self._origin, folder, self._budget)
        centroids = centroids_of_texts(load_encoder(folder), texts)
        save_arrays(folder, {**load_arrays(job.out), "centroids": centroids})
        shutil.rmtree(job.out)
        return fields, centroids, said

    def _announce_what_cant_be_found(self) -> None:
        """Tells the user how many values of each field can't be learned, since they aren't in their text and
        are no classes."""
        for number, field in enumerate(self._fields):
            lost = sum(row[number].option is None for row in self._aims)
            if lost:
                self._budget.announce(
                    f"{lost} of {len(self._aims)} rows have a value of {field.name} that isn't in their text;"
                    " verbatim texts and rare ones aren't learned by heart."
                )


class WriterMethod:
    """Trains an adapter with which a decoder writes the fields. The method is evaluated on the first fold
    only."""

    def __init__(
        self,
        method: str,
        base: Path,
        origin: Origin,
        spec: FieldSpec,
        budget: Budget,
        notes: Notes,
        work: Path,
    ) -> None:
        self._method, self._spec, self._budget, self._notes = method, spec, budget, notes
        self._task = field_adapter_task(spec.name, spec.section, spec.instruction, spec.texts, spec.fields)
        self._trainer = AdapterTrainer(method, base, origin, self._task, budget, notes, work)
        self._train, self._test = spec.folds[0]
        self._epochs = 0

    def try_out(self) -> FieldTrial:
        import numpy as np

        tried = self._notes.load(self._method)
        if tried is None:
            texts = [self._spec.texts[row] for row in self._train]
            aside = rows_aside(texts, self._spec.groups_of(self._train))
            folder, said = self._trainer.teach(
                self._train, f"{self._method}-0", self._schedule(self._train), aside
            )
            size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
            tried = {**said, "report": self._trainer.ask(folder, self._test), "bytes": size}
            shutil.rmtree(folder)
            self._notes.save(self._method, tried)
            self._notes.state(f"{self._method}-0").unlink(missing_ok=True)
        self._epochs = int(tried["best_epoch"])
        report = tried["report"]
        wanted = [self._spec.fields[row] for row in self._test.tolist()]
        fields = [answer and answer["fields"] for answer in report["answers"]]
        right = np.array([all_same(*pair) for pair in zip(fields, wanted, strict=True)])
        figures = {
            **fields_report(fields, wanted, self._spec.schema),
            "epochs": self._epochs,
            "peak_rss": tried["peak_rss"],
        }
        speed, size = 1000 / report["ms_per_row"], self._trainer.bytes + tried["bytes"]
        return FieldTrial(self._method, self._test, right, figures, speed, size)

    def write(self, stage: Path) -> dict[str, Any]:
        import numpy as np

        rows = np.arange(len(self._spec.texts))
        folder, _ = self._trainer.teach(rows, f"{self._method}-all", self._schedule(rows))
        fields, report = self._trainer.write(folder, stage)
        learned = {"instruction": self._task.learned["instruction"]}
        return {
            **fields,
            "learned": learned,
            "report": {key: report[key] for key in ("rank", "weight_bytes")},
        }

    def _schedule(self, rows: Integers) -> Schedule:
        taught = len(self._train) + len(self._spec.texts)
        seconds = self._budget.seconds * len(rows) / taught
        return writing_schedule(len(self._spec.texts)).limited(self._epochs, seconds)
