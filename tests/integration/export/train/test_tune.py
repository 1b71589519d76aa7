"""Learning a classify task: what task and rows have to be, which way is taken, what is written of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeslm_export.bundle.writer import UNDATED
from edgeslm_export.data.rows import LabelledRow
from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.sources.checkpoint import Origin
from edgeslm_export.train import tune
from edgeslm_export.train.spec import Budget, Inputs, TaskSpec, Trial, make_trial

from edgeslm.bundle.calibration import find_threshold
from edgeslm.bundle.manifest import Source, load_bundle, verify_bundle
from edgeslm.errors import ConfigError, ExportError
from tests.support.export.tiny_tasks import DIMENSION, fake_vectors, make_spec, write_encoder, write_rows
from tests.support.taught import write_base

QUIET = Budget(announce=lambda _: None)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where notes are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _task(folder: Path, text: str) -> tune.Task:
    file = folder / "task.yaml"
    file.write_text(text)
    return tune.load_task(file)


def _data(folder: Path, labels: str, each: int) -> Path:
    rows = [{"text": f"{label}{number}", "label": label} for number in range(each) for label in labels]
    return write_rows(folder / "data.jsonl", rows)


# --- a head, from rows to bundle ---------------------------------------------------------------------


@pytest.mark.parametrize("labels", ["ab", "abcd"])
def test_a_head_is_learned_and_its_bytes_repeat(tmp_path: Path, fake_encoder: Path, labels: str) -> None:
    task = _task(tmp_path, f"name: letter\nkind: classify\nlabels: {list(labels)}")
    data = _data(tmp_path, labels, 20)
    manifest, report = tune.tune(task, data, tmp_path / "one", Inputs(fake_encoder), QUIET)
    tune.tune(task, data, tmp_path / "two", Inputs(fake_encoder), QUIET)
    bundle = load_bundle(tmp_path / "one")
    verify_bundle(bundle)
    assert bundle.digest == load_bundle(tmp_path / "two").digest
    assert manifest.head is not None
    assert manifest.head.encoder == load_bundle(fake_encoder).digest
    assert (manifest.name, manifest.created, manifest.source.licence) == ("letter-head", UNDATED, "mit")
    assert report["accuracy"] > 0.9
    assert report["interval"][0] < report["accuracy"] <= report["interval"][1]
    measured = report.pop("measured")
    assert json.loads((bundle.path / "report.json").read_text()) == report
    assert list(report["methods"]) == list(measured) == ["head"]

    with np.load(bundle.path / "head.npz", allow_pickle=False) as arrays:
        assert arrays["weight"].shape == (len(labels), DIMENSION)
        logits = fake_vectors(None, [label * 3 for label in labels]) @ arrays["weight"].T + arrays["bias"]
    assert logits.argmax(axis=1).tolist() == list(range(len(labels)))


def test_what_was_learned_is_said_in_the_manifest(tmp_path: Path, fake_encoder: Path) -> None:
    task = _task(tmp_path, "name: letter\ninstruction: Which letter?")
    data = _data(tmp_path, "ab", 20)
    tune.tune(task, data, tmp_path / "out", Inputs(fake_encoder), QUIET)
    learned = load_bundle(tmp_path / "out").manifest.learned
    assert learned is not None
    assert (learned.task, learned.kind, learned.labels, learned.rows) == (
        "letter",
        "classify",
        ("a", "b"),
        40,
    )
    assert learned.instruction is None  # nobody is told anything on an encoder
    assert learned.calibration is not None
    assert learned.calibration.rows == 40
    assert learned.calibration.risk[0].coverage == 1
    assert learned.reference is not None
    assert len(learned.reference.distances) == len(learned.reference.confidences)


def test_the_report_promises_what_a_device_will_do(tmp_path: Path, fake_encoder: Path) -> None:
    task, data = _task(tmp_path, "name: letter"), _data(tmp_path, "ab", 40)
    manifest, report = tune.tune(task, data, tmp_path / "out", Inputs(fake_encoder), QUIET)
    assert list(report["coverage"]) == ["0.1", "0.05", "0.02", "0.01"]
    assert manifest.learned is not None and manifest.learned.calibration is not None
    point = find_threshold(manifest.learned.calibration, 0.05)
    assert point is not None
    assert report["coverage"]["0.05"] == point.coverage
    assert report["coverage"]["0.01"] is None  # 80 rows can't show that


def test_labels_may_come_from_the_data(tmp_path: Path, fake_encoder: Path) -> None:
    task, data = _task(tmp_path, "name: letter"), _data(tmp_path, "ba", 6)
    manifest, _ = tune.tune(task, data, tmp_path / "out", Inputs(fake_encoder), QUIET)
    assert manifest.learned is not None
    assert manifest.learned.labels == ("a", "b")


def test_two_rows_of_a_label_are_enough(tmp_path: Path, fake_encoder: Path) -> None:
    task, data = _task(tmp_path, "name: letter"), _data(tmp_path, "ab", 2)
    _, report = tune.tune(task, data, tmp_path / "out", Inputs(fake_encoder), QUIET)
    assert report["rows"] == 4


# --- rows and tasks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "each", "task", "sentence"),
    [
        ("ab", 1, "name: t", "has 1 different texts with the label 'a'; add some"),
        ("a", 5, "name: t", "has one label only"),
        ("ab", 5, "name: t\nlabels: [a, b, c]", "has 0 different texts with the label 'c'"),
        ("ab", 5, "name: t\nlabels: [a, c]", "Row 2 has the label 'b', which is none of a, c"),
        ("ab", 5, "name: t\nkind: extract", "of kind extract and the rows of .* have a label; rows with"),
    ],
)
def test_data_that_cannot_be_learned_from(
    tmp_path: Path, fake_encoder: Path, labels: str, each: int, task: str, sentence: str
) -> None:
    loaded, data = _task(tmp_path, task), _data(tmp_path, labels, each)
    with pytest.raises(ExportError, match=sentence):
        tune.tune(loaded, data, tmp_path / "out", Inputs(fake_encoder), QUIET)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a\n- b", "task.yaml:1: file: not a mapping"),
        ("kind: classify", "task.yaml:1: name: missing: give the task a name"),
        ("name: t\nlabels: many", "task.yaml:2: labels: "),
        ("name: t\nlabels: [[a], [b]]", "task.yaml:2: labels"),
        ("name: t\nlabels: [a]", "task.yaml:2: labels: needs at least two labels"),
        ("name: t\nlables: [a, b]", "unknown key: did you mean labels"),
    ],
)
def test_a_task_that_is_not_sound(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        _task(tmp_path, text)


def test_a_task_of_another_kind_is_not_learned(tmp_path: Path) -> None:
    text = "name: t\nkind: summarize\nmodel: small"
    with pytest.raises((ConfigError, ExportError), match="is of kind summarize; only classify and extract"):
        _task(tmp_path, text)


def test_labels_that_yaml_takes_for_truth_values_stay_texts(tmp_path: Path) -> None:
    assert _task(tmp_path, "name: t\nlabels: {yes: agreed, no: refused}").labels == ("yes", "no")


def test_an_entry_of_a_configuration_can_be_learned_as_it_is(tmp_path: Path) -> None:
    """How it is done so far doesn't matter."""
    how = "model: small\nstages: [learned, small]\nlearned: old\nmax_error: 0.02\n"
    text = f"name: triage\nkind: classify\n{how}labels: {{normal: all is well, critical: stop now}}"
    task = _task(tmp_path, text)
    assert (task.name, task.labels) == ("triage", ("normal", "critical"))


