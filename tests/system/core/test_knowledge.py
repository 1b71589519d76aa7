"""Documents and messages of a node: the real broker, the real models, and a process for the collections."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, NodeProcess, real_configuration
from tests.support.readers import make_reader

REPLY = f"{BASE}/res/any/desk"
MANUAL = """\
# Press 4

## Care

Grease the bearings of the press every 40 hours with lithium grease.

## Alarms

E42 means that the spindle is overheated. Let it cool down, then press reset.
"""
TABLE = "press,temperature_c,operator\n1,71,Anna\n4,91,Ben\n"


@pytest.fixture
def manuals(tmp_path: Path) -> Path:
    folder = tmp_path / "manuals"
    folder.mkdir()
    for name, text in (("press.md", MANUAL), ("presses.csv", TABLE)):
        (folder / name).write_text(text)
        os.utime(folder / name, (5, 5))
    return folder


def configuration(broker: Mosquitto, starter: Path, folder: Path) -> dict[str, Any]:
    made = real_configuration(broker.url, starter, folder)
    kb = folder / "kb"
    return {
        **made,
        "knowledge": {
            "manuals": {
                "path": str(kb / "manuals"),
                "encoder": "encoder",
                "watch": [str(folder / "manuals")],
                "tables": True,
            },
            "log": {"path": str(kb / "log"), "encoder": "encoder"},
        },
        "tasks": {
            "find": {
                "kind": "search",
                "knowledge": ["manuals", "log"],
                "passages": 2,
                "allow": ["knowledge", "sources", "since", "until"],
            },
            "manual": {"kind": "answer", "knowledge": ["manuals"]},
        },
        "routes": [{"from": "plant/+/log", "remember": "log", "keep_s": 3600}],
    }


def ask(app: App, task: str, question: str, **options: Any) -> dict[str, Any]:
    app.publish(f"{BASE}/req/{task}", {"input": question, "reply_to": REPLY, "options": options})
    return app.take(REPLY).json


def search(app: App, question: str, **options: Any) -> list[dict[str, Any]]:
    found = ask(app, "find", question, **options)
    assert found["status"] == "ok", found
    passages: list[dict[str, Any]] = found["result"]["passages"]
    return passages


def test_documents_and_messages_are_found_and_answered_over_mqtt(
    broker: Mosquitto, starter: Path, tmp_path: Path, manuals: Path
) -> None:
    made = configuration(broker, starter, tmp_path)
    with NodeProcess(tmp_path, made) as node, App(broker.port, f"{BASE}/#") as app:
        node.wait_online(app)
        app.wait_until(
            lambda: [one["heading"] for one in search(app, "lubrication interval")][:1] == ["Press 4 > Care"],
            "the folder is read and embedded",
        )
        found = search(app, "how often is grease put on it?", knowledge=["manuals"])
        assert all(MANUAL[one["start"] : one["end"]] == one["text"] for one in found if "md" in one["source"])

        answer = ask(app, "manual", "How often do I grease the bearings of the press?")
        assert answer["status"] == "ok", answer
        (cited,) = answer["result"]["citations"]
        assert (cited["source"], cited["heading"]) == ("press.md", "Press 4 > Care")
        assert MANUAL[cited["start"] : cited["end"]] == cited["quote"] == answer["result"]["text"]

        declined = ask(app, "manual", "Which football club won the cup in 1987?")
        assert declined["status"] == "abstained"
        assert declined["result"]["text"] == "" and declined["result"]["passages"]

        computed = ask(app, "manual", "What is the temperature of press 4?")
        assert computed["result"]["values"] == [91]
        assert computed["result"]["citations"][0]["source"] == "presses.csv"

        app.publish("plant/4/log", "the coolant pump of hall 2 leaks")
        app.wait_until(
            lambda: any("coolant" in one["text"] for one in search(app, "where does the pump leak?")),
            "the message is remembered",
        )
        (in_log,) = search(app, "where does the pump leak?", knowledge=["log"])
        assert in_log["source"].startswith("plant/4/log ")
        assert search(app, "where does the pump leak?", sources="plant/*", until=time.time()) == [in_log]
        assert search(app, "where does the pump leak?", knowledge=["log"], since=time.time() + 60) == []
        assert ask(app, "find", "x", knowledge=["secret"])["error"]["code"] == "invalid_request"

        os.kill(knowledge_pid(node.pid), signal.SIGKILL)
        assert search(app, "where does the pump leak?", knowledge=["log"])


def test_a_reader_reads_what_was_found_over_mqtt(
    broker: Mosquitto, starter: Path, tmp_path: Path, manuals: Path
) -> None:
    """Whatever it says, being made by hand: answers have their quotes, and confidences differ by question."""
    made = configuration(broker, starter, tmp_path)
    reader = make_reader(starter / "minilm-l6-int8", tmp_path / "reader")
    made["models"]["reader"] = {"bundle": str(reader)}
    made["knowledge"]["manuals"]["reader"] = "reader"
    made["tasks"]["manual"]["threshold"] = 0.0
    del made["knowledge"]["log"], made["routes"]
    made["tasks"]["find"]["knowledge"] = ["manuals"]
    with NodeProcess(tmp_path, made) as node, App(broker.port, f"{BASE}/#") as app:
        node.wait_online(app)
        app.wait_until(lambda: bool(search(app, "lubrication interval")), "the folder is read and embedded")
        answers = [ask(app, "manual", question) for question in ("How often do I grease it?", "what is E42?")]
        assert [answer["status"] for answer in answers] == ["ok", "ok"], answers
        for answer in answers:
            (cited,) = answer["result"]["citations"]
            assert MANUAL[cited["start"] : cited["end"]] == cited["quote"]
        assert len({answer["result"]["confidence"] for answer in answers}) == 2


def knowledge_pid(parent: int) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                status = (entry / "stat").read_text()
            except OSError:
                continue
            if (
                b"edgeslm.knowledge.service.worker" in command
                and int(status.rpartition(")")[2].split()[1]) == parent
            ):
                return int(entry.name)
    raise AssertionError("there is no process for the collections")
