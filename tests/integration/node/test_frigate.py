"""The example for Frigate, with messages in the form of Frigate's: a real broker, a fake engine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.apps import WAIT_S, App
from tests.support.brokers import Mosquitto
from tests.support.frigate import OBJECTS, REVIEWS, description, example_configuration, review
from tests.support.nodes import Node

BASE = "edgeslm/v1/cameras"
DOOR, GATE = "1796000000.1-door01", "1796000100.2-gate01"


@pytest.fixture
def app(broker: Mosquitto, tmp_path: Path) -> Iterator[App]:
    configuration = example_configuration(broker.url, tmp_path)
    with App(broker.port, "cameras/#", f"{BASE}/#") as app, Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        yield app


def search(app: App, text: str) -> list[dict[str, Any]]:
    """Passages, once there are some: messages are indexed within seconds."""
    give_up_at = time.monotonic() + WAIT_S
    while True:
        app.publish(f"{BASE}/req/find", text)
        passages: list[dict[str, Any]] = app.take(f"{BASE}/res/find").json["result"]["passages"]
        if passages:
            return passages
        assert time.monotonic() < give_up_at, "nothing is found"
        time.sleep(0.1)


def test_each_review_has_one_severity_until_it_changes(app: App) -> None:
    app.publish(REVIEWS, review("new", DOOR, "front_door", ["person"], ["routine_path"]))
    app.publish(
        REVIEWS, review("update", DOOR, "front_door", ["person", "car"], ["routine_path"], severity="alert")
    )
    app.publish(REVIEWS, review("new", GATE, "gate", ["cat"], ["routine_path"]))
    scene = "A person climbs over the gate: alarm."
    app.publish(REVIEWS, review("genai", DOOR, "front_door", ["person"], severity="alert", scene=scene))
    app.publish(REVIEWS, review("end", DOOR, "front_door", ["person"], ["look"], severity="alert"))
    labels = [
        (one.topic, one.json["result"]["label"])
        for one in (app.take("cameras/+/severity/+") for _ in range(3))
    ]
    assert labels == [
        (f"cameras/front_door/severity/{DOOR}", "routine"),
        (f"cameras/gate/severity/{GATE}", "routine"),
        (f"cameras/front_door/severity/{DOOR}", "alarm"),
    ]
    app.publish(REVIEWS, review("new", "1796000200.3-last01", "gate", ["dog"], ["look"]))
    assert app.take("cameras/+/severity/+").json["result"]["label"] == "look", "and nothing came between"


def test_messages_of_another_form_are_skipped(app: App) -> None:
    for odd in (
        b"",
        b"{}",
        b'{"type": "new"}',
        b'{"type": "new", "after": {"camera": "a/b"}}',
        b"[1]",
        b"online",
    ):
        app.publish(REVIEWS, odd)
        app.publish(OBJECTS, odd)
    app.publish(OBJECTS, b'{"type": "lpr", "id": "1", "plate": "123ABC"}')
    app.publish(REVIEWS, review("new", DOOR, "front_door", ["person"], ["look"]))
    assert app.take("cameras/#").topic == f"cameras/front_door/severity/{DOOR}"


def test_the_evening_has_a_digest_of_what_has_ended(app: App) -> None:
    for number in range(3):
        id = f"179600{number}000.5-cat00{number}"
        app.publish(REVIEWS, review("new", id, "garden", ["cat"]))
        app.publish(REVIEWS, review("end", id, "garden", ["cat"]))
    app.publish(REVIEWS, review("end", DOOR, "front_door", ["person", "car"], ["yard"], severity="alert"))
    app.publish("home/evening", b"")
    digest = app.take("cameras/digest").json["result"]
    assert digest["messages"] == 4
    assert [(one["text"], one["count"]) for one in digest["points"]] == [
        ("cat at garden", 3),
        ("person, car at front_door in yard", 1),
    ]


def test_descriptions_are_found(app: App) -> None:
    car = "1796000300.4-car001"
    app.publish(OBJECTS, description(car, "A red sedan parks in front of the garage."))
    app.publish(OBJECTS, description("1796000400.6-per001", "A courier in a yellow jacket leaves a parcel."))
    scene = "Somebody with a ladder walks along the hedge."
    app.publish(REVIEWS, review("genai", GATE, "gate", ["person"], scene=scene))
    found = search(app, "red sedan")[0]
    assert found["text"] == "A red sedan parks in front of the garage."
    assert car in found["source"], "the id of the object in Frigate"
    assert search(app, "ladder hedge")[0]["text"] == f"gate: {scene}"
