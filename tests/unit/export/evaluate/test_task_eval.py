"""Labelled rows for decoders: the task they make, production's prompts, how answers count."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edgeslm_export.data.rows import FieldsRow, load_answers, load_rows
from edgeslm_export.evaluate.task_eval import Exam, all_same, make_exam, take_exam, without_nulls

from edgeslm.config.loader import Task as TaskSection
from edgeslm.engine.calls import Call, Classify, Generate, Output, Point, Pointed, Score
from edgeslm.errors import ConfigError, ExportError, TooLong
from tests.support.taught import RISK, calibration, write_head


def write(folder: Path, *rows: object) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def made(folder: Path, *rows: object, task: str = "") -> Exam:
    data = write(folder, *rows)
    file = folder / "task.yaml"
    file.write_text(task)
    return make_exam(data, load_answers(data), file if task else None)


class FakeDecoder:
    """Answers by what ``answer`` says; keeps the calls."""

    def __init__(self, answer: Callable[[Call], Output]) -> None:
        self.calls: list[Call] = []
        self._answer = answer

    async def __call__(self, call: Call, on_chunk: Callable[[str], None] | None = None) -> Output:
        self.calls.append(call)
        return self._answer(call)


def text_of(call: Call) -> str:
    assert isinstance(call, Score | Generate)
    return "".join(part if isinstance(part, str) else part.value for part in call.prompt.turns[-1].parts)


LABELLED = [{"text": "fire", "label": "bad"}, {"text": "sun", "label": "good"}, {"text": "x", "label": "bad"}]
FIELDS = [
    {"text": "M3 at 81", "fields": {"machine": "M3", "heat": 81}},
    {"text": "M4 at 7", "fields": {"machine": "M4", "heat": 7}},
    {"text": "M5", "fields": {"machine": "M5"}},
]


def test_labels_are_scored_with_productions_prompt(tmp_path: Path) -> None:
    exam = made(tmp_path, *LABELLED, task="name: t\ninstruction: How is it?\nlabels: {good: fine, bad: not}")
    exam = Exam.parse(json.loads(json.dumps(exam.encode())))  # as it comes to the child
    decoder = FakeDecoder(
        lambda call: Output(probabilities=(0.1, 0.9) if text_of(call) == "fire" else (0.8, 0.2))
    )
    report = take_exam(exam, decoder)
    call = decoder.calls[0]
    assert isinstance(call, Score)
    assert call.labels == ("good", "bad")
    instruction = "".join(map(str, call.prompt.turns[0].parts))
    assert "How is it?" in instruction
    assert "- bad: not" in instruction
    assert report["task"] == {"name": "t", "kind": "classify"}
    assert report["accuracy"] == pytest.approx(2 / 3, abs=1e-4)
    assert report["interval"] == [0.0, 1.0]
    assert report["labels"]["bad"]["recall"] == 0.5
    assert report["ms_per_row"] >= 0
    assert len(decoder.calls) == 4  # the first row warms up


def test_abstaining_counts_as_it_does_on_a_device(tmp_path: Path) -> None:
    task = "name: t\nlabels: {good: fine, bad: not}\nthreshold: 0.85"
    exam = made(tmp_path, *LABELLED, task=task)
    decoder = FakeDecoder(
        lambda call: Output(probabilities=(0.1, 0.9) if text_of(call) == "fire" else (0.8, 0.2))
    )
    report = take_exam(exam, decoder)
    assert (report["threshold"], report["answered"], report["accuracy_answered"]) == (0.85, 0.3333, 1.0)
    assert "answered" not in take_exam(made(tmp_path, *LABELLED), decoder)


TAUGHT = [{"text": "WIN", "label": "spam"}, {"text": "hi", "label": "ham"}, {"text": "WIN?", "label": "ham"}]


def taught(folder: Path, max_error: float | None = None, **learned: Any) -> Exam:
    """What a head was taught, asked about ``TAUGHT``."""
    head = write_head(folder / "head", "sha256:0", **learned)
    section = {"learned": str(head), "kind": "classify", "max_error": max_error}
    rows = load_rows(write(folder, *TAUGHT), ("spam", "ham"))
    task = TaskSection.model_validate(section, strict=False)
    exam = Exam("topic", task, rows, head, with_answers=True)
    return Exam.parse(json.loads(json.dumps(exam.encode())))  # as it comes to the child


def by_word(call: Call) -> Output:
    assert isinstance(call, Classify)
    return Output(probabilities={"WIN": (0.95, 0.05), "hi": (0.2, 0.8), "WIN?": (0.7, 0.3)}[call.text])


def test_a_head_is_asked_about_its_own_labels(tmp_path: Path) -> None:
    exam, decoder = taught(tmp_path), FakeDecoder(by_word)
    report = take_exam(exam, decoder)
    assert {call.head for call in decoder.calls if isinstance(call, Classify)} == {str(exam.bundle)}
    assert list(report["labels"]) == ["spam", "ham"]
    assert report["accuracy"] == pytest.approx(2 / 3, abs=1e-4)
    assert "answered" not in report


def test_the_answers_are_those_that_would_be_published(tmp_path: Path) -> None:
    answers = take_exam(taught(tmp_path), FakeDecoder(by_word))["answers"]
    assert [answer["label"] for answer in answers] == ["spam", "ham", "spam"]
    assert answers[0]["scores"] == pytest.approx({"spam": 0.95, "ham": 0.05})
    assert "answers" not in take_exam(
        made(tmp_path, *LABELLED), FakeDecoder(lambda _: Output(probabilities=(1, 0)))
    )


def test_calibrated_verdicts_count(tmp_path: Path) -> None:
    """A bias for ham turns the last row round."""
    exam = taught(tmp_path, calibration=calibration(bias=[0.0, 2.0]))
    assert take_exam(exam, FakeDecoder(by_word))["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("max_error", "figures"),
    [(0.2, (0.0, 1.0, 0.6667)), (0.1, (0.6, 1.0, 0.6667)), (0.02, (0.9, 0.3333, 1.0))],
)
def test_a_wanted_error_abstains_from_the_rest(
    tmp_path: Path, max_error: float, figures: tuple[float, float, float]
) -> None:
    exam = taught(tmp_path, max_error, calibration=calibration(risk=RISK))
    report = take_exam(exam, FakeDecoder(by_word))
    assert (report["threshold"], report["answered"], report["accuracy_answered"]) == figures


def test_an_error_that_cannot_be_promised_is_refused(tmp_path: Path) -> None:
    exam = taught(tmp_path, 0.001, calibration=calibration(risk=RISK))
    with pytest.raises(ConfigError, match=r"0\.001 is not reachable: .* 50 held-out rows is 0.020"):
        take_exam(exam, FakeDecoder(by_word))


def test_labels_come_from_the_rows(tmp_path: Path) -> None:
    assert dict(made(tmp_path, *LABELLED).section.labels or {}) == {"bad": "", "good": ""}
    assert dict(made(tmp_path, *LABELLED, task="name: t").section.labels or {}) == {"bad": "", "good": ""}


def test_fields_are_counted_one_by_one(tmp_path: Path) -> None:
    exam = made(tmp_path, *FIELDS)
    assert exam.section.output_schema == {
        "type": "object",
        "properties": {"machine": {"type": "string"}, "heat": {"type": "number"}},
        "required": ["machine"],
    }
    said = {
        "M3 at 81": '{"machine": " M3", "heat": 81.0}',  # right: the same values
        "M4 at 7": '{"machine": "M4", "heat": 8}',
        "M5": '{"machine": "M',  # never closed
    }
    exam = Exam.parse(json.loads(json.dumps(exam.encode())))
    report = take_exam(exam, FakeDecoder(lambda call: Output(text=said[text_of(call)])))
    assert report["valid"] == pytest.approx(2 / 3, abs=1e-4)
    assert report["exact"] == pytest.approx(1 / 3, abs=1e-4)
    assert report["fields"]["machine"] == {
        "rows": 3,
        "accuracy": 0.6667,
        "interval": [0.0, 1.0],
        "precision": 1.0,
        "recall": 0.6667,
        "f1": 0.8,
    }
    assert report["fields"]["heat"]["f1"] == 0.5  # of two that are there and two that were found one is right
    assert report["f1"] == pytest.approx(2 * 3 / (5 + 4), abs=1e-4)
    assert report["fields"]["heat"]["accuracy"] == pytest.approx(1 / 3, abs=1e-4)
    assert report["fields"]["heat"]["rows"] == 2


def test_a_truth_value_is_no_number(tmp_path: Path) -> None:
    exam = made(tmp_path, {"text": "a", "fields": {"n": 1}})
    report = take_exam(exam, FakeDecoder(lambda call: Output(text='{"n": true}')))
    assert report["exact"] == 0.0
    assert report["valid"] == 0.0


# --- fields that a head points at --------------------------------------------------------------------

POINTED: dict[str, tuple[tuple[float, float], str]] = {
    "M3 at 81": ((0.05, 0.95), "M3"),
    "M4 at 7": ((0.2, 0.8), "7"),  # wrong, and less sure
    "hot": ((0.9, 0.1), ""),  # none
    "M5": ((0.4, 0.6), "M5"),
}
"""How likely there is no machine and one, and where it would be."""


def pointing(folder: Path, max_error: float | None = None, **learned: Any) -> Exam:
    """What a head was taught to point at, asked about ``POINTED``."""
    schema = {"type": "object", "properties": {"machine": {"type": "string"}}}
    fields = [{"name": "machine", "optional": True, "longest": 20}]
    taught = {"task": "machine", "kind": "extract", "labels": [], "output_schema": schema, "fields": fields}
    head = write_head(folder / "head", "sha256:0", **taught, **learned)
    section = {"learned": str(head), "kind": "extract", "max_error": max_error}
    wanted: list[dict[str, Any]] = [{"machine": value} for value in ("M3", "M4", None, "M5")]
    rows = [
        FieldsRow(number, text, row) for number, (text, row) in enumerate(zip(POINTED, wanted, strict=True))
    ]
    exam = Exam("machine", TaskSection.model_validate(section, strict=False), rows, head, with_answers=True)
    return Exam.parse(json.loads(json.dumps(exam.encode())))  # as it comes to the child


def point(call: Call) -> Output:
    assert isinstance(call, Point)
    options, value = POINTED[call.text]
    start = call.text.index(value)
    return Output(fields=(Pointed(options, ((start, start + len(value), 1.0),)),))


def test_a_head_is_asked_for_its_fields(tmp_path: Path) -> None:
    exam, decoder = pointing(tmp_path), FakeDecoder(point)
    report = take_exam(exam, decoder)
    assert {call.head for call in decoder.calls if isinstance(call, Point)} == {str(exam.bundle)}
    assert (report["exact"], report["valid"]) == (0.75, 1.0)
    assert report["fields"]["machine"]["rows"] == 3
    assert [answer["fields"] for answer in report["answers"]] == [
        {"machine": "M3"},
        {"machine": "7"},
        {},
        {"machine": "M5"},
    ]
    assert "answered" not in report


def test_how_honest_a_head_is_about_its_fields_is_told(tmp_path: Path) -> None:
    report = take_exam(pointing(tmp_path), FakeDecoder(point))
    assert [answer["confidence"] for answer in report["answers"]] == pytest.approx([0.95, 0.8, 0.9, 0.6])
    assert 0 < report["calibration_error"] < 1
    ever_right = {"margins": [0.0, 1.0], "confidences": [0.75, 0.75], "scale": [], "bias": []}
    honest = pointing(tmp_path / "honest", calibration=calibration(**ever_right))
    assert take_exam(honest, FakeDecoder(point))["calibration_error"] == 0


@pytest.mark.parametrize(
    ("max_error", "figures"),
    [(0.2, (0.0, 1.0, 0.75)), (0.1, (0.6, 1.0, 0.75)), (0.02, (0.9, 0.5, 1.0))],
)
def test_a_wanted_error_of_fields_abstains_from_the_rest(
    tmp_path: Path, max_error: float, figures: tuple[float, float, float]
) -> None:
    exam = pointing(tmp_path, max_error, calibration=calibration(scale=[], bias=[], risk=RISK))
    report = take_exam(exam, FakeDecoder(point))
    assert (report["threshold"], report["answered"], report["accuracy_answered"]) == figures


def test_fields_that_were_written_have_no_confidence(tmp_path: Path) -> None:
    report = take_exam(made(tmp_path, *FIELDS), FakeDecoder(lambda call: Output(text='{"machine": "M3"}')))
    assert "calibration_error" not in report


@pytest.mark.parametrize(
    ("found", "wanted", "same"),
    [
        ({"machine": "M3", "heat": 81}, {"heat": 81.0, "machine": " M3 "}, True),
        ({"machine": "M3"}, {"machine": "m3"}, False),
        ({"machine": "M3", "heat": 81}, {"machine": "M3"}, False),
        ({"machine": "M3"}, {"machine": "M3", "heat": 81}, False),
        ({"machine": "M3"}, {"machine": "M3", "heat": None}, True),
        ({"machine": "M3", "heat": None}, {"machine": "M3"}, True),
        ({}, {"machine": None}, True),
        ({"heat": True}, {"heat": 1}, False),
        ({"heat": 0}, {"heat": False}, False),
        ({"heat": False}, {"heat": None}, False),
        ({"heat": "81"}, {"heat": 81}, False),
        ({"machines": ["M3"]}, {"machines": ["M3"]}, True),
        (None, {}, False),
        (None, {"machine": None}, False),
        (["machine"], {}, False),
    ],
)
def test_all_fields_are_the_same_as_json_values(found: Any, wanted: dict[str, Any], same: bool) -> None:
    assert all_same(found, wanted) is same


@pytest.mark.parametrize(
    ("schema", "kept"),
    [
        ({"type": "string"}, False),
        ({"type": ["string", "null"]}, True),
        ({"enum": ["a", None]}, True),
        ({"enum": ["a"]}, False),
        ({"$ref": "#/$defs/text"}, False),
        ({"$ref": "#/$defs/nothing"}, True),
    ],
)
def test_null_means_not_there_unless_it_is_a_value(schema: dict[str, Any], kept: bool) -> None:
    definitions = {"text": {"type": "string"}, "nothing": {"type": "null"}}
    whole = {"$defs": definitions, "properties": {"x": schema}, "required": ["x", "y"]}
    assert ("x" in without_nulls({"x": None, "y": 1}, whole)) is kept
    assert without_nulls({"x": "a", "y": 1}, whole) == {"x": "a", "y": 1}


# --- rows and tasks that are refused -----------------------------------------------------------------


def test_a_row_that_does_not_fit_is_named(tmp_path: Path) -> None:
    def refuse(call: Call) -> Output:
        raise TooLong("the text has 900 tokens and the model's context 512")

    with pytest.raises(ExportError, match="Row 1 can't be put to the model: the text has 900 tokens"):
        take_exam(made(tmp_path, *LABELLED), FakeDecoder(refuse))


@pytest.mark.parametrize(
    ("rows", "task", "sentence"),
    [
        ([*LABELLED, FIELDS[0]], "", "Row 4 has fields, and this file's first row has a label"),
        ([*FIELDS, LABELLED[0]], "", "Row 4 has a label, and this file's first row has fields"),
        ([{"text": "a", "fields": {}}], "", "Row 1 has empty fields"),
        ([{"text": "a", "fields": 3}], "", "Row 1 has fields that are not a JSON object"),
        (
            [{"text": "a", "fields": {"x": [1]}}],
            "",
            "field 'x' isn't one kind of text, number or truth value",
        ),
        (LABELLED[:1], "", "All rows have the label 'bad'"),
        (LABELLED, "name: t\nlabels: [bad, ugly]", "Row 2 has the label 'good', which is none of bad, ugly"),
        (LABELLED, "name: t\nlabels: [bad, Good]", "which is none of bad, Good. Is it 'Good'?"),
        (FIELDS, "name: t\nkind: classify\nlabels: [a, b]", "kind classify and the rows of .* have fields"),
        (LABELLED, "name: t\nlearned: there", "the task is learned; evaluate its head"),
        (
            FIELDS,
            "name: t\nschema: {type: object, properties: {machine: {type: string}}}",
            "Row 1 has the field 'heat'; the task's schema has machine",
        ),
        (
            [{"text": "a", "label": "x\x07"}, {"text": "b", "label": "y"}],
            "",
            r"the rows make no task: 'x\\x07' is not a label",
        ),
    ],
)
def test_rows_that_do_not_fit(tmp_path: Path, rows: list[Any], task: str, sentence: str) -> None:
    with pytest.raises(ExportError, match=sentence):
        made(tmp_path, *rows, task=task)


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("kind: classify", "task.yaml:1: name: missing: give the task a name"),
        ("name: t\nlables: [a, b]", "task.yaml:2: lables: unknown key: did you mean labels"),
        ("name: t\n\nlabels: [a]", "task.yaml:3: labels: needs at least two labels"),
        ("- a", "task.yaml:1: file: not a mapping"),
    ],
)
def test_a_task_that_is_not_sound(tmp_path: Path, task: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        made(tmp_path, *LABELLED, task=task)
