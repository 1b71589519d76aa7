"""The short form of ``benchmarks/fleet/failures.py pool``: kills and cuts, and no request is lost."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.e2e


def test_no_request_is_lost_while_nodes_and_dispatchers_are_killed_cut_off_and_slowed() -> None:
    # So short a run is all kills: of the results under way at each of them, some must come twice.
    script = ROOT / "benchmarks/fleet/failures.py"
    options = ("--requests", "200", "--events", "5", "--seed", "2", "--most-duplicates", "100")
    done = subprocess.run([sys.executable, str(script), "pool", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["lost"] == 0 and figures["sent"] >= 200 and figures["events_in_all"] == 5
    assert set(figures["unacknowledged_at_broker"].values()) == {0}
