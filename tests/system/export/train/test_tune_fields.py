"""Learning an extract task: an adapter that writes its fields, an encoder that points at them, and which."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeslm_export.data.rows import FieldsRow
from edgeslm_export.evaluate.report_card import Required, evaluate_bundle
from edgeslm_export.evaluate.task_eval import Exam
from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.jobs.subprocess_job import OnProgress
from edgeslm_export.sources.checkpoint import examine_local
from edgeslm_export.train import tune
from edgeslm_export.train.extract_methods import FieldTrial
from edgeslm_export.train.spec import Budget, Inputs
from edgeslm_export.train.tune import split_rows

from edgeslm.bundle.manifest import Manifest, load_bundle, verify_bundle
from edgeslm.errors import ExportError
from tests.support.export.children import FakeChildren, Step
from tests.support.export.tiny_tasks import FakePointerTeacher, FakeTeacher, findings, write_rows

pytestmark = [pytest.mark.export, pytest.mark.usefixtures("one_thread")]

ROWS: list[dict[str, Any]] = [
    {"text": f"M{number} is {('hot', 'loud')[number % 2]}", "fields": {"machine": f"M{number}"}}
    for number in range(30)
]
TASK = "name: machine\nkind: extract\nmax_tokens: 24\n"
SCHEMA = {"type": "object", "properties": {"machine": {"type": "string"}}, "required": ["machine"]}
QUIET = Budget(announce=lambda _: None)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where notes are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def inputs(tiny: Path, int4_base: Path) -> Inputs:
    return Inputs(base=int4_base, decoder=examine_local(tiny / "plain", "decoder"))


def learn(
    folder: Path, inputs: Inputs, rows: list[dict[str, Any]] = ROWS, text: str = TASK, budget: Budget = QUIET
) -> tuple[Manifest, dict[str, Any]]:
    (folder / "task.yaml").write_text(text)
    data = write_rows(folder / "rows.jsonl", rows)
    return tune.tune(tune.load_task(folder / "task.yaml"), data, folder / "out", inputs, budget)


def test_one_field_is_learned_by_the_real_way(inputs: Inputs, tmp_path: Path) -> None:
    """A tiny model with random weights learns little of it; but it can't leave the schema."""
    manifest, report = learn(tmp_path, inputs)
    bundle = load_bundle(tmp_path / "out")
    verify_bundle(bundle)
    assert manifest.learned is not None
    assert (manifest.learned.kind, manifest.learned.rows) == ("extract", 30)
    assert manifest.learned.output_schema == SCHEMA
    assert manifest.learned.instruction == "machine"
    assert manifest.adapter is not None
    assert inputs.base is not None
    assert manifest.adapter.base == load_bundle(inputs.base).digest
    assert (report["method"], report["learned_from"], report["rows"]) == ("lora", 30, 6)
    assert report["valid"] == 1.0
    assert list(report["fields"]) == ["machine"]
    assert report["fields"]["machine"]["rows"] == 6
    assert report["measured"]["lora"]["texts_per_s"] > 0

    written = json.loads((bundle.path / "report.json").read_text())
    assert written["fields"] == report["fields"]
    assert report["peak_rss"] > 1e8
    assert not {"measured", "peak_rss", "ms_per_row"} & written.keys()  # they aren't the same each time
    evaluated = evaluate_bundle(bundle.path, Required(data=tmp_path / "rows.jsonl", base=inputs.base))
    assert (evaluated["rows"], evaluated["valid"]) == (30, 1.0)
    assert evaluated["task"] == {"name": "machine", "kind": "extract"}


# --- what is taught and asked ------------------------------------------------------------------------


def test_the_rows_of_the_test_are_taught_in_the_end_only(
    inputs: Inputs, tmp_path: Path, teacher: FakeTeacher
) -> None:
    learn(tmp_path, inputs)
    assert [len(rows) for rows in teacher.rows] == [24, 30]
    assert teacher.schedules[1].epochs == teacher.best_epoch < teacher.schedules[0].epochs


