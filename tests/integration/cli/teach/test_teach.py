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
from edgeslm.config.loader import load_config
from edgeslm.storage.feedback_store import Correction, FeedbackStore, is_used, is_waiting
from edgeslm.teaching.lesson import ExportRunner
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import fake_engines as fake_engines
from tests.support.nodes import write_bundle, write_zero_shot


def rows_of(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file).read_text().split("\n") if line]


class FakeRun:
    """Replaces ``edgeslm-export``: chooses the first texts, and records what is trained."""

    def __init__(self) -> None:
        self.trained: list[dict[str, Any]] = []
        self.guesses = True

    def __call__(self, arguments: Sequence[str]) -> Mapping[str, Any]:
        if arguments[0] == "choose":
            texts = [row["text"] for row in rows_of(arguments[1])]
            known = set()
            if "--labelled" in arguments:
                known = {row["text"] for row in rows_of(arguments[arguments.index("--labelled") + 1])}
            left = [text for text in texts if text not in known][:10]
            if not self.guesses:
                none = {"guess": None, "confidence": None}
                return {"chosen": [{"text": text, **none} for text in left], "accuracy": None}
            chosen = [{"text": text, "guess": "b", "confidence": 0.5} for text in left]
            return {"chosen": chosen, "accuracy": {"share": 0.75, "interval": [0.5, 0.9]}}
        rows = rows_of(arguments[2])
        task = yaml.safe_load(Path(arguments[1]).read_text())
        self.trained.append({"rows": rows, "task": task, "out": arguments[3]})
        return {"accuracy": 0.8, "interval": [0.6, 0.9]}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    fake = FakeRun()
    monkeypatch.setattr(ExportRunner, "run", lambda self, arguments: fake(arguments))
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


def teach(folder: Path, monkeypatch: pytest.MonkeyPatch, keys: Sequence[str], *arguments: str) -> int:
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


def test_recorded_lines_of_a_route_with_redaction_are_redacted(
    run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = configuration(tmp_path)
    made = yaml.safe_load(file.read_text())
    made["routes"][0]["redact"] = ["phone"]
    file.write_text(yaml.safe_dump(made))
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f'hall/1/log {{"text": "{n} call 0171 2345678"}}\n' for n in "abcd"))
    assert teach(tmp_path, monkeypatch, "1122", "--from", str(lines)) == 0
    assert sorted(text for text, _ in stored(tmp_path)) == [f"{n} call [phone]" for n in "abcd"]


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
    assert f"models:\n  encoder: {{bundle: {tmp_path}/encoder}}\ntasks:" in changed, "the decoder is unused"
    assert changed.startswith("node: hall  # its name\n")
    assert load_config(file).tasks["t"].learned == learned
    said = capsys.readouterr().out
    assert f"Changed: {file}\n  -  small:" in said and "  +  encoder:" in said
    assert "  -    model: small  # untaught\n" in said
    assert teach(tmp_path, monkeypatch, "", "--use") == 0
    assert file.read_text() == changed and "restart the node" in capsys.readouterr().out


