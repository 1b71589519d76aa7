"""Tasks on an encoder: a head on it as it is, and the encoder taught too."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeslm_export.jobs.checkpoint_notes import Notes
from edgeslm_export.jobs.subprocess_job import OnProgress
from edgeslm_export.sources.checkpoint import examine_local
from edgeslm_export.train.encoder_finetune import LAYER
from edgeslm_export.train.encoder_methods import EncoderMethod, HeadMethod, centroids_of, distances_from
from edgeslm_export.train.spec import Budget, TaskSpec

from edgeslm.bundle.manifest import load_bundle, verify_bundle
from edgeslm.engine.worker.heads import Head
from tests.support.export.children import FakeChildren
from tests.support.export.tiny_tasks import (
    DIMENSION,
    LABELS,
    FakeExport,
    fake_vectors,
    make_spec,
    sayings,
    write_rows,
)

# --- a head on the encoder as it is ------------------------------------------------------------------


def by_first_letter(rows: int) -> TaskSpec:
    """What ``fake_vectors`` tell apart."""
    spec = make_spec(rows)
    texts = [f"{LABELS[label]} {row}" for row, label in enumerate(spec.truth.tolist())]
    return replace(spec, texts=texts)


def test_a_head_is_tried_on_rows_that_it_did_not_learn_from(fake_encoder: Path) -> None:
    spec = by_first_letter(60)
    trial = HeadMethod(fake_encoder, spec).try_out()
    assert sorted(trial.held.tolist()) == list(range(60))
    assert trial.figures["accuracy"] > 0.9
    assert trial.figures["strength"] > 0
    assert trial.bytes == load_bundle(fake_encoder).weight_bytes
    assert len(trial.distances) == 60


def test_a_head_brings_its_weights_and_names_its_encoder(fake_encoder: Path, tmp_path: Path) -> None:
    way = HeadMethod(fake_encoder, by_first_letter(60))
    way.try_out()
    out = tmp_path / "out"
    out.mkdir()
    fields = way.write(out)
    assert fields["head"] == {"encoder": load_bundle(fake_encoder).digest, "weights": "head.npz"}
    assert (fields["kind"], fields["licence"], fields["context_length"]) == ("head", "mit", 64)
    with np.load(out / "head.npz", allow_pickle=False) as arrays:
        assert {name: values.dtype for name, values in arrays.items()} == dict.fromkeys(
            ("weight", "bias", "centroids"), np.dtype(np.float32)
        )
        guesses = (fake_vectors(None, LABELS) @ arrays["weight"].T + arrays["bias"]).argmax(1)
    assert guesses.tolist() == [0, 1]


# --- how far a text lies from what was learned -------------------------------------------------------


def test_centroids_stand_in_the_middle_of_what_was_learned() -> None:
    chance = np.random.default_rng(1)
    places = np.eye(DIMENSION)[[3, 9]]
    vectors = np.repeat(places, 40, axis=0) * 5 + chance.normal(0, 0.2, (80, DIMENSION))
    centroids = centroids_of(vectors)
    assert np.linalg.norm(centroids, axis=1) == pytest.approx(1)
    assert distances_from(centroids, places) == pytest.approx(0, abs=0.02)
    assert distances_from(centroids, -places).min() > 0.9


@pytest.mark.parametrize(("rows", "groups"), [(2, 1), (16, 2), (2000, 64)])
def test_many_rows_have_more_centroids(rows: int, groups: int) -> None:
    assert centroids_of(np.random.default_rng(0).standard_normal((rows, 4))).shape == (groups, 4)


def test_rows_that_are_all_alike_have_one_centroid() -> None:
    assert centroids_of(np.tile([3.0, 4.0], (50, 1))) == pytest.approx(np.array([[0.6, 0.8]]))


def test_a_distance_is_the_one_that_a_device_computes() -> None:
    chance = np.random.default_rng(2)
    centroids = centroids_of(chance.standard_normal((100, 8)))
    vectors = chance.standard_normal((5, 8)).astype(np.float32) * 3
    head = Head(np.zeros((2, 8), np.float32), np.zeros(2, np.float32), centroids)
    expected = distances_from(centroids, vectors).tolist()
    assert [head.distance(vector) for vector in vectors] == pytest.approx(expected, abs=1e-6)


# --- the encoder taught too: what is asked of the child ----------------------------------------------


class FakeTeachers:
    """In the place of the children that teach: keep what they are given, teach nothing."""

    def __init__(self) -> None:
        self.wanted: list[Any] = []
        self.jobs: list[dict[str, Any]] = []
        self.pairs: list[dict[str, Any]] = []

    def by_labels(self, task: dict[str, Any], on_progress: OnProgress | None) -> dict[str, Any]:
        shutil.copytree(task["source"], task["out"])
        labels = task["labels"]
        np.savez(Path(task["out"]) / LAYER, weight=np.zeros((labels, DIMENSION)), bias=np.zeros(labels))
        self.wanted.append(task["truth"])
        self.jobs.append(task)
        return {"epochs": 6.0, "best_epoch": 4, "loss": 0.1, "peak_rss": 1}

    def by_pairs(self, task: dict[str, Any], on_progress: OnProgress | None) -> dict[str, Any]:
        shutil.copytree(task["source"], task["out"])
        self.pairs.append(task)
        return {"epochs": 1.0, "best_epoch": 1, "loss": 0.1, "peak_rss": 1}


@pytest.fixture
def teachers(children: FakeChildren, exported: FakeExport, fake_encoder: Path) -> FakeTeachers:
    """Vectors of what is taught are ``fake_vectors``."""
    fake = FakeTeachers()
    children.steps |= {"train.encoder_finetune": fake.by_labels, "train.contrastive": fake.by_pairs}
    return fake


@pytest.fixture
def way(encoders: Path, tmp_path: Path) -> Callable[..., EncoderMethod]:
    """``way(spec, seconds=0)``: one more way with the same notes."""

    def make(spec: TaskSpec, seconds: float = 0) -> EncoderMethod:
        work = tmp_path / f"work-{len(list(tmp_path.iterdir()))}"
        work.mkdir()
        budget = Budget(seconds=seconds, announce=lambda said: None)
        origin = examine_local(encoders / "bge", "encoder")
        return EncoderMethod(origin, spec, budget, Notes(tmp_path / "notes"), work)

    return make


Make = Callable[..., EncoderMethod]
MANY = make_spec(520, one_fold=True)


def test_few_rows_are_taught_by_pairs_and_each_is_tested(way: Make, teachers: FakeTeachers) -> None:
    trial = way(by_first_letter(40)).try_out()
    assert (len(teachers.pairs), teachers.wanted) == (5, [])
    assert sorted(trial.held.tolist()) == list(range(40))
    assert trial.figures["taught_by"] == "pairs"
    assert trial.figures["accuracy"] > 0.9  # by a layer on what a device would compute
    assert trial.bytes == len(b"x")


def test_many_rows_are_taught_by_labels_with_some_aside(way: Make, teachers: FakeTeachers) -> None:
    trial = way(MANY).try_out()
    (wanted,), (job,) = teachers.wanted, teachers.jobs
    assert wanted == MANY.truth[MANY.folds[0][0]].tolist()
    assert len(job["aside"]) == 41
    assert trial.held.tolist() == MANY.folds[0][1].tolist()
    assert (trial.figures["taught_by"], trial.figures["epochs"]) == ("labels", 4)


def test_all_rows_are_taught_as_long_as_the_trial_found_best(
    way: Make, teachers: FakeTeachers, tmp_path: Path
) -> None:
    tried = way(MANY)
    tried.try_out()
    (tmp_path / "out").mkdir()
    fields = tried.write(tmp_path / "out")
    assert teachers.jobs[1]["schedule"]["epochs"] == 4 < teachers.jobs[0]["schedule"]["epochs"]
    assert (len(teachers.wanted[1]), teachers.jobs[1]["aside"]) == (520, [])
    assert (fields["kind"], fields["head"]) == ("head", {"weights": "head.npz"})
    assert fields["report"]["cosine_to_float"] == {"mean": 1.0}
    assert not (tmp_path / "out" / LAYER).exists()


def test_a_teachers_shares_are_what_is_wanted(way: Make, teachers: FakeTeachers) -> None:
    shares = np.linspace([0.9, 0.1], [0.2, 0.8], 520)
    way(replace(MANY, shares=shares)).try_out()
    assert teachers.wanted[0] == shares[MANY.folds[0][0]].tolist()


def test_the_time_is_shared_out_by_rows(way: Make, teachers: FakeTeachers, tmp_path: Path) -> None:
    tried = way(MANY, seconds=936)
    tried.try_out()
    (tmp_path / "out").mkdir()
    tried.write(tmp_path / "out")
    assert [job["schedule"]["seconds"] for job in teachers.jobs] == [416, 520]


@pytest.mark.parametrize("rows", [40, 520], ids=["pairs", "labels"])
def test_each_run_has_a_state_of_its_own_to_go_on_from(
    way: Make, teachers: FakeTeachers, tmp_path: Path, rows: int
) -> None:
    tried = way(by_first_letter(rows))
    tried.try_out()
    (tmp_path / "out").mkdir()
    tried.write(tmp_path / "out")
    states = [Path(job["state"]) for job in (*teachers.jobs, *teachers.pairs)]
    assert len(set(states)) == len(states) == 6
    assert {state.parent for state in states} == {tmp_path / "notes"}


@pytest.mark.parametrize("rows", [40, 520], ids=["pairs", "labels"])
def test_folds_that_were_found_are_not_taught_again(
    way: Make, teachers: FakeTeachers, rows: int, tmp_path: Path
) -> None:
    spec = by_first_letter(rows)
    first = way(spec).try_out()
    taught = len(teachers.wanted) + len(teachers.pairs)
    again = way(spec)
    trial = again.try_out()
    assert len(teachers.wanted) + len(teachers.pairs) == taught
    assert trial.figures == first.figures
    assert trial.fitted == first.fitted
    (tmp_path / "out").mkdir()
    again.write(tmp_path / "out")
    assert len(teachers.wanted) + len(teachers.pairs) == taught + 1


# --- the real way ------------------------------------------------------------------------------------


def test_an_encoder_is_taught_and_brought_along(
    tmp_path: Path, encoders: Path, run: Callable[..., subprocess.CompletedProcess[str]], one_thread: None
) -> None:
    """PyTorch, optimum's export, int8, the engine."""
    texts, truth = sayings(600)
    rows = [{"text": text, "label": LABELS[label]} for text, label in zip(texts, truth, strict=True)]
    data, others = (
        write_rows(tmp_path / "rows.jsonl", rows[:520]),
        write_rows(tmp_path / "o.jsonl", rows[520:]),
    )
    task = tmp_path / "task.yaml"
    task.write_text("name: noise")
    done = run("tune", task, data, tmp_path / "learned", "--encoder", encoders / "e5")
    assert done.returncode == 0, done.stderr
    assert "a trained encoder with its head" in done.stdout
    bundle = load_bundle(tmp_path / "learned")
    verify_bundle(bundle)
    assert bundle.manifest.head is not None
    assert bundle.manifest.head.encoder is None
    assert bundle.manifest.learned is not None
    assert bundle.manifest.learned.labels == LABELS
    assert bundle.manifest.model_kind == "encoder"
    assert sorted(file.name for file in tmp_path.iterdir() if file.name.startswith(".")) == []
    evaluated = run("evaluate", tmp_path / "learned", others, "--json")
    assert json.loads(evaluated.stdout)["rows"] == 80, evaluated.stderr
    assert json.loads(evaluated.stdout)["accuracy"] > 0.8
