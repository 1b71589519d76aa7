"""Tasks as adapters: taught on the bundle that carries them, and asked through it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeslm_export.bundle.writer import UNDATED, write_manifest
from edgeslm_export.evaluate.report_card import Required, evaluate_bundle
from edgeslm_export.jobs.checkpoint_notes import Notes
from edgeslm_export.sources.checkpoint import Origin, examine_local
from edgeslm_export.train.decoder_methods import RANK, DecoderMethod, schedule_for
from edgeslm_export.train.loop import Schedule
from edgeslm_export.train.lora_training import AdapterShape
from edgeslm_export.train.spec import Budget, TaskSpec, Trial

from edgeslm.bundle.manifest import load_bundle
from edgeslm.errors import ExportError
from tests.support.export.tiny_tasks import LABELS, FakeTeacher, make_spec, sayings, write_rows
from tests.support.taught import change_manifest

pytestmark = [pytest.mark.export, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def origin(tiny: Path) -> Origin:
    return examine_local(tiny / "plain", "decoder")


class Bench:
    """Makes ways, each with a scratch folder of its own."""

    def __init__(self, base: Path, origin: Origin, folder: Path) -> None:
        self.base, self._origin, self._folder = base, origin, folder
        self.said: list[str] = []
        self._made = 0

    def way(
        self, spec: TaskSpec, method: str = "lora", *, notes: str = "notes", seconds: float = 0
    ) -> DecoderMethod:
        self._made += 1
        work = self._folder / f"work-{self._made}"
        work.mkdir()
        budget = Budget(seconds=seconds, announce=self.said.append)
        return DecoderMethod(method, self.base, self._origin, spec, budget, Notes(self._folder / notes), work)


@pytest.fixture
def bench(int4_base: Path, origin: Origin, tmp_path: Path) -> Bench:
    return Bench(int4_base, origin, tmp_path)


# --- the real way ------------------------------------------------------------------------------------

LESSON = make_spec(100, one_fold=True)


@pytest.fixture(scope="module")
def tried(
    int4_base: Path, origin: Origin, tmp_path_factory: pytest.TempPathFactory, one_thread: None
) -> tuple[Bench, DecoderMethod, Trial]:
    bench = Bench(int4_base, origin, tmp_path_factory.mktemp("ways"))
    way = bench.way(LESSON)
    return bench, way, way.try_out()


def test_the_engine_with_the_adapter_is_right_on_rows_held_out(
    tried: tuple[Bench, DecoderMethod, Trial],
) -> None:
    bench, _, trial = tried
    assert trial.method == "lora"
    assert trial.held.tolist() == list(range(0, 100, 5))
    assert trial.right.mean() > 0.8
    assert trial.figures["accuracy"] > 0.8
    assert trial.texts_per_s > 0
    assert trial.bytes > load_bundle(bench.base).weight_bytes


def test_what_was_found_is_not_found_again(
    tried: tuple[Bench, DecoderMethod, Trial], teacher: FakeTeacher
) -> None:
    bench, _, trial = tried
    again = bench.way(LESSON).try_out()
    assert teacher.rows == [], "it is not taught again"
    assert again.fitted == trial.fitted
    assert again.figures == trial.figures


def test_what_is_written_is_an_adapter_that_knows_the_task(
    tried: tuple[Bench, DecoderMethod, Trial], tmp_path: Path
) -> None:
    bench, way, trial = tried
    out = tmp_path / "adapter"
    out.mkdir()
    fields = way.write(out)
    assert fields.pop("licence") == load_bundle(bench.base).manifest.source.licence
    report: dict[str, Any] = fields.pop("report")
    assert set(report) == {"rank", "weight_bytes"}
    learned = {"task": "noise", "kind": "classify", "labels": LABELS, "rows": 100}
    learned |= {"instruction": "Heat or noise?", "calibration": trial.fitted.calibration}
    own = {"name": "noise", "source": {"id": "rows"}, "created": UNDATED, "learned": learned}
    manifest = write_manifest(out, {**own, **fields})
    assert manifest.adapter is not None
    assert manifest.adapter.base == load_bundle(bench.base).digest
    texts, truth = sayings(30, seed=8)
    rows = [{"text": text, "label": LABELS[label]} for text, label in zip(texts, truth, strict=True)]
    wanted = Required(data=write_rows(tmp_path / "others.jsonl", rows), base=bench.base)
    evaluated = evaluate_bundle(out, wanted)
    assert (evaluated["rows"], evaluated["learned_from"]) == (30, 100)
    assert evaluated["accuracy"] > 0.8


def test_a_base_in_four_bits_learns_the_same(bench: Bench) -> None:
    trial = bench.way(LESSON, "qlora").try_out()
    assert trial.method == "qlora"
    assert trial.figures["accuracy"] > 0.8


# --- how it is taught --------------------------------------------------------------------------------


def test_each_fold_is_taught_without_the_rows_that_it_is_tested_on(
    bench: Bench, teacher: FakeTeacher
) -> None:
    spec = make_spec(20)
    folds = spec.folds[:2]
    trial = bench.way(replace(spec, folds=folds)).try_out()
    assert [len(rows) for rows in teacher.rows] == [16, 16]
    assert trial.held.tolist() == [*folds[0][1].tolist(), *folds[1][1].tolist()]
    assert set(teacher.shapes) == {AdapterShape(RANK, "stored")}


def test_the_last_run_is_as_long_as_the_trials_found_best(
    bench: Bench, teacher: FakeTeacher, tmp_path: Path
) -> None:
    way = bench.way(LESSON)
    trial = way.try_out()
    (tmp_path / "out").mkdir()
    way.write(tmp_path / "out")
    assert trial.figures["epochs"] == teacher.best_epoch
    assert teacher.schedules[1].epochs == teacher.best_epoch < teacher.schedules[0].epochs
    assert len(teacher.rows[-1]) == 100


def test_the_time_is_shared_out_by_rows(bench: Bench, teacher: FakeTeacher, tmp_path: Path) -> None:
    way = bench.way(LESSON, seconds=90)
    way.try_out()
    (tmp_path / "out").mkdir()
    way.write(tmp_path / "out")
    assert [schedule.seconds for schedule in teacher.schedules] == [40, 50]


def test_many_rows_have_some_aside(bench: Bench, teacher: FakeTeacher) -> None:
    few, many = make_spec(100, one_fold=True), make_spec(400, one_fold=True)
    bench.way(few, notes="few").try_out()
    bench.way(many, notes="many").try_out()
    assert teacher.aside[0] == []
    assert len(teacher.aside[1]) == 32


def test_texts_that_are_too_long_are_left_out_and_it_is_said(bench: Bench, teacher: FakeTeacher) -> None:
    """Rows aside are counted among those that are left."""
    spec = make_spec(400, one_fold=True)
    texts = list(spec.texts)
    bench.way(spec, notes="short").try_out()
    watched = [teacher.rows[0][place].prompt for place in teacher.aside[0]]
    taught = next(place for place in range(320) if place not in teacher.aside[0])
    for place in (taught, teacher.aside[0][5]):
        texts[spec.folds[0][0][place]] += " x" * 300
    bench.way(replace(spec, texts=texts), notes="long").try_out()
    assert bench.said == ["2 texts left out: too long to learn from."]
    assert len(teacher.rows[1]) == 318
    del watched[5]
    assert [teacher.rows[1][place].prompt for place in teacher.aside[1]] == watched


def test_shares_of_a_teacher_are_learned_where_there_are_some(bench: Bench, teacher: FakeTeacher) -> None:
    shares = np.full((100, 2), 0.5)
    shares[:, 0] += np.linspace(0, 0.4, 100)
    shares[:, 1] -= np.linspace(0, 0.4, 100)
    bench.way(replace(LESSON, shares=shares)).try_out()
    (rows,) = teacher.rows
    train = LESSON.folds[0][0].tolist()
    for place in (0, 30, 79):
        steps = rows[place].steps
        assert steps is not None
        assert steps[0][1] == pytest.approx(shares[train[place]].tolist())


@pytest.mark.parametrize(
    ("rows", "schedule"),
    [(50, Schedule(12, 8, 8e-4)), (400, Schedule(5, 8, 8e-4)), (1000, Schedule(8, 32, 8e-4))],
)
def test_few_rows_are_seen_more_often(rows: int, schedule: Schedule) -> None:
    assert schedule_for(rows) == schedule


def test_rows_by_the_thousand_are_seen_twice() -> None:
    assert schedule_for(100_000).epochs == 2


# --- refusals ----------------------------------------------------------------------------------------


def test_a_base_that_takes_no_adapters_is_refused(bench: Bench, tmp_path: Path) -> None:
    bench.base = Path(shutil.copytree(bench.base, tmp_path / "base"))
    change_manifest(bench.base, graphs={"generate": "model.onnx"})
    with pytest.raises(ExportError, match="has no graph that takes adapters; export it again"):
        bench.way(LESSON)


def test_a_missing_library_is_told_before_anything_is_taught(
    bench: Bench, packages_there: dict[str, bool]
) -> None:
    packages_there["peft"] = False
    with pytest.raises(ExportError, match="needs the package peft"):
        bench.way(LESSON)
