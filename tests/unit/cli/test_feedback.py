"""The command ``edgeslm feedback``: what it keeps, and its exit status."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.manifest import load_bundle
from edgeslm.cli import main
from edgeslm.storage.feedback_store import Correction, FeedbackStore
from tests.support.nodes import fake_configuration, write_configuration
from tests.support.taught import write_head

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Status, standard output and standard error of ``edgeslm feedback``."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = main.main(["feedback", *map(str, arguments)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """With a learned task besides."""
    configuration = fake_configuration("mqtt://localhost", tmp_path)
    encoder = load_bundle(tmp_path / "encoder").digest
    learned = write_head(tmp_path / "learned", encoder)
    tasks = {**configuration["tasks"], "topic": {"learned": str(learned)}}
    return write_configuration(tmp_path, {**configuration, "tasks": tasks})


def row(folder: Path, task: str) -> dict[str, Any]:
    (line,) = (folder / "state/feedback" / f"{task}.jsonl").read_text().splitlines()
    kept: dict[str, Any] = json.loads(line)
    del kept["at"]
    return kept


@pytest.mark.parametrize(("task", "label"), [("triage", "critical"), ("topic", "spam")])
def test_a_label_is_kept(run: Run, config: Path, tmp_path: Path, task: str, label: str) -> None:
    status, out, err = run(task, "Fire!", label, "--config", config)
    assert (status, err) == (0, "")
    assert out == f"kept in {tmp_path}/state/feedback/{task}.jsonl\n"
    assert row(tmp_path, task) == {"text": "Fire!", "label": label}


def test_fields_are_kept(run: Run, config: Path, tmp_path: Path) -> None:
    assert run("fields", "Press 4", '{"machine": "Press 4"}', "--config", config)[0] == 0
    assert row(tmp_path, "fields") == {"text": "Press 4", "fields": {"machine": "Press 4"}}


def test_the_file_is_said_as_json(run: Run, config: Path, tmp_path: Path) -> None:
    status, out, _ = run("triage", "Fire!", "critical", "--config", config, "--json")
    assert (status, json.loads(out)) == (0, {"file": f"{tmp_path}/state/feedback/triage.jsonl"})


def test_without_a_configuration_it_goes_to_the_usual_place(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is known of the task then."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    assert run("anything", "Fire!", "critical")[0] == 0
    assert row(tmp_path, "anything") == {"text": "Fire!", "label": "critical"}


@pytest.mark.parametrize("label", ["5", "[1]", '"critical"', "{"])
def test_what_is_no_json_object_is_a_label(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    assert run("anything", "Fire!", label)[0] == 0
    assert row(tmp_path, "anything")["label"] == label


def test_bytes_that_are_no_utf_8_are_kept_as_if_they_had_come_over_the_bus(
    run: Run, config: Path, tmp_path: Path
) -> None:
    """Python hands them over as half a surrogate pair."""
    status, _, err = run("triage", "caf\udce9", "critical", "--config", config)
    assert (status, err) == (0, "")
    assert row(tmp_path, "triage")["text"] == "caf\ufffd"


@pytest.mark.parametrize(
    ("task", "text", "answer", "sentence"),
    [
        ("nothing", "x", "critical", "there is no task 'nothing'"),
        ("triage", "x", "high", "the task triage has no label 'high'; it has normal, critical"),
        ("topic", "x", "eggs", "the task topic has no label 'eggs'; it has spam, ham"),
        ("triage", "x", '{"machine": "x"}', "its corrections have a label"),
        ("fields", "x", "press", "its corrections have fields"),
        ("fields", "x", "{}", "must be a JSON object that isn't empty"),
        ("say", "x", "y", "of kind generate, which isn't learned"),
        ("triage", " ", "critical", "must be a text that isn't empty"),
        ("../x", "x", "critical", "'../x' is not a task's name"),
        ("a+b", "x", "critical", "'a+b' is not a task's name"),
    ],
)
def test_what_cant_be_kept_is_one_sentence_and_status_1(
    run: Run, config: Path, tmp_path: Path, task: str, text: str, answer: str, sentence: str
) -> None:
    status, out, err = run(task, text, answer, "--config", config)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert sentence in err
    assert not (tmp_path / "state/feedback").exists()


def test_a_folder_that_cant_be_written_is_status_1(run: Run, config: Path, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/feedback").write_text("in the way")
    status, _, err = run("triage", "Fire!", "critical", "--config", config)
    assert status == 1
    assert "can't be written: File exists" in err


# -- lists ------------------------------------------------------------------------------------------


def test_corrections_are_listed_with_their_senders(run: Run, config: Path, tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path / "state")
    store.keep(Correction("triage", "Fire!\x1b[2J", "critical"))
    store.keep(Correction("triage", "Smoke", "critical", by="desk-3"))
    store.decide("triage", store.rows("triage"), use=True)
    store.keep(Correction("triage", "Rain", "critical", by=""))
    status, out, err = run("triage", "--config", config)
    first, second, count = out.splitlines()
    assert status == 0 and "critical  Fire!\\x1b[2J" in first
    assert second.endswith("critical  Smoke  (by desk-3)") and count == "2 corrections"
    assert "1 correction by a sender without a name wait" in err


def test_a_list_in_json_is_what_tune_takes(run: Run, config: Path, tmp_path: Path) -> None:
    FeedbackStore(tmp_path / "state").keep(Correction("topic", "Win!", "spam"))
    status, out, _ = run("topic", "--config", config, "--json")
    told, kept = map(json.loads, out.splitlines())
    assert status == 0 and kept["text"] == "Win!"
    assert told["task"] == {"name": "topic", "kind": "classify", "labels": {"spam": "", "ham": ""}}
    assert told["node"] == "hall" and told["waiting"] == {} and told["takes_updates"] is True
    assert told["models"]["encoder"] == {
        "kind": "encoder",
        "digest": load_bundle(tmp_path / "encoder").digest,
    }
    assert json.loads(run("fields", "--config", config, "--json")[1])["task"]["schema"]["type"] == "object"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nothing",), "there is no task 'nothing'"),
        (("say",), "of kind generate, which isn't learned"),
        (("triage", "Fire!"), "The right answer is missing"),
    ],
)
def test_what_cant_be_listed_is_one_sentence(
    run: Run, config: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    status, out, err = run(*arguments, "--config", config)
    assert (status, out, err.count("\n")) == (1, "", 1) and sentence in err


def test_a_node_needs_its_broker(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGESLM_BROKER", raising=False)
    assert "--broker" in run("triage", "--node", "hall")[2]
    assert "is not a node's name" in run("triage", "--node", "a/#", "--broker", "localhost")[2]
