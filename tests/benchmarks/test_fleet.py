"""benchmarks/fleet.py in a short form: a few nodes on a real broker at a small rate, and what it counts."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import ModuleType

import pytest

from tests.benchmarks.scripts import load_scripts

SCRIPTS = (
    "bare_client",
    "machine",
    "processes",
    "shipped",
    "fake_engine",
    "fake_node",
    "thin_nodes",
    "simulated_nodes",
    "fleet_load",
    "fleet",
)


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    return load_scripts(*SCRIPTS)


@pytest.mark.parametrize("thin", [True, False])
def test_few_requests_to_few_nodes_are_all_answered_once(
    scripts: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str], thin: bool
) -> None:
    arguments = "broker --nodes 3 --rates 20 --seconds 2 --service-ms 2 --processes 2 --folder"
    scripts["fleet"].main([*arguments.split(), str(tmp_path), *(["--thin"] if thin else [])])
    *_, last = capsys.readouterr().out.splitlines()
    idle, found = json.loads(last)["rows"]
    assert idle["rate"] == 0
    assert found["statuses"] == {"ok": round(found["offered_per_s"] * 2)}
    assert (found["lost"], found["duplicates"], found["errors"]) == (0, 0, 0)
    assert found["by_service_ms"].keys() == {"2"}
    assert found["cores"].keys() == {"broker", "nodes", "sender", "others"}


def test_requests_come_as_often_as_they_are_said_to(scripts: dict[str, ModuleType]) -> None:
    planned = scripts["fleet_load"].poisson(500, 20, str, random.Random(3))
    assert [one.topic for one in planned[:3]] == ["0", "1", "2"]
    assert planned == sorted(planned, key=lambda one: one.at_s)
    assert abs(len(planned) - 10_000) < 400  # four standard deviations


def test_a_rate_holds_only_if_nothing_is_lost_refused_or_late(scripts: dict[str, ModuleType]) -> None:
    offered = scripts["fleet_load"].Offered(2, 1.0, latencies_s=[0.1, 0.2], node_s=[0.1, 0.1])
    found = offered.figures()
    assert found["p99_ms"] == 200
    holds = scripts["fleet"].holds
    assert holds(found)
    assert not holds({**found, "lost": 1})
    assert not holds({**found, "errors": 1})
    assert not holds({**found, "p99_ms": 1001})
    assert not holds({**found, "p99_ms": None})
