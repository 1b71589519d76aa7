"""The short form of ``benchmarks/robustness/chaos.py``: a few kills of everything, and no request is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import pytest

from tests.support.benchmarks.scripts import load_scripts
from tests.support.paths import ROOT

pytestmark = pytest.mark.e2e


def chaos(*arguments: str) -> dict[str, object]:
    """The figures of a run that has passed."""
    script = ROOT / "benchmarks/robustness/chaos.py"
    done = subprocess.run(
        [sys.executable, str(script), "load", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(figures, dict)
    return figures


def test_no_request_is_lost_while_daemon_engine_broker_and_network_are_killed() -> None:
    # So short a run is all kills: of the results under way at each of them, some must come twice.
    figures = chaos(
        *("--requests", "300", "--daemon-kills", "2", "--worker-kills", "1", "--broker-kills", "1"),
        *("--cuts", "2", "--service-ms", "4", "--seed", "20", "--most-duplicates", "100"),
    )
    assert figures["lost"] == 0
    assert int(str(figures["sent"])) >= 300
    assert figures["stuck"] == {
        "unanswered_after": 0,
        "queue": 0,
        "in_flight": 0,
        "unacknowledged_at_broker": 0,
        "exit_status": 0,
    }


def test_senders_that_repeat_lose_nothing_to_a_broker_that_forgets_a_second() -> None:
    figures = chaos(
        *("--profile", "balanced", "--repeat", "--repeat-s", "1", "--requests", "200", "--broker-kills", "2"),
        *("--service-ms", "4", "--seed", "1", "--most-duplicates", "100"),
    )
    assert figures["lost"] == 0
    assert int(str(figures["sent"])) >= 200


def test_no_request_is_lost_to_frozen_processes_stepped_clocks_and_full_disks() -> None:
    figures = chaos(
        *("--requests", "200", "--freezes", "2", "--freeze-s", "3", "5", "--clock-steps", "3"),
        *("--full-disks", "2", "--service-ms", "4", "--seed", "4", "--most-duplicates", "100"),
    )
    assert figures["lost"] == 0
    assert int(str(figures["sent"])) >= 200
    kinds = set(cast(dict[str, object], figures["kills"]))
    assert len({kind.split()[0] for kind in kinds}) >= 3, kinds


def test_a_clock_is_stepped_for_one_process_alone(tmp_path: Path) -> None:
    clock = load_scripts("chaos_surroundings")["chaos_surroundings"].Clock(tmp_path, "node")
    command = [
        *(sys.executable, "-c"),
        "import time\nwhile input(): print(int(time.time()), int(time.monotonic()), flush=True)",
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, **clock.environment}
    ) as child:
        assert child.stdin is not None and child.stdout is not None

        def look() -> tuple[int, int]:
            assert child.stdin is not None and child.stdout is not None
            child.stdin.write("now\n")
            child.stdin.flush()
            wall, monotonic = map(int, child.stdout.readline().split())
            return wall - int(time.time()), monotonic - int(time.monotonic())

        assert max(map(abs, look())) <= 2
        clock.step(24 * 3600)
        shifted, steady = look()
        assert abs(shifted - 24 * 3600) <= 2 and abs(steady) <= 2
        child.kill()
