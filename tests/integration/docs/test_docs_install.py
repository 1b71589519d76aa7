"""The page on installing: its commands are commands, what it names exists, its figures are the unit's."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest
import yaml

from edgeslm.cli.doctor.probes import BLOCK, WRITES
from edgeslm.cli.main import _parser
from edgeslm.config.loader import parse_config
from tests.support.paths import ROOT

TEXT = (ROOT / "docs/getting-started/install.md").read_text()
SHELL = re.findall(r"(?ms)^ *```sh\n(.*?)^ *```", TEXT)
UNIT = (ROOT / "firmware-config/systemd/edgeslm.service.d/10-edgeslm.conf").read_text()


@pytest.mark.parametrize("block", SHELL)
def test_every_block_is_shell(block: str) -> None:
    done = subprocess.run(["sh", "-n"], input=block, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_command_of_edgeslm_is_one() -> None:
    lines = [line.strip() for block in SHELL for line in block.replace("\\\n", " ").splitlines()]
    calls = [line.partition(" > ")[0] for line in lines if line.startswith("edgeslm ")]
    commands = [shlex.split(call, comments=True)[1:] for call in calls]
    commands += [shlex.split(code)[1:] for code in re.findall(r"`(edgeslm [^`.]*--[^`.]*)`", TEXT)]
    assert len(commands) >= 3
    for command in commands:
        if command != ["check", "--connect"]:
            _parser().parse_args(command)


def test_every_file_of_the_repository_that_it_names_is_there() -> None:
    named = set(re.findall(r"\bfirmware-config/[\w./@-]*\w", TEXT))
    assert len(named) >= 3
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_heading_that_it_points_to_is_there() -> None:
    headings = {
        re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-")
        for line in re.findall(r"(?m)^## (.*)$", TEXT)
    }
    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) <= headings


def test_its_configuration_is_one() -> None:
    (block,) = re.findall(r"(?ms)^```yaml\n(.*?)^```", TEXT)
    broker = yaml.safe_load(block)["broker"]
    config = parse_config(
        yaml.safe_dump(
            {
                "node": "n",
                "broker": broker,
                "tasks": {"t": {"kind": "search", "knowledge": ["k"]}},
                "knowledge": {"k": {"path": "/srv/k"}},
            }
        )
    )
    assert config.broker.tls
    (credential,) = re.findall(r"(?m)^LoadCredential=(\w+):/etc/edgeslm/credentials$", UNIT)
    assert str(config.broker.password_file) == f"/run/credentials/edgeslm.service/{credential}_password"


def test_what_it_says_of_the_sandbox_and_of_the_disk_is_so() -> None:
    assert "StateDirectory=edgeslm\n" in UNIT and "LogsDirectory=edgeslm\n" in UNIT
    assert f"{WRITES} synced writes of {len(BLOCK) // 1024} kB, like the journal's" in TEXT
