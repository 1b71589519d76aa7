"""``edgeslm teach`` from a pipe, with fake training; what the labels become, and wrong calls."""

from __future__ import annotations

import fcntl
import io
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeslm.cli import main
from edgeslm.cli.teach import training
from edgeslm.config.loader import load_config
from edgeslm.storage.feedback_store import Correction, FeedbackStore
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import write_bundle


def rows_of(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file).read_text().split("\n") if line]


class FakeRun:
    """Replaces ``edgeslm-export``: chooses the first texts, and records what is trained."""

    def __init__(self) -> None:
        self.trained: list[dict[str, Any]] = []

    def __call__(self, arguments: Sequence[str]) -> Mapping[str, Any]:
        if arguments[0] == "choose":
            texts = [row["text"] for row in rows_of(arguments[1])]
            known = set()
            if "--labelled" in arguments:
                known = {row["text"] for row in rows_of(arguments[arguments.index("--labelled") + 1])}
            left = [text for text in texts if text not in known][:10]
            chosen = [{"text": text, "guess": "b", "confidence": 0.5} for text in left]
            return {"chosen": chosen, "accuracy": {"share": 0.75, "interval": [0.5, 0.9]}}
        rows = rows_of(arguments[2])
        task = yaml.safe_load(Path(arguments[1]).read_text())
        self.trained.append({"rows": rows, "task": task, "out": arguments[3]})
        return {"accuracy": 0.8, "interval": [0.6, 0.9]}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    fake = FakeRun()
    monkeypatch.setattr(training, "_run", fake)
    return fake


def configuration(folder: Path, url: str = "mqtt://localhost", **task: Any) -> Path:
    made = {
        "node": "hall",
        "broker": {"url": url},
        "models": {"small": {"bundle": str(write_bundle(folder / "small"))}},
        "tasks": {"t": {"kind": "classify", "model": "small", "labels": ["a", "b"], **task}},
        "routes": [{"from": "hall/+/log", "task": "t", "input": "{{ payload.text }}"}],
        "state_dir": str(folder / "state"),
    }
    file = folder / "node.yaml"
    file.write_text(yaml.safe_dump(made))
    return file


