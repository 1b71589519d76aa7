"""Who asks: one sender among others, and what the audit log says of them."""

from __future__ import annotations

import json
from pathlib import Path

from edgeslm.protocol.topics import Topics, sender_of
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.fakes import make_delivery
from tests.support.nodes import BASE, Node, fake_configuration

SECRET = "Anna in ward 7"


def test_one_hostile_sender_does_not_fill_the_queue(broker: Mosquitto, tmp_path: Path) -> None:
    limits = {"queue": 8, "sender_queue": 2}
    configuration = fake_configuration(broker.url, tmp_path, limits=limits)
    with Node(tmp_path, configuration) as node, App(broker.port, f"{BASE}/#") as app:
        app.take_state(BASE, "online")
        app.publish(f"{BASE}/req/say", "warm", reply_to=f"{BASE}/res/say/honest/0")
        app.take(f"{BASE}/res/say/honest/0")
        topics = [f"{BASE}/res/say/flood/{number}" for number in range(40)]
        flood = [
            make_delivery(b"text", topic=f"{BASE}/req/say", response_topic=topic, generation=0)
            for topic in topics
        ]
        node.deliver(*flood)  # all before any of them can be done
        app.publish(f"{BASE}/req/say", "one", reply_to=f"{BASE}/res/say/honest/1")
        assert app.take(f"{BASE}/res/say/honest/1").json["status"] == "ok"
        codes = [app.take(topic).code for topic in topics]
        assert codes == [None] * 2 + ["busy"] * 38


def test_a_sender_is_the_name_behind_the_task() -> None:
    topics = Topics("hall")
    assert sender_of(f"{BASE}/res/say/desk/app-1", topics) == "desk"
    assert sender_of(f"{BASE}/res/say/desk", topics) == "desk"
    assert sender_of(f"{BASE}/res/say", topics) == "", "all that name no reply topic"
    assert sender_of("apps/desk/answers", topics) == "apps/desk/answers"


def test_the_audit_log_says_who_asked_what_without_texts(broker: Mosquitto, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    route = {"from": "hall/log", "task": "triage"}
    configuration = fake_configuration(broker.url, tmp_path, audit={"file": str(file)}, routes=[route])
    with Node(tmp_path, configuration), App(broker.port, f"{BASE}/#") as app:
        app.take_state(BASE, "online")
        request = {"id": "42", "reply_to": f"{BASE}/res/say/desk", "input": SECRET}
        for _ in range(2):
            app.publish(f"{BASE}/req/say", request)
            app.take(f"{BASE}/res/say/desk")
        app.publish(f"{BASE}/req/say", {"id": "43", "input": SECRET, "options": {"seed": SECRET}})
        app.take(f"{BASE}/res/say")
        app.publish("hall/log", SECRET)
        app.take(f"{BASE}/event/triage")
        app.publish(f"{BASE}/cancel", {"id": SECRET[:4]})
        app.publish(f"{BASE}/feedback", {"task": "triage", "input": SECRET, "label": "normal"})
        app.publish(f"{BASE}/req/triage", "the end")
        app.take(f"{BASE}/res/triage")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert SECRET not in file.read_text()
    assert [(row["what"], row.get("id"), row.get("status"), row.get("code")) for row in rows[:3]] == [
        ("request", "42", "ok", None),
        ("repeat", "42", None, None),
        ("request", "43", "error", "invalid_request"),
    ]
    assert rows[0]["kind"] == "generate"
    assert rows[0]["reply_to"] == f"{BASE}/res/say/desk"
    assert rows[0]["ms"] > 0
    assert [row["what"] for row in rows[3:]] == ["route", "cancel", "feedback", "request"]


def test_a_full_audit_log_keeps_no_request_from_its_answer(broker: Mosquitto, tmp_path: Path) -> None:
    configuration = fake_configuration(broker.url, tmp_path, audit={"file": "/dev/full"})
    with Node(tmp_path, configuration) as node, App(broker.port, f"{BASE}/#") as app:
        app.take_state(BASE, "online")
        app.publish(f"{BASE}/req/say", "text")
        assert app.take(f"{BASE}/res/say").json["status"] == "ok"
        assert any("audit log can't be written" in alert for alert in node.daemon.health()["alerts"])
