"""Where the texts of messages are while a node serves them, and where they are not."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, Node, fake_configuration

SECRET = "Anna in ward 7"


def files_with(secret: str, folder: Path) -> list[str]:
    found = [file for file in folder.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()]
    return [str(file.relative_to(folder)) for file in found]


@pytest.mark.parametrize("how", ["full", "none", "encrypted"])
def test_an_answered_text_is_on_the_disk_as_the_journal_says(
    broker: Mosquitto, tmp_path: Path, how: str
) -> None:
    (key := tmp_path / "key").write_bytes(b"k" * 32)
    journal: dict[str, Any] = {"full": {}, "none": {"keep": "none"}, "encrypted": {"key_file": str(key)}}[how]
    configuration = fake_configuration(broker.url, tmp_path, journal=journal)
    request = {"id": "42", "reply_to": f"{BASE}/res/say/app", "input": SECRET}
    with Node(tmp_path, configuration), App(broker.port, f"{BASE}/#") as app:
        app.take_state(BASE, "online")
        app.publish(f"{BASE}/req/say", request)
        first = app.take(f"{BASE}/res/say/app").json
        assert SECRET in first["result"]["text"], "the fake engine repeats it"
        assert bool(files_with(SECRET, tmp_path / "state")) is (how == "full")
        app.publish(f"{BASE}/req/say", request)
        assert app.take(f"{BASE}/res/say/app").json["id"] == "42"
        app.publish(f"{BASE}/req/triage", "an end")
        app.take(f"{BASE}/res/triage")


def test_no_text_is_logged(broker: Mosquitto, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Node(tmp_path, fake_configuration(broker.url, tmp_path)), App(broker.port, f"{BASE}/#") as app:
        app.take_state(BASE, "online")
        for payload in (SECRET, {"input": SECRET, "options": {"seed": SECRET}}, "{" + SECRET, {"x": SECRET}):
            app.publish(f"{BASE}/req/say", payload)
            app.take(f"{BASE}/res/say")
        app.publish(f"{BASE}/feedback", {"task": SECRET, "input": SECRET, "label": SECRET})
        app.publish(f"{BASE}/cancel", SECRET)
        app.publish(f"{BASE}/req/triage", "an end")
        app.take(f"{BASE}/res/triage")
    assert SECRET not in caplog.text
