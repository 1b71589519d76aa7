"""A node that fits the label bias of an untaught task to corrections, with a fake engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.calibration import LabelledBias
from edgeslm.cli import main
from edgeslm.serving.fitted_bias import bias_file
from edgeslm.storage.feedback_store import Correction, FeedbackStore, is_waiting
from edgeslm.tasks.classify import Classify
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, Node, fake_configuration, write_configuration, write_zero_shot
from tests.support.nodes import fake_engines as fake_engines

LABELS = {"normal": "all is well", "critical": "stop now"}
GLICLASS = {"kind": "gliclass", "label_token": 3, "text_token": 4}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, fake_engines: None) -> None:
    monkeypatch.setattr("edgeslm.serving.label_calibration.LOOK_S", 0.05)
    monkeypatch.setattr("edgeslm.serving.label_calibration.AGAIN_S", 0.05)


def configuration(broker: Mosquitto, folder: Path, **task: Any) -> dict[str, Any]:
    found = deepcopy(fake_configuration(broker.url, folder))
    write_zero_shot(folder / "zero", GLICLASS)
    found["models"]["zero"] = {"bundle": str(folder / "zero")}
    found["tasks"]["triage"] = {"kind": "classify", "model": "zero", "labels": LABELS, **task}
    return found


@contextmanager
def serving(broker: Mosquitto, folder: Path, made: dict[str, Any]) -> Iterator[tuple[App, Node]]:
    with App(broker.port, f"{BASE}/res/#", f"{BASE}/state") as app, Node(folder, made) as node:
        app.take_state(BASE, "online")
        yield app, node


def is_sampled(node: Node, task: str = "triage") -> bool:
    found = node.daemon.service.tasks[task]
    return isinstance(found, Classify) and found.seen is not None


def fitted(node: Node, task: str = "triage") -> LabelledBias | None:
    found = node.daemon.service.tasks[task]
    assert isinstance(found, Classify)
    return found.fitted


def label(app: App, text: str = "Spindle 3 smells") -> dict[str, Any]:
    app.publish(f"{BASE}/req/triage", {"input": text})
    found = app.take(f"{BASE}/res/triage").json
    assert found["status"] == "ok", found
    result: dict[str, Any] = found["result"]
    return result


def becomes(app: App, wanted: str) -> dict[str, Any]:
    """Asks until the label is the wanted one."""
    results: list[dict[str, Any]] = []

    def is_there() -> bool:
        results.append(label(app))
        return bool(results[-1]["label"] == wanted)

    app.wait_until(is_there, f"the label becomes {wanted}")
    return results[-1]


def corrections(folder: Path) -> FeedbackStore:
    return FeedbackStore(folder / "state")


def serve(app: App, count: int = 40, task: str = "triage") -> None:
    """Messages that the fake model calls normal, those that aren't corrected first."""
    for number in reversed(range(count)):
        app.publish(f"{BASE}/req/{task}", {"input": f"smoke {number}"})
        app.take(f"{BASE}/res/{task}")


