"""The report card of what was taught a task: which rows and bundles go together. Engines are faked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from edgeslm_export.data.rows import FieldsRow, LabelledRow
from edgeslm_export.evaluate import report_card
from edgeslm_export.evaluate.report_card import (
    Required,
    check_wanted,
    evaluate_bundle,
    evaluate_learned,
    read_lengths,
)
from edgeslm_export.evaluate.task_eval import Exam

from edgeslm.bundle.manifest import load_bundle
from edgeslm.errors import ConfigError, ExportError
from tests.support.export.tiny_tasks import write_rows
from tests.support.taught import CLASSIFY, RISK, calibration, write_adapter, write_base, write_head

SPAM = [LabelledRow(1, "WIN", "spam"), LabelledRow(2, "hi", "ham")]


class FakeExamination:
    """In the place of ``examine_bundle``: keeps what would be asked of which folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[Path, Exam]] = []
        monkeypatch.setattr(report_card, "examine_bundle", self)

    def __call__(self, folder: Path, exam: Exam, **how: object) -> dict[str, Any]:
        self.asked.append((folder, exam))
        return {"accuracy": 0.5}


@pytest.fixture
def examination(monkeypatch: pytest.MonkeyPatch) -> FakeExamination:
    return FakeExamination(monkeypatch)


def test_a_head_is_asked_on_its_encoder(tmp_path: Path, examination: FakeExamination) -> None:
    head = write_head(tmp_path / "head", "sha256:0", calibration=calibration(risk=RISK))
    report = evaluate_learned(load_bundle(head), tmp_path / "encoder", SPAM, max_error=0.1)
    assert report == {"accuracy": 0.5, "learned_from": 9}
    ((folder, exam),) = examination.asked
    assert folder == tmp_path / "encoder"
    assert (exam.name, exam.bundle, exam.section.max_error) == ("topic", head, 0.1)
    assert exam.section.overflow == "head"  # a long row is read as far as it can be


def test_an_adapter_is_asked_on_its_base(tmp_path: Path, examination: FakeExamination) -> None:
    digest = write_base(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", digest, {**CLASSIFY, "instruction": "Which?"})
    rows = [{"text": row.text, "label": row.label} for row in SPAM]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    wanted = Required(data=data, base=tmp_path / "base")
    report = evaluate_bundle(adapter, wanted)
    assert (report["kind"], report["accuracy"]) == ("adapter", 0.5)
    ((folder, exam),) = examination.asked
    assert (folder, exam.bundle) == (tmp_path / "base", adapter)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            [LabelledRow(3, "hi", "junk")],
            "Row 3 has the label 'junk', which .* know; it knows spam, ham",
        ),
        ([FieldsRow(1, "M3", {"machine": "M3"})], "was trained to classify; its rows need a label"),
    ],
)
def test_rows_that_do_not_fit_what_was_taught(
    tmp_path: Path, examination: FakeExamination, rows: list[Any], sentence: str
) -> None:
    head = load_bundle(write_head(tmp_path / "head", "sha256:0"))
    with pytest.raises(ExportError, match=sentence):
        evaluate_learned(head, tmp_path / "encoder", rows)
    assert examination.asked == []


def test_an_error_that_cannot_be_promised_is_told_before_anything_is_asked(
    tmp_path: Path, examination: FakeExamination
) -> None:
    head = load_bundle(write_head(tmp_path / "head", "sha256:0", calibration=calibration(risk=RISK)))
    with pytest.raises(ConfigError, match="is not reachable"):
        evaluate_learned(head, tmp_path / "encoder", SPAM, max_error=0.001)
    assert examination.asked == []


def test_what_was_taught_nothing_is_no_task(tmp_path: Path) -> None:
    adapter = load_bundle(write_adapter(tmp_path / "adapter", write_base(tmp_path / "base")))
    with pytest.raises(ExportError, match="has no trained task"):
        evaluate_learned(adapter, tmp_path / "base", SPAM)
    with pytest.raises(ExportError, match="is an adapter; evaluate its base with labelled rows and a task"):
        check_wanted(adapter, None, None, compared=False)


@pytest.mark.parametrize("missing", ["data", "base"])
def test_a_head_needs_rows_and_its_encoder(tmp_path: Path, missing: str) -> None:
    head = write_head(tmp_path / "head", "sha256:0")
    data = write_rows(tmp_path / "rows.jsonl", [{"text": "hi", "label": "ham"}])
    wanted = Required(data=data) if missing == "base" else Required(base=tmp_path / "encoder")
    with pytest.raises(ExportError, match="name labelled rows and its base"):
        evaluate_bundle(head, wanted)


def test_texts_are_as_long_as_the_encoder_counts_them(starter: Path) -> None:
    counts, limit = read_lengths(starter / "minilm-l6-int8", ["a pump", "pump " * 900])
    assert (counts, limit) == ([4, 902], 256)
