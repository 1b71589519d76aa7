"""Redaction of routes in a running daemon: a real broker, a fake engine that says what it is shown."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeslm.config.loader import load_config, parse_config
from edgeslm.errors import ConfigError, JournalError, ModelUnavailable
from edgeslm.node.routes import redactor
from edgeslm.serving.builder import build_deployment
from edgeslm.storage.journal import Journal
from edgeslm.storage.window_store import Gathered, Windows
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.fakes import make_delivery
from tests.support.nodes import (
    BASE,
    Node,
    fake_configuration,
    write_bundle,
    write_configuration,
    write_zero_shot,
)

SECRET = "0171 2345678"
GLINER = {"kind": "gliner", "label_token": 1, "text_token": 2, "longest": 8, "most_words": 99}
REDACT = {"redact": ["phone", "email"]}


def configuration(broker: Mosquitto, folder: Path, *routes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return fake_configuration(broker.url, folder, routes=list(routes), **more)


def test_task_collection_and_topic_get_the_redacted_text(broker: Mosquitto, tmp_path: Path) -> None:
    route = {"from": "hall/log", "task": "say", "remember": "log", "to": "out/{{ payload.by }}", **REDACT}
    made = configuration(broker, tmp_path, route, knowledge={"log": {"path": str(tmp_path / "log")}})
    with App(broker.port, "#") as app, Node(tmp_path, made):
        app.take_state(BASE, "online")
        app.publish("hall/log", {"text": f"call {SECRET}", "by": "max@example.org", "level": 3})
        result = app.take("out/[email]")
        shown = '{"text": "call [phone]", "by": "[email]", "level": 3}'
        assert json.loads(result.json["result"]["text"]) == json.loads(shown)
    assert any(b"[phone]" in file.read_bytes() for file in tmp_path.glob("log*"))
    assert_nowhere(tmp_path)


def test_windows_keep_the_redacted_texts_in_their_order(broker: Mosquitto, tmp_path: Path) -> None:
    route = {"from": "hall/log", "task": "brief", "to": "out", "window": {"last": 3}, **REDACT}
    with (
        App(broker.port, f"{BASE}/state", "out") as app,
        Node(tmp_path, configuration(broker, tmp_path, route)),
    ):
        app.take_state(BASE, "online")
        for number, who in enumerate((SECRET, "", "max@example.org")):
            app.publish("hall/log", {"id": str(number), "text": f"Belt {number} tore, call {who}"})
        points = app.take("out").json["result"]["points"]
    assert [point["ids"] for point in points] == [["0"], ["1"], ["2"]]
    assert "[phone]" in points[0]["text"] and "[email]" in points[2]["text"]
    assert_nowhere(tmp_path)


def test_windows_from_before_the_redaction_are_redacted(broker: Mosquitto, tmp_path: Path) -> None:
    route = {"from": "hall/log", "task": "brief", "to": "out", "window": {"last": 3}}
    with App(broker.port, f"{BASE}/state", f"{BASE}/res/#", "out") as app:
        with Node(tmp_path, configuration(broker, tmp_path, route)):
            app.take_state(BASE, "online")
            for number in range(2):
                app.publish("hall/log", {"id": SECRET, "text": f"Belt {number} tore, call {SECRET}"})
            app.publish(f"{BASE}/req/say", "after both")
            app.take(f"{BASE}/res/say")
        with Node(tmp_path, configuration(broker, tmp_path, {**route, **REDACT})):
            app.take_state(BASE, "online")
            app.publish("hall/log", {"id": "2", "text": "Spindle is hot"})
            told = app.take("out").payload.decode()
    assert "[phone]" in told and "2345678" not in told


@pytest.mark.parametrize("is_full", [False, True])
def test_what_waits_to_be_stored_at_a_reload_is_redacted_with_its_window(
    is_full: bool, broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reload comes before the message is written: at once, or because the disk is full."""
    route = {"from": "hall/log", "task": "brief", "to": "out", "window": {"last": 2}}
    add = Windows.add

    def add_if_room(self: Windows, messages: Sequence[Gathered]) -> list[bool]:
        if is_full:
            raise JournalError("The disk is full.")
        return add(self, messages)

    monkeypatch.setattr(Windows, "add", add_if_room)
    with (
        App(broker.port, f"{BASE}/state", "out") as app,
        Node(tmp_path, configuration(broker, tmp_path, route)) as node,
    ):
        app.take_state(BASE, "online")
        made = configuration(broker, tmp_path, {**route, **REDACT})
        new = load_config(write_configuration(tmp_path, made))
        reloaded: list[bool] = []

        def reload() -> None:
            node.daemon.delivered(
                replace(make_delivery(f"Belt 1 tore, call {SECRET}".encode()), topic="hall/log", qos=1)
            )
            asyncio.get_running_loop().call_soon(node.daemon._pipeline.take_up, new)
            asyncio.get_running_loop().call_later(0.1, reloaded.append, True)

        node.run(reload)
        app.wait_until(lambda: bool(reloaded), "it is reloaded")
        is_full = False
        app.publish("hall/log", f"Spindle is hot, call {SECRET}")
        told = app.take("out").payload.decode()
    assert "tore, call [phone]" in told and "2345678" not in told


