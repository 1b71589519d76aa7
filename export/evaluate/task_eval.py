"""Task evaluation: runs labelled rows through a device's tasks and computes their accuracy.

``make_exam`` builds the task and checks the rows against it; ``take_exam`` runs row after row. Prompts,
grammars and retries are those of ``edgeslm.tasks``; ``report_card`` passes the function ``ask``, which calls
the engine.
"""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeslm_export.data.rows import FieldsRow, LabelledRow, refuse_rows
from edgeslm_export.evaluate.metrics import accuracy_report, calibration_error, share
from edgeslm_export.jobs.subprocess_job import OnProgress
from pydantic import ValidationError

from edgeslm.bundle.calibration import Verdict
from edgeslm.bundle.manifest import load_bundle
from edgeslm.config.loader import Kind, load_task
from edgeslm.config.loader import Task as TaskSection
from edgeslm.errors import ExportError, RequestError
from edgeslm.messages import Request
from edgeslm.tasks import Ask, Outcome, Task, make_task
from edgeslm.tasks.classify import Classify
from edgeslm.tasks.extract import Extract

Rows = Sequence[LabelledRow | FieldsRow]

_TYPES = {str: "string", int: "number", float: "number", bool: "boolean"}


@dataclass(frozen=True, slots=True)
class Exam:
    """An evaluation of a task on labelled rows. ``section`` is the task's configuration, and ``rows`` have
    labels or fields, depending on the task's kind.

    ``bundle`` is the head or adapter of a learned task. ``with_answers`` adds the answers to the report.
    """

    name: str
    section: TaskSection
    rows: Rows
    bundle: Path | None = None
    with_answers: bool = False

    def encode(self) -> dict[str, Any]:
        """The evaluation as a JSON object, for a child process."""
        section = self.section.model_dump(mode="json", by_alias=True, exclude_unset=True)
        answers = [row.label if isinstance(row, LabelledRow) else row.fields for row in self.rows]
        rows = [[row.number, row.text, answer] for row, answer in zip(self.rows, answers, strict=True)]
        bundle = None if self.bundle is None else str(self.bundle.resolve())
        plain = {"name": self.name, "section": section, "rows": rows}
        return {**plain, "bundle": bundle, "with_answers": self.with_answers}

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> Exam:
        section = TaskSection.model_validate_json(json.dumps(plain["section"]))
        kind: Any = LabelledRow if section.kind == "classify" else FieldsRow
        rows = [kind(*row) for row in plain["rows"]]
        bundle = Path(plain["bundle"]) if plain["bundle"] else None
        return cls(plain["name"], section, rows, bundle, plain["with_answers"])

    def make_task(self, model: Path | None = None) -> Task:
        """The task to run.

        :param model: the bundle of an untrained task's model, which may be a zero-shot encoder.
        :raises ConfigError: the section doesn't fit the learned task or the model.
        """
        bundle = None if self.bundle is None else load_bundle(self.bundle)
        zero_shot = None if model is None or bundle is not None else load_bundle(model).manifest.zero_shot
        return make_task(self.name, self.section, bundle, zero_shot=zero_shot)


def make_exam(data: Path, rows: Rows, task_file: Path | None) -> Exam:
    """:param task_file: a file with one entry of a configuration's ``tasks:``, including its ``name``. Labels
    or schema that the file leaves out are derived from the rows. Without a file, the whole task is derived
    from the rows.

    :raises ConfigError: the task is invalid.
    :raises ExportError: the rows don't fit the task.
    """
    labelled = isinstance(rows[0], LabelledRow)
    kind: Kind = "classify" if labelled else "extract"
    if task_file is None:
        name, section = "evaluation", _section(data, {"kind": kind, **_from_rows(rows)})
    else:
        name, section = load_task(task_file, kind, _defaults(rows, task_file))
    have = "a label" if labelled else "fields"
    if section.learned is not None:
        raise ExportError(
            f"{task_file}: the task is learned; evaluate its head, or take out `learned` to ask the decoder."
        )
    if section.kind != kind:
        raise ExportError(
            f"{task_file}: the task is of kind {section.kind} and the rows of {data} have {have}; "
            "rows with a label are for classify, rows with fields for extract."
        )
    known = section.labels if labelled else (section.output_schema or {}).get("properties")
    check_answers(data, rows, known or {})
    if labelled and len(section.labels or ()) < 2:
        raise ExportError(f"{data} has one label only; name all labels in a task (--task TASK.yaml).")
    return Exam(name, section, rows)


