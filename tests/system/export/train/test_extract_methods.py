"""Extract tasks on an encoder that points and on a decoder that writes: how each is tried and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeslm_export.bundle.writer import UNDATED, write_manifest
from edgeslm_export.evaluate.report_card import Required, evaluate_bundle
from edgeslm_export.evaluate.task_eval import all_same
from edgeslm_export.jobs.checkpoint_notes import Notes
from edgeslm_export.sources.checkpoint import examine_local
from edgeslm_export.train import extract_methods
from edgeslm_export.train.encoder_finetune import LAYER
from edgeslm_export.train.extract_methods import FieldTrial, PointerMethod, WriterMethod
from edgeslm_export.train.field_spec import FieldSpec
from edgeslm_export.train.loop import Schedule
from edgeslm_export.train.spec import Budget

from edgeslm.bundle.calibration import sure
from edgeslm.bundle.learned_task import DriftReference
from edgeslm.bundle.manifest import load_bundle, verify_bundle
from edgeslm.errors import ExportError
from tests.support.export.fake_teachers import Answered
from tests.support.export.tiny_tasks import (
    FOUND,
    FakePointerTeacher,
    FakeTeacher,
    Row,
    findings,
    make_field_spec,
    write_rows,
)

pytestmark = [pytest.mark.export, pytest.mark.usefixtures("one_thread")]


class Bench:
    """Makes ways, each with a scratch folder of its own; ``said`` is what they announced."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self._origin, self._folder = examine_local(checkpoint, "encoder"), folder
        self.said: list[str] = []

    def way(self, spec: FieldSpec, *, notes: str = "notes", seconds: float = 0) -> PointerMethod:
        budget = Budget(seconds=seconds, announce=self.said.append)
        return PointerMethod(self._origin, spec, budget, Notes(self._folder / notes), self.work())

    def writer(self, spec: FieldSpec, base: Path, decoder: Path, seconds: float = 0) -> WriterMethod:
        budget = Budget(seconds=seconds, announce=self.said.append)
        origin, notes = examine_local(decoder, "decoder"), Notes(self._folder / "notes")
        return WriterMethod("lora", base, origin, spec, budget, notes, self.work())

    def work(self, name: str = "work") -> Path:
        folder = self._folder / f"{name}-{len(list(self._folder.iterdir()))}"
        folder.mkdir()
        return folder


@pytest.fixture
def bench(encoders: Path, tmp_path: Path) -> Bench:
    return Bench(encoders / "bge", tmp_path)


def lesson_of(rows: Sequence[Row], *, one_fold: bool = True, **how: Any) -> FieldSpec:
    return make_field_spec(rows, FOUND, required=["state"], one_fold=one_fold, **how)


FEW = lesson_of(findings(20), one_fold=False)
MANY = lesson_of(findings(2600), one_fold=False)


# --- the real way to point ---------------------------------------------------------------------------

LESSON = lesson_of(findings(150))


