"""A node in the real Home Assistant: its entities by discovery, the blueprint. Real broker, fake engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.apps import WAIT_S, App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, TASKS, Node, fake_configuration
from tests.support.paths import ROOT

BLUEPRINTS = ROOT / "firmware-config/home-assistant/blueprints"
DISCOVERY = {"prefix": "homeassistant"}
ROUTES = [
    {"name": "log", "from": "factory/+/log", "task": "triage", "to": "factory/{{ topic[1] }}/label"},
    {"name": "mail", "from": "home/mail", "task": "say"},
]

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def python() -> str:
    environment = {"EDGESLM_PYTHON": sys.executable, "UV": str(Path(sys.executable).with_name("uv"))}
    done = subprocess.run(
        [ROOT / "scripts/home-assistant"], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class HomeAssistant:
    """One that runs; what it complains of is kept."""

    def __init__(self, python: str, port: int, folder: Path) -> None:
        folder.mkdir()
        shutil.copytree(BLUEPRINTS, folder / "blueprints")
        self._words = (folder / "words.txt").open("w+")
        self._process = subprocess.Popen(
            [python, str(ROOT / "tests/support/home_assistant.py"), str(port), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
        )

    def ask(self, order: str) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(order, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, self.words
        return json.loads(line)

    def wait_for(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """All entities, once the condition holds: id -> state and attributes."""
        give_up_at = time.monotonic() + WAIT_S
        while not condition(states := self.ask("states")):
            assert time.monotonic() < give_up_at, (states, self.words)
            time.sleep(0.05)
        return dict(states)

    def wait_for_state(self, entity: str, state: str) -> dict[str, Any]:
        """The entity's attributes."""
        found = self.wait_for(lambda states: entity in states and states[entity][0] == state)
        return dict(found[entity][1])

    @property
    def words(self) -> str:
        self._words.seek(0)
        return self._words.read()

    @property
    def complaints(self) -> list[str]:
        """What it says of messages, discovery and templates."""
        return [line for line in self.words.splitlines() if "template" in line or "mqtt" in line.lower()]

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._words.close()


@pytest.fixture
def broker(make_broker: Callable[..., Mosquitto]) -> Mosquitto:
    return make_broker()


@pytest.fixture
def home(python: str, broker: Mosquitto, tmp_path: Path) -> Iterator[HomeAssistant]:
    home = HomeAssistant(python, broker.port, tmp_path / "home")
    yield home
    home.stop()


def test_a_node_shows_up_with_all_that_it_has_and_goes_with_it(
    broker: Mosquitto, home: HomeAssistant, tmp_path: Path
) -> None:
    def configuration(**changes: Any) -> dict[str, Any]:
        return fake_configuration(broker.url, tmp_path, discovery=DISCOVERY, **changes)

    with App(broker.port, f"{BASE}/#", "factory/#") as app:
        with Node(tmp_path, configuration(routes=ROUTES)):
            home.wait_for_state("sensor.hall_state", "online")
            every = home.wait_for(lambda states: "sensor.hall_temperature" in states)
            tasks = {f"sensor.hall_task_{task}" for task in TASKS}
            assert tasks | {"sensor.hall_route_log", "sensor.hall_route_mail"} <= set(every)
            assert every["binary_sensor.hall_alerts"] == [
                "off",
                {"alerts": [], "device_class": "problem", "friendly_name": "hall Alerts"},
            ]
            assert float(every["sensor.hall_memory"][0]) > 1
            check_tasks(app, home)
            check_routes(app, home)
        home.wait_for_state("sensor.hall_state", "stopped")
        assert home.ask("states")["sensor.hall_task_triage"][0] == "unavailable"
        fewer = {name: task for name, task in TASKS.items() if name != "say"}
        with Node(tmp_path, configuration(tasks=fewer, routes=ROUTES[:1])):
            left = home.wait_for(lambda states: "sensor.hall_task_say" not in states)
            assert "sensor.hall_route_mail" not in left
            home.wait_for(lambda states: states["sensor.hall_task_triage"][0] != "unavailable")
    assert not home.complaints