def test_the_time_is_shared_out_by_rows(inputs: Inputs, tmp_path: Path, teacher: FakeTeacher) -> None:
    learn(tmp_path, inputs, budget=Budget(seconds=54, announce=lambda _: None))
    assert [schedule.seconds for schedule in teacher.schedules] == pytest.approx([24, 30])


def test_qlora_is_taught_in_four_bits(inputs: Inputs, tmp_path: Path, teacher: FakeTeacher) -> None:
    _, report = learn(tmp_path, inputs, budget=Budget(methods=("qlora",), announce=lambda _: None))
    assert report["method"] == "qlora"
    assert {shape.base for shape in teacher.shapes} == {"nf4"}


def test_the_tasks_own_schema_goes_before_that_of_the_rows(
    inputs: Inputs, tmp_path: Path, teacher: FakeTeacher
) -> None:
    own = "schema: {type: object, properties: {machine: {type: string, maxLength: 5}}}\ninstruction: Which?\n"
    manifest, report = learn(tmp_path, inputs, text=TASK + own)
    assert manifest.learned is not None
    assert manifest.learned.output_schema == {
        "type": "object",
        "properties": {"machine": {"type": "string", "maxLength": 5}},
    }
    assert manifest.learned.instruction == "Which?"
    assert report["valid"] == 1.0


def test_rows_with_fields_need_no_kind(inputs: Inputs, tmp_path: Path, teacher: FakeTeacher) -> None:
    manifest, _ = learn(tmp_path, inputs, text="name: machine\nmax_tokens: 24\n")
    assert manifest.learned is not None
    assert manifest.learned.kind == "extract"


def test_words_of_the_message_alone_are_remembered(
    inputs: Inputs, tmp_path: Path, teacher: FakeTeacher
) -> None:
    manifest, _ = learn(tmp_path, inputs, text=TASK + "verbatim: true\n")
    assert manifest.learned is not None
    assert manifest.learned.verbatim is True


def test_a_text_too_long_for_the_model_does_not_end_it(
    inputs: Inputs, tmp_path: Path, teacher: FakeTeacher
) -> None:
    """All others are learned, and it is said; of those that are tested with it is read what fits."""
    rows = [{**row, "text": row["text"] + " x" * 400 * (place % 3 == 0)} for place, row in enumerate(ROWS)]
    said: list[str] = []
    _, report = learn(tmp_path, inputs, rows, budget=Budget(announce=said.append))
    assert report["rows"] == 6
    assert "10 texts left out: too long to learn from." in said


def test_what_was_found_is_not_found_again(inputs: Inputs, tmp_path: Path, teacher: FakeTeacher) -> None:
    """Interrupted while it taught all rows, the next command goes on with that."""
    teacher.interrupted_at = 1
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path, inputs)
    _, report = learn(tmp_path, inputs)
    assert [len(rows) for rows in teacher.rows] == [24, 30]
    assert report["rows"] == 6
    assert list(cache_folder().glob("tune-*")) == []


@pytest.mark.parametrize(
    "change",
    [
        "instruction: Which machine?\n",
        "schema: {type: object, properties: {machine: {type: string, maxLength: 5}}}\n",
        "verbatim: true\n",
    ],
    ids=["instruction", "schema", "verbatim"],
)
def test_what_was_found_of_another_task_says_nothing(
    inputs: Inputs, tmp_path: Path, teacher: FakeTeacher, change: str
) -> None:
    """The command before was interrupted while it taught all rows."""
    teacher.interrupted_at = 1
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path, inputs)
    learn(tmp_path, inputs, text=TASK + change)
    assert [len(rows) for rows in teacher.rows] == [24, 24, 30]


# --- pointing or writing -----------------------------------------------------------------------------

STATES: list[dict[str, Any]] = [{"text": text, "fields": fields} for text, fields in findings(30)]
OPEN = "name: machine\nkind: extract\nmax_tokens: 24\n"


