"""Learning a head: what it writes, how good it is on separable data, what bad data is told."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from edgeslm_export import tune, ways
from edgeslm_export.checkpoint import examine_local
from edgeslm_export.contrast import contrast_encoder
from edgeslm_export.encoder import read_pooling
from edgeslm_export.head import split_folds
from edgeslm_export.package import UNDATED, write_manifest

from edgeslm.bundle import load_bundle, verify_bundle
from edgeslm.errors import ExportError

DIMENSION = 16
QUIET = ways.Effort(announce=lambda _: None)


def fake_vectors(encoder: object, texts: list[str]) -> npt.NDArray[np.float32]:
    """A vector for each text: the direction of its first letter, and noise."""
    random = np.random.default_rng(len(texts))
    vectors = random.standard_normal((len(texts), DIMENSION)).astype(np.float32) * 0.3
    for row, text in enumerate(texts):
        vectors[row, ord(text[0]) % DIMENSION] += 1
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"x")
    fields = {
        "name": "tiny",
        "kind": "encoder",
        "architecture": "BertModel",
        "source": {"id": "tiny"},
        "graphs": {"encode": "model.onnx"},
        "context_length": 64,
        "encoder": {"dimension": DIMENSION},
        "created": UNDATED,
    }
    write_manifest(folder, fields)
    monkeypatch.setattr(ways, "load_encoder", lambda path: None)
    monkeypatch.setattr(ways, "embed_texts", fake_vectors)
    return folder


def _task(folder: Path, text: str) -> Path:
    file = folder / "task.yaml"
    file.write_text(text)
    return file


def _data(folder: Path, labels: str, each: int) -> Path:
    file = folder / "data.jsonl"
    rows = [{"text": f"{label}{number}", "label": label} for number in range(each) for label in labels]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.mark.parametrize("labels", ["ab", "abcd"])
def test_a_head_is_learned_and_its_bytes_repeat(tmp_path: Path, encoder: Path, labels: str) -> None:
    task = tune.load_task(_task(tmp_path, f"name: letter\nkind: classify\nlabels: {list(labels)}"))
    data = _data(tmp_path, labels, 20)
    manifest, report = tune.tune(task, data, tmp_path / "one", ways.Ground(encoder), QUIET)
    tune.tune(task, data, tmp_path / "two", ways.Ground(encoder), QUIET)
    bundle = load_bundle(tmp_path / "one")
    verify_bundle(bundle)
    assert bundle.digest == load_bundle(tmp_path / "two").digest
    assert manifest.head is not None
    assert manifest.head.labels == tuple(labels)
    assert manifest.head.encoder == load_bundle(encoder).digest
    assert manifest.head.rows == 20 * len(labels)
    assert report["accuracy"] > 0.9
    assert report["interval"][0] < report["accuracy"] <= report["interval"][1]
    measured = report.pop("measured")
    assert json.loads((bundle.path / "report.json").read_text()) == report
    assert list(report["methods"]) == list(measured) == ["head"]

    with np.load(bundle.path / "head.npz", allow_pickle=False) as arrays:
        assert arrays["weight"].shape == (len(labels), DIMENSION)
        assert arrays["weight"].dtype == arrays["bias"].dtype == np.float32
        logits = fake_vectors(None, [label * 3 for label in labels]) @ arrays["weight"].T + arrays["bias"]
    assert logits.argmax(axis=1).tolist() == list(range(len(labels)))


def test_labels_may_come_from_the_data(tmp_path: Path, encoder: Path) -> None:
    task = tune.load_task(_task(tmp_path, "name: letter"))
    manifest, _ = tune.tune(task, _data(tmp_path, "ba", 6), tmp_path / "out", ways.Ground(encoder), QUIET)
    assert manifest.head is not None
    assert manifest.head.labels == ("a", "b")


def test_two_rows_of_a_label_are_enough(tmp_path: Path, encoder: Path) -> None:
    task = tune.load_task(_task(tmp_path, "name: letter"))
    _, report = tune.tune(task, _data(tmp_path, "ab", 2), tmp_path / "out", ways.Ground(encoder), QUIET)
    assert report["rows"] == 4


@pytest.mark.parametrize(
    ("labels", "each", "task", "sentence"),
    [
        ("ab", 1, "name: t", "has 1 different texts with the label 'a'; add some"),
        ("a", 5, "name: t", "has one label only"),
        ("ab", 5, "name: t\nlabels: [a, b, c]", "has 0 different texts with the label 'c'"),
        ("ab", 5, "name: t\nlabels: [a, c]", "Row 2 has the label 'b', which is none of a, c"),
    ],
)
def test_data_that_cannot_be_learned_from(
    tmp_path: Path, encoder: Path, labels: str, each: int, task: str, sentence: str
) -> None:
    loaded, data = tune.load_task(_task(tmp_path, task)), _data(tmp_path, labels, each)
    with pytest.raises(ExportError, match=sentence):
        tune.tune(loaded, data, tmp_path / "out", ways.Ground(encoder), QUIET)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a\n- b", "is no task"),
        ("kind: classify", "has no name"),
        ("name: t\nkind: extract", "is of kind extract; only classify"),
        ("name: t\nlabels: many", "labels must be a list"),
        ("name: t\nlabels: [[a], [b]]", "is no text; write one text a label"),
        ("name: [", "is not YAML at line 1"),
    ],
)
def test_a_task_that_cannot_be_used(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ExportError, match=sentence):
        tune.load_task(_task(tmp_path, text))


def test_labels_that_yaml_takes_for_truth_values_stay_texts(tmp_path: Path) -> None:
    assert tune.load_task(_task(tmp_path, "name: t\nlabels: {yes: agreed, no: refused}")).labels == (
        "yes",
        "no",
    )


def test_a_task_with_described_labels(tmp_path: Path) -> None:
    text = "name: triage\nkind: classify\nmodel: small\nlabels: {normal: all is well, critical: stop now}"
    assert tune.load_task(_task(tmp_path, text)) == tune.Task("triage", ("normal", "critical"), "small")


# --- ways ------------------------------------------------------------------------------------------


def _trial(method: str, held: Sequence[int], guesses: Sequence[int]) -> ways.Trial:
    return ways.Trial(method, np.array(held), np.eye(2)[list(guesses)], {}, 1.0, 1.0)


@pytest.mark.parametrize(
    ("better", "worse", "chosen"),
    [(0, 0, "head"), (1, 0, "head"), (2, 0, "encoder"), (5, 3, "head"), (0, 9, "head"), (9, 1, "encoder")],
)
def test_what_costs_more_has_to_be_better_by_more_than_luck(better: int, worse: int, chosen: str) -> None:
    """On rows that both held out: here the odd ones of a hundred, each truly of label 0."""
    truth = np.zeros(100, np.int64)
    head = [1] * better + [0] * (50 - better)
    encoder = [0] * better + [1] * worse + [0] * (50 - better - worse)
    cheap = _trial("head", range(100), [guess for pair in zip(head, [1] * 50, strict=True) for guess in pair])
    dear = _trial("encoder", range(0, 100, 2), encoder)
    assert tune.choose([cheap, dear], truth).method == chosen


def _lesson(rows: int) -> ways.Lesson:
    texts, truth = [str(number) for number in range(rows)], np.arange(rows) % 2
    return ways.Lesson(texts, truth, ("a", "b"), split_folds(truth, 2, texts))


@pytest.mark.parametrize(
    ("method", "rows", "bundle", "checkpoint", "tried"),
    [
        (None, 200, True, True, ["HeadWay", "EncoderWay"]),
        (None, 40, False, True, ["EncoderWay"]),
        (None, 40, True, False, ["HeadWay"]),
        ("encoder", 40, True, True, ["EncoderWay"]),
        ("head", 200, True, True, ["HeadWay"]),
        ("head", 200, False, True, "needs an encoder's bundle"),
        ("encoder", 200, True, False, "needs an encoder's checkpoint"),
    ],
)
def test_which_ways_are_tried(
    tmp_path: Path,
    encoder: Path,
    encoders: Path,
    method: str | None,
    rows: int,
    bundle: bool,
    checkpoint: bool,
    tried: list[str] | str,
) -> None:
    ground = ways.Ground(
        encoder if bundle else None, examine_local(encoders / "bge", "encoder") if checkpoint else None
    )
    lesson = _lesson(rows)
    effort = ways.Effort(method)
    if isinstance(tried, str):
        with pytest.raises(ExportError, match=tried):
            ways.make_ways(ground, lesson, effort, tmp_path)
    else:
        assert [type(way).__name__ for way in ways.make_ways(ground, lesson, effort, tmp_path)] == tried


def test_an_encoder_is_taught_and_brought_along(
    tmp_path: Path, encoders: Path, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """The real way: PyTorch, optimum's export, int8, the engine. What tells the labels apart is one word."""
    words, random = ("pump", "press", "valve", "oil"), np.random.default_rng(5)
    rows = []
    for number in range(600):
        label = ("hot", "loud")[number % 2]
        rows.append({"text": f"the {random.choice(words)} is {label} {random.integers(100)}", "label": label})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows[:520])))
    (tmp_path / "others.jsonl").write_text("\n".join(map(json.dumps, rows[520:])))
    task = _task(tmp_path, "name: noise")
    arguments = ("tune", task, tmp_path / "rows.jsonl", tmp_path / "learned", "--encoder", encoders / "e5")
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "an encoder taught for it" in done.stdout
    bundle = load_bundle(tmp_path / "learned")
    verify_bundle(bundle)
    assert bundle.manifest.head is not None
    assert bundle.manifest.head.encoder is None
    assert bundle.manifest.model_kind == "encoder"
    assert sorted(file.name for file in tmp_path.iterdir() if file.name.startswith(".")) == []
    evaluated = run("evaluate", tmp_path / "learned", tmp_path / "others.jsonl", "--json")
    assert json.loads(evaluated.stdout)["rows"] == 80, evaluated.stderr
    assert json.loads(evaluated.stdout)["accuracy"] > 0.8


