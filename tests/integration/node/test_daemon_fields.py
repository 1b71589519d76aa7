"""A daemon with a task that learned to point at fields. Fake engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from edgeslm.telemetry.drift import FEWEST
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, Node, fake_configuration
from tests.support.pointers import POINTED
from tests.support.taught import write_head

REFERENCE = {"confidences": [0.6, 0.7, 0.8], "labels": []}
"""A fake engine is 0.9 sure of each field that has options."""


@pytest.fixture
def node(broker: Mosquitto, tmp_path: Path) -> Iterator[Node]:
    learned = write_head(tmp_path / "learned", None, **POINTED, reference=REFERENCE)
    configuration = fake_configuration(broker.url, tmp_path, tasks={"fields": {"learned": str(learned)}})
    with Node(tmp_path, configuration) as node:
        yield node


@pytest.fixture
def app(broker: Mosquitto, node: Node) -> Iterator[App]:
    with App(broker.port, f"{BASE}/#") as app:
        app.take_state(BASE, "online")
        yield app


def test_fields_are_published_as_info_promises(app: App) -> None:
    info = app.take(f"{BASE}/info").json["tasks"]["fields"]
    assert (info["kind"], info["model"]) == ("extract", "learned/fields")
    app.publish(f"{BASE}/req/fields", {"input": "Prüfstand läuft", "id": "7"})
    answer = app.take(f"{BASE}/res/fields").json
    assert (answer["status"], answer["id"]) == ("ok", "7")
    jsonschema.validate(answer["result"], info["result_schema"])
    assert answer["result"]["fields"] == {"machine": "Prüfstand"}
    assert answer["result"]["spans"] == {"machine": {"start": 0, "end": 9}}
    assert answer["result"]["confidence"] == pytest.approx(0.81)
    assert answer["model"].startswith("learned/fields@sha256:")


def test_health_watches_fields_without_labels(app: App, node: Node) -> None:
    for number in range(FEWEST):
        app.publish(f"{BASE}/req/fields", {"input": "Press 4", "id": str(number)})
    for _ in range(FEWEST):
        assert app.take(f"{BASE}/res/fields").json["status"] == "ok"
    drift = node.daemon.health()["drift"]["fields"]
    assert (drift["moved"], drift["messages"], drift["labels"]) == (False, FEWEST, 0)
