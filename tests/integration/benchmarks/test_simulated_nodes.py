"""benchmarks/lib/simulated_nodes.py on a real broker: names, answers, shutdown."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgeslm.client import Client
from tests.support.benchmarks.scripts import load_scripts
from tests.support.brokers import Mosquitto


@pytest.fixture(scope="module")
def simulated_nodes() -> ModuleType:
    names = ("bare_client", "fake_engine", "fake_node", "thin_nodes", "simulated_nodes")
    return load_scripts(*names)["simulated_nodes"]


def test_service_times_go_round_the_nodes_however_they_are_parted(simulated_nodes: ModuleType) -> None:
    plan = simulated_nodes.Plan("mqtt://x", nodes=5, service_ms=(50.0, 200.0), first=2)
    assert plan.names == ["node-2", "node-3", "node-4", "node-5", "node-6"]
    assert plan.services_s == [0.2, 0.05, 0.2, 0.05, 0.2]
    parts = plan.parts(2)
    assert [name for part in parts for name in part.names] == plan.names
    assert [seconds for part in parts for seconds in part.services_s] == plan.services_s
    assert len(plan.parts(9)) == 5


async def _state(client: Client, wanted: str) -> None:
    async with asyncio.timeout(60):
        while client.node_state != wanted:
            await asyncio.sleep(0.02)


def test_nodes_answer_and_say_that_they_are_gone(simulated_nodes: ModuleType, tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path)
    broker.start()
    try:
        asyncio.run(_kill_and_start_again(simulated_nodes, broker.url, tmp_path / "nodes"))
    finally:
        broker.stop()


async def _kill_and_start_again(simulated_nodes: ModuleType, url: str, folder: Path) -> None:
    plan = simulated_nodes.Plan(url, nodes=3, service_ms=(1.0,))
    with simulated_nodes.Crowd(plan, folder, processes=2) as crowd:
        assert len(crowd.pids) == 2
        async with Client(url, "node-1") as first, Client(url, "node-3") as last:
            for client in (first, last):
                result = await client.request_async("triage", "hot", timeout=60)
                assert result.status == "ok"
                assert result.result is not None and result.result["label"] in simulated_nodes.LABELS
            crowd.signal(1, signal.SIGUSR1)
            assert (await last.request_async("triage", "slow", timeout=60)).status == "ok"
            crowd.kill(1)
            await _state(last, "offline")
            assert first.node_state == "online"
            crowd.start(1)
            crowd.wait(1)
            await _state(last, "online")
            assert (await last.request_async("triage", "again", timeout=60)).status == "ok"


def test_to_a_client_a_thin_node_is_a_node(simulated_nodes: ModuleType, tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path)
    broker.start()
    try:
        plan = simulated_nodes.Plan(broker.url, nodes=2, service_ms=(1.0,), thin=True)
        asyncio.run(_ask_thin_nodes(simulated_nodes, plan, tmp_path / "nodes"))
    finally:
        broker.stop()


async def _ask_thin_nodes(simulated_nodes: ModuleType, plan: Any, folder: Path) -> None:
    with simulated_nodes.Crowd(plan, folder) as crowd:
        async with Client(plan.broker, "node-2") as client:
            await _state(client, "online")
            result = await client.request_async("triage", "hot", timeout=60)
            assert result.status == "ok"
            assert result.timings_ms["prefill"] == 1.0
            crowd.kill(0)
            await _state(client, "offline")
