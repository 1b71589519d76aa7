"""The update module for Mender: by the sequence of states that its protocol tells, and by the real client."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.config.loader import load_config
from edgeslm.errors import RolloutError
from edgeslm.update.rollout.mender import Module, Payload
from edgeslm.update.store import Store
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, Node, fake_configuration, write_configuration
from tests.support.operators import ask
from tests.support.paths import ROOT
from tests.support.rollout.hawkbits import CHECKS, die_at, pack

MODULE = ROOT / "firmware-config/mender/edgeslm-bundle"


@pytest.fixture
def configuration(broker: Mosquitto, tmp_path: Path) -> dict[str, Any]:
    made = fake_configuration(broker.url, tmp_path, updates={"trial_s": 0}, signing={"unsigned": "accept"})
    made["tasks"] = {**made["tasks"], "triage": {**made["tasks"]["triage"], "checks": CHECKS}}
    return made


@pytest.fixture
def app(broker: Mosquitto) -> Iterator[App]:
    with App(broker.port, f"{BASE}/state", f"{BASE}/res/#") as app:
        yield app


class Device:
    """A folder as Mender's client hands one to a module, and the calls of its states."""

    def __init__(self, folder: Path, archive: Path | None = None, meta: object = None) -> None:
        self.folder = folder / "tree"
        for name in ("header", "tmp", "files"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "header/meta-data").write_text("" if meta is None else json.dumps(meta))
        if archive is not None:
            shutil.copy(archive, self.folder / "files")
        command = folder / "edgeslm"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m edgeslm "$@"\n')
        command.chmod(0o755)
        self.environment = {
            **os.environ,
            "EDGESLM": str(command),
            "EDGESLM_CONFIG": str(folder / "config.yaml"),
        }

    def call(self, state: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [MODULE, state, self.folder],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )

    def does(self, *states: str) -> None:
        for state in states:
            done = self.call(state)
            assert (done.returncode, done.stdout) == (0, ""), f"{state}: {done.stderr}"

    def fails(self, state: str) -> str:
        done = self.call(state)
        assert done.returncode != 0 and done.stdout == "", state
        return done.stderr.splitlines()[-1]


def test_what_the_client_asks_before() -> None:
    def said(*arguments: str) -> tuple[int, str]:
        done = subprocess.run([MODULE, *arguments], capture_output=True, text=True)
        return done.returncode, done.stdout

    assert said("SupportsRollback") == (0, "Yes\n")
    assert said("NeedsArtifactReboot") == (0, "No\n")
    for other in ("ProvidePayloadFileSizes", "ArtifactReboot", "ArtifactVerifyReboot", "WhatComesLater"):
        assert said(other, "/nowhere") == (0, "")
    assert said() == (0, "")


