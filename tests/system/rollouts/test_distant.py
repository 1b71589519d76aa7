"""A rollout's process as a user of its own: the node takes what it brought and is told nothing else."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.manifest import load_bundle
from edgeslm.update.exchange import folder_beside
from edgeslm.update.rollout import hawkbit as hawkbit_module
from edgeslm.update.rollout.distant import DistantModels
from edgeslm.update.store import Store
from tests.support.apps import App
from tests.support.nodes import BASE, Node
from tests.support.operators import ask
from tests.support.rollout.hawkbits import client, drive, load, of, over, pack


@pytest.fixture(autouse=True)
def _is_distant(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tests have one user for both processes. The node's umask is the unit's."""
    monkeypatch.setattr(hawkbit_module, "is_distant", lambda config: True)
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The folder of the process, as tmpfiles.d makes it."""
    folder = folder_beside(tmp_path / "state")
    folder.mkdir()
    folder.chmod(0o750)
    return folder


def test_a_rollout_succeeds_and_writes_nothing_of_the_node(
    server: Any, configuration: dict[str, Any], tmp_path: Path, app: App, own: Path
) -> None:
    action = server.assign("hall", server.module("small", pack(tmp_path / "new", "v2", b"version 2")))
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        before = ask(app, "say", "hello", b"1")["model"]
        hawkbit = client(load(tmp_path, configuration))
        assert isinstance(hawkbit.models, DistantModels)
        drive(hawkbit, over(hawkbit), "it is over")
        assert (of(hawkbit).state, of(hawkbit).why, action.status) == ("SUCCEEDED", "", "FINISHED")
        assert ask(app, "say", "hello", b"2")["model"] != before
        digest = load_bundle(tmp_path / "new/v2").digest
        drive(hawkbit, lambda: server.targets["hall"]["edgeslm.model.small"] == digest, "it is told")
    assert [one.bundle.digest for one in Store(tmp_path / "state", "hall").bundles()] == [digest]
    assert hawkbit.book.file.is_relative_to(own)
    said = tmp_path / "state/rollouts"
    group = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (said, *said.iterdir())}
    assert group.pop("rollouts") == 0o750 and set(group.values()) == {0o640}, "what the group reads"
    assert stat.S_IMODE((tmp_path / "state/updates/active-hall.json").stat().st_mode) == 0o600


def test_a_bundle_that_the_node_does_not_take_is_rejected_with_its_sentence(
    server: Any, configuration: dict[str, Any], tmp_path: Path, app: App, own: Path
) -> None:
    (tmp_path / "bad.tar").write_bytes(b"no archive")
    first = server.assign("hall", server.module("small", tmp_path / "bad.tar"))
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        hawkbit = client(load(tmp_path, configuration))
        drive(hawkbit, over(hawkbit), "it is over")
        assert of(hawkbit).state == "REJECTED" and "no archive that can be unpacked" in first.details[-1]
        wrong = pack(tmp_path / "new", "wrong", b"wrong answers")
        second = server.assign("hall", server.module("small", wrong))
        drive(hawkbit, lambda: second.status == "ERROR", "its checks are wrong")
        assert "checks" in second.details[-1]
        good = pack(tmp_path / "new", "v2", b"version 2")
        third = server.assign("hall", server.module("small", good))
        drive(hawkbit, lambda: third.status == "FINISHED", "the next one is good")
    stored = [one.bundle.digest for one in Store(tmp_path / "state", "hall").bundles()]
    assert stored == [load_bundle(tmp_path / "new/v2").digest], "what nothing uses is gone"


def test_what_came_waits_for_a_node_that_does_not_run(
    server: Any,
    configuration: dict[str, Any],
    tmp_path: Path,
    app: App,
    own: Path,
) -> None:
    action = server.assign("hall", server.module("small", pack(tmp_path / "new", "v2", b"version 2")))
    hawkbit = client(load(tmp_path, configuration))
    drive(hawkbit, lambda: bool(server.downloads) and hawkbit.work.not_before > 0, "it is here")
    assert of(hawkbit).step == "downloading"
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        hawkbit.work.not_before = 0.0
        drive(hawkbit, lambda: action.status == "FINISHED", "it is over")
    assert len(server.downloads) <= 2, "what came is kept"


def test_a_rollout_is_undone_once_the_node_runs(
    server: Any, configuration: dict[str, Any], tmp_path: Path, app: App, own: Path
) -> None:
    configuration["updates"]["trial_s"] = 3600
    action = server.assign("hall", server.module("small", pack(tmp_path / "new", "v2", b"version 2")))
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        before = ask(app, "say", "hello", b"1")["model"]
        hawkbit = client(load(tmp_path, configuration))
        drive(hawkbit, lambda: "on trial" in action.details, "it is on trial")
    action.canceling = True
    drive(hawkbit, lambda: of(hawkbit).step == "undoing", "it is taken back")
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        drive(hawkbit, lambda: action.status == "CANCELED", "it is canceled")
        assert ask(app, "say", "hello", b"2")["model"] == before
