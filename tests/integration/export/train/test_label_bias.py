"""Label bias of an untrained decoder, with fake answers: what is measured, printed and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from edgeslm_export.cli import main
from edgeslm_export.train.distill import Teacher
from edgeslm_export.train.label_bias import MOST_TEXTS, label_bias, label_shares, measure_label_bias

from edgeslm.bundle.calibration import without_bias
from edgeslm.config.loader import Task as TaskSection
from edgeslm.config.loader import parse_config
from edgeslm.errors import ExportError
from tests.support.config_texts import SMALL
from tests.support.export.fake_teachers import Answered, by_number, number_of, said, texts

LABELS = {"spam": "advertising", "ham": "a message from a person"}


def section(**fields: object) -> TaskSection:
    whole = {"kind": "classify", "model": "small", "labels": LABELS, **fields}
    return TaskSection.model_validate(whole, strict=False)


def test_without_the_bias_labels_are_as_frequent_as_expected(decoder: Teacher, answered: Answered) -> None:
    shares = [0.98, 0.9, 0.4, 0.1] * 4
    answered(lambda text: said(shares[number_of(text)]))
    for expected in (0.5, 0.2):
        bias = measure_label_bias("topic", section(), decoder.base, texts(16), {"spam": expected})
        assert sum(bias.values()) == pytest.approx(1)
        rid = [without_bias((share, 1 - share), (bias["spam"], bias["ham"]))[0] for share in shares]
        assert sum(rid) / len(rid) == pytest.approx(expected, abs=1e-4)


def test_equal_answers_have_their_own_probabilities_as_bias() -> None:
    assert label_bias([{"a": 0.9, "b": 0.1}] * 3, {"a": 0.5, "b": 0.5}) == {"a": 0.9, "b": 0.1}
    assert label_bias([{"a": 0.9, "b": 0.1}] * 3, {"a": 0.9, "b": 0.1}) == {"a": 0.5, "b": 0.5}


def test_the_decoder_is_asked_without_a_calibration(decoder: Teacher, answered: Answered) -> None:
    fake = answered(by_number)
    told = section(calibration={"spam": 0.9, "ham": 0.1}, instruction="Is it wanted?")
    measure_label_bias("topic", told, decoder.base, texts(20))
    (exam,) = fake.exams
    assert exam.section.calibration == "none"
    assert (exam.section.instruction, exam.section.labels) == ("Is it wanted?", LABELS)
    assert [row.text for row in exam.rows] == texts(20)


def test_a_text_counts_once_and_failures_do_not(decoder: Teacher, answered: Answered) -> None:
    answered(lambda text: None if text == "text 1" else said(0.1))
    found = measure_label_bias("topic", section(), decoder.base, [*texts(16), "TEXT  0"])
    assert found == pytest.approx({"spam": 0.1, "ham": 0.9})


def test_many_texts_are_sampled(decoder: Teacher, answered: Answered) -> None:
    fake = answered(by_number)
    measure_label_bias("topic", section(), decoder.base, texts(2 * MOST_TEXTS))
    assert len(fake.exams[0].rows) == MOST_TEXTS


def test_no_bias_is_zero() -> None:
    assert 0 < label_bias([{"a": 0.0, "b": 1.0}], {"a": 0.5, "b": 0.5})["a"] < 1e-9


@pytest.mark.parametrize(
    ("expected", "shares"),
    [({}, (0.25,) * 4), ({"a": 0.7}, (0.7, 0.1, 0.1, 0.1)), (dict.fromkeys("abcd", 0.25), (0.25,) * 4)],
)
def test_labels_without_a_share_have_the_rest(expected: dict[str, float], shares: tuple[float, ...]) -> None:
    assert tuple(label_shares("abcd", expected).values()) == pytest.approx(shares)


@pytest.mark.parametrize(
    ("expected", "problem"),
    [
        ({"e": 0.5}, "'e' is none of the labels a, b, c"),
        ({"a": 0.5, "b": 0.5}, "sum to 1; the shares of all labels must sum to 1"),
        ({"a": 0.6, "b": 0.6, "c": 0.1}, "sum to 1.3"),
        ({"a": 0.1, "b": 0.1, "c": 0.1}, "sum to 0.3"),
    ],
)
def test_shares_that_cant_be_are_refused(expected: dict[str, float], problem: str) -> None:
    with pytest.raises(ExportError, match=problem):
        label_shares("abc", expected)


@pytest.mark.parametrize(
    ("number", "fields", "problem"),
    [
        (15, {}, "15 different texts are too few; at least 16 are needed"),
        (16, {"kind": "extract", "labels": None}, "must be of kind classify and list its labels"),
    ],
)
def test_what_cant_be_measured_is_refused(
    number: int, fields: dict[str, object], problem: str, decoder: Teacher
) -> None:
    with pytest.raises(ExportError, match=problem):
        measure_label_bias("topic", section(**fields), decoder.base, texts(number))


def test_a_trained_task_is_refused(head: Teacher) -> None:
    with pytest.raises(
        ExportError, match="is not a decoder or zero-shot encoder; trained tasks are calibrated by tune"
    ):
        measure_label_bias("topic", section(), head.bundle.path, texts(16))


def test_the_command_prints_what_a_configuration_takes(
    decoder: Teacher, answered: Answered, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answered(by_number)
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(30)))
    task = tmp_path / "task.yaml"
    task.write_text("name: topic\nkind: classify\nlabels: [spam, ham]\ncalibration: contextual\n")
    assert main.main(["calibrate", str(task), str(tmp_path / "texts.jsonl"), str(decoder.base)]) == 0
    printed = capsys.readouterr().out
    written = SMALL.replace("calm, urgent]}", f"spam, ham], {printed.strip()}}}")
    found = parse_config(written).tasks["triage"].calibration
    assert isinstance(found, dict)
    assert set(found) == {"spam", "ham"}
    assert sum(found.values()) == pytest.approx(1)


def test_the_command_takes_the_shares_of_rare_labels(
    decoder: Teacher, answered: Answered, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The option had no effect."""
    answered(lambda text: said(0.4))
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(20)))
    task = tmp_path / "task.yaml"
    task.write_text("name: topic\nkind: classify\nlabels: [spam, ham]\n")
    command = ["calibrate", str(task), str(tmp_path / "texts.jsonl"), str(decoder.base), "--json"]
    for options, expected in (([], 0.5), (["--share", "spam=0.1"], 0.1)):
        assert main.main([*command, *options]) == 0
        bias = json.loads(capsys.readouterr().out)["calibration"]
        assert without_bias((0.4, 0.6), (bias["spam"], bias["ham"]))[0] == pytest.approx(expected, abs=1e-4)