def _section(data: Path, entry: Mapping[str, Any]) -> TaskSection:
    try:
        return TaskSection.model_validate(entry)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ExportError(f"{data}: the rows make no task: {reason}.") from None


def take_exam(
    exam: Exam,
    ask: Ask,
    on_progress: OnProgress = lambda done, total, what: None,
    model: Path | None = None,
) -> dict[str, Any]:
    """Runs every row through the task.

    :param model: see ``Exam.make_task``.

    :return: a dict with ``task``, ``rows`` (number of rows), ``ms_per_row`` (milliseconds for prompt, engine
        and parsing, after a warm-up), and the figures for the task's kind: those of ``accuracy_report`` or
        ``fields_report``.
    :raises ExportError: the model can't take a row.
    """
    import asyncio

    return asyncio.run(_take(exam, exam.make_task(model), ask, on_progress))


async def _take(exam: Exam, task: Task, ask: Ask, on_progress: OnProgress) -> dict[str, Any]:
    await _outcome(task, exam.rows[0], ask)
    started = time.perf_counter()
    outcomes = []
    for number, row in enumerate(exam.rows):
        on_progress(number, len(exam.rows), "asking row by row")
        outcomes.append(await _outcome(task, row, ask))
    seconds = time.perf_counter() - started
    figures = _classified if exam.section.kind == "classify" else _extracted
    return {
        "task": {"name": exam.name, "kind": exam.section.kind},
        "rows": len(exam.rows),
        **figures(task, exam.rows, outcomes),
        **({"answers": _answers(outcomes)} if exam.with_answers else {}),
        "ms_per_row": round(seconds * 1000 / len(exam.rows), 2),
    }


async def _outcome(task: Task, row: LabelledRow | FieldsRow, ask: Ask) -> Outcome | None:
    """The task's outcome for a row; None if the task itself failed, for example because ``max_tokens``
    truncated the JSON output."""

    async def asked(call: Any, on_chunk: Any = None) -> Any:
        try:
            return await ask(call, on_chunk)
        except RequestError as error:
            raise ExportError(f"Row {row.number} can't be put to the model: {error}.") from None

    try:
        return await task.run(Request(task.name, row.text, str(row.number), ""), asked, None)
    except RequestError:
        return None


def _answers(outcomes: Sequence[Outcome | None]) -> list[dict[str, Any] | None]:
    """The result of each row as a node would publish it; None for a row without a result."""
    return [None if outcome is None else dict(outcome.result) for outcome in outcomes]


def _classified(task: Task, rows: Rows, outcomes: Sequence[Outcome | None]) -> dict[str, Any]:
    import numpy as np

    labels = tuple(task.section.labels or ())
    results = [outcome.result for outcome in outcomes if outcome is not None]
    verdicts = [
        Verdict(
            tuple(result["scores"][label] for label in labels),
            labels.index(result["label"]),
            result["confidence"],
        )
        for result in results
    ]
    truth = np.array([labels.index(row.label) for row in rows if isinstance(row, LabelledRow)])
    figures = accuracy_report(verdicts, truth, labels)
    threshold = task.threshold if isinstance(task, Classify) else 0.0
    if not threshold and task.section.max_error is None:
        return figures
    right = np.array([verdict.best for verdict in verdicts]) == truth
    return {**figures, **_answered(outcomes, right, threshold)}


