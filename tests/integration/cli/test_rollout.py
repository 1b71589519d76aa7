"""``edgeslm rollout``: the process that asks a server, and what it shows."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgeslm.cli import main
from edgeslm.update.rollout.jobs import Book, Part, RolloutJob
from tests.support.apps import WAIT_S
from tests.support.nodes import write_configuration
from tests.support.rollout.hawkbits import FakeHawkbit, configured, load, pack


def test_the_process_asks_and_ends_when_it_is_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeHawkbit() as server:
        load(tmp_path, configured(tmp_path, server.url))
        action = server.assign("hall", server.module("small", pack(tmp_path / "new", "v2", b"version 2")))
        command = [sys.executable, "-m", "edgeslm", "rollout", "hawkbit", str(tmp_path / "config.yaml")]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        give_up_at = time.monotonic() + WAIT_S
        while "proceeding" not in action.executions:
            assert process.poll() is None and time.monotonic() < give_up_at
            time.sleep(0.02)
        assert main.main(["rollout", "hawkbit", str(tmp_path / "config.yaml")]) == 1
        assert "running already for the node hall" in capsys.readouterr().err
        process.send_signal(signal.SIGTERM)
        _, words = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, words
    assert "asking http://localhost:" in words
    assert main.main(["rollout", "show", str(tmp_path / "config.yaml")]) == 0
    assert capsys.readouterr().out == "rollout 1, small: IN_PROGRESS, switching\n"


def test_what_it_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load(tmp_path, configured(tmp_path, "http://h"))
    file = str(tmp_path / "config.yaml")
    assert main.main(["rollout", "show", file]) == 0
    assert main.main(["rollout", "show", file, "--json"]) == 0
    assert capsys.readouterr().out == "no rollout has come to this node\nnull\n"
    job = RolloutJob(id="7", state="FAILED", step="done", parts=(Part(model="small"),), why="it was slow")
    Book(config.state_dir / "updates", "hall", "hawkbit").put(job)
    assert main.main(["rollout", "show", file]) == 0
    assert capsys.readouterr().out == "rollout 7, small: FAILED, done: it was slow\n"
    assert main.main(["rollout", "show", file, "--json"]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (said["state"], said["parts"][0]["model"]) == ("FAILED", "small")


def test_without_a_section_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configuration = configured(tmp_path, "http://h")
    del configuration["rollouts"]
    (tmp_path / "state").mkdir()
    file = write_configuration(tmp_path, configuration)
    assert main.main(["rollout", "hawkbit", str(file)]) == 1
    assert "no section rollouts" in capsys.readouterr().err