def test_a_wanted_recall_is_of_a_label_of_the_task(tmp_path: Path) -> None:
    task = _task(tmp_path, "name: letter\nlabels: [b, a]")
    rows = [LabelledRow(number, f"{label}{number}", label) for number in range(10) for label in "ab"]
    assert tune.make_spec(task, rows, recalls={"a": 0.95}).recalls == {1: 0.95}
    with pytest.raises(ExportError, match="--recall: 'c' is none of the labels b, a"):
        tune.make_spec(task, rows, recalls={"c": 0.95})


def test_a_decoder_is_told_the_instruction_or_else_the_name(tmp_path: Path) -> None:
    assert _task(tmp_path, "name: triage\ninstruction: How bad is it?").instruction == "How bad is it?"
    assert _task(tmp_path, "name: triage").instruction == "triage"


# --- which way is taken ------------------------------------------------------------------------------


def _trial(
    method: str, held: Sequence[int], guesses: Sequence[int], rows: int = 100, speed: float = 1.0
) -> Trial:
    spec = make_spec(rows)
    return make_trial(method, np.array(held), np.eye(2)[list(guesses)], spec, {}, speed, 1)


@pytest.mark.parametrize(
    ("better", "worse", "chosen"),
    [(0, 0, "head"), (1, 0, "head"), (2, 0, "lora"), (5, 3, "head"), (0, 9, "head"), (9, 1, "lora")],
)
def test_what_is_much_slower_has_to_be_better_by_more_than_luck(better: int, worse: int, chosen: str) -> None:
    """On rows that both held out: here the odd ones of a hundred, each truly of label 0."""
    head = [1] * better + [0] * (50 - better)
    adapter = [0] * better + [1] * worse + [0] * (50 - better - worse)
    guesses = [guess for pair in zip(head, [1] * 50, strict=True) for guess in pair]
    fast = _trial("head", range(100), guesses, speed=200.0)
    slow = _trial("lora", range(0, 100, 2), adapter, speed=5.0)
    assert tune.choose([fast, slow]).method == chosen


