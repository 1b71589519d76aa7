"""How a command tells a node on the same device what to do."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from edgeslm.errors import BundleError
from edgeslm.update.command_file import CommandFile


def test_a_command_is_granted_once_and_answered(tmp_path: Path) -> None:
    node, other = CommandFile(tmp_path, "hall"), CommandFile(tmp_path, "hall")
    assert other.is_node_running is False
    with node.running():
        assert CommandFile(tmp_path, "hall").is_node_running
        assert not CommandFile(tmp_path, "yard").is_node_running
        answers: list[object] = []
        asking = threading.Thread(target=lambda: answers.append(other.ask("activate", "small", "sha256:1")))
        asking.start()
        while (command := node.next()) is None:
            pass
        assert (command.action, command.model, command.digest) == ("activate", "small", "sha256:1")
        assert node.next() is None
        node.tell(command, {"state": "ON_TRIAL"})
        asking.join()
        assert answers == [{"id": command.id, "state": "ON_TRIAL"}]


def test_a_node_that_ends_before_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="ended before"):
        CommandFile(tmp_path / "nowhere", "hall").ask("rollback", "small")


def test_what_was_asked_of_an_earlier_run_or_by_others_is_left(tmp_path: Path) -> None:
    node = CommandFile(tmp_path, "hall")
    file = tmp_path / "updates" / "wish-hall.json"
    file.parent.mkdir()
    good = '{"id": "1", "action": "rollback", "model": "small"}'
    file.write_text(good)
    with node.running():
        assert node.next() is None
        for text, mode in ((good, 0o666), ("{", 0o644), ('{"id": 1}', 0o644)):
            file.write_text(text)
            file.chmod(mode)
            assert node.next() is None


def test_a_node_runs_though_somebody_looks_at_the_moment_whether_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "updates" / "running-hall.lock"
    lock.parent.mkdir()
    with lock.open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        monkeypatch.setattr(
            "edgeslm.update.command_file.time.sleep", lambda s: fcntl.flock(looking, fcntl.LOCK_UN)
        )
        with CommandFile(tmp_path, "hall").running():
            assert CommandFile(tmp_path, "hall").is_node_running
