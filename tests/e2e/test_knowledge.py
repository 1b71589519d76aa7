"""Documents and messages of a node: the real broker, the real encoder, and a process for the collections."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from tests.apps import App
from tests.brokers import Mosquitto
from tests.nodes import BASE, NodeProcess, real_configuration

FIND = f"{BASE}/req/find"
REPLY = f"{BASE}/res/find/desk"


def configuration(broker: Mosquitto, starter: Path, folder: Path) -> dict[str, Any]:
    manuals = folder / "manuals"
    manuals.mkdir()
    press = manuals / "press.md"
    press.write_text(
        "# Press 4\n\n## Care\n\nGrease the bearings of the press each week.\n\n## Colour\n\nIt is blue.\n"
    )
    os.utime(press, (5, 5))
    made = real_configuration(broker.url, starter, folder)
    return {
        **made,
        "models": {"encoder": made["models"]["encoder"]},
        "knowledge": {
            "manuals": {"path": str(folder / "kb/manuals"), "encoder": "encoder", "watch": [str(manuals)]},
            "log": {"path": str(folder / "kb/log"), "encoder": "encoder"},
        },
        "tasks": {
            "find": {"kind": "search", "knowledge": ["manuals", "log"], "passages": 2, "allow": ["knowledge"]}
        },
        "routes": [{"from": "plant/+/log", "remember": "log", "keep_s": 3600}],
    }


def search(app: App, question: str, **options: Any) -> list[dict[str, Any]]:
    app.publish(FIND, {"input": question, "reply_to": REPLY, "options": options})
    heard = app.take(REPLY).json
    assert heard["status"] == "ok", heard
    passages: list[dict[str, Any]] = heard["result"]["passages"]
    return passages


def test_documents_and_messages_are_found_over_mqtt(broker: Mosquitto, starter: Path, tmp_path: Path) -> None:
    made = configuration(broker, starter, tmp_path)
    with NodeProcess(tmp_path, made) as node, App(broker.port, f"{BASE}/#") as app:
        node.wait_online(app)
        app.wait_until(lambda: bool(search(app, "how often is oil put on it?")), "the folder is read")
        found = search(app, "how often is oil put on it?", knowledge=["manuals"])
        text = (tmp_path / "manuals/press.md").read_text()
        assert all(text[one["start"] : one["end"]] == one["text"] for one in found)
        app.wait_until(
            lambda: search(app, "lubrication interval")[0]["heading"] == "Press 4 > Care", "it is embedded"
        )
        app.publish("plant/4/log", "the coolant pump of hall 2 leaks")
        app.wait_until(
            lambda: any("coolant" in one["text"] for one in search(app, "where does the pump leak?")),
            "the message is remembered",
        )
        (found_in_log,) = search(app, "where does the pump leak?", knowledge=["log"])
        assert found_in_log["source"].startswith("plant/4/log ")
        app.publish(FIND, {"input": "x", "reply_to": REPLY, "options": {"knowledge": ["secret"]}})
        assert app.take(REPLY).code == "invalid_request"
        os.kill(knowledge_pid(node.pid), signal.SIGKILL)
        assert search(app, "where does the pump leak?", knowledge=["log"])


def knowledge_pid(parent: int) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                status = (entry / "stat").read_text()
            except OSError:
                continue
            if b"edgeslm.knowledge.worker" in command and int(status.rpartition(")")[2].split()[1]) == parent:
                return int(entry.name)
    raise AssertionError("there is no process for the collections")