def teach(folder: Path, monkeypatch: pytest.MonkeyPatch, keys: str, *arguments: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{key}\n" for key in keys)))
    encoder = write_bundle(folder / "encoder", "encoder")
    wanted = ["--config", str(folder / "node.yaml"), "--encoder", str(encoder), *arguments]
    return main.main(["teach", "t", *wanted])


def stored(folder: Path) -> list[tuple[str, str]]:
    lines = (folder / "state/feedback/t.jsonl").read_text().splitlines()
    return [(row["text"], row["label"]) for row in map(json.loads, lines)]


def test_labels_are_kept_and_trained(
    run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration(tmp_path)
    lines = tmp_path / "lines.txt"
    lines.write_text('one\n{"text": "two"}\nthree\nfour\nfive\n\n')
    assert teach(tmp_path, monkeypatch, "1u2x1s22q", "--from", str(lines)) == 1
    assert stored(tmp_path) == [("one", "b"), ("two", "a"), ("four", "b"), ("five", "b")]
    assert "there are fewer of: a." in capsys.readouterr().out and not run.trained
    assert teach(tmp_path, monkeypatch, "1", "--from", str(lines)) == 0
    (trained,) = run.trained
    assert len(trained["rows"]) == 5 and trained["task"]["labels"] == {"a": "", "b": ""}
    said = capsys.readouterr().out
    assert f"encoder: {{bundle: {tmp_path}/encoder}}" in said
    assert "0.80 of messages like these are right (0.60 to 0.90)" in said
    assert f"learned: {tmp_path}/state/learned/t" in said and trained["out"].endswith("state/learned/t")


def test_the_last_label_of_all_can_be_taken_back(
    run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration(tmp_path)
    lines = tmp_path / "lines.txt"
    lines.write_text("one\ntwo\nthree\nfour\n")
    assert teach(tmp_path, monkeypatch, "1221u2q", "--from", str(lines)) == 1
    assert stored(tmp_path) == [("one", "a"), ("two", "b"), ("three", "b"), ("four", "b")]
    assert "No message is left: u takes the last label back" in capsys.readouterr().out
    lines.write_text("five\n")
    assert teach(tmp_path, monkeypatch, "2u1", "--from", str(lines)) == 0
    assert stored(tmp_path)[4:] == [("five", "a")] and len(run.trained) == 1


def test_sessions_at_once_train_on_the_labels_of_both(
    run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration(tmp_path)
    (lines := tmp_path / "lines.txt").write_text("one\ntwo\nthree\n")
    learned = tmp_path / "state/learned"
    learned.mkdir(parents=True)
    store = FeedbackStore(tmp_path / "state")
    other = os.open(learned, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)  # it trains

    def end() -> None:
        for text, label in (("six", "b"), ("seven", "b"), ("two", "a")):
            store.keep(Correction("t", text, label))
        os.close(other)

    timer = threading.Timer(0.5, end)
    timer.start()
    assert teach(tmp_path, monkeypatch, "121q", "--from", str(lines)) == 0
    timer.join()
    assert "Another session is training; waiting for it" in capsys.readouterr().out
    (trained,) = run.trained
    labels = {row["text"]: row["label"] for row in trained["rows"]}
    newest = {"one": "a", "two": "a", "three": "a", "six": "b", "seven": "b"}
    assert labels == newest


def test_messages_of_a_route_are_taken_as_the_route_reads_them(
    run: FakeRun, broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration(tmp_path, broker.url)
    stop = threading.Event()

    def play(app: App) -> None:
        while not stop.is_set():
            for number in range(4):
                app.publish(f"hall/{number}/log", {"text": f"text {number}", "level": 3})
            time.sleep(0.1)

    with App(broker.port) as app:
        thread = threading.Thread(target=play, args=(app,))
        thread.start()
        try:
            assert teach(tmp_path, monkeypatch, "1122", "--listen", "1.5") == 0
        finally:
            stop.set()
            thread.join()
    assert sorted(text for text, _ in stored(tmp_path)) == [f"text {number}" for number in range(4)]


def test_recorded_lines_are_read_as_the_routes_read_them(
    run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration(tmp_path)
    lines = tmp_path / "lines.txt"
    lines.write_text('hall/1/log {"text": "one"}\nhall/2/log {"level": 3}\nand/or two\nthree\nfour\n')
    assert teach(tmp_path, monkeypatch, "1122", "--from", str(lines)) == 0
    assert [text for text, _ in stored(tmp_path)] == ["one", "and/or two", "three", "four"]


BLOCK = """\
node: hall  # its name
broker: {url: mqtt://localhost}
models:
  small: {bundle: BUNDLE}
tasks:
  t:
    kind: classify
    model: small  # untaught
    labels: {a: "", b: ""}
state_dir: STATE
"""


def test_the_configuration_can_be_changed_to_use_it(
    run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "node.yaml"
    text = BLOCK.replace("BUNDLE", str(write_bundle(tmp_path / "small")))
    file.write_text(text.replace("STATE", str(tmp_path / "state")))
    (tmp_path / "lines.txt").write_text("one\ntwo\nthree\nfour\n")
    assert teach(tmp_path, monkeypatch, "1122", "--from", str(tmp_path / "lines.txt"), "--use") == 0
    changed = file.read_text()
    learned = tmp_path / "state/learned/t"
    assert f"    learned: {learned}\n    labels:" in changed and "model: small" not in changed
    assert f"models:\n  encoder: {{bundle: {tmp_path}/encoder}}\n  small:" in changed
    assert changed.startswith("node: hall  # its name\n")
    assert load_config(file).tasks["t"].learned == learned
    said = capsys.readouterr().out
    assert f"Changed: {file}\n  +  encoder:" in said and "  -    model: small  # untaught\n" in said
    assert teach(tmp_path, monkeypatch, "", "--use") == 0
    assert file.read_text() == changed and "restart the node" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        BLOCK.replace("model: small  # untaught", "stages: [small]"),
        BLOCK.replace(
            "  t:\n    kind: classify\n    model: small  # untaught\n    labels: ",
            "  t: {kind: classify, model: small, labels: ",
        ).replace('b: ""}', 'b: ""}}'),
    ],
)
def test_another_layout_is_left_to_the_user(
    run: FakeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
) -> None:
    file = tmp_path / "node.yaml"
    text = text.replace("BUNDLE", str(write_bundle(tmp_path / "small"))).replace("STATE", str(tmp_path / "s"))
    file.write_text(text)
    (tmp_path / "lines.txt").write_text("one\ntwo\nthree\nfour\n")
    assert teach(tmp_path, monkeypatch, "1122", "--from", str(tmp_path / "lines.txt"), "--use") == 0
    assert file.read_text() == text
    assert "Use it: add to the task t" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "arguments", "sentence"),
    [
        ({}, (), "There are no messages"),
        ({"kind": "generate", "labels": None}, ("--listen", "1"), "only tasks of kind classify"),
        ({}, ("--from", "/nowhere"), "/nowhere can't be read"),
    ],
)
def test_wrong_calls_are_errors(
    run: FakeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    task: dict[str, Any],
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    configuration(tmp_path, **task)
    assert teach(tmp_path, monkeypatch, "", *arguments) == 1
    assert sentence in capsys.readouterr().err


def test_an_interrupt_keeps_the_last_label(
    run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration(tmp_path)
    (tmp_path / "lines.txt").write_text("one\u2028still one\ntwo\nthree\n")
    keys = iter("12")

    class Interrupted(io.StringIO):
        def readline(self, *_: Any) -> str:  # type: ignore[override]
            try:
                return next(keys)
            except StopIteration:
                raise KeyboardInterrupt from None

    monkeypatch.setattr("sys.stdin", Interrupted())
    status = main.main(
        [
            *("teach", "t", "--config", str(tmp_path / "node.yaml"), "--from", str(tmp_path / "lines.txt")),
            *("--encoder", str(write_bundle(tmp_path / "encoder", "encoder"))),
        ]
    )
    assert status == 130
    rows = (tmp_path / "state/feedback/t.jsonl").read_text().split("\n")[:-1]
    assert [json.loads(row)["text"] for row in rows] == ["one\u2028still one", "two"]


def test_a_folder_of_something_else_is_told_before_the_labels(
    run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration(tmp_path)
    assert teach(tmp_path, monkeypatch, "", "--out", str(tmp_path)) == 1
    assert "is no trained task" in capsys.readouterr().err
