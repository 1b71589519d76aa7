"""``edgeslm fleet list`` at a real broker: who is listed, by which filter, and with which status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.cli import main
from tests.support.apps import App
from tests.support.brokers import Mosquitto, free_port
from tests.support.nodes import Node
from tests.support.pool_members import base, member


def say(app: App, name: str, state: str = "online", info: Any = None, health: Any = None) -> None:
    for kind, document in (("state", {"state": state}), ("info", info), ("health", health)):
        if document is not None:
            app.publish(f"edgeslm/v1/{name}/{kind}", document, retain=True)


@pytest.fixture
def app(broker: Mosquitto) -> Iterator[App]:
    with App(broker.port, "edgeslm/v1/+/state") as app:
        yield app


def listed(broker: Mosquitto, capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    capsys.readouterr()
    assert main.main(["fleet", "list", "--broker", broker.url, "--json", *options]) == 0
    return [node["name"] for node in json.loads(capsys.readouterr().out)["nodes"]]


def test_real_nodes_are_listed_with_what_they_have(
    broker: Mosquitto, app: App, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Node(tmp_path / "left", member(broker.url, tmp_path, "left")):
        app.take_state(base("left"), "online")
        assert main.main(["fleet", "list", "--broker", broker.url, "--json", "--check"]) == 0
        (node,) = json.loads(capsys.readouterr().out)["nodes"]
        assert (node["name"], node["state"], node["up"], node["stale"]) == ("left", "online", True, False)
        assert node["pool"] == {"name": "hands", "tasks": ["triage"], "by": "share"}
        assert node["models"][0]["digest"].startswith("sha256:")
        assert node["load"] == {"queue": 0, "in_flight": 0, "requests": 0}
        assert 0 <= node["age_s"] < 60
    assert main.main(["fleet", "list", "--broker", broker.url, "--check"]) == 1
    assert "stopped" in capsys.readouterr().out


def test_filters(broker: Mosquitto, app: App, capsys: pytest.CaptureFixture[str]) -> None:
    pool = {"name": "hands", "tasks": ["triage"], "by": "dispatcher"}
    say(app, "a", info={"version": "0.1.0", "protocol": 1, "pool": pool})
    say(app, "b", info={"version": "0.2.0", "protocol": 2}, health={"alerts": ["The disk is full."]})
    say(app, "c", info={"version": "0.2.0", "protocol": 4})
    say(app, "pool/hands", info={"version": "0.2.0", "protocol": 1, "members": {"a": "online"}})
    say(app, "pool", info={"version": "0.2.0"})  # no node is called so
    assert listed(broker, capsys) == ["a", "b", "c", "pool/hands"]
    assert listed(broker, capsys, "--node", "b") == ["b"]
    assert listed(broker, capsys, "--pool", "hands") == ["a", "pool/hands"]
    assert listed(broker, capsys, "--outdated") == ["a", "c"]
    assert listed(broker, capsys, "--attention") == ["b", "c"]
    assert main.main(["fleet", "list", "--broker", broker.url, "--pool", "hands", "--check"]) == 0


def test_the_nodes_of_sites_at_their_hub(
    broker: Mosquitto, app: App, capsys: pytest.CaptureFixture[str]
) -> None:
    say(app, "own")
    for site, link in (("plant-a", "1"), ("plant-b", "0")):
        for name in ("hall", "pool/hands"):
            app.publish(f"site/{site}/edgeslm/v1/{name}/state", {"state": "online"}, retain=True)
        app.publish(f"site/{site}/link", link, retain=True)
    assert main.main(["fleet", "list", "--broker", broker.url, "--sites", "--json"]) == 0
    nodes = json.loads(capsys.readouterr().out)["nodes"]
    assert [(one["site"], one["name"], one["up"], one["unreachable"]) for one in nodes] == [
        ("plant-a", "hall", True, False),
        ("plant-a", "pool/hands", True, False),
        ("plant-b", "hall", False, True),
        ("plant-b", "pool/hands", False, True),
    ]
    assert main.main(["fleet", "list", "--broker", broker.url, "--site", "plant-b"]) == 0
    assert "plant-b/hall" in capsys.readouterr().out
    assert main.main(["fleet", "list", "--broker", broker.url, "--site", "A/B"]) == 1


def test_nobody_is_there(broker: Mosquitto, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["fleet", "list", "--broker", broker.url]) == 1
    assert "has heard nothing of any node below edgeslm/v1" in capsys.readouterr().err
    assert main.main(["fleet", "list", "--broker", broker.url, "--sites"]) == 1
    assert "has heard nothing of any node below site/+/edgeslm/v1" in capsys.readouterr().err
    assert main.main(["fleet", "list", "--broker", f"mqtt://127.0.0.1:{free_port()}"]) == 1


def test_it_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main.main(["fleet", "list", "--help"])
    assert end.value.code == 0
    assert "example: edgeslm fleet list --broker" in capsys.readouterr().out
