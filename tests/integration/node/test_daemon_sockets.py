"""The sockets of a node while it serves: one to its broker, and nothing that listens."""

from __future__ import annotations

from pathlib import Path

import psutil

from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, NodeProcess, fake_configuration


def test_daemon_and_children_listen_nowhere_and_talk_to_the_broker_alone(
    broker: Mosquitto, tmp_path: Path
) -> None:
    knowledge = {"log": {"path": str(tmp_path / "log")}}
    routes = [{"from": "hall/log", "remember": "log", "task": "triage"}]
    configuration = fake_configuration(broker.url, tmp_path, knowledge=knowledge, routes=routes)
    with (
        App(broker.port, f"{BASE}/#") as app,
        NodeProcess(tmp_path, configuration, fake=True) as process,
    ):
        process.wait_online(app)
        app.publish(f"{BASE}/req/say", "text")
        app.take(f"{BASE}/res/say")
        app.publish("hall/log", "text")
        app.take(f"{BASE}/event/triage")
        daemon = psutil.Process(process.pid)
        family = [daemon, *daemon.children(recursive=True)]
        assert len(family) > 3, "engines and the process of the collections"
        sockets = [one for each in family for one in each.net_connections("inet")]
        assert [one for one in sockets if one.status == psutil.CONN_LISTEN or not one.raddr] == []
        assert {(one.raddr.ip, one.raddr.port) for one in sockets} == {("127.0.0.1", broker.port)}
        assert process.terminate() == 0