def check_tasks(app: App, home: HomeAssistant) -> None:
    app.publish(f"{BASE}/req/triage", {"input": "all good", "id": "7"})
    label = app.take(f"{BASE}/res/triage").json["result"]["label"]
    attributes = home.wait_for_state("sensor.hall_task_triage", label)
    assert (attributes["id"], attributes["label"], attributes["status"]) == ("7", label, "ok")
    assert attributes["code"] is None and 0 <= attributes["confidence"] <= 1
    app.publish(f"{BASE}/req/triage", {"input": "x", "options": {"seed": "no"}})
    assert home.wait_for_state("sensor.hall_task_triage", "error")["code"] == "invalid_request"
    app.publish(f"{BASE}/req/say", "w" * 1000)
    text = app.take(f"{BASE}/res/say").json["result"]["text"]
    attributes = home.wait_for_state("sensor.hall_task_say", text if len(text) <= 250 else text[:249] + "…")
    assert attributes["text"] == text[:4000]
    for task, state in (("fields", "ok"), ("vector", "ok"), ("brief", None), ("manual", None)):
        options = {"context": "Change the oil."} if task == "manual" else {}
        app.publish(f"{BASE}/req/{task}", {"input": "Pump 7 leaks oil.", "options": options})
        result = app.take(f"{BASE}/res/{task}").json
        said = state or result["result"]["text"] or "none"
        home.wait_for_state(f"sensor.hall_task_{task}", said if result["status"] == "ok" else "abstained")


def check_routes(app: App, home: HomeAssistant) -> None:
    """A message of somebody else's on the same topics changes nothing."""
    app.publish("factory/press/log", "all good")
    label = app.take("factory/press/label").json["result"]["label"]
    before = home.wait_for_state("sensor.hall_route_log", label)
    for other in ("calm", "3", '{"task": "other", "status": "ok", "result": {"label": "x"}}', "", '["a"]'):
        app.publish("factory/other/label", other)
    app.publish("home/mail", "hello")
    home.wait_for(lambda states: states["sensor.hall_route_mail"][0] not in ("unknown", "unavailable"))
    state, after = home.ask("states")["sensor.hall_route_log"]
    assert (state, after) == (label, before)


def test_the_blueprint_acts_once_for_each_message(
    broker: Mosquitto, home: HomeAssistant, tmp_path: Path
) -> None:
    event = {"label": "{{ label }}", "confidence": "{{ confidence }}", "source": "{{ source }}"}
    inputs = {
        "sensor": "sensor.hall_route_log",
        "label": "critical",
        "actions": [{"event": "edgeslm_test", "event_data": event}],
    }
    topic = "factory/press/label"
    configuration = fake_configuration(broker.url, tmp_path, discovery=DISCOVERY, routes=ROUTES)

    def result(id: str, label: str) -> dict[str, Any]:
        told = {"label": label, "confidence": 0.9, "scores": {label: 0.9}, "stage": "small"}
        return {"id": id, "task": "triage", "status": "ok", "result": told}

    with App(broker.port, f"{BASE}/#") as app, Node(tmp_path, configuration):
        home.wait_for(lambda states: states.get("sensor.hall_route_log", [""])[0] == "unknown")
        assert home.ask(f"automation notify.yaml {json.dumps(inputs)}") is True
        for id, label in (("1", "normal"), ("2", "critical"), ("3", "critical"), ("3", "critical")):
            app.publish(topic, result(id, label))
            home.wait_for(lambda states, id=id: states["sensor.hall_route_log"][1].get("id") == id)  # type: ignore[misc]
    assert home.ask("events") == [
        {"label": "critical", "confidence": 0.9, "source": "hall Route log"} for _ in range(2)
    ]
    assert not home.complaints