def decoder_that_is(right: bool) -> Step:
    """Evaluates adapters: about every row right or wrong. An encoder is really asked."""

    def examine(task: dict[str, Any], on_progress: OnProgress | None) -> dict[str, Any] | None:
        exam = Exam.parse(task["exam"])
        assert exam.bundle is not None
        if load_bundle(exam.bundle).manifest.adapter is None:
            return None
        rows = [row for row in exam.rows if isinstance(row, FieldsRow)]
        fields = [dict(row.fields) if right else {"machine": "?"} for row in rows]
        return {"answers": [{"fields": of_row} for of_row in fields], "ms_per_row": 4.0}

    return examine


@pytest.fixture
def both(inputs: Inputs, encoders: Path) -> Inputs:
    """A decoder, and an encoder's checkpoint."""
    return replace(inputs, checkpoint=examine_local(encoders / "bge", "encoder"))


def test_an_encoder_that_points_is_kept_where_a_decoder_is_no_better(
    both: Inputs,
    tmp_path: Path,
    teacher: FakeTeacher,
    pointer_teacher: FakePointerTeacher,
    children: FakeChildren,
) -> None:
    children.steps["evaluate.report_card"] = decoder_that_is(right=False)
    manifest, report = learn(tmp_path, both, STATES, OPEN)
    assert (len(pointer_teacher.texts), len(teacher.rows)) == (6, 1)
    assert (manifest.kind, manifest.name, report["method"]) == ("head", "machine-head", "encoder")
    assert list(report["methods"]) == list(report["measured"]) == ["encoder", "lora"]
    encoder, lora = report["methods"].values()
    assert (encoder["held_out"], lora["held_out"], report["rows"]) == (30, 6, 30)
    assert (encoder["exact"], lora["exact"]) == (report["exact"], 0.0)
    assert 0 <= encoder["calibration_error"] < 1
    assert lora["calibration_error"] is None
    evaluated = evaluate_bundle(
        tmp_path / "out", Required(data=tmp_path / "rows.jsonl", base=tmp_path / "out")
    )
    assert evaluated["exact"] == report["exact"]  # all ways of it are as it was: nothing was taught


def test_a_decoder_that_is_right_more_often_is_taken(
    both: Inputs,
    tmp_path: Path,
    teacher: FakeTeacher,
    pointer_teacher: FakePointerTeacher,
    children: FakeChildren,
) -> None:
    children.steps["evaluate.report_card"] = decoder_that_is(right=True)
    manifest, report = learn(tmp_path, both, STATES, OPEN)
    verify_bundle(load_bundle(tmp_path / "out"))
    assert (len(pointer_teacher.texts), len(teacher.rows)) == (5, 2)
    assert (manifest.kind, report["method"], report["rows"]) == ("adapter", "lora", 6)
    assert manifest.learned is not None
    assert manifest.learned.instruction == "machine"
    assert manifest.learned.fields == ()
    assert manifest.learned.calibration is None
    assert manifest.learned.reference is None
    assert list(report["methods"]) == ["encoder", "lora"]
    assert "coverage" not in report


def test_the_manifest_says_how_fields_are_found_and_what_a_confidence_is_worth(
    both: Inputs, tmp_path: Path, pointer_teacher: FakePointerTeacher
) -> None:
    own = "schema: {type: object, required: [state], properties: {machine: {type: string}, state: {enum: "
    text = f"{OPEN}verbatim: true\n{own}[heat, noise]}}}}}}\n"
    manifest, report = learn(tmp_path, both, STATES, text, replace(QUIET, methods=("encoder",)))
    bundle = load_bundle(tmp_path / "out")
    verify_bundle(bundle)
    learned = bundle.manifest.learned
    assert learned == manifest.learned
    assert learned is not None
    assert (learned.task, learned.kind, learned.rows, learned.verbatim) == ("machine", "extract", 30, True)
    assert learned.instruction is None  # nobody is told anything on an encoder
    machine, state = learned.fields
    assert (machine.name, machine.optional, machine.values) == ("machine", True, ())
    assert machine.longest > 0
    assert (state.name, state.optional, state.longest) == ("state", False, 0)
    assert set(state.values) == {"heat", "noise"}
    assert learned.calibration is not None
    assert learned.calibration.rows == 30
    assert learned.calibration.risk[0].coverage == 1
    assert learned.reference is not None
    assert len(learned.reference.distances) == len(learned.reference.confidences) > 0
    assert list(report["coverage"]) == ["0.1", "0.05", "0.02", "0.01"]
    assert report["cosine_to_float"] == {"mean": 1.0}
    assert list(cache_folder().glob("tune-*")) == []