@pytest.mark.parametrize(
    ("better", "worse", "chosen"), [(0, 0, "head"), (1, 0, "encoder"), (5, 4, "encoder"), (4, 5, "head")]
)
def test_what_is_as_fast_only_has_to_be_better(better: int, worse: int, chosen: str) -> None:
    """A head and an encoder that was taught take as long on a device."""
    head = [1] * better + [0] * (50 - better)
    encoder = [0] * better + [1] * worse + [0] * (50 - better - worse)
    held = range(0, 100, 2)
    trials = [_trial("head", held, head, speed=200.0), _trial("encoder", held, encoder, speed=180.0)]
    assert tune.choose(trials).method == chosen


@pytest.mark.parametrize(
    ("sure", "wrong", "chosen"), [(0.95, 0, "lora"), (0.95, 1, "head"), (0.6, 0, "head"), (0.5, 0, "head")]
)
def test_being_surer_of_as_many_right_answers_is_better(sure: float, wrong: int, chosen: str) -> None:
    """Of few rows the loss tells more than the count. The head gives each true label 0.6."""
    spec, held = make_spec(40), np.arange(0, 40, 2)

    def trial(method: str, share: float, errors: int) -> Trial:
        right = np.array([share] * (len(held) - errors) + [1 - share] * errors)
        fake = make_trial(method, held, np.log(np.stack([right, 1 - right], 1)), spec, {}, 1.0, 1)
        # As if calibration changed nothing.
        return replace(fake, losses=-np.log(right), right=right > 0.5, texts_per_s=speeds[method])

    speeds = {"head": 200.0, "lora": 5.0}
    assert tune.choose([trial("head", 0.6, 0), trial("lora", sure, wrong)]).method == chosen


class _FakeWay:
    """A way of learning that may fail at its trial, or when its bundle is written."""

    def __init__(self, method: str, trial: Trial | None, writes: bool = True) -> None:
        self.method, self._trial, self._writes = method, trial, writes

    def try_out(self) -> Trial:
        if self._trial is None:
            raise ExportError("It ran out of memory.")
        return self._trial

    def write(self, stage: Path) -> dict[str, Any]:
        (stage / "half").write_text("made")
        if not self._writes:
            raise ExportError("The disk is full.")
        return {"way": self.method}


def _way(method: str, spec: TaskSpec, *, right: bool, fails_at: str = "") -> _FakeWay:
    guesses = [int(label) if right else 1 - int(label) for label in spec.truth]
    trial = _trial(method, range(len(guesses)), guesses, len(guesses))
    return _FakeWay(method, None if fails_at == "trial" else trial, writes=fails_at != "write")


def _taken(
    ways: Sequence[_FakeWay], spec: TaskSpec, budget: Budget, work: Path
) -> tuple[str, dict[str, Any]]:
    best, fields = tune.write_best(tune.try_methods(ways, budget), budget, work)
    return best.method, fields


