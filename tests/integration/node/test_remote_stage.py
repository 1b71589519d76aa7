"""A node whose unsure messages go to a server that dies, stalls, is overloaded or talks rubbish."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edgeslm.serving import remote
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.chat_servers import FakeChatServer, completion, said_by_user
from tests.support.nodes import BASE, TASKS, Node, fake_configuration

REQUESTS = int(os.environ.get("EDGESLM_REMOTE_REQUESTS", "200"))
SEEDS = {"good": 8, "rubbish": 2, "busy": 2, "fails": 2, "dies": 2, "slow": 1}


def configuration(broker: Mosquitto, folder: Path, server: FakeChatServer, **openai: Any) -> dict[str, Any]:
    """The fake engine is 0.9 sure of all, which isn't enough here."""
    stage = {"openai": {"url": server.url, "model": "big", **openai}}
    strict = {key: value for key, value in TASKS["strict"].items() if key != "model"}
    strict |= {"stages": ["small", stage]}
    return fake_configuration(
        broker.url, folder, tasks={"strict": strict}, audit={"file": str(folder / "audit.jsonl")}
    )


def sent_by_audit(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "audit.jsonl").read_text().splitlines())
    return [line for line in lines if line["what"] == "sent"]


def test_no_request_is_lost_and_the_audit_log_has_all_that_left(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.005)
    monkeypatch.setattr(remote, "LONGEST_PAUSE_S", 0.02)
    moods = random.Random(7).choices(list(SEEDS), list(SEEDS.values()), k=10 * REQUESTS)

    def answer(body: dict[str, Any]) -> Any:
        mood = moods[len(server.asked) % len(moods)]
        if mood == "slow":
            time.sleep(0.5)
        is_odd = int(said_by_user(body).split()[1]) % 2
        good = completion('{"label": "critical"}' if is_odd else '{"label": "normal"}')
        return {"good": good, "rubbish": b"rubbish", "busy": 429, "fails": 500, "dies": None, "slow": good}[
            mood
        ]

    with FakeChatServer(answer).running() as server:
        made = configuration(broker, tmp_path, server, timeout_s=0.25)
        with Node(tmp_path, made), App(broker.port, f"{BASE}/#") as app:
            app.take_state(BASE, "online")
            info = app.take(f"{BASE}/info").json["tasks"]["strict"]
            for number in range(REQUESTS):
                app.publish(f"{BASE}/req/strict", {"input": f"press {number} smells", "id": str(number)})
            results = [app.take(f"{BASE}/res/strict").json for _ in range(REQUESTS)]
    assert sorted(int(one["id"]) for one in results) == list(range(REQUESTS))
    stages = {"openai:big": 0, "small": 0}
    for one in results:
        jsonschema.validate(one["result"], info["result_schema"])
        stage = one["result"]["stage"]
        stages[stage] += 1
        if stage == "openai:big":
            assert one["status"] == "ok"
            assert one["result"]["label"] == ("critical" if int(one["id"]) % 2 else "normal")
            assert one["model"].startswith("big@127.0.0.1:")
        else:
            assert one["status"] == "abstained"
            assert one["model"].startswith("small@sha256:")
    sent = sent_by_audit(tmp_path)
    print(f"{REQUESTS} requests: {stages}; {server.received} bytes left")
    assert min(stages.values()) > 0
    assert sum(line["bytes"] for line in sent) == server.received
    assert {line["to"] for line in sent} == {server.url.removeprefix("http://").removesuffix("/v1")}
    assert "smells" not in (tmp_path / "audit.jsonl").read_text()


def test_info_says_what_leaves(broker: Mosquitto, tmp_path: Path) -> None:
    with FakeChatServer(lambda body: "normal").running() as server:
        made = configuration(broker, tmp_path, server, redact=["email"], only="payload.sender == 'erp'")
        with Node(tmp_path, made), App(broker.port, f"{BASE}/#") as app:
            app.take_state(BASE, "online")
            info = app.take(f"{BASE}/info").json["tasks"]["strict"]
    assert info["stages"] == ["small", "openai:big"]
    assert info["sends"] == {
        "what": "the message",
        "to": server.url.removeprefix("http://").removesuffix("/v1"),
        "model": "big",
        "redacted": ["email"],
        "only": "payload.sender == 'erp'",
    }


def test_a_request_that_waits_for_the_server_survives_a_stop(broker: Mosquitto, tmp_path: Path) -> None:
    """The broker delivers it again at the next start."""
    server = FakeChatServer(lambda body: "critical")
    server.is_stalling.set()
    with server.running(), App(broker.port, f"{BASE}/#") as app:
        made = configuration(broker, tmp_path, server)
        with Node(tmp_path, made) as node:
            app.take_state(BASE, "online")
            app.publish(f"{BASE}/req/strict", {"input": "press 1 smells", "id": "1"})
            app.wait_until(lambda: bool(server.asked), "the server is asked")
            node.run(node.daemon._pipeline.abandon)
        server.is_stalling.clear()
        server.goes_on.set()
        with Node(tmp_path, made):
            result = app.take(f"{BASE}/res/strict").json
    assert result["result"] == {"label": "critical", "stage": "openai:big"}
