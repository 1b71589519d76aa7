"""The short form of ``benchmarks/fleet/rollout.py``: three real nodes, one of them the canary."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.e2e


def test_a_sound_bundle_goes_to_all_and_a_bad_one_no_further_than_the_canary() -> None:
    command: list[str | Path] = [
        sys.executable,
        ROOT / "benchmarks/fleet/rollout.py",
        "--groups",
        "1,2",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    waves = dict(figures["waves"])
    sound = waves.pop("sound")
    assert (sound["status"], sound["answer_by_it"], sound["downloads"]) == ("FINISHED", 3, 3)
    assert sound["groups"] == [{"FINISHED": 1}, {"FINISHED": 2}]
    for name, words in (("wrong answers", "checks are right"), ("crashes on trial", "was taken back")):
        bad = waves.pop(name)
        assert (bad["status"], bad["answer_by_it"], bad["have_it"], bad["downloads"]) == ("PAUSED", 0, 0, 1)
        assert bad["groups"] == [{"ERROR": 1}, {"NOTSTARTED": 2}]
        assert words in bad["why"][0]
    assert waves == {}
    assert list(figures["requests"]) == ["ok"]
