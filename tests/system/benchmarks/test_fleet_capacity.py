"""benchmarks/lib/fleet_capacity.py in short: a few nodes on a real broker at a small rate, and its counts."""

from __future__ import annotations

import json
import random
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.benchmarks.scripts import load_scripts

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
    "fleet_broker",
    "fleet_dispatcher",
    "fleet_model",
    "fleet_curves",
    "fleet_figures",
    "fleet_capacity",
)


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    return load_scripts(*SCRIPTS)


@pytest.mark.parametrize("thin", [True, False])
def test_few_requests_to_few_nodes_are_all_answered_once(
    scripts: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str], thin: bool
) -> None:
    arguments = "broker --nodes 3 --rates 0 20 --seconds 2 --service-ms 2 --processes 2 --folder"
    scripts["fleet_capacity"].main([*arguments.split(), str(tmp_path), *(["--thin"] if thin else [])])
    *_, last = capsys.readouterr().out.splitlines()
    idle, found = json.loads(last)["rows"]
    assert idle["rate"] == 0
    assert found["statuses"] == {"ok": round(found["offered_per_s"] * 2)}
    assert (found["lost"], found["duplicates"], found["errors"]) == (0, 0, 0)
    assert found["by_service_ms"].keys() == {"2"}
    assert found["cores"].keys() == {"broker", "nodes", "sender", "dispatcher", "others"}


def test_requests_come_as_often_as_they_are_said_to(scripts: dict[str, ModuleType]) -> None:
    planned = scripts["fleet_load"].poisson(500, 20, str, random.Random(3))
    assert [one.topic for one in planned[:3]] == ["0", "1", "2"]
    assert planned == sorted(planned, key=lambda one: one.at_s)
    assert abs(len(planned) - 10_000) < 400  # four standard deviations


def test_a_rate_holds_only_if_nothing_is_lost_refused_or_late(scripts: dict[str, ModuleType]) -> None:
    offered = scripts["fleet_load"].Offered(2, 1.0, latencies_s=[0.1, 0.2], node_s=[0.1, 0.1])
    found = offered.figures()
    assert found["p99_ms"] == 200
    holds = scripts["fleet_broker"].holds
    assert holds(found)
    assert not holds({**found, "lost": 1})
    assert not holds({**found, "errors": 1})
    assert not holds({**found, "p99_ms": 1001})
    assert not holds({**found, "p99_ms": None})


def test_a_small_simulation_has_its_tables_its_json_and_its_charts(
    scripts: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = "simulate --broker-us 50 --requests 300 --seconds 2 --sizes 10 100 --charts"
    scripts["fleet_capacity"].main([*arguments.split(), str(tmp_path)])
    *lines, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert found["broker_us"] == 50
    assert {row["way"] for row in found["by_size"]} == {"share", "topics", "dispatcher"}
    assert {row["nodes"] for row in found["by_size"]} == {10, 100}
    assert all(row["is_stable"] for row in found["by_size"])
    assert {row["death"] for row in found["with_deaths"]} == set(scripts["fleet_curves"].DEATHS)
    assert any("max/mean" in line for line in lines)
    for name in ("fleet_latency", "fleet_load", "fleet_deaths"):
        assert ElementTree.parse(tmp_path / f"{name}.svg").getroot().tag.endswith("svg")


def test_real_and_simulated_figures_stand_side_by_side(scripts: dict[str, ModuleType]) -> None:
    real = {"rate": 9, "p50_ms": 10.0, "mean_ms": 11.0, "p99_ms": 20.0, "lost": 0, "cores": {"others": 0.5}}
    row = scripts["fleet_capacity"].side_by_side("a", real, {"p50_ms": 9.0, "mean_ms": 10.0, "p99_ms": 15.0})
    assert row["difference"] == "-25 %"
    line = scripts["fleet_figures"].line(row, scripts["fleet_figures"].COMPARED)
    assert line.split() == ["a", "9", "10", "9", "11", "10", "20", "15", "-25", "%"]
