"""The example flows in the real Node-RED: requests, and cameras. Real broker, nodes without models."""

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

from tests.support.apis import TOKENS
from tests.support.apps import WAIT_S, App
from tests.support.brokers import Mosquitto, free_port
from tests.support.frigate import OBJECTS, REVIEWS, description, example_configuration, review
from tests.support.nodes import Node
from tests.support.paths import ROOT
from tests.support.small_nodes import SmallNode

FLOWS = ROOT / "firmware-config/node-red"

pytestmark = pytest.mark.e2e


def changed_flow(name: str, port: int, **variables: str) -> list[dict[str, Any]]:
    """An example at this broker, with what its debug nodes show published too, as ``seen/<node>``."""
    flow: list[dict[str, Any]] = json.loads((FLOWS / f"{name}.json").read_text("utf-8"))
    nodes = {node["id"]: node for node in flow}
    nodes["edgeslm_broker"].update(broker="127.0.0.1", port=str(port))
    (tab,) = (node for node in flow if node["type"] == "tab")
    tab["env"] = [{"name": name, "value": value, "type": "str"} for name, value in variables.items()]
    kinds = {node["type"]: node for node in flow}
    for seen in [node for node in flow if node["type"] == "debug"]:
        out = {**kinds["mqtt out"], "id": f"{seen['id']}_out", "topic": f"seen/{seen['id']}"}
        pick = {**kinds["function"], "id": f"{seen['id']}_pick", "outputs": 1, "wires": [[out["id"]]]}
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
def start(tmp_path: Path) -> Iterator[Callable[[list[dict[str, Any]]], NodeRed]]:
    started: list[NodeRed] = []

    def start(flow: list[dict[str, Any]]) -> NodeRed:
        (tmp_path / "red").mkdir()
        started.append(NodeRed(tmp_path / "red", flow))
        return started[-1]

    yield start
    for red in started:
        red.stop()


def test_the_example_flow_asks_and_is_answered(broker: Mosquitto, start: Callable[..., NodeRed]) -> None:
    red = start(changed_flow("flow", broker.port, EDGESLM_NODE="hall", EDGESLM_TASK="label"))
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


def test_the_flow_of_cameras(broker: Mosquitto, start: Callable[..., NodeRed], tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"node-red {TOKENS['app']}\n")
    api = {"listen": f"127.0.0.1:{free_port()}", "tokens": str(tokens)}
    configuration = example_configuration(broker.url, tmp_path, api=api)
    with (
        App(broker.port, "seen/#", "cameras/digest", "edgeslm/v1/cameras/#") as app,
        Node(tmp_path, configuration),
    ):
        app.take_state("edgeslm/v1/cameras", "online")
        url = f"http://{api['listen']}"
        red = start(changed_flow("cameras", broker.port, EDGESLM_API=url, EDGESLM_TOKEN=TOKENS["app"]))
        red.wait_until_connected()
        app.wait_until(lambda: "cameras/digest" in broker.log, "it has subscribed")
        check_severity(app)
        app.publish(REVIEWS, review("end", "1796000000.1-a", "gate", ["person"], severity="alert"))
        red.press("cameras_evening")
        assert app.take("seen/cameras_day").json["payload"] == "person at gate (1)"
        app.publish(OBJECTS, description("1796000000.2-b", "A red car parks in front of the garage."))
        app.wait_until(lambda: ask_until_found(red, app), "the description is found")
    assert "[error]" not in red.words


def check_severity(app: App) -> None:
    """Two reviews of one camera, and one of another: what comes again within ten minutes is left out."""
    for id, camera, zone in (("1-a", "gate", "alarm"), ("2-b", "gate", "alarm"), ("3-c", "door", "look")):
        app.publish(REVIEWS, review("new", f"179600000{id}", camera, ["person"], [zone], severity="alert"))
    look = app.take("seen/cameras_look").json["payload"]
    assert (look["camera"], look["label"]) == ("door", "look")
    assert app.take("seen/cameras_alarm").json["payload"]["camera"] == "gate"
    assert not app.untaken("seen/#")


def ask_until_found(red: NodeRed, app: App) -> bool:
    """Whether the description is indexed: that takes seconds."""
    red.press("cameras_question")
    found = app.take("seen/cameras_passages").json["payload"]
    return [one["text"] for one in found] == ["A red car parks in front of the garage."]


@pytest.mark.parametrize("file", sorted(FLOWS.glob("*.json")), ids=lambda file: str(file.stem))
def test_a_flow_names_no_password_and_uses_only_what_node_red_brings(file: Path) -> None:
    flow = json.loads(file.read_text("utf-8"))
    known = {"tab", "mqtt-broker", "mqtt in", "mqtt out", "inject", "function", "switch", "debug"}
    assert {node["type"] for node in flow} - {"http request"} == known
    assert not [node for node in flow if "credentials" in node]
