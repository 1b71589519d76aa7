"""The two folders between a node and a rollout's process of another user."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgeslm.errors import BundleError
from edgeslm.update.exchange import ANSWERS, Exchange, folder_beside


@pytest.fixture
def exchange(tmp_path: Path) -> Exchange:
    folder = folder_beside(tmp_path / "state")
    (folder / "updates").mkdir(parents=True)
    folder.chmod(0o750)
    return Exchange(tmp_path / "state", "hall")


def process(exchange: Exchange) -> Exchange:
    """The other end."""
    return Exchange(exchange.folder.with_name("state"), "hall")


def test_a_command_is_heard_once_and_answered(exchange: Exchange) -> None:
    other = process(exchange)
    with exchange.running():
        assert other.is_node_running
        command = other.make("activate", "small", "sha256:1f3a")
        heard = exchange.next()
        assert heard == command and exchange.next() is None
        assert other.heard(command) is None
        exchange.tell(command, {"state": "ON_TRIAL"})
        assert other.heard(command) == {"id": command.id, "state": "ON_TRIAL"}
        another = other.make("rollback", "small")  # the file of the one before is in nobody's way
        assert exchange.next() == another
        other.withdraw(another)
        assert exchange.next() is None
    assert not process(exchange).is_node_running


def test_a_command_of_an_earlier_run_is_forgotten(exchange: Exchange) -> None:
    process(exchange).make("activate", "small", "sha256:1f3a")
    with exchange.running():
        assert exchange.next() is None


def test_an_older_release_is_not_the_process_s_to_ask_for(exchange: Exchange) -> None:
    process(exchange).make("activate", "small", "sha256:1f3a", older=True)
    heard = exchange.next()
    assert heard is not None and not heard.older


@pytest.mark.parametrize("who", ["folder", "parent"])
def test_a_folder_that_others_can_write_is_not_believed(exchange: Exchange, tmp_path: Path, who: str) -> None:
    process(exchange).make("rollback", "small")
    folder = exchange.folder if who == "folder" else tmp_path
    folder.chmod(0o777)
    assert exchange.next() is None
    folder.chmod(0o750)
    assert exchange.next() is not None


@pytest.mark.parametrize("make", ["link", "fifo", "folder", "text"])
def test_what_is_no_command_stops_nothing(exchange: Exchange, tmp_path: Path, make: str) -> None:
    command = exchange.folder / "wish-hall.json"
    if make == "link":
        (tmp_path / "real").write_text(json.dumps({"id": "1", "action": "rollback", "model": "small"}))
        command.symlink_to(tmp_path / "real")
    elif make == "fifo":
        os.mkfifo(command)
    elif make == "folder":
        command.mkdir()
    else:
        command.write_text('{"id": "1", "action": "remove"}')
    assert exchange.next() is None


@pytest.mark.parametrize("name", [None, "", "..", "../x", "/etc/passwd", "a/b", "x\0", "link", "missing"])
def test_an_archive_is_a_plain_file_of_the_folder(
    exchange: Exchange, tmp_path: Path, name: str | None
) -> None:
    (tmp_path / "secret").write_text("of the node")
    (exchange.folder / "updates/link").symlink_to(tmp_path / "secret")
    with pytest.raises((BundleError, OSError)):
        exchange.archive(name)
    (exchange.folder / "updates/.part-1f").write_text("an archive")
    with exchange.archive(".part-1f") as stream:
        assert stream.read() == b"an archive"


def test_what_the_models_are_is_written_when_it_changes(exchange: Exchange, tmp_path: Path) -> None:
    with exchange.running():
        exchange.tell_status({"models": {"small": {"digest": "sha256:1", "on_trial": False}}})
        assert process(exchange).status()["models"]["small"]["digest"] == "sha256:1"
        (tmp_path / "state" / ANSWERS / "models-hall.json").unlink()
        exchange.tell_status({"models": {"small": {"digest": "sha256:1", "on_trial": False}}})
        assert process(exchange).status() == {}