def test_accepted_corrections_calibrate_the_task_until_something_changes(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, store = configuration(broker, tmp_path), corrections(tmp_path)
    with serving(broker, tmp_path, made) as (app, node):
        app.wait_until(lambda: is_sampled(node), "its messages are counted")
        serve(app)
        assert label(app)["label"] == "normal"
        for number in range(32):
            said = {"task": "triage", "input": f"smoke {number}", "label": "critical"}
            app.publish(f"{BASE}/feedback", said)
        app.wait_until(lambda: len(store.rows("triage")) == 32, "they are kept")
        assert label(app, "smoke 1")["label"] == "normal", "nobody has accepted them"
        store.decide("triage", [row for row in store.rows("triage") if is_waiting(row)], use=True)
        found = becomes(app, "critical")
        assert sum(found["scores"].values()) == pytest.approx(1) and found["taught"] is False
        bias = fitted(node)
        assert bias is not None and bias.right_with - bias.right >= 20
    file = write_configuration(tmp_path, made)
    assert main.main(["feedback", "triage", "--config", str(file)]) == 0
    assert "triage: label bias fitted to " in capsys.readouterr().err
    assert main.main(["try", str(file), "triage", "Spindle 4 smells", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"]["label"] == "critical", "as on the node"
    with serving(broker, tmp_path, made) as (app, _):
        assert label(app)["label"] == "critical", "from the first request after a restart on"
    renamed = configuration(broker, tmp_path, labels={**LABELS, "normal": "all is quiet"})
    record = json.loads((tmp_path / "state/label-bias-hall.json").read_text())["triage"]
    with serving(broker, tmp_path, renamed) as (app, node):
        app.wait_until(lambda: is_sampled(node), "its messages are counted anew")
        serve(app)
        becomes(app, "critical")
    again = read(tmp_path)["triage"]
    assert again["key"] != record["key"], "it was fitted anew"
    store.file("triage").unlink()
    with serving(broker, tmp_path, renamed) as (app, node):
        becomes(app, "normal")
        assert fitted(node) is None
        app.wait_until(lambda: read(tmp_path) == {}, "it is dropped")


def test_corrections_of_errors_alone_dont_turn_the_other_answers(broker: Mosquitto, tmp_path: Path) -> None:
    """People correct what is wrong: what nobody corrected counts as right."""
    store = corrections(tmp_path)
    with serving(broker, tmp_path, configuration(broker, tmp_path)) as (app, node):
        app.wait_until(lambda: is_sampled(node), "its messages are counted")
        serve(app)
        for number in range(12):
            store.keep(Correction("triage", f"smoke {number}", "critical"))
        app.wait_until(lambda: fitted(node) is not None, "the corrections are looked at")
        bias = fitted(node)
        assert bias is not None and bias.biases is None and bias.right >= 28
        assert label(app, "smoke 1")["label"] == "normal"


def read(folder: Path) -> Any:
    return json.loads((folder / "state/label-bias-hall.json").read_text())


def test_other_ways_of_calibration_stay(broker: Mosquitto, tmp_path: Path) -> None:
    """Off by ``none``; a label that was accepted unread with others says nothing new."""
    store = corrections(tmp_path)
    for number in range(32):
        store.keep(Correction("triage", f"smoke {number}", "critical"))
        store.keep(Correction("mood", f"smoke {number}", "critical", proposed="zero"))
        store.keep(Correction("tone", f"smoke {number}", "critical"))
    made = configuration(broker, tmp_path, calibration="none")
    made["tasks"]["mood"] = {"kind": "classify", "model": "zero", "labels": LABELS}
    made["tasks"]["tone"] = {"kind": "classify", "model": "zero", "labels": LABELS}
    with serving(broker, tmp_path, made) as (app, node):
        app.wait_until(lambda: is_sampled(node, "tone") and is_sampled(node, "mood"), "both are counted")
        for task in ("mood", "tone"):
            serve(app, task=task)
        app.wait_until(lambda: fitted(node, "tone") is not None, "tone is calibrated")
        assert fitted(node) is None and not is_sampled(node) and label(app)["label"] == "normal"
        assert fitted(node, "mood") is None
    assert set(read(tmp_path)) == {"tone"}


def test_a_fit_that_fails_leaves_the_task_as_it_is(
    broker: Mosquitto, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeslm.serving.label_calibration.JOB", "edgeslm.nowhere")
    store = corrections(tmp_path)
    for number in range(32):
        store.keep(Correction("triage", f"smoke {number}", "critical"))
    with serving(broker, tmp_path, configuration(broker, tmp_path)) as (app, node):
        app.wait_until(lambda: is_sampled(node), "its messages are counted")
        serve(app)
        app.wait_until(lambda: "task triage could not be calibrated" in caplog.text, "it is told")
        assert label(app)["label"] == "normal"
        monkeypatch.undo()
        monkeypatch.setattr("edgeslm.serving.label_calibration.LOOK_S", 0.05)
        monkeypatch.setattr("edgeslm.serving.label_calibration.AGAIN_S", 0.05)
        becomes(app, "critical")


def test_a_damaged_file_harms_nothing(broker: Mosquitto, tmp_path: Path) -> None:
    made = configuration(broker, tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "state/label-bias-hall.json").write_text('{"triage": {"bias": 7}}')
    with serving(broker, tmp_path, made) as (app, node):
        assert label(app)["label"] == "normal"
        assert bias_file(node.daemon.config).name == "label-bias-hall.json"
