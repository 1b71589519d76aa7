"""The examples for apps with the real model: Python, the shell and JavaScript."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.apps import WAIT_S, App
from tests.support.brokers import Mosquitto
from tests.support.hall import EXAMPLES
from tests.support.nodes import BASE, NodeProcess, real_configuration
from tests.support.paths import python_path
from tests.system.apps.test_javascript import folder as folder
from tests.system.apps.test_javascript import mqtt_js as mqtt_js

pytestmark = pytest.mark.e2e
TEXT = "The hall is on fire, stop now!"


@pytest.fixture(scope="module")
def url(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a broker at which the node ``hall`` is online."""
    place = tmp_path_factory.mktemp("hall")
    broker = Mosquitto(tmp_path_factory.mktemp("broker"))
    broker.start()
    configuration = real_configuration(broker.url, starter, place)
    with NodeProcess(place, configuration) as process, App(broker.port, f"{BASE}/state") as app:
        process.wait_online(app)
        yield broker.url
        assert process.terminate() == 0
    broker.stop()


def run(*command: str | Path, url: str) -> str:
    host, _, port = url.removeprefix("mqtt://").partition(":")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": python_path(), "NODE": "hall", "PORT": port}
    environment["BROKER"] = host if command[0] == "sh" else url
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_same_label_in_every_language(url: str, folder: Path) -> None:
    labels = {
        run(sys.executable, EXAMPLES / "ask.py", TEXT, url=url),
        run("sh", EXAMPLES / "ask.sh", TEXT, url=url),
        run(folder / "node", folder / "ask.mjs", TEXT, url=url),
    }
    assert len(labels) == 1 and labels <= {"normal\n", "critical\n"}


def test_several_at_a_time_and_an_answer_in_pieces(url: str) -> None:
    said = run(sys.executable, EXAMPLES / "ask_async.py", TEXT, "All is well", url=url)
    first, second, rest = said.split("\n", 2)
    assert first.endswith(f": {TEXT}") and second.endswith(": All is well")
    pieces, result = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    assert pieces == result