def test_each_field_is_an_entity(broker: Mosquitto, home: HomeAssistant, tmp_path: Path) -> None:
    fields = {
        "machine": {"type": "string"},
        "temperature_c": {"type": "number"},
        "urgency": {"enum": ["low", "high"]},
        "is_stopped": {"type": "boolean"},
    }
    task = {"kind": "extract", "model": "small", "schema": {"type": "object", "properties": fields}}
    route = {"name": "log", "from": "press/+/log", "task": "press", "to": "press/{{ topic[1] }}/fields"}
    discovery = {**DISCOVERY, "topics": ["press/6/fields"]}
    configuration = fake_configuration(
        broker.url, tmp_path, discovery=discovery, tasks={"press": task}, routes=[route]
    )
    ids = {
        "machine": "sensor.hall_route_log_machine",
        "temperature_c": "sensor.hall_route_log_temperature_c",
        "urgency": "sensor.hall_route_log_urgency",
        "is_stopped": "binary_sensor.hall_route_log_is_stopped",
    }

    def send(id: str, found: Any, status: str = "ok", topic: str = "press/4/fields") -> None:
        told = {"id": id, "task": "press", "status": status, "result": {"fields": found}}
        app.publish(topic, told)

    def wait_for(*states: str) -> dict[str, Any]:
        wanted = dict(zip(ids.values(), states, strict=True))
        return home.wait_for(lambda found: {one: found.get(one, [None])[0] for one in wanted} == wanted)

    with App(broker.port, f"{BASE}/#") as app, Node(tmp_path, configuration):
        wait_for(*["unknown"] * 4)
        app.publish("press/4/fields", "no result")
        send("0", {"machine": "x"}, status="abstained")
        send("1", {"machine": "press 4", "temperature_c": 81.5, "urgency": "high", "is_stopped": True})
        found = wait_for("press 4", "81.5", "high", "on")
        attributes = found[ids["temperature_c"]][1]
        assert (attributes["unit_of_measurement"], attributes["device_class"]) == ("°C", "temperature")
        send("2", {"machine": "press 5"}, status="abstained")
        app.publish(
            "press/4/fields", '{"task": "other", "status": "ok", "result": {"fields": {"machine": "x"}}}'
        )
        send(
            "3",
            {"machine": "press 6", "temperature_c": 20, "urgency": "low", "is_stopped": False},
            topic="press/6/fields",
        )
        wait_for("press 6", "20", "low", "off")
        send("4", {"machine": 7, "temperature_c": "hot", "urgency": "medium", "is_stopped": "no"})
        home.wait_for_state("sensor.hall_route_log", "ok")
        home.wait_for(lambda states: states["sensor.hall_route_log"][1].get("id") == "4")
        states = home.ask("states")
        assert [states[ids[name]][0] for name in ("temperature_c", "is_stopped")] == ["unknown", "unknown"]
        assert states[ids["machine"]][0] in ("unknown", "None"), "None before 2024.5 or so"
        assert states["sensor.hall_route_log_6_temperature_c"][0] == "20", "a topic of its own"
        app.publish(f"{BASE}/req/press", {"input": "Press 4 has 81 degrees", "id": "7"})
        result = app.take(f"{BASE}/res/press").json
        assert result["status"] == "ok"
        home.wait_for_state("sensor.hall_task_press", "ok")
    assert not home.complaints


def test_a_script_asks_and_tells(broker: Mosquitto, home: HomeAssistant, tmp_path: Path) -> None:
    inputs = {"sensor": "sensor.hall_task_say", "topic": f"{BASE}/req/say", "timeout_s": 20}
    configuration = fake_configuration(broker.url, tmp_path, discovery=DISCOVERY)
    with App(broker.port, f"{BASE}/#") as app, Node(tmp_path, configuration):
        home.wait_for(lambda states: states.get("sensor.hall_task_say", [""])[0] == "unknown")
        assert home.ask(f"script ask.yaml {json.dumps(inputs)}") is True
        questions = ["What does E42 mean?", "What does E42 mean?", 'A "quoted" {{ question }}?']
        for question in questions:
            answer = home.ask(f"run {json.dumps({'question': question})}")
            result = app.take(f"{BASE}/res/say").json
            assert answer == {"status": "ok", "text": result["result"]["text"], "sources": []}
            assert app.take(f"{BASE}/req/say").json == {"id": result["id"], "input": question}
        told = home.ask("notifications")
        assert [one["title"] for one in told] == questions
        assert all(one["message"] for one in told)
    assert not home.complaints


def test_a_question_without_an_answer_ends(broker: Mosquitto, home: HomeAssistant, tmp_path: Path) -> None:
    inputs = {"sensor": "sensor.hall_task_say", "topic": f"{BASE}/nobody", "timeout_s": 1}
    assert home.ask(f"script ask.yaml {json.dumps(inputs)}") is True
    assert home.ask('run {"question": "?"}') == {"status": "none", "text": "", "sources": []}
    assert home.ask("notifications") == [{"title": "?", "message": "There is no answer."}]


def test_texts_of_events_and_sensors_are_sent(broker: Mosquitto, home: HomeAssistant, tmp_path: Path) -> None:
    inputs = {
        "triggers": [{"platform": "event", "event_type": "edgeslm_text"}],
        "text": "{{ trigger.event.data.message }}",
        "topic": f"{BASE}/req/triage",
    }
    configuration = fake_configuration(broker.url, tmp_path, discovery=DISCOVERY)
    with App(broker.port, f"{BASE}/#") as app, Node(tmp_path, configuration):
        home.wait_for(lambda states: states.get("sensor.hall_task_triage", [""])[0] == "unknown")
        assert home.ask(f"automation send.yaml {json.dumps(inputs)}") is True
        for message in ("unavailable", " ", "Spindle 3 smells of burnt oil", "42"):
            home.ask(f"fire {json.dumps({'message': message})}")
        for message in ("Spindle 3 smells of burnt oil", "42"):
            assert app.take(f"{BASE}/req/triage").json == {"input": message}
            label = app.take(f"{BASE}/res/triage").json["result"]["label"]
        home.wait_for_state("sensor.hall_task_triage", label)
        assert not app.untaken(f"{BASE}/req/#")
    assert not home.complaints