def _extracted(task: Task, rows: Rows, outcomes: Sequence[Outcome | None]) -> dict[str, Any]:
    found = [outcome.result["fields"] if outcome is not None else None for outcome in outcomes]
    wanted = [row.fields for row in rows if isinstance(row, FieldsRow)]
    right = [all_same(*pair) for pair in zip(found, wanted, strict=True)]
    report = fields_report(found, wanted, task.section.output_schema or {})
    return {**_confidence_report(task, outcomes, right), **report}


def fields_report(
    found: Sequence[Any], wanted: Sequence[Mapping[str, Any]], schema: Mapping[str, Any]
) -> dict[str, Any]:
    """A dict with ``valid`` (share of outputs that fit the schema), ``exact`` (share of rows with every field
    right), the confidence intervals of both shares, ``f1``, and ``fields`` (metrics of each field). :param
    found: the extracted fields of each row; None where extraction failed."""
    import jsonschema

    check = jsonschema.Draft202012Validator(dict(schema))
    names = list(dict.fromkeys([*schema.get("properties", {}), *(name for row in wanted for name in row)]))
    valid = share([got is not None and check.is_valid(got) for got in found])
    exact = share([all_same(*pair) for pair in zip(found, wanted, strict=True)])
    by_field = {name: _field_report(name, found, wanted) for name in names}
    return {
        "valid": valid["share"],
        "valid_interval": valid["interval"],
        "exact": exact["share"],
        "exact_interval": exact["interval"],
        "f1": round(_f1(*(sum(of[count] for of in by_field.values()) for count in _COUNTS)), 4),
        "fields": {
            name: {key: value for key, value in of.items() if key not in _COUNTS[1:]}
            for name, of in by_field.items()
        },
    }


_COUNTS = ("rows", "found", "hits")