def test_a_model_that_something_else_uses_stays(
    run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "node.yaml"
    text = BLOCK.replace("BUNDLE", str(write_bundle(tmp_path / "small"))).replace(
        "STATE", str(tmp_path / "s")
    )
    file.write_text(text.replace("state_dir", "  say: {kind: generate, model: small}\nstate_dir"))
    (tmp_path / "lines.txt").write_text("one\ntwo\nthree\nfour\n")
    assert teach(tmp_path, monkeypatch, "1122", "--from", str(tmp_path / "lines.txt"), "--use") == 0
    config = load_config(file)
    assert set(config.models) == {"small", "encoder"} and config.tasks["t"].learned is not None


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
    assert teach(tmp_path, monkeypatch, "1122", "--from", str(tmp_path / "lines.txt"), "--use") == 1
    assert file.read_text() == text
    said = capsys.readouterr()
    assert "Use it: add to the task t" in said.out and f"{file} isn't changed: --use needs" in said.err
    assert teach(tmp_path, monkeypatch, "", "--from", str(tmp_path / "lines.txt")) == 0


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


# -- proposals -------------------------------------------------------------------------------------


def proposals(folder: Path, run: FakeRun, *texts: str, **task: Any) -> tuple[str, str]:
    """A task whose zero-shot model is a fake: it proposes the first label."""
    run.guesses = False
    configuration(folder, **task)
    write_zero_shot(folder / "small", {"kind": "gliclass", "label_token": 3, "text_token": 4})
    (folder / "lines.txt").write_text("\n".join(texts))
    return "--from", str(folder / "lines.txt")


@pytest.mark.usefixtures("fake_engines")
def test_the_untaught_model_proposes_the_first_labels(
    run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = proposals(tmp_path, run, "one", "two", "three", "four", "five")
    # Keys confirm and correct a proposal; the list of the rest is refused, then accepted.
    assert teach(tmp_path, monkeypatch, ["1", "2", "*", "n", "*", "y", "u", "2"], *source) == 0
    said = capsys.readouterr().out
    assert "one   (small proposes: a 0." in said and "Enter takes the proposal" in said
    assert "* lists the proposals of 5 messages" in said and "y takes these 3 labels" in said
    rows = FeedbackStore(tmp_path / "state").rows("t")
    assert [(row["text"], row["label"], row.get("proposed")) for row in rows] == [
        ("one", "a", None),
        ("two", "b", None),
        ("three", "a", "small"),
        ("four", "a", "small"),
        ("five", "b", None),
    ]
    assert len(run.trained) == 1 and len(run.trained[0]["rows"]) == 5


@pytest.mark.usefixtures("fake_engines")
@pytest.mark.parametrize(
    ("weights", "texts", "said"),
    [
        (b"crash at load", ("one", "two"), "(no proposals: "),
        (b"", ("fail internal", "two"), "(no proposals: The fake engine was told to"),
        (b"", ("fail too_long", "two"), "two   (small proposes: a"),
    ],
)
def test_labelling_goes_on_without_the_model(
    run: FakeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    weights: bytes,
    texts: tuple[str, ...],
    said: str,
) -> None:
    source = proposals(tmp_path, run, *texts)
    if weights:
        write_bundle(tmp_path / "small", weights=weights)
    assert teach(tmp_path, monkeypatch, ["1", "2", "q"], *source) == 1
    assert stored(tmp_path) == [(texts[0], "a"), (texts[1], "b")]
    assert said in capsys.readouterr().out


@pytest.mark.usefixtures("fake_engines")
def test_a_slow_model_is_not_waited_for(
    run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgeslm.cli.teach.proposals.WAIT_S", 0.05)
    monkeypatch.setenv("FAKE_LOAD", str(tmp_path / "never"))
    source = proposals(tmp_path, run, "one", "two", "three")
    assert teach(tmp_path, monkeypatch, ["1", "", "2", "q"], *source) == 1
    assert stored(tmp_path) == [("one", "a"), ("three", "b")], "an empty line skips, as without proposals"
    assert "proposes:" not in capsys.readouterr().out


@pytest.mark.usefixtures("fake_engines")
def test_a_server_is_never_asked_for_proposals(
    run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A message that the task would pass on stays here while it is labelled."""
    stages = ["small", "node:other/t"]
    source = proposals(tmp_path, run, "one", "two", model=None, stages=stages, threshold=0.99)
    assert teach(tmp_path, monkeypatch, ["", "2", "q"], *source) == 1
    assert "one   (small proposes: a 0." in capsys.readouterr().out


# -- corrections that came over MQTT ---------------------------------------------------------------


def test_corrections_over_mqtt_are_used_only_after_a_yes(
    run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration(tmp_path)
    (tmp_path / "lines.txt").write_text("one\ntwo\n")
    store = FeedbackStore(tmp_path / "state")
    for sender, text in (("desk-3", "three"), ("desk-3", "four\x1b[2J"), ("", "five"), ("desk-4", "six")):
        store.keep(Correction("t", text, "a", by=sender))
    # show, use; a sender without a name: refuse; desk-4: later. Then the labels.
    assert teach(tmp_path, monkeypatch, "synx22", "--from", str(tmp_path / "lines.txt")) == 0
    said = capsys.readouterr().out
    assert "2 corrections by desk-3, sent over MQTT: use them?" in said and "a  four\\x1b[2J" in said
    assert "1 correction by a sender without a name" in said
    (trained,) = run.trained
    assert {row["text"] for row in trained["rows"]} == {"one", "two", "three", "four\x1b[2J"}
    assert [row["text"] for row in store.rows("t") if is_waiting(row)] == ["six"]
    assert [row["text"] for row in store.rows("t") if is_used(row)][:2] == ["three", "four\x1b[2J"]


# -- fields ----------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"machine": {"type": "string"}}}


def mark(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    config = folder / "node.yaml"
    return main.main(["teach", "t", "--config", str(config), "--from", str(folder / "lines.txt")])


def test_fields_are_marked_and_a_build_machine_trains_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration(tmp_path, kind="extract", labels=None, schema=SCHEMA)
    (tmp_path / "lines.txt").write_text("Press M3 is hot\nall quiet\nM4 tore\n")
    assert mark(tmp_path, monkeypatch, "2", "", "q") == 0
    said = capsys.readouterr().out
    command = "edgeslm-export tune --from hall --task t learned/t --push"
    assert "2 messages marked" in said and command in said
    rows = FeedbackStore(tmp_path / "state").rows("t")
    assert [row["fields"] for row in rows] == [{"machine": "M3"}, {"machine": None}]
    assert mark(tmp_path, monkeypatch, "1", "q") == 0, "it goes on with the rest"
    assert FeedbackStore(tmp_path / "state").rows("t")[2]["text"] == "M4 tore"
    assert mark(tmp_path, monkeypatch, "q") == 0
    assert "Nothing new." in capsys.readouterr().out