@pytest.mark.parametrize("fails_at", ["trial", "write"])
def test_a_head_that_worked_is_not_lost_to_an_encoder_that_did_not(tmp_path: Path, fails_at: str) -> None:
    spec, said = make_spec(20), []  # type: TaskSpec, list[str]
    ways = [
        _way("head", spec, right=False),
        _way("encoder", spec, right=True, fails_at=fails_at),
    ]
    taken = _taken(ways, spec, Budget(announce=said.append), tmp_path)
    assert taken == ("head", {"way": "head"})
    assert said == [
        "head: 0.000 of 20 held-out rows right. Other methods follow; to stop here, interrupt and take "
        "--method head.",
        "It ran out of memory. So it is left out."
        if fails_at == "trial"
        else "The disk is full. So head is taken.",
    ]


def test_the_best_way_is_the_one_that_is_written(tmp_path: Path) -> None:
    """Also where one before it failed."""
    spec = make_spec(20)
    ways = [
        _way("head", spec, right=False),
        _way("encoder", spec, right=True, fails_at="trial"),
        _way("lora", spec, right=True),
    ]
    assert _taken(ways, spec, QUIET, tmp_path) == ("lora", {"way": "lora"})


def test_without_any_way_that_worked_its_sentence_is_told() -> None:
    with pytest.raises(ExportError, match="out of memory"):
        tune.try_methods([_FakeWay("head", None)], QUIET)


# --- notes of an interrupted command -----------------------------------------------------------------


def _notes(
    folder: Path, text: str, inputs: Inputs, *, each: int = 5, methods: tuple[str, ...] = ("lora",)
) -> set[Path]:
    """The folders of notes that there are after a command that failed: it had no decoder."""
    task, data = _task(folder, text), _data(folder, "ab", each)
    with pytest.raises(ExportError, match="needs a decoder's bundle"):
        tune.tune(task, data, folder / "out", inputs, Budget(methods=methods))
    return set(cache_folder().glob("tune-*"))


def test_the_same_command_takes_up_its_notes(tmp_path: Path) -> None:
    inputs = Inputs(write_encoder(tmp_path / "encoder"))
    first = _notes(tmp_path, "name: letter", inputs)
    assert len(first) == 1
    assert _notes(tmp_path, "name: letter", inputs) == first


@pytest.mark.parametrize("change", ["rows", "methods", "labels", "instruction", "made anew"])
def test_another_command_takes_up_none(tmp_path: Path, change: str) -> None:
    """What was found with another prompt or on another encoder says nothing."""
    encoder = write_encoder(tmp_path / "encoder")
    inputs, text, how = Inputs(encoder), "name: letter", dict[str, Any]()
    first = _notes(tmp_path, text, inputs)
    if change == "rows":
        how["each"] = 6
    elif change == "methods":
        how["methods"] = ("qlora",)
    elif change == "labels":
        text = "name: letter\nlabels: [b, a]"
    elif change == "instruction":
        text = "name: letter\ninstruction: Which letter does it begin with?"
    else:
        manifest = encoder / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"tiny"', '"larger"'))
    assert len(_notes(tmp_path, text, inputs, **how) - first) == 1


def test_notes_go_when_the_bundle_is_there(tmp_path: Path, fake_encoder: Path) -> None:
    task, data = _task(tmp_path, "name: letter"), _data(tmp_path, "ab", 6)
    tune.tune(task, data, tmp_path / "out", Inputs(fake_encoder), QUIET)
    assert list(cache_folder().glob("tune-*")) == []


def test_an_interruption_leaves_no_half_made_bundle(tmp_path: Path, packages_there: dict[str, bool]) -> None:
    """It comes while it is said that no adapter can be tried."""

    def interrupt(sentence: str) -> None:
        if not sentence.startswith("Training takes about"):
            raise KeyboardInterrupt

    packages_there["peft"] = False
    write_base(tmp_path / "base")
    decoder = Origin(tmp_path, "LlamaForCausalLM", 1, Source(id="float"), "")
    inputs = Inputs(write_encoder(tmp_path / "encoder"), None, tmp_path / "base", decoder)
    out = tmp_path / "made" / "out"
    with pytest.raises(KeyboardInterrupt):
        tune.learn_labels(make_spec(20), Source(id="rows"), out, inputs, Budget(announce=interrupt))
    assert list((tmp_path / "made").iterdir()) == []
    assert len(list(cache_folder().glob("tune-*"))) == 1
