"""``edgeslm models``: with the node away, and with one that runs on the same device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.manifest import load_bundle, short_digest
from edgeslm.cli import main
from edgeslm.update.store import Store
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, Node, fake_configuration, passes, write_bundle, write_configuration
from tests.support.operators import ask

LOADED_BEFORE = """
import sys
from edgeslm.cli import main as cli
from edgeslm.bundle import trust
from edgeslm.config import loader
from edgeslm.update import staging, store, unpacking
class Here(staging.Job):
    def ask(self, order, **limits):
        return unpacking.take_in(order, lambda progress: None)
staging.Job = Here
sys.exit(cli.main(sys.argv[1:]))
"""
"""The command, in a Python that may be root's alone, so that another user can't start it as a child."""


@pytest.fixture
def configuration(tmp_path: Path) -> dict[str, Any]:
    return fake_configuration("mqtt://broker", tmp_path, updates={"trial_s": 0})


@pytest.fixture
def config(configuration: dict[str, Any], tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return write_configuration(tmp_path, configuration)


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "v2", weights=b"weights of version 2")


def run(action: str, config: Path, *arguments: object) -> int:
    return main.main(["models", action, str(config), *map(str, arguments)])


def test_without_a_node_the_next_start_has_the_new_model(
    config: Path,
    new: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgeslm.engine.prepack.smoke.smoke_test", passes)
    digest = load_bundle(new).digest
    assert run("stage", config, new) == 0
    assert capsys.readouterr().out == f"fake-decoder is on this device: {short_digest(digest)}\n"
    assert run("activate", config, "small", digest[7:13]) == 0
    assert "when the node starts, on trial" in capsys.readouterr().out
    assert run("list", config, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["models"]["small"]["active"] == digest
    assert said["models"]["encoder"]["active"] is None
    assert [(one["digest"], one["used_by"]) for one in said["bundles"]] == [(digest, ["small"])]
    assert run("list", config) == 0
    assert f"small: {short_digest(digest)}, on trial\n" in capsys.readouterr().out
    assert run("remove", config, digest) == 1
    assert "in use by model small" in capsys.readouterr().err
    assert run("rollback", config, "small") == 0
    assert run("remove", config, digest) == 0
    assert Store(tmp_path / "state", "hall").bundles() == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("stage", "/nowhere.tar"), "/nowhere.tar: No such file or directory"),
        (("stage", "http://x/y.tar"), "only https:// addresses"),
        (("activate", "large", "1234"), "there is no model 'large' here, and no task"),
        (("activate", "small", "1234"), "no bundle on this device has the digest 1234"),
        (("rollback", "small"), "model small has nothing to go back to"),
        (("remove", "1234"), "no bundle on this device has the digest 1234"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    config: Path, arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    action, *rest = arguments
    assert run(action, config, *rest) == 1
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_a_node_that_runs_does_it(
    broker: Mosquitto,
    configuration: dict[str, Any],
    new: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configuration["broker"] = {"url": broker.url}
    config = write_configuration(tmp_path, configuration)
    with App(broker.port, f"{BASE}/state", f"{BASE}/res/#") as app, Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        before = ask(app, "say", "hello", b"1")["model"]
        run("stage", config, new)
        assert run("activate", config, "small", load_bundle(new).digest) == 0
        assert "on trial for 0 s" in capsys.readouterr().out
        assert ask(app, "say", "hello", b"2")["model"] != before
        assert run("rollback", config, "small") == 0
        assert ask(app, "say", "hello", b"3")["model"] == before
        bad = write_bundle(tmp_path / "bad", weights=b"crash at load")
        run("stage", config, bad)
        capsys.readouterr()
        assert run("activate", config, "small", load_bundle(bad).digest) == 1
        assert "model small was not changed: the engine of" in capsys.readouterr().err


def test_root_goes_on_as_the_user_of_the_state_folder(config: Path, new: Path, tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can be somebody else")
    for path in (tmp_path, *tmp_path.parents):  # the user has to be able to read what is staged
        path.chmod(path.stat().st_mode | 0o055)
    os.chown(tmp_path / "state", 65534, 65534)
    done = subprocess.run(
        [sys.executable, "-c", LOADED_BEFORE, "models", "stage", str(config), str(new)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    owners = {path.stat().st_uid for path in (tmp_path / "state").rglob("*")}
    assert owners == {65534}


def test_without_a_state_folder_root_makes_none(
    config: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if os.geteuid():
        pytest.skip("others make it as their own")
    (tmp_path / "state").rmdir()
    assert run("stage", config, new) == 1
    assert "start the node once" in capsys.readouterr().err
