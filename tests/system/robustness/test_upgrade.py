"""The short form of ``benchmarks/robustness/upgrade.py``: an upgrade and back under load loses nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.benchmarks.scripts import load_scripts
from tests.support.paths import ROOT

pytestmark = pytest.mark.e2e


@pytest.fixture(params=["FIRST", "SECOND"])
def old_tree(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The code of version 0.1.0 or 0.2.0, where git has it."""
    versions = load_scripts("versions")["versions"]
    try:
        return Path(versions.unpack(tmp_path / "old", getattr(versions, request.param)))
    except versions.NoHistory as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(("--durability", "broker", "--profile", "strict"), id="broker"),
        pytest.param(("--durability", "spool", "--profile", "balanced", "--damage"), id="spool"),
    ],
)
def test_a_node_goes_to_the_next_version_and_back_under_load(old_tree: Path, how: tuple[str, ...]) -> None:
    # Both ways to end, in both directions; so short a run is all changes, and some results come twice.
    command = [sys.executable, str(ROOT / "benchmarks/robustness/upgrade.py"), "--old", str(old_tree), *how]
    command += ["--requests", "200", "--changes", "4", "--seed", "5", "--most-duplicates", "100"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["acknowledged"] == 200
    assert len(figures["changes"]) == 4
    assert figures["notes"] == 100
    assert [figures[name] for name in ("lost", "run_again", "notes_lost", "notes_twice")] == [0, 0, 0, 0]
    assert figures["refusals"]["killed"]["touched"] == []
