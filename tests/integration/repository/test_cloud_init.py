"""The user data of a first start: cloud-init's own schema takes it; its configuration and its script work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from edgeslm.config.loader import parse_config
from tests.support.paths import ROOT

FILE = ROOT / "firmware-config/cloud-init/user-data.yaml"
SCHEMA = "usr/lib/python3/dist-packages/cloudinit/config/schemas/schema-cloud-config-v1.json"
DATA: dict[str, Any] = yaml.safe_load(FILE.read_text())
WRITTEN = {file["path"]: file for file in DATA["write_files"]}


def test_cloud_init_takes_it() -> None:
    """By the schema of Debian's package, which ``scripts/setup test`` unpacks and doesn't install."""
    places = [Path("/"), ROOT / ".edgeslm/cloud-init"]
    found = [place / SCHEMA for place in places if (place / SCHEMA).exists()]
    if not found:
        pytest.skip("cloud-init's package can't be had on this system")
    schema = json.loads(found[0].read_text())
    problems = [error.message for error in jsonschema.Draft4Validator(schema).iter_errors(DATA)]
    assert problems == []
    assert list(jsonschema.Draft4Validator(schema).iter_errors({**DATA, "runcmd": "no list"}))


def test_its_first_line_is_what_cloud_init_looks_for() -> None:
    assert FILE.read_text().startswith("#cloud-config\n")


def test_its_configuration_is_one() -> None:
    config = parse_config(WRITTEN["/etc/edgeslm/edgeslm.yaml"]["content"])
    assert config.node == DATA["hostname"]
    assert config.broker.url == "mqtt://localhost", "nothing but this board can ask at first"
    assert config.state_dir == Path("/var/lib/edgeslm")


def test_nobody_logs_in_with_a_password() -> None:
    assert DATA["ssh_pwauth"] is False
    assert all(user["lock_passwd"] for user in DATA["users"])


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (command,) = DATA["runcmd"]
    file = tmp_path / "first-boot"
    file.write_text(WRITTEN[command[0]]["content"])
    return file


def test_its_script_reads_well(script: Path) -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck is not None, "shellcheck is missing: pip install '.[dev]'"
    done = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_its_script_installs_what_lies_on_the_card(script: Path, tmp_path: Path) -> None:
    source = tmp_path / "edgeslm-1.0/firmware-config"
    source.mkdir(parents=True)
    (source / "install.sh").write_text(f'echo "$@" >"{tmp_path}/asked"\n')
    card = tmp_path / "a card/edgeslm"
    (card / "bundles").mkdir(parents=True)
    with tarfile.open(card / "edgeslm.tar.gz", "w:gz") as archive:
        archive.add(source.parent, "edgeslm-1.0")
    done = subprocess.run(["sh", script, card.parent], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "asked").read_text() == f"--bundles {card}/bundles\n"


def test_its_script_says_what_is_missing(script: Path, tmp_path: Path) -> None:
    done = subprocess.run(["sh", script, tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and "no edgeslm/edgeslm.tar.gz on the card" in done.stderr
