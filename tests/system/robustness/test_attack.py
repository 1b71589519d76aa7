"""The short form of ``benchmarks/robustness/attack.py``: short attacks against a node that serves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.e2e

ATTACKS = (
    "pattern",
    "grammar",
    "Correlation",
    "pickle",
    "forges",
    "captured",
    "documents",
    "others",
    "texts",
)
PATIENCE = ("--answer-s", "30")
"""Other tests are at work beside it."""


def test_a_node_that_is_attacked_goes_on_serving(starter: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "benchmarks/robustness/attack.py"),
        "--starter",
        str(starter),
        *PATIENCE,
    ]
    done = subprocess.run([*command, "--only", *ATTACKS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(json.loads(done.stdout.splitlines()[-1])["attacks"]) == len(ATTACKS)
