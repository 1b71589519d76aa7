"""Fixtures for tests of the examples for app developers: a node with fake engines and a real broker."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.apps import WAIT_S, App
from tests.support.brokers import Mosquitto, free_port
from tests.support.nodes import Node, fake_configuration
from tests.support.paths import ROOT

EXAMPLES = ROOT / "docs" / "examples"
NAME = "press-hall-4"
BASE = f"edgeslm/v1/{NAME}"


@dataclass(frozen=True)
class Hall:
    """A broker with a node that labels texts ``critical`` if they contain that word, otherwise ``normal``."""

    broker: Mosquitto
    websocket_port: int
    app: App

    def run(self, command: Sequence[str | Path], url: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs an example with its environment variables."""
        return subprocess.run(
            command, env=self.environment(url), capture_output=True, text=True, timeout=WAIT_S, cwd=EXAMPLES
        )

    def environment(self, url: str | None = None) -> dict[str, str]:
        broker = url or self.broker.url
        return {"PATH": os.environ["PATH"], "BROKER": broker, "PORT": f"{self.broker.port}", "NODE": NAME}


@pytest.fixture
def websocket_broker(make_broker: Callable[..., Mosquitto]) -> tuple[Mosquitto, int]:
    port = free_port()
    lines = f"listener {port} 127.0.0.1\nprotocol websockets\n"
    return make_broker(lines), port


@pytest.fixture
def hall(websocket_broker: tuple[Mosquitto, int], tmp_path: Path) -> Iterator[Hall]:
    broker, port = websocket_broker
    routes = [{"name": "notes", "from": "factory/+/log", "task": "triage"}]
    configuration = fake_configuration(broker.url, tmp_path, node=NAME, routes=routes)
    with App(broker.port, f"{BASE}/state") as app, Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        yield Hall(broker, port, app)