def _field_report(name: str, found: Sequence[Any], wanted: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A dict with a field's metrics, which are ``rows`` (number of rows that have the field), ``found``
    (number of extracted values), ``hits`` (number of right values), accuracy, precision, recall and F1."""
    given = [got.get(name) if isinstance(got, dict) else None for got in found]
    there = [row.get(name) for row in wanted]
    right = share(
        [
            isinstance(got, dict) and _same(value, truth)
            for got, value, truth in zip(found, given, there, strict=True)
        ]
    )
    rows = sum(truth is not None for truth in there)
    said = sum(value is not None for value in given)
    hits = sum(truth is not None and _same(value, truth) for value, truth in zip(given, there, strict=True))
    return {
        "rows": rows,
        "found": said,
        "hits": hits,
        "accuracy": right["share"],
        "interval": right["interval"],
        "precision": round(hits / said, 4) if said else None,
        "recall": round(hits / rows, 4) if rows else None,
        "f1": round(_f1(rows, said, hits), 4),
    }


def _f1(rows: int, found: int, hits: int) -> float:
    """The harmonic mean of precision and recall; 1 if no values were wanted and none were extracted."""
    return 2 * hits / (rows + found) if rows + found else 1.0


def _confidence_report(
    task: Task, outcomes: Sequence[Outcome | None], whole: Sequence[bool]
) -> dict[str, Any]:
    """A dict with the calibration error and, if the task has a threshold, the share of answered rows and
    their accuracy. The dict is empty if results have no confidence."""
    import numpy as np

    if not task.needs_encoder:
        return {}
    right = np.array(whole)
    told = [outcome.result["confidence"] if outcome is not None else 0.0 for outcome in outcomes]
    figures: dict[str, Any] = {"calibration_error": round(calibration_error(np.array(told), right), 4)}
    threshold = task.threshold if isinstance(task, Extract) else 0.0
    if not threshold and task.section.max_error is None:
        return figures
    return {**figures, **_answered(outcomes, right, threshold)}


def _answered(outcomes: Sequence[Outcome | None], right: Any, threshold: float) -> dict[str, Any]:
    import numpy as np

    answered = np.array([outcome is not None and outcome.status == "ok" for outcome in outcomes])
    return {
        "threshold": round(threshold, 4),
        "answered": round(float(answered.mean()), 4),
        "accuracy_answered": round(float(right[answered].mean()), 4) if answered.any() else None,
    }


def all_same(found: Any, wanted: Mapping[str, Any]) -> bool:
    """Whether the extracted fields equal the wanted ones, with no field missing and none added."""
    return isinstance(found, Mapping) and all(
        _same(found.get(name), wanted.get(name)) for name in {*found, *wanted}
    )


def _same(found: Any, wanted: Any) -> bool:
    """Whether two JSON values are equal. For example, 81 equals 81.0, but 1 doesn't equal true; spaces around
    a text are ignored."""
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, str) and isinstance(wanted, str):
        return found.strip() == wanted.strip()
    return bool(found == wanted)


# --- what the rows say of the task -------------------------------------------------------------------


def _from_rows(rows: Rows) -> dict[str, Any]:
    labels = sorted({row.label for row in rows if isinstance(row, LabelledRow)})
    if not labels:
        return {"schema": schema_of([row for row in rows if isinstance(row, FieldsRow)])}
    if len(labels) < 2:
        raise ExportError(f"All rows have the label {labels[0]!r}; name all labels in a task (--task FILE).")
    return {"labels": labels}


def _defaults(rows: Rows, task_file: Path) -> dict[str, Any]:
    """A dict with the labels or the schema derived from the rows, for a task file that has neither; empty if
    the rows don't allow that."""
    try:
        return _from_rows(rows)
    except ExportError:
        return {}


def schema_of(rows: Sequence[FieldsRow]) -> dict[str, Any]:
    """A JSON schema with the types of the rows' fields; fields that all rows have are required."""
    properties: dict[str, dict[str, str]] = {}
    for row in rows:
        for name, value in row.fields.items():
            kind = _TYPES.get(type(value))
            if value is None:
                continue
            if kind is None or properties.setdefault(name, {"type": kind}) != {"type": kind}:
                raise ExportError(
                    f"The rows' field {name!r} isn't one kind of text, number or truth value; "
                    "give its schema in a task (--task FILE)."
                )
    required = [name for name in properties if all(row.fields.get(name) is not None for row in rows)]
    return {"type": "object", "properties": properties, "required": required}


def check_answers(
    data: Path, rows: Rows, known: Collection[str], schema: Mapping[str, Any] | None = None
) -> None:
    """:param known: labels or fields of the task. :param schema: the JSON schema that the rows' fields must
    fit.

    :raises ExportError: rows don't fit; the message lists the row numbers.
    """
    from jsonschema import Draft202012Validator

    problems = []
    listed, spelled = ", ".join(known), {name.casefold(): name for name in known}
    check = Draft202012Validator(dict(schema or {}))
    for row in rows:
        if isinstance(row, LabelledRow):
            if row.label not in known:
                near = difflib.get_close_matches(row.label.casefold(), spelled, 1)
                meant = f" Is it {spelled[near[0]]!r}?" if near else ""
                problems.append(
                    f"Row {row.number} has the label {row.label!r}, which is none of {listed}.{meant}"
                )
        elif known and (odd := [name for name in row.fields if name not in known]):
            problems.append(f"Row {row.number} has the field {odd[0]!r}; the task's schema has {listed}.")
        elif fault := next(check.iter_errors(without_nulls(row.fields, schema or {})), None):
            problems.append(f"Row {row.number} doesn't fit the task's schema: {fault.message[:200]}.")
    refuse_rows(data, problems)


def without_nulls(fields: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """A row's fields without those that are null: null means that the field is missing, unless the schema
    allows null."""
    return {name: value for name, value in fields.items() if value is not None or _may_be_null(schema, name)}


def _may_be_null(schema: Mapping[str, Any], name: str) -> bool:
    from jsonschema import Draft202012Validator

    around = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    own = schema.get("properties", {}).get(name, True)
    return Draft202012Validator({**around, **own} if isinstance(own, Mapping) else own).is_valid(None)