def test_without_the_library_few_rows_are_learned_by_a_head(
    tmp_path: Path, encoder: Path, encoders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "is_installed", lambda: False)
    ground = ways.Ground(encoder, examine_local(encoders / "bge", "encoder"))
    few, many = _lesson(40), _lesson(400)
    said: list[str] = []
    effort = ways.Effort(announce=said.append)
    assert len(ways.make_ways(ground, many, effort, tmp_path)) == 2 and said == []
    assert len(ways.make_ways(ground, few, effort, tmp_path)) == 1
    assert "pip install 'edgeslm[teach]'. Only a head is tried." in said[0]


class _Trap:
    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self._file),)


def test_a_few_rows_teach_an_encoder_by_pairs(tmp_path: Path, encoders: Path) -> None:
    """The real library, on a tiny model."""
    texts = [f"the pump is {word} {number}" for number in range(8) for word in ("hot", "loud")]
    section, _ = read_pooling(encoders / "e5")
    source = tmp_path / "source"
    shutil.copytree(encoders / "e5", source)
    (source / "model_head.pkl").write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    contrast_encoder(source, tmp_path / "out", section, 64, texts, [0, 1] * 8)
    assert not (tmp_path / "sprung").exists()  # SetFit's own loader runs what is in this file
    origin = examine_local(tmp_path / "out", "encoder")
    assert origin.architecture == "XLMRobertaModel"
    assert (tmp_path / "out" / "1_Pooling" / "config.json").is_file()
    before, after = (
        (folder / "model.safetensors").read_bytes() for folder in (encoders / "e5", tmp_path / "out")
    )
    assert before != after


