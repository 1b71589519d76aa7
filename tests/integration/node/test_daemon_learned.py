"""A daemon with a task that was taught: its corrections, and the drift of its messages. Fake engines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.telemetry.drift import FEWEST
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, TASKS, Node, fake_configuration
from tests.support.taught import CLASSIFY, write_adapter, write_base

REFERENCE = {"confidences": [0.7, 0.8, 0.9], "labels": [0.0, 1.0]}
"""A fake engine is 0.9 sure, of the first label unless the text holds another one."""
FEEDBACK = f"{BASE}/feedback"


@pytest.fixture
def node(broker: Mosquitto, tmp_path: Path) -> Iterator[Node]:
    base = write_base(tmp_path / "ready")
    learned = write_adapter(tmp_path / "learned", base, {**CLASSIFY, "reference": REFERENCE})
    configuration = fake_configuration(broker.url, tmp_path)
    configuration["models"]["ready"] = {"bundle": str(tmp_path / "ready")}
    configuration["tasks"] = {**TASKS, "topic": {"learned": str(learned)}}
    with Node(tmp_path, configuration) as node:
        yield node


@pytest.fixture
def app(broker: Mosquitto, node: Node) -> Iterator[App]:
    with App(broker.port, f"{BASE}/#") as app:
        app.take_state(BASE, "online")
        yield app


def kept(folder: Path, task: str) -> list[dict[str, Any]]:
    file = folder / "state/feedback" / f"{task}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def send(app: App, text: str, count: int) -> None:
    """So many messages, all answered."""
    for number in range(count):
        app.publish(f"{BASE}/req/topic", {"input": text, "id": f"{text} {number}"})
    for _ in range(count):
        assert app.take(f"{BASE}/res/topic").json["status"] == "ok"


# -- corrections -----------------------------------------------------------------------------------


def test_a_correction_ends_up_in_the_file(app: App, tmp_path: Path) -> None:
    app.publish(FEEDBACK, {"task": "topic", "input": "Win a prize!", "label": "spam"})
    app.publish(FEEDBACK, {"task": "fields", "input": "Press 4", "fields": {"machine": "Press 4"}})
    app.wait_until(lambda: bool(kept(tmp_path, "fields")), "the second one is kept")
    app.wait_until(lambda: bool(kept(tmp_path, "topic")), "the first one is kept")
    (row,) = kept(tmp_path, "topic")
    assert (row["text"], row["label"]) == ("Win a prize!", "spam")


def test_a_correction_may_name_an_earlier_request(app: App, tmp_path: Path) -> None:
    app.publish(f"{BASE}/req/topic", {"input": "Win a prize!", "id": "42"})
    assert app.take(f"{BASE}/res/topic").json["id"] == "42"
    app.publish(FEEDBACK, {"task": "topic", "id": "42", "label": "ham"})
    app.wait_until(lambda: bool(kept(tmp_path, "topic")), "it is kept")
    (row,) = kept(tmp_path, "topic")
    assert (row["text"], row["label"]) == ("Win a prize!", "ham")


def test_the_id_is_the_one_that_results_have(app: App, tmp_path: Path) -> None:
    """That of a sender who gave none too."""
    app.publish(f"{BASE}/req/topic", "Win a prize!")
    id_ = app.take(f"{BASE}/res/topic").json["id"]
    app.publish(FEEDBACK, {"task": "topic", "id": id_, "label": "ham"})
    app.wait_until(lambda: bool(kept(tmp_path, "topic")), "it is kept")


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff", {"task": "topic"}, {"task": "topic", "id": "7", "label": "ham"}],
)
def test_a_correction_that_cant_be_kept_is_counted(
    app: App, node: Node, tmp_path: Path, payload: Any
) -> None:
    app.publish(FEEDBACK, payload)
    app.wait_until(lambda: node.daemon.health()["dropped"].get("feedback") == 1, "it is counted")
    assert kept(tmp_path, "topic") == []
    app.publish(f"{BASE}/req/topic", "x")
    assert app.take(f"{BASE}/res/topic").json["status"] == "ok"


# -- drift -----------------------------------------------------------------------------------------


def test_health_says_that_messages_have_moved_away_and_come_back(app: App, node: Node) -> None:
    send(app, "ham", FEWEST)
    health = node.daemon.health()
    assert set(health["drift"]) == {"topic"}, "of tasks that were taught alone"
    assert (health["drift"]["topic"]["moved"], health["alerts"]) == (False, [])
    assert health["drift"]["topic"]["messages"] == FEWEST
    send(app, "spam", 4 * FEWEST)
    health = node.daemon.health()
    assert health["drift"]["topic"]["moved"]
    assert health["alerts"] == [
        "The messages of task topic differ from the training data: the labels are distributed "
        "differently. Label some and retrain."
    ]
    send(app, "ham", 4 * FEWEST)
    health = node.daemon.health()
    assert (health["drift"]["topic"]["moved"], health["alerts"]) == (False, [])


def test_health_holds_no_text(app: App, node: Node) -> None:
    send(app, "a secret message", FEWEST)
    assert "secret" not in json.dumps(node.daemon.health())


def test_info_names_the_adapter_of_a_learned_task(app: App) -> None:
    task = app.take(f"{BASE}/info").json["tasks"]["topic"]
    assert (task["kind"], task["model"]) == ("classify", "ready")
    assert task["adapter"].startswith("sha256:")
    assert task["result_schema"]["properties"]["label"]["enum"] == ["spam", "ham"]
