"""docs/operations/rollouts.md: states, configuration and commands are those of the code."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import get_args

import pytest
import yaml

from edgeslm.cli.main import _parser
from edgeslm.config.loader import parse_config
from edgeslm.update.rollout.ddi import Execution
from edgeslm.update.rollout.jobs import State, Step
from tests.support.paths import ROOT
from tests.support.rollout.hawkbits import pack

PAGE = (ROOT / "docs/operations/rollouts.md").read_text("utf-8")
SHELL = re.findall(r"(?ms)^```sh[ \w]*\n(.*?)^```", PAGE)


def rows(heading: str) -> list[list[str]]:
    """Of the table whose first column is called that."""
    found = re.search(rf"(?m)^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE)
    assert found
    return [line.strip("|").split("|") for line in found[1].splitlines()]


def test_the_table_has_every_state_step_and_kind_of_feedback() -> None:
    states = [code for row in rows("state") for code in re.findall(r"`([A-Z_]+)`", row[0])]
    assert sorted(states) == sorted(get_args(State))
    steps = {code for row in rows("state") for code in re.findall(r"`(\w+)`", row[1])}
    assert steps == set(get_args(Step)) - {"done"}
    said = {code for row in rows("state") for code in re.findall(r"`(\w+)`", row[2])}
    assert said - {"success", "failure"} == set(get_args(Execution)) - {"canceled"}


def test_its_configuration_is_one() -> None:
    (block,) = re.findall(r"(?ms)^```yaml\n(.*?)^```", PAGE)
    rest = {
        "node": "n",
        "broker": {"url": "mqtt://h"},
        "models": {"small": {"bundle": "/b"}},
        "tasks": {"t": {"kind": "generate", "model": "small"}},
    }
    assert parse_config(yaml.safe_dump(rest) + block).rollouts is not None


@pytest.mark.parametrize("block", SHELL)
def test_every_block_is_shell_and_every_command_of_edgeslm_is_one(block: str) -> None:
    assert subprocess.run(["sh", "-n"], input=block, text=True).returncode == 0
    for line in block.splitlines():
        if line.startswith("edgeslm "):
            _parser().parse_args(shlex.split(line, comments=True)[1:])


def test_every_file_that_it_names_is_there() -> None:
    named = set(re.findall(r"\b(?:firmware-config|benchmarks|tests)/[\w./-]*\w", PAGE))
    assert len(named) >= 3
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_artifact_is_made_as_it_says(tmp_path: Path) -> None:
    found = subprocess.run([ROOT / "scripts/mender"], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    pack(tmp_path, "smollm2-v2", b"weights").rename(tmp_path / "smollm2-v2.tar.gz")
    (block,) = (block for block in SHELL if "mender-artifact" in block)
    done = subprocess.run(
        ["sh", "-ec", f'PATH="{found.stdout.strip()}:$PATH"\n{block}'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "smollm2-v2.mender").stat().st_size > 0
