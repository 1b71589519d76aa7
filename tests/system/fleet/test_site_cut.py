"""A site without its hub: what is asked there is answered there, and what happened comes up afterwards.

The counts are those of the short form of ``benchmarks/fleet/failures.py site``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.hubs import Hub
from tests.support.nodes import BASE, TASKS, Node, fake_configuration
from tests.support.paths import ROOT

pytestmark = pytest.mark.e2e


def test_a_cut_of_some_hundred_results_loses_none_and_a_killed_broker_one_at_most() -> None:
    script = ROOT / "benchmarks/fleet/failures.py"
    arguments = ("--minutes", "0.5", "--restart-s", "1", "2", "--runs", "strict", "strict:kill", "balanced")
    done = subprocess.run(
        [sys.executable, str(script), "site", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    strict, killed, balanced = json.loads(done.stdout.splitlines()[-1])["runs"]
    assert (strict["lost"], balanced["lost"]) == (0, 0)
    assert killed["lost"] <= 1
    assert all(one["sent"] == 900 and one["most_waiting"] >= 300 for one in (strict, killed, balanced))


def test_requests_at_the_site_are_answered_while_it_is_cut_off_and_results_come_up_later(
    tmp_path: Path,
) -> None:
    hall = fake_configuration("", tmp_path)
    del hall["node"]
    hall["tasks"] = {"triage": TASKS["triage"]}
    hall["routes"] = [{"from": "yard/+", "task": "triage", "name": "yard"}]
    with Hub(tmp_path, {"north": {"hall": hall}}) as hub, hub.app("root", "site/#") as above:
        site = hub.sites["north"]
        configuration: dict[str, Any] = yaml.safe_load((tmp_path / "north/hall/config.yaml").read_text())
        with Node(tmp_path / "north/hall", configuration), site.app("root", f"{BASE}/#") as below:
            above.take_state(f"site/north/{BASE}", "online")
            hub.cut()
            hub.wait_for_link(above, "north", b"0")
            for number in range(20):
                below.publish(f"yard/{number}", f"all is well at gate {number}")
            below.publish(f"{BASE}/req/triage", "all is well", reply_to=f"{BASE}/res/triage/root")
            assert below.take(f"{BASE}/res/triage/root").json["status"] == "ok"
            for _ in range(20):
                below.take(f"{BASE}/event/yard")
            assert not above.untaken("site/+/+/+/+/event/#")
            for _ in range(2):  # between two acknowledgements the broker has saved
                below.publish("gates", "closed")
            site.broker.kill()
            site.broker.start()
            hub.mend()
            hub.wait_for_link(above, "north")
            came = [above.take(f"site/north/{BASE}/event/yard").json for _ in range(20)]
            assert {one["status"] for one in came} == {"ok"}
        above.take_state(f"site/north/{BASE}", "stopped")
        assert not above.untaken(f"site/north/{BASE}/req/#")
        assert not above.untaken(f"site/north/{BASE}/res/#"), "results of requests stay, unless asked for"
