"""Who may read what a node and its commands keep: with the usual umask nobody but their user."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeslm.cli.main import main
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, NodeProcess, fake_configuration, write_configuration


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def open_to_others(folder: Path) -> dict[str, str]:
    """What others may read, write or enter, with its mode."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        if (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
            found[str(path.relative_to(folder))] = f"{mode:o}"
    return found


def edgeslm(*arguments: object) -> None:
    command = [sys.executable, "-m", "edgeslm", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_a_node_keeps_is_its_users_alone(broker: Mosquitto, tmp_path: Path) -> None:
    (tmp_path / "updates").mkdir()
    routes = [{"from": "plant/notes", "remember": "notes"}]
    configuration = fake_configuration(
        broker.url,
        tmp_path,
        routes=routes,
        audit={"file": str(tmp_path / "state/audit.jsonl")},
        updates={"watch": str(tmp_path / "updates")},
        knowledge={"notes": {"path": str(tmp_path / "state/notes")}},
    )
    with (
        App(broker.port, f"{BASE}/state", f"{BASE}/res/#") as app,
        NodeProcess(tmp_path, configuration, fake=True) as node,
    ):
        node.wait_online(app)
        app.publish(f"{BASE}/req/triage", {"input": "all quiet", "id": "1"})
        assert app.take(f"{BASE}/res/triage").json["id"] == "1"
        assert {path.suffix for path in (tmp_path / "state").iterdir()} >= {".sqlite", ".jsonl"}
        app.wait_until((tmp_path / "state/notes.sqlite").exists, "the collection is there")
        assert open_to_others(tmp_path / "state") == {}
        assert node.terminate() == 0
    assert open_to_others(tmp_path / "state") == {}


def test_what_commands_keep_is_their_users_alone(broker: Mosquitto, tmp_path: Path) -> None:
    file = write_configuration(tmp_path, fake_configuration(broker.url, tmp_path))
    (tmp_path / "note.txt").write_text("The press was oiled on Monday.")
    state = tmp_path / "state"
    edgeslm("feedback", "triage", "all quiet", "normal", "--config", file)
    edgeslm("knowledge", "add", state / "collections/notes", tmp_path / "note.txt")
    edgeslm("purge", file, "--older-than", "30d")
    edgeslm("models", "stage", file, tmp_path / "small")
    assert {path.name for path in state.iterdir()} >= {"collections", "feedback", "updates"}
    assert open_to_others(state) == {}


def test_a_command_leaves_the_umask_of_its_process(tmp_path: Path) -> None:
    assert main(["check", str(tmp_path / "none.yaml")]) == 1
    assert os.umask(0o022) == 0o022
