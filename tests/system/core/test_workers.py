"""The real model with two workers: both work at once, and what one of them loses the other doesn't mind."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, NodeProcess, real_configuration

pytestmark = pytest.mark.e2e

REPLY = f"{BASE}/res/app"


@pytest.fixture
def node(starter: Path, tmp_path: Path) -> Iterator[tuple[App, NodeProcess]]:
    (tmp_path / "broker").mkdir()
    broker = Mosquitto(tmp_path / "broker")
    broker.start()
    configuration = real_configuration(broker.url, starter, tmp_path)
    configuration["models"] = {"small": {**configuration["models"]["small"], "threads": 1, "workers": 2}}
    say = {**configuration["tasks"]["say"], "max_tokens": 2000}
    configuration["tasks"] = {"triage": configuration["tasks"]["triage"], "say": say}
    try:
        with (
            App(broker.port, f"{BASE}/res/#", f"{BASE}/health", f"{BASE}/state") as app,
            NodeProcess(tmp_path, configuration) as process,
        ):
            process.wait_online(app)
            yield app, process
    finally:
        broker.stop()


def say(app: App, name: str) -> None:
    """Asks for a long text; it runs when its first piece is there."""
    payload = json.dumps({"input": "Tell a long story of a pump.", "options": {"stream": True}}).encode()
    app.publish(f"{BASE}/req/say", payload, reply_to=f"{REPLY}/{name}", correlation=name.encode())
    app.take(f"{REPLY}/{name}/stream")


def cancel(app: App, name: str) -> None:
    app.publish(f"{BASE}/cancel", b"", correlation=name.encode())
    assert app.take(f"{REPLY}/{name}").code == "cancelled"


def test_two_requests_run_at_a_time_and_a_third_waits(node: tuple[App, NodeProcess]) -> None:
    app, process = node
    assert len(process.worker_pids) == 2
    say(app, "one")
    say(app, "two")
    app.publish(f"{BASE}/req/triage", b"smoke from the cabinet", reply_to=REPLY, correlation=b"third")
    cancel(app, "one")
    assert app.take(REPLY).json["status"] == "ok"
    cancel(app, "two")
    health = app.take(f"{BASE}/health", lambda heard: "small#2" in heard.json["memory_bytes"]).json
    assert {"daemon", "small", "small#2"} <= set(health["memory_bytes"])


def test_what_one_worker_loses_the_other_goes_on_without(node: tuple[App, NodeProcess]) -> None:
    app, process = node
    say(app, "one")
    first, second = process.worker_pids
    say(app, "two")
    os.kill(first, signal.SIGKILL)
    app.take(f"{REPLY}/one/stream")  # it is begun anew, or goes on
    app.take(f"{REPLY}/two/stream")
    app.wait_until(
        lambda: len(process.worker_pids) == 2 and first not in process.worker_pids, "both are there"
    )
    assert second in process.worker_pids
    for name in ("one", "two"):
        cancel(app, name)
    app.publish(f"{BASE}/req/triage", b"all is well", reply_to=REPLY, correlation=b"after")
    assert app.take(REPLY).json["status"] == "ok"