def test_a_fault_of_the_redaction_passes_nothing_on(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(text: str) -> str:
        raise ValueError(text)

    monkeypatch.setattr(redactor, "read_payload", fail)
    route = {"from": "hall/log", "task": "say", "to": "out", **REDACT}
    with App(broker.port, "#") as app, Node(tmp_path, configuration(broker, tmp_path, route)) as node:
        app.take_state(BASE, "online")
        app.publish("hall/log", f"call {SECRET}")
        dead = app.take(f"{BASE}/dead")
        assert dead.json["reason"] == "internal" and b"2345678" not in dead.payload
        app.wait_until(lambda: node.daemon.health()["dropped"].get("unredacted") == 1, "it is counted")
        assert app.untaken("out") == []


def test_what_cant_be_redacted_is_told_and_not_passed_on(broker: Mosquitto, tmp_path: Path) -> None:
    route = {"from": "hall/log", "task": "say", "to": "out", **REDACT}
    with App(broker.port, "#") as app, Node(tmp_path, configuration(broker, tmp_path, route)) as node:
        app.take_state(BASE, "online")
        app.publish("hall/log", "[" * 100_000 + f'"{SECRET}"' + "]" * 100_000)
        dead = app.take(f"{BASE}/dead").json
        assert (dead["reason"], dead["reply_to"]) == ("invalid_request", "hall/log")
        app.publish("hall/log", "hello")
        assert app.take("out").json["result"]["text"] == "hello"
        health = node.daemon.health()
        assert health["dropped"]["unredacted"] == 1
        assert any("it can't be redacted" in alert for alert in health["alerts"])
        assert app.untaken("out") == []


NAMES = {"redact": ["person", "phone"], "redact_model": "names"}


def with_names(broker: Mosquitto, folder: Path, *routes: dict[str, Any]) -> dict[str, Any]:
    """A configuration whose model ``names`` finds the persons that the fake worker knows."""
    made = configuration(broker, folder, *routes)
    write_zero_shot(folder / "names", GLINER)
    return {**made, "models": {**made["models"], "names": {"bundle": str(folder / "names")}}}


def test_persons_that_a_model_finds_are_replaced(broker: Mosquitto, tmp_path: Path) -> None:
    route = {"from": "hall/log", "task": "say", "to": "out/{{ payload.by }}", **NAMES}
    made = with_names(broker, tmp_path, route)
    with App(broker.port, "#") as app, Node(tmp_path, made):
        app.take_state(BASE, "online")
        app.publish("hall/log", {"text": f"Call Eva Muster or {SECRET}", "by": "Max Muster", "level": 3})
        result = app.take("out/[person]")
        shown = '{"text": "Call [person] or [phone]", "by": "[person]", "level": 3}'
        assert json.loads(result.json["result"]["text"]) == json.loads(shown)
    assert_nowhere(tmp_path, "Eva Muster")


def test_windows_are_redacted_by_the_model_also_those_from_before(broker: Mosquitto, tmp_path: Path) -> None:
    route = {"from": "hall/log", "task": "brief", "to": "out", "window": {"last": 3}}
    with App(broker.port, f"{BASE}/state", f"{BASE}/res/#", "out") as app:
        with Node(tmp_path, configuration(broker, tmp_path, route)):
            app.take_state(BASE, "online")
            for number, name in enumerate(("Belt", "Hose")):
                app.publish("hall/log", {"id": str(number), "text": f"{name} tore: ask Max M{name}"})
            app.publish(f"{BASE}/req/say", "after both")
            app.take(f"{BASE}/res/say")
        with Node(tmp_path, with_names(broker, tmp_path, {**route, **NAMES})):
            app.take_state(BASE, "online")
            app.publish("hall/log", {"id": "2", "text": f"Spindle is hot, says Eva Muster, {SECRET}"})
            points = app.take("out").json["result"]["points"]
    assert [point["text"] for point in points] == [
        "Belt tore: ask [person]",
        "Hose tore: ask [person]",
        "Spindle is hot, says [person], [phone]",
    ]


def test_a_message_waits_for_the_model_and_is_dropped_if_that_stays_away(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = {"from": "hall/log", "task": "say", "to": "out", **NAMES}
    monkeypatch.setattr(redactor, "PAUSES_S", (0.01, 0.01))
    with App(broker.port, "#") as app, Node(tmp_path, with_names(broker, tmp_path, route)) as node:
        app.take_state(BASE, "online")
        find, failures = node.daemon.service.deployment.find_spans, 2

        async def fail(*arguments: Any) -> Any:
            nonlocal failures
            failures -= 1
            if failures < 0:
                return await find(*arguments)
            raise ModelUnavailable("the model is loading")

        monkeypatch.setattr(node.daemon.service.deployment, "find_spans", fail)
        app.publish("hall/log", "Call Eva Muster")
        assert app.take("out").json["result"]["text"] == "Call [person]"
        failures = 3
        app.publish("hall/log", "Ask Eva Muster")
        assert app.take(f"{BASE}/dead").json["reason"] == "model_unavailable"
        app.publish("hall/log", "See Max Muster")
        assert app.take("out").json["result"]["text"] == "See [person]"
        assert node.daemon.health()["dropped"]["unredacted"] == 1


def test_waiting_behind_a_slow_message_costs_no_message(broker: Mosquitto, tmp_path: Path) -> None:
    route = {"from": "hall/log", "task": "say", "to": "out", **NAMES}
    made = with_names(broker, tmp_path, route)
    made["limits"] = {**made.get("limits", {}), "request_timeout_s": 1}
    gate = tmp_path / "gate"
    with App(broker.port, "#") as app, Node(tmp_path, made):
        app.take_state(BASE, "online")
        app.publish("hall/log", f"hold {gate}")
        for number in range(4):
            app.publish("hall/log", f"note {number} Eva Muster")
        assert app.take(f"{BASE}/dead").json["reason"] == "timeout", "of the slow one"
        gate.touch()
        texts = [app.take("out").json["result"]["text"] for _ in range(4)]
    assert sorted(texts) == [f"note {number} [person]" for number in range(4)]


def test_a_full_journal_costs_no_message(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(journal: Journal, key: bytes, lost: int = 0) -> None:
        raise JournalError("full")

    route = {"from": "hall/log", "task": "say", "to": "out", **NAMES}
    with App(broker.port, "#") as app, Node(tmp_path, with_names(broker, tmp_path, route)) as node:
        app.take_state(BASE, "online")
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "begin", full)
            patch.setattr(redactor, "PAUSES_S", ())
            app.publish("hall/log", "Call Eva Muster")
            app.wait_until(lambda: node.daemon.health()["queue"] >= 0, "it is taken")
            time.sleep(1)
        assert app.take("out").json["result"]["text"] == "Call [person]"
        assert app.untaken(f"{BASE}/dead") == []


def test_one_message_of_an_old_window_that_cant_be_redacted_costs_no_other(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = {"from": "hall/log", "task": "brief", "to": "out", "window": {"last": 3}}
    with App(broker.port, f"{BASE}/#", "out") as app:
        with Node(tmp_path, configuration(broker, tmp_path, route)):
            app.take_state(BASE, "online")
            app.publish("hall/log", "crash")
            app.publish("hall/log", "Hose tore: ask Max Muster")
            app.publish(f"{BASE}/req/say", "after both")
            app.take(f"{BASE}/res/say")
        monkeypatch.setattr(redactor, "PAUSES_S", (0.01,))
        with Node(tmp_path, with_names(broker, tmp_path, {**route, **NAMES})) as node:
            app.take_state(BASE, "online")
            app.publish("hall/log", {"id": "2", "text": "Spindle is hot"})
            result = app.take("out").json["result"]
            assert app.take(f"{BASE}/dead").json["reason"] == "poisoned"
            assert node.daemon.health()["dropped"]["unredacted"] == 1
    assert [point["text"] for point in result["points"]] == ["Hose tore: ask [person]", "Spindle is hot"]
    (old,), _ = (point["ids"] for point in result["points"])
    assert old.startswith("hall/log@20"), "the node's own id stays"


def test_a_text_that_crashes_the_model_is_reported_dead(broker: Mosquitto, tmp_path: Path) -> None:
    route = {"from": "hall/log", "task": "say", "to": "out", **NAMES}
    with App(broker.port, "#") as app, Node(tmp_path, with_names(broker, tmp_path, route)):
        app.take_state(BASE, "online")
        app.publish("hall/log", "crash")
        assert app.take(f"{BASE}/dead").json["reason"] == "poisoned"
        app.publish("hall/log", "hello")
        assert app.take("out").json["result"]["text"] == "hello"


def test_a_model_of_another_kind_is_refused(broker: Mosquitto, tmp_path: Path) -> None:
    route = {"from": "hall/log", "task": "say", "to": "out", **NAMES}
    made = with_names(broker, tmp_path, route)
    write_bundle(tmp_path / "plain", "encoder")
    made["models"]["names"]["bundle"] = str(tmp_path / "plain")
    with pytest.raises(ConfigError, match=r"routes\[0\]\.redact_model: names is no zero-shot model"):
        build_deployment(parse_config(json.dumps(made)))


def assert_nowhere(folder: Path, secret: str = SECRET) -> None:
    """No file of the node has the secret."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "mosquitto.db"]
    assert not [file for file in files if secret.encode() in file.read_bytes()]
