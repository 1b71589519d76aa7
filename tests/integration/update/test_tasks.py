"""Trained tasks of a running node: labels are fetched over MQTT, and bundles sent back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.manifest import load_bundle, short_digest
from edgeslm.cli import main
from edgeslm.client.control import ControlClient
from edgeslm.storage.feedback_store import Correction, FeedbackStore
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, Node, fake_configuration, write_configuration
from tests.support.operators import Operator, ask
from tests.support.taught import CLASSIFY, write_adapter, write_base

TRIAGE = {**CLASSIFY, "task": "triage", "labels": ["normal", "critical"]}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def configuration(broker: Mosquitto, tmp_path: Path) -> dict[str, Any]:
    made = fake_configuration(
        broker.url,
        tmp_path,
        control={"allow": ["models", "feedback"]},
        feedback={"senders": ["desk-3"]},
        signing={"unsigned": "accept"},
        updates={"sources": ["mqtt"], "trial_s": 0, "watch": str(tmp_path / "watched")},
    )
    write_base(tmp_path / "small")
    return made


@pytest.fixture
def trained(tmp_path: Path, configuration: dict[str, Any]) -> Path:
    """An adapter that fits the task triage; fake engines run no heads."""
    return write_adapter(tmp_path / "trained", load_bundle(tmp_path / "small").digest, TRIAGE)


@pytest.fixture
def app(broker: Mosquitto) -> Iterator[App]:
    own = ("state", "health", "ctl/+/res", "ctl/models/+/res", "ctl/feedback/+/res", "res/#")
    with App(broker.port, *(f"{BASE}/{name}" for name in own)) as app:
        yield app


@pytest.fixture
def run(broker: Mosquitto, capsys: pytest.CaptureFixture[str]) -> Run:
    """Status, output and errors of a command that asks the node."""

    def run(*arguments: object) -> tuple[int, str, str]:
        where = ["--node", "hall", "--broker", broker.url]
        status = main.main([*map(str, arguments), *where])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def stage_of(app: App, correlation: bytes) -> str:
    return str(ask(app, "triage", "critical noise", correlation)["result"]["stage"])


def wait_outcome(app: App, state: str) -> None:
    def found() -> bool:
        said = [heard.json["updates"] for heard in app.untaken(f"{BASE}/health")]
        return any(one.get("learned/triage", {}).get("state") == state for one in said)

    app.wait_until(found, f"the update is {state}")


def test_labels_are_fetched_with_the_task(
    configuration: dict[str, Any], tmp_path: Path, app: App, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeslm.node.feedback.PAGE_BYTES", 200)
    store = FeedbackStore(tmp_path / "state")
    for number in range(9):
        store.keep(Correction("triage", f"text {number}", "normal"))
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        for sender in ("desk-3", "desk-4"):
            correction = {"task": "triage", "input": f"of {sender}", "label": "critical"}
            app.publish(f"{BASE}/feedback/{sender}", correction)
        app.publish(f"{BASE}/feedback", {"task": "triage", "input": "of nobody", "label": "critical"})
        app.wait_until(lambda: len(store.rows("triage")) == 10, "a correction is kept")
        status, out, err = run("feedback", "triage", "--json")
        told, *rows = map(json.loads, out.splitlines())
        assert status == 0 and [row["text"] for row in rows] == [f"text {number}" for number in range(9)]
        assert told["waiting"] == {"desk-3": 1} and "1 correction by desk-3" in err
        assert told["task"]["labels"] == {"normal": "all is well", "critical": "stop now"}
        assert told["takes_updates"] is True and told["models"]["encoder"]["kind"] == "encoder"
        store.decide("triage", store.rows("triage"), use=True)
        assert "(by desk-3)" in run("feedback", "triage")[1]
        assert "there is no task 'nothing'" in run("feedback", "nothing")[2]
        assert "of kind generate" in run("feedback", "say")[2]


def test_senders_change_with_a_reload(configuration: dict[str, Any], tmp_path: Path, app: App) -> None:
    configuration["control"] = {"allow": ["reload"]}
    store = FeedbackStore(tmp_path / "state")
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        write_configuration(tmp_path, {**configuration, "feedback": {"senders": ["desk-4"]}})
        assert Operator(app).give("reload")["result"] == {"changed": ["feedback"]}
        for sender in ("desk-3", "desk-4"):
            correction = {"task": "triage", "input": f"of {sender}", "label": "critical"}
            app.publish(f"{BASE}/feedback/{sender}", correction)
        app.wait_until(lambda: bool(store.rows("triage")), "a correction is kept")
    assert [row["by"] for row in store.rows("triage")] == ["desk-4"]


def test_a_trained_task_is_pushed_proved_and_taken_back(
    configuration: dict[str, Any], trained: Path, tmp_path: Path, app: App, run: Run
) -> None:
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        assert stage_of(app, b"1") == "small"
        status, out, _ = run("models", "push", "triage", trained)
        digest = load_bundle(trained).digest
        assert (status, out) == (0, f"triage of the node hall is {short_digest(digest)}, on trial\n")
        assert stage_of(app, b"2") == "learned"
        wait_outcome(app, "SUCCEEDED")
        operator = Operator(app)
        listed = operator.give("models/list")["result"]["models"]["learned/triage"]
        assert listed == {"active": digest, "previous": "none", "on_trial": False}
    with Node(tmp_path, configuration):  # it is remembered
        app.take_state(BASE, "online")
        assert stage_of(app, b"3") == "learned"
        operator = Operator(app, "again")
        assert operator.give("models/rollback", model="triage")["result"] == {"digest": "none"}
        assert stage_of(app, b"4") == "small"
        assert "nothing to go back to" in operator.give("models/rollback", model="triage")["error"]["message"]


def test_a_bundle_that_does_not_fit_never_serves(
    configuration: dict[str, Any], trained: Path, tmp_path: Path, app: App, run: Run
) -> None:
    other = write_adapter(tmp_path / "other", load_bundle(tmp_path / "encoder").digest, TRIAGE)
    labels = write_adapter(tmp_path / "labels", load_bundle(tmp_path / "small").digest, CLASSIFY)
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        status, _, err = run("models", "push", "triage", other)
        assert status == 1 and "kind" in err
        wait_outcome(app, "REJECTED")
        assert "labels" in run("models", "push", "triage", labels)[2]
        assert "of kind generate" in run("models", "push", "say", trained)[2]
        assert "holds no task that was learned" in run("models", "push", "triage", tmp_path / "small")[2]
        assert stage_of(app, b"1") == "small"


def test_a_watched_folder_has_trained_tasks_too(
    configuration: dict[str, Any], trained: Path, tmp_path: Path, app: App
) -> None:
    (tmp_path / "watched").mkdir()
    trained.rename(tmp_path / "watched/triage")
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        wait_outcome(app, "SUCCEEDED")
        assert stage_of(app, b"1") == "learned"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"control": {}}, "must allow it (control: {allow: [models]})"),
        ({"updates": {}}, "updates: {sources: [mqtt]}"),
    ],
)
def test_nothing_is_taken_unless_the_configuration_allows_it(
    configuration: dict[str, Any],
    trained: Path,
    tmp_path: Path,
    app: App,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    sentence: str,
) -> None:
    monkeypatch.setattr(ControlClient.ask, "__defaults__", (3.0,))
    with Node(tmp_path, {**configuration, **changes}):
        app.take_state(BASE, "online")
        status, _, err = run("models", "push", "triage", trained)
        assert status == 1 and sentence in err
        assert stage_of(app, b"1") == "small"
    assert not list((tmp_path / "state/updates").glob("*-*/manifest.json"))


def test_a_node_that_does_not_run_is_told(run: Run, trained: Path) -> None:
    assert "has never been heard of" in run("models", "push", "triage", trained)[2]
    assert "has never been heard of" in run("feedback", "triage")[2]
