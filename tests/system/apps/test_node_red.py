"""The example flow in the real Node-RED: it asks with MQTT 5 and is answered. Real broker, a small node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.apps import WAIT_S, App
from tests.support.brokers import Mosquitto, free_port
from tests.support.paths import ROOT
from tests.support.small_nodes import SmallNode

FLOW = ROOT / "firmware-config/node-red/flow.json"

pytestmark = pytest.mark.e2e


def changed_flow(port: int) -> list[dict[str, Any]]:
    """The example at this broker, with what its debug nodes show published too."""
    flow: list[dict[str, Any]] = json.loads(FLOW.read_text("utf-8"))
    nodes = {node["id"]: node for node in flow}
    nodes["edgeslm_broker"].update(broker="127.0.0.1", port=str(port))
    nodes["edgeslm_tab"]["env"] = [
        {"name": "EDGESLM_NODE", "value": "hall", "type": "str"},
        {"name": "EDGESLM_TASK", "value": "label", "type": "str"},
    ]
    for seen in [node for node in flow if node["type"] == "debug"]:
        out = {**nodes["edgeslm_request"], "id": f"{seen['id']}_out", "topic": f"seen/{seen['id']}"}
        pick = {**nodes["edgeslm_ask"], "id": f"{seen['id']}_pick", "wires": [[out["id"]]]}
        pick["func"] = "return { payload: JSON.stringify({ payload: msg.payload, asked: msg.asked }) };"
        for node in flow:
            node["wires"] = [
                [*wire, pick["id"]] if seen["id"] in wire else wire for wire in node.get("wires", [])
            ]
        flow += [out, pick]
    return flow


class NodeRed:
    """One that runs without its editor's users; its words are kept."""

    def __init__(self, folder: Path, flow: list[dict[str, Any]]) -> None:
        uv = str(Path(sys.executable).with_name("uv"))
        environment = {**os.environ, "EDGESLM_PYTHON": sys.executable, "UV": uv}
        command = subprocess.run([ROOT / "scripts/node-red"], env=environment, capture_output=True, text=True)
        assert command.returncode == 0, command.stderr
        self._port = free_port()
        settings = {
            "uiHost": "127.0.0.1",
            "uiPort": self._port,
            "flowFile": "flow.json",
            "telemetry": {"enabled": False, "updateNotification": False},
        }
        (folder / "settings.js").write_text(f"module.exports = {json.dumps(settings)};\n")
        (folder / "flow.json").write_text(json.dumps(flow))
        self._words = (folder / "words.txt").open("w+")
        self._process = subprocess.Popen(
            [*command.stdout.split("\n")[:2], "--userDir", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=self._words,
            stderr=self._words,
            env={**environment, "NODE_RED_DISABLE_TELEMETRY": "true"},
        )

    def wait_until_connected(self) -> None:
        give_up_at = time.monotonic() + WAIT_S
        while "Connected to broker" not in self.words:
            assert self._process.poll() is None and time.monotonic() < give_up_at, self.words
            time.sleep(0.05)

    def press(self, button: str) -> None:
        """The button of an inject node."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/inject/{button}", method="POST")
        try:
            with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
                assert answer.status == 200
        except urllib.error.HTTPError as error:
            error.close()
            raise AssertionError(f"{error}: {self.words}") from None

    @property
    def words(self) -> str:
        self._words.seek(0)
        return self._words.read()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._words.close()


@pytest.fixture
def broker(make_broker: Callable[..., Mosquitto]) -> Mosquitto:
    return make_broker()


@pytest.fixture
def red(broker: Mosquitto, tmp_path: Path) -> Iterator[NodeRed]:
    red = NodeRed(tmp_path, changed_flow(broker.port))
    yield red
    red.stop()


def test_the_example_flow_asks_and_is_answered(broker: Mosquitto, red: NodeRed) -> None:
    with App(broker.port, "seen/#", "edgeslm/v1/hall/#") as app, SmallNode(broker.url) as node:
        red.wait_until_connected()
        app.wait_until(lambda: "node-red" in broker.log, "it has subscribed")
        red.press("edgeslm_inject")
        answered = app.take("seen/edgeslm_ok").json
        assert answered == {"payload": {"label": "critical"}, "asked": "Spindle 3 smells of burnt oil"}
        (request,) = node.requests
        assert request.reply_to == "edgeslm/v1/hall/res/label/node-red"
        assert request.correlation is not None
        assert node.deliveries[0].qos == 1 and node.deliveries[0].expiry_s is not None
        result = app.take("edgeslm/v1/hall/res/#")
        app.publish(result.topic, result.payload, correlation=result.correlation)  # once more
        app.publish("edgeslm/v1/hall/event/log", {"result": {"label": "normal"}})
        app.publish("edgeslm/v1/hall/event/log", {"result": {"label": "critical"}})
        assert app.take("seen/edgeslm_critical").json["payload"] == {"result": {"label": "critical"}}
        assert not app.untaken("seen/#"), "the repeat is left out, and so is what is normal"
    assert "[error]" not in red.words


def test_the_flow_names_no_password_and_uses_only_what_node_red_brings() -> None:
    flow = json.loads(FLOW.read_text("utf-8"))
    known = {"tab", "mqtt-broker", "mqtt in", "mqtt out", "inject", "function", "switch", "debug"}
    assert {node["type"] for node in flow} == known
    assert not [node for node in flow if "credentials" in node]