@pytest.fixture(scope="module")
def tried(
    encoders: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None
) -> Iterator[tuple[Bench, PointerMethod, FieldTrial]]:
    """PyTorch, optimum's export, int8, the engine; taught faster than a model that knows something."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract_methods, "schedule_for", lambda rows: Schedule(12, 8, 3e-3))
        bench = Bench(encoders / "bge", tmp_path_factory.mktemp("ways"))
        way = bench.way(LESSON)
        yield bench, way, way.try_out()


def test_the_engine_finds_fields_in_rows_held_out(tried: tuple[Bench, PointerMethod, FieldTrial]) -> None:
    bench, _, trial = tried
    assert bench.said == []
    assert trial.method == "encoder"
    assert trial.held.tolist() == LESSON.folds[0][1].tolist()
    assert trial.right.mean() > 0.7
    assert trial.figures["exact"] == pytest.approx(trial.right.mean(), abs=1e-4)
    assert trial.figures["valid"] == 1.0
    assert {name: of["rows"] for name, of in trial.figures["fields"].items()} == {
        name: sum(name in LESSON.fields[row] for row in trial.held.tolist()) for name in FOUND
    }
    assert 0 <= trial.figures["calibration_error"] < 0.5
    assert trial.texts_per_s > 0
    assert trial.bytes > 10_000


def test_a_confidence_is_calibrated_on_rows_held_out(tried: tuple[Bench, PointerMethod, FieldTrial]) -> None:
    trial = tried[2]
    assert trial.calibration is not None
    assert (trial.calibration.scale, trial.calibration.bias) == ((), ())
    assert trial.calibration.fault is None
    assert trial.calibration.rows == len(trial.held) == 30
    assert len(trial.calibration.margins) > 1
    reference = DriftReference.model_validate(trial.reference, strict=False)
    assert reference.labels == ()
    assert 0 <= min(reference.distances) < max(reference.distances) < 1
    assert 0 < min(reference.confidences) < max(reference.confidences) < 1


def test_what_is_written_is_a_head_with_its_own_encoder(
    tried: tuple[Bench, PointerMethod, FieldTrial], encoders: Path, tmp_path: Path
) -> None:
    _, way, trial = tried
    out = tmp_path / "out"
    out.mkdir()
    fields = way.write(out)
    assert not (out / LAYER).exists()
    base = examine_local(encoders / "bge", "encoder").source
    assert fields.pop("licence") == base.licence
    report: dict[str, Any] = fields.pop("report")
    assert report["base"] == f"{base.id} {base.revision}".strip()
    assert report["cosine_to_float"]["mean"] > 0.8
    learned = {**LESSON.learned, **fields.pop("learned")}
    learned |= {"calibration": trial.calibration, "reference": trial.reference}
    own = {"name": "machine", "source": {"id": "rows"}, "created": UNDATED, "learned": learned}
    manifest = write_manifest(out, {**own, **fields})
    verify_bundle(load_bundle(out))
    assert (manifest.kind, manifest.model_kind) == ("head", "encoder")
    assert manifest.learned is not None
    assert [field.name for field in manifest.learned.fields] == ["machine", "state"]

    rows = [{"text": text, "fields": of_row} for text, of_row in findings(30, seed=8)]
    data = write_rows(tmp_path / "others.jsonl", rows)
    evaluated = evaluate_bundle(out, Required(data=data, base=out, with_answers=True))
    assert (evaluated["rows"], evaluated["learned_from"], evaluated["valid"]) == (30, 150, 1.0)
    assert evaluated["exact"] > 0.5
    assert "calibration_error" in evaluated
    for row, answer in zip(rows, evaluated["answers"], strict=True):
        assert 0 < answer["confidence"] < 1
        for name, span in answer["spans"].items():
            assert str(row["text"])[span["start"] : span["end"]] == answer["fields"][name]


# --- how pointing is tried ---------------------------------------------------------------------------


def test_few_rows_are_tried_on_each_fifth_in_turn(bench: Bench, pointer_teacher: FakePointerTeacher) -> None:
    trial = bench.way(FEW).try_out()
    assert sorted(trial.held.tolist()) == list(range(20))
    assert [len(texts) for texts in pointer_teacher.texts] == [16] * 5
    for (_, test), texts, aims in zip(FEW.folds, pointer_teacher.texts, pointer_teacher.aims, strict=True):
        assert not set(texts) & {FEW.texts[row] for row in test.tolist()}
        assert len(aims) == 16
    assert pointer_teacher.aside == [[]] * 5


def test_many_rows_are_tried_on_one_fifth_with_some_aside(
    bench: Bench, pointer_teacher: FakePointerTeacher
) -> None:
    trial = bench.way(MANY).try_out()
    assert trial.held.tolist() == MANY.folds[0][1].tolist()
    assert [len(texts) for texts in pointer_teacher.texts] == [2080]
    assert [len(aside) for aside in pointer_teacher.aside] == [208]


def test_rows_are_right_where_every_field_is(bench: Bench, pointer_teacher: FakePointerTeacher) -> None:
    """Nothing was taught: no machine, and the commoner state."""
    trial = bench.way(FEW).try_out()
    states = [str(fields["state"]) for fields in FEW.fields]
    said = {"state": max(sorted(set(states)), key=states.count)}
    right = [all_same(said, FEW.fields[row]) for row in trial.held.tolist()]
    assert trial.right.tolist() == right
    assert 0 < sum(right) < 20
    assert trial.figures["exact"] == pytest.approx(np.mean(right), abs=1e-4)
    assert trial.figures["epochs"] == pointer_teacher.best_epoch
    assert trial.calibration is not None
    assert sure(0.5, trial.calibration) == pytest.approx((sum(right) + 1) / 22, abs=1e-5)


def test_all_rows_are_taught_as_long_as_the_trial_found_best(
    bench: Bench, pointer_teacher: FakePointerTeacher
) -> None:
    way = bench.way(MANY)
    way.try_out()
    way.write(bench.work("out"))
    assert pointer_teacher.schedules[1].epochs == 4 < pointer_teacher.schedules[0].epochs
    assert len(pointer_teacher.texts[1]) == 2600
    assert len(pointer_teacher.aside[1]) == 0


def test_the_time_is_shared_out_by_rows(bench: Bench, pointer_teacher: FakePointerTeacher) -> None:
    way = bench.way(FEW, seconds=100)
    way.try_out()
    way.write(bench.work("out"))
    assert [schedule.seconds for schedule in pointer_teacher.schedules] == pytest.approx([16] * 5 + [20])


def test_each_run_has_a_state_of_its_own_to_go_on_from(
    bench: Bench, pointer_teacher: FakePointerTeacher
) -> None:
    way = bench.way(FEW)
    way.try_out()
    way.write(bench.work("out"))
    assert len(set(pointer_teacher.states)) == 6
    assert len({state.parent for state in pointer_teacher.states}) == 1


def test_folds_that_were_found_before_an_interruption_are_not_found_again(
    bench: Bench, pointer_teacher: FakePointerTeacher
) -> None:
    pointer_teacher.interrupted_at = 3
    with pytest.raises(KeyboardInterrupt):
        bench.way(FEW).try_out()
    first = bench.way(FEW).try_out()
    assert len(pointer_teacher.texts) == 5
    again = bench.way(FEW).try_out()
    assert len(pointer_teacher.texts) == 5
    assert again.figures == first.figures
    assert again.calibration == first.calibration
    assert again.reference == first.reference
    assert (again.held.tolist(), again.right.tolist()) == (first.held.tolist(), first.right.tolist())


def test_values_that_taught_nothing_are_told(bench: Bench, pointer_teacher: FakePointerTeacher) -> None:
    pointer_teacher.unreadable = (3, 0)
    bench.way(FEW).write(bench.work("out"))
    assert bench.said == [
        "3 of 20 rows have no usable span of machine: it starts or ends within a token, or after the first "
        "128 tokens."
    ]


def test_values_that_cannot_be_found_are_told(bench: Bench) -> None:
    lost: list[Row] = [("it leaks", {"machine": f"M{number}", "state": "heat"}) for number in range(2)]
    bench.way(lesson_of([*findings(98), *lost]))
    assert bench.said == [
        "2 of 100 rows have a value of machine that isn't in their text; verbatim texts and rare ones aren't "
        "learned by heart."
    ]


def test_fields_that_cannot_be_pointed_at_are_refused(bench: Bench) -> None:
    spec = make_field_spec([("M3 and M4", {"machines": ["M3", "M4"]})] * 3, {"machines": {"type": "array"}})
    with pytest.raises(ExportError, match=r"'machines' is not a single text, .*--method lora"):
        bench.way(spec)


# --- a decoder that writes ---------------------------------------------------------------------------

Writer = Callable[..., WriterMethod]


@pytest.fixture
def writer(bench: Bench, int4_base: Path, tiny: Path) -> Writer:
    """``writer(spec, seconds=0)``"""
    return lambda spec, seconds=0: bench.writer(spec, int4_base, tiny / "plain", seconds)


def test_writing_is_tried_on_the_first_fifth_alone(
    writer: Writer, teacher: FakeTeacher, int4_base: Path
) -> None:
    trial = writer(FEW).try_out()
    train, test = FEW.folds[0]
    assert [len(rows) for rows in teacher.rows] == [len(train)]
    assert (trial.method, trial.held.tolist()) == ("lora", test.tolist())
    assert trial.bytes > load_bundle(int4_base).weight_bytes
    assert trial.texts_per_s > 0


def test_what_a_decoder_writes_has_no_confidence(writer: Writer, teacher: FakeTeacher) -> None:
    trial = writer(FEW).try_out()
    assert (trial.calibration, trial.reference) == (None, None)
    assert "calibration_error" not in trial.figures


def test_written_fields_are_right_where_all_of_them_are(
    writer: Writer, teacher: FakeTeacher, answered: Answered
) -> None:
    rows = FEW.folds[0][1].tolist()
    wanted = [dict(FEW.fields[row]) for row in rows]
    answers = [
        wanted[0],
        None,
        {**wanted[2], "machine": "crane"},
        {**wanted[3], "state": " " + wanted[3]["state"]},
    ]
    of_text = dict(zip((FEW.texts[row] for row in rows), answers, strict=True))
    answered(lambda text: of_text[text] and {"fields": of_text[text]})
    trial = writer(FEW).try_out()
    assert trial.right.tolist() == [True, False, False, True]
    assert trial.figures["exact"] == 0.5
    assert trial.figures["epochs"] == teacher.best_epoch
    assert trial.texts_per_s == 250


def test_a_trial_of_writing_is_not_made_again(writer: Writer, teacher: FakeTeacher) -> None:
    first, again = writer(FEW).try_out(), writer(FEW).try_out()
    assert len(teacher.rows) == 1
    assert again.figures == first.figures
    assert (again.right.tolist(), again.bytes) == (first.right.tolist(), first.bytes)


def test_all_rows_are_taught_to_write_in_the_end(writer: Writer, teacher: FakeTeacher, bench: Bench) -> None:
    way = writer(FEW, seconds=90)
    way.try_out()
    fields = way.write(bench.work("out"))
    assert [len(rows) for rows in teacher.rows] == [16, 20]
    assert teacher.schedules[1].epochs == teacher.best_epoch < teacher.schedules[0].epochs
    assert [schedule.seconds for schedule in teacher.schedules] == pytest.approx([40, 50])
    assert (fields["kind"], fields["learned"]) == ("adapter", {"instruction": "Which machine?"})
    assert set(fields["report"]) == {"rank", "weight_bytes"}
