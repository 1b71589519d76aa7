"""``edgeslm fleet forget`` at a real broker: what a node that is gone leaves behind is cleared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeslm.cli import main
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, Node, fake_configuration


def forget(broker: Mosquitto, *arguments: str) -> int:
    return main.main(["fleet", "forget", *arguments, "--broker", broker.url])


def retained(broker: Mosquitto) -> list[str]:
    with App(broker.port, "#") as app:
        app.publish("end", {}, qos=1)
        app.take("end")
        return sorted(heard.topic for heard in app.untaken("#") if heard.retain)


def test_a_stopped_node_leaves_nothing(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = fake_configuration(broker.url, tmp_path, discovery={"prefix": "homeassistant"})
    with Node(tmp_path, made), App(broker.port, f"{BASE}/state", "homeassistant/#") as app:
        app.take_state(BASE, "online")
        app.wait_until(lambda: len(app.untaken("homeassistant/#")) > 2, "discovery is announced")
    with App(broker.port) as app:
        app.publish("edgeslm/v1/other/state", {"state": "offline"}, retain=True)
    assert len(retained(broker)) > 5
    assert forget(broker, "hall", "--json") == 0
    cleared = json.loads(capsys.readouterr().out)
    assert {f"{BASE}/state", f"{BASE}/info", f"{BASE}/health"} <= set(cleared)
    assert any(topic.startswith("homeassistant/") for topic in cleared)
    assert retained(broker) == ["edgeslm/v1/other/state"]
    assert forget(broker, "hall") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 topics cleared"


def test_a_running_node_is_kept(broker: Mosquitto, capsys: pytest.CaptureFixture[str]) -> None:
    with App(broker.port) as app:
        app.publish(f"{BASE}/state", {"state": "online"}, retain=True)
    assert forget(broker, "hall") == 1
    assert "The node hall is online; stop it first, or add --force." in capsys.readouterr().err
    assert retained(broker) == [f"{BASE}/state"]
    assert forget(broker, "hall", "--force") == 0
    assert retained(broker) == []


@pytest.mark.parametrize("name", ["#", "+", "a/+/b", ""])
def test_a_name_that_stands_for_more_is_refused(broker: Mosquitto, name: str) -> None:
    assert forget(broker, name) == 1