def test_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck is not None, "shellcheck is missing: pip install '.[dev]'"
    done = subprocess.run([shellcheck, MODULE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_good_bundle_is_installed_and_committed(
    configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    archive = pack(tmp_path / "new", "small", b"weights of version 2")
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        before = ask(app, "say", "hello", b"1")["model"]
        device = Device(tmp_path, archive)
        device.does("Download", "ArtifactInstall", "ArtifactCommit", "Cleanup")
        assert ask(app, "say", "hello", b"2")["model"] != before
        assert not (tmp_path / "state/updates/mender-hall.json").exists()
        assert "nothing was installed" in device.fails("ArtifactCommit")


def test_an_unsigned_bundle_is_refused_unless_the_owner_says_otherwise(
    configuration: dict[str, Any], tmp_path: Path
) -> None:
    del configuration["signing"]
    (tmp_path / "state").mkdir()
    archive = pack(tmp_path / "new", "small", b"weights of version 2")
    write_configuration(tmp_path, configuration)
    device = Device(tmp_path, archive)
    device.does("Download")
    assert "unsigned bundles are refused" in device.fails("ArtifactInstall")
    assert Store(tmp_path / "state", "hall").bundles() == []


def test_a_bad_bundle_fails_at_install_and_leaves_nothing(
    configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    archive = pack(tmp_path / "new", "any", b"wrong answers")
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        before = ask(app, "say", "hello", b"1")["model"]
        device = Device(tmp_path, archive, {"model": "small"})
        device.does("Download")
        assert "REJECTED: model small was not changed" in device.fails("ArtifactInstall")
        device.does("ArtifactRollback", "ArtifactFailure", "Cleanup")
        assert ask(app, "say", "hello", b"2")["model"] == before
    assert Store(tmp_path / "state", "hall").bundles() == []


def test_one_that_fails_on_trial_fails_at_commit(
    configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    configuration["updates"]["trial_s"] = 3600
    archive = pack(tmp_path / "new", "small", b"weights of version 2")
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        before = ask(app, "say", "hello", b"1")["model"]
        device = Device(tmp_path, archive)
        device.does("Download", "ArtifactInstall")
        assert ask(app, "say", "crash", b"2")["status"] == "error"
        assert "FAILED: model small was taken back: its engine exited" in device.fails("ArtifactCommit")
        device.does("ArtifactRollback", "ArtifactFailure", "Cleanup")
        assert ask(app, "say", "hello", b"3")["model"] == before


def test_a_rollback_takes_it_back_on_trial_and_after_its_commit(
    configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    archive = pack(tmp_path / "new", "small", b"weights of version 2")
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        before = ask(app, "say", "hello", b"1")["model"]
        device = Device(tmp_path, archive)
        device.does("Download", "ArtifactInstall", "ArtifactRollback")
        assert ask(app, "say", "hello", b"2")["model"] == before
        device.does("ArtifactRollback", "ArtifactFailure", "Cleanup", "ArtifactRollback")  # called again
        device.does("Download", "ArtifactInstall", "ArtifactCommit")
        assert ask(app, "say", "hello", b"3")["model"] != before
        device.does("ArtifactRollback")  # another payload of the artifact failed
        assert ask(app, "say", "hello", b"4")["model"] == before


def test_a_power_cut_at_any_write_is_undone_by_the_states_that_follow(
    configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    """After one in ArtifactInstall the client calls ArtifactRollback, ArtifactFailure and Cleanup."""
    configuration["updates"]["trial_s"] = 3600
    archive = pack(tmp_path / "new", "small", b"weights of version 2")
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        before = ask(app, "say", "hello", b"0")["model"]
        config = load_config(write_configuration(tmp_path, configuration))
        for cut in range(1, 20):
            module = Module(config, look_every_s=0.02)
            die_at(module.book, cut, before=True)
            with archive.open("rb") as stream:
                try:
                    module.install("small", stream, archive.name)
                except KeyboardInterrupt:
                    ended = False
                else:
                    ended = True
            again = Module(config, look_every_s=0.02)
            again.roll_back()
            again.roll_back()
            again.clean_up()
            assert ask(app, "say", "hello", b"%d" % cut)["model"] == before, cut
            if ended:
                break
        assert ended and cut > 4
    assert Store(tmp_path / "state", "hall").entry("small") is None


def test_without_a_node_nothing_is_installed(configuration: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    archive = pack(tmp_path / "new", "small", b"weights of version 2")
    module = Module(load_config(write_configuration(tmp_path, configuration)), away_s=0.1, look_every_s=0.02)
    with archive.open("rb") as stream, pytest.raises(RolloutError, match="FAILED: the node doesn't run"):
        module.install("small", stream, archive.name)
    assert Store(tmp_path / "state", "hall").bundles() == []


def test_where_no_node_ever_was_there_is_nothing_to_undo(
    configuration: dict[str, Any], tmp_path: Path
) -> None:
    write_configuration(tmp_path, configuration)
    device = Device(tmp_path, pack(tmp_path / "new", "small", b"weights of version 2"))
    device.does("ArtifactRollback", "ArtifactFailure", "Cleanup")
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("meta", "files", "sentence"),
    [
        ({"model": "large"}, ["small.tar"], "there is no model 'large' on this node"),
        ({"model": 7}, ["small.tar"], 'not as {"model": "small"}'),
        ([], ["small.tar"], 'not as {"model": "small"}'),
        (None, ["large.tar"], "there is no model 'large'"),
        (None, [], "has 0 files"),
        (None, ["a.tar", "b.tar"], "has 2 files"),
        (None, ["small.zip"], "should have one archive"),
    ],
)
def test_what_is_no_bundle_for_this_node_is_told(
    tmp_path: Path, meta: object, files: list[str], sentence: str
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "header").mkdir()
    if meta is not None:
        (tmp_path / "header/meta-data").write_text(json.dumps(meta))
    for name in files:
        (tmp_path / "files" / name).write_text("x")
    with Payload(tmp_path, ("small", "encoder")) as payload, pytest.raises(RolloutError) as error:
        payload.archive()
    assert sentence in str(error.value)


@pytest.mark.parametrize("text", ["", "null", "{}", '{"other": 1}'])
def test_meta_data_may_be_left_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "header").mkdir()
    (tmp_path / "header/meta-data").write_text(text)
    (tmp_path / "files/small.tar.gz").write_text("x")
    with Payload(tmp_path, ("small",)) as payload:
        payload.check()
        assert payload.archive()[0] == "small"


@pytest.mark.parametrize("text", ["[" * 50_000, '{"model": "small"' + " " * 200_000 + "}", "\0"])
def test_meta_data_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "header").mkdir()
    (tmp_path / "header/meta-data").write_text(text)
    with Payload(tmp_path, ("small",)) as payload, pytest.raises(RolloutError):
        payload.check()


# --- the real client -------------------------------------------------------------------------------

IN_ITS_PLACES = """
set -e
mount --bind "$1/share" /usr/share
mount --bind "$1/lib" /var/lib
cp -a /etc/. "$1/etc/"
mount --bind "$1/etc" /etc
shift
exec "$@"
"""
"""The client looks for modules below /usr/share: it gets folders of the test's own there, and nobody else."""


class RealClient:
    """Mender's client on a device with the module; commands as a person gives them."""

    def __init__(self, folder: Path, device: Device) -> None:
        found = subprocess.run([ROOT / "scripts/mender"], capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        self._programs = Path(found.stdout.strip())
        self._root, self._environment = folder / "device", device.environment
        modules = self._root / "share/mender/modules/v3"
        for path in (modules, self._root / "lib/mender", self._root / "etc/mender"):
            path.mkdir(parents=True)
        shutil.copy(MODULE, modules / "edgeslm-bundle")
        (self._root / "lib/mender/device_type").write_text("device_type=board\n")
        (self._root / "etc/mender/artifact_info").write_text("artifact_name=first\n")
        (self._root / "etc/mender/mender.conf").write_text("{}")

    def make(self, name: str, archive: Path) -> Path:
        artifact, meta = self._root / f"{name}.mender", self._root / "meta.json"
        meta.write_text('{"model": "small"}')
        command: list[str | Path] = [self._programs / "mender-artifact", "write", "module-image"]
        command += ["-T", "edgeslm-bundle", "-n", name, "-t", "board"]
        command += ["-f", archive, "-m", meta, "-o", artifact]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return artifact

    def do(self, *command: str | Path) -> tuple[int, str]:
        whole: list[str | Path] = ["unshare", "--mount", "sh", "-c", IN_ITS_PLACES, "sh", self._root]
        whole += [self._programs / "mender", "--no-syslog", *command]
        done = subprocess.run(whole, env=self._environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr


def test_the_real_client_installs_commits_and_rolls_back(
    configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    if os.geteuid():
        pytest.skip("only root can mount the client's folders")
    good = pack(tmp_path / "new", "v2", b"weights of version 2")
    better = pack(tmp_path / "new", "v3", b"weights of version 3")
    bad = pack(tmp_path / "new", "bad", b"wrong answers")
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        before = ask(app, "say", "hello", b"1")["model"]
        client = RealClient(tmp_path, Device(tmp_path))
        status, said = client.do("install", client.make("bad", bad))
        assert status != 0 and "was not changed" in said and "Rolling back" in said
        assert ask(app, "say", "hello", b"2")["model"] == before
        status, said = client.do("install", client.make("v2", good))
        assert status == 0, said
        now = ask(app, "say", "hello", b"3")["model"]
        assert now != before
        status, said = client.do("rollback")
        assert status == 0, said
        assert ask(app, "say", "hello", b"4")["model"] == before
        for command in (("install", client.make("v3", better)), ("commit",)):
            status, said = client.do(*command)
            assert status == 0, said
        assert ask(app, "say", "hello", b"5")["model"] not in (before, now)
        assert "v3" in client.do("show-artifact")[1].splitlines()