class _FakeWay:
    """A way of learning that may fail at its trial, or when its bundle is written."""

    bytes = 1

    def __init__(self, trial: ways.Trial | None, writes: bool = True) -> None:
        self._trial, self._writes = trial, writes

    def try_out(self) -> ways.Trial:
        if self._trial is None:
            raise ExportError("It ran out of memory.")
        return self._trial

    def write(self, stage: Path) -> dict[str, Any]:
        (stage / "half").write_text("made")
        if not self._writes:
            raise ExportError("The disk is full.")
        return {"way": self._trial.method if self._trial else ""}


@pytest.mark.parametrize("fails_at", ["trial", "write"])
def test_a_head_that_worked_is_not_lost_to_an_encoder_that_did_not(tmp_path: Path, fails_at: str) -> None:
    lesson, said = _lesson(20), []  # type: ways.Lesson, list[str]
    wrong, right = [1 - int(label) for label in lesson.truth], [int(label) for label in lesson.truth]
    head = _FakeWay(_trial("head", range(20), wrong))
    encoder = _FakeWay(None if fails_at == "trial" else _trial("encoder", range(20), right), writes=False)
    effort = ways.Effort(announce=said.append)
    trials = tune._try_out([head, encoder], effort)  # type: ignore[list-item]
    best, fields = tune._write_best([head, encoder], trials, lesson, effort, tmp_path)  # type: ignore[list-item]
    assert (best.method, fields) == ("head", {"way": "head"})
    assert len(said) == 1 and said[0].endswith("So the encoder stays as it is.")
    with pytest.raises(ExportError, match="out of memory"):
        tune._try_out([_FakeWay(None)], effort)  # type: ignore[list-item]