def test_a_bundle_that_points_is_the_same_each_time(
    both: Inputs, tmp_path: Path, pointer_teacher: FakePointerTeacher
) -> None:
    digests = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        learn(tmp_path / name, both, STATES, OPEN, replace(QUIET, methods=("encoder",)))
        digests.append(load_bundle(tmp_path / name / "out").digest)
    assert digests[0] == digests[1]


def test_a_pointer_that_was_interrupted_goes_on_where_it_stood(
    both: Inputs, tmp_path: Path, pointer_teacher: FakePointerTeacher
) -> None:
    pointer_teacher.interrupted_at = 5
    budget = replace(QUIET, methods=("encoder",))
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path, both, STATES, OPEN, budget)
    assert not (tmp_path / "out").exists()
    learn(tmp_path, both, STATES, OPEN, budget)
    assert [len(texts) for texts in pointer_teacher.texts] == [24] * 5 + [30]


def trial(method: str, held: Sequence[int], right: Sequence[bool]) -> FieldTrial:
    return FieldTrial(method, np.array(held), np.array(right), {}, 1.0 if method == "lora" else 200.0, 1)


@pytest.mark.parametrize(
    ("better", "worse", "chosen"), [(0, 0, "encoder"), (1, 0, "encoder"), (2, 0, "lora"), (5, 3, "encoder")]
)
def test_a_decoder_has_to_be_better_on_the_rows_that_both_were_asked(
    better: int, worse: int, chosen: str
) -> None:
    """What the encoder was right about elsewhere is no merit."""
    pointed = [False] * better + [True] * (20 - better)
    written = [True] * better + [False] * worse + [True] * (20 - better - worse)
    encoder = trial("encoder", range(40), [*pointed, *[True] * 20])
    assert tune.choose([encoder, trial("lora", range(20), written)]).method == chosen


# --- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("methods", [(), ("encoder",)])
def test_an_encoders_checkpoint_is_needed_to_point(
    inputs: Inputs, tmp_path: Path, methods: tuple[str, ...]
) -> None:
    only = inputs if methods else Inputs(base=inputs.base)
    with pytest.raises(ExportError, match="The method encoder needs an encoder's checkpoint"):
        learn(tmp_path, only, budget=Budget(methods=methods))


def test_a_decoder_and_its_checkpoint_are_needed(inputs: Inputs, tmp_path: Path) -> None:
    for missing in (Inputs(base=inputs.base), Inputs(decoder=inputs.decoder)):
        with pytest.raises(ExportError, match="The method lora needs a decoder's bundle and its checkpoint"):
            learn(tmp_path, missing, budget=Budget(methods=("lora",)))


def test_a_few_rows_are_too_few(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="has 9 rows; at least 10 are needed"):
        learn(tmp_path, inputs, ROWS[:9])


def test_rows_of_the_other_kind_are_refused(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"of kind classify and the rows of .* have fields"):
        learn(tmp_path, inputs, text="name: machine\nlabels: [a, b]\nkind: classify")


# --- the split ---------------------------------------------------------------------------------------


def test_a_fifth_is_tested_with_and_equal_texts_stay_together() -> None:
    texts = [f"message {number // 2}" if number % 2 else f" MESSAGE {number // 2}" for number in range(100)]
    folds = split_rows(texts)
    assert [len(test) for _, test in folds] == [20] * 5
    assert sorted(row for _, test in folds for row in test.tolist()) == list(range(100))
    for train, test in folds:
        assert sorted([*train.tolist(), *test.tolist()]) == list(range(100))
        assert not {row // 2 for row in train.tolist()} & {row // 2 for row in test.tolist()}


def test_at_least_one_row_is_tested_with() -> None:
    folds = split_rows(["a", "b", "c"])
    assert [(len(train), len(test)) for train, test in folds] == [(2, 1)] * 3
