"""A node at goosebit, a server of hawkBit's DDI API that others wrote: a real node with fake engines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.apps import App
from tests.support.brokers import Mosquitto, free_port
from tests.support.nodes import BASE, Node
from tests.support.operators import ask
from tests.support.paths import ROOT
from tests.support.rollout.hawkbits import client, configured, drive, load, over, pack

pytestmark = pytest.mark.e2e
TOKEN = "of-this-target-alone"


class Goosebit:
    """A context; orders as :mod:`tests.support.goosebit_server` takes them."""

    def __init__(self, folder: Path) -> None:
        uv = str(Path(sys.executable).with_name("uv"))
        environment = {**os.environ, "EDGESLM_PYTHON": sys.executable, "UV": uv}
        found = subprocess.run([ROOT / "scripts/goosebit"], env=environment, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._words = (folder / "goosebit.txt").open("w")
        self._process = subprocess.Popen(
            [found.stdout.strip(), ROOT / "tests/support/goosebit_server.py", str(port), "hall", TOKEN],
            cwd=folder,
            env={
                **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
                "GOOSEBIT_DB_URI": f"sqlite://{folder / 'goosebit.sqlite'}",
                "GOOSEBIT_ARTIFACTS_DIR": str(folder / "artifacts"),
                "GOOSEBIT_DEVICE_AUTH__ENABLE": "true",
                "GOOSEBIT_POLL_TIME": "00:00:01",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
        )
        self._read()

    def give(self, **order: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, Path(self._words.name).read_text()[-2000:]
        said: dict[str, Any] = json.loads(line)
        return said

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()
        self._words.close()


@pytest.fixture
def goosebit(tmp_path: Path) -> Iterator[Goosebit]:
    server = Goosebit(tmp_path)
    yield server
    server.close()


def test_a_server_that_others_wrote_rolls_out_a_good_bundle_and_hears_of_a_bad_one(
    goosebit: Goosebit, broker: Mosquitto, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    more: dict[str, Any] = {"token_file": str(tmp_path / "token")}
    more["models"] = {"v2.tar": "small", "bad.tar": "small"}  # it calls a module like its file
    configuration = configured(tmp_path, goosebit.url, broker.url, **more)
    good = pack(tmp_path / "new", "v2", b"weights of version 2")
    bad = pack(tmp_path / "new", "bad", b"wrong answers")
    with App(broker.port, f"{BASE}/state", f"{BASE}/res/#") as app, Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        before = ask(app, "say", "hello", b"1")["model"]
        hawkbit = client(load(tmp_path, configuration))
        drive(hawkbit, lambda: goosebit.give(look=True)["state"] == "Registered", "it is registered")
        goosebit.give(assign=str(good), version="2")
        drive(hawkbit, over(hawkbit), "it is over")
        now = goosebit.give(look=True)
        assert (now["state"], now["version"]) == ("Finished", "2")
        assert "on trial" in now["log"] and "SUCCEEDED" in now["log"]
        after = ask(app, "say", "hello", b"2")["model"]
        assert after != before
        hawkbit.book.note_told("")  # it sends its attributes again, in which goosebit looks for the version
        goosebit.give(assign=str(bad), version="3")
        drive(hawkbit, lambda: not over(hawkbit)(), "there is another job")
        drive(hawkbit, over(hawkbit), "it is over")
        now = goosebit.give(look=True)
        assert (now["state"], now["version"]) == ("Error", "2")
        assert "REJECTED: model small was not changed" in now["log"]
        assert ask(app, "say", "hello", b"3")["model"] == after
