"""``edgeslm run`` as a service: what systemd hears of it. Real broker, fake engine, real datagram socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, NodeProcess, fake_configuration
from tests.support.service_manager import FakeServiceManager

STATE = f"{BASE}/state"


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[FakeServiceManager]:
    made = FakeServiceManager(str(tmp_path / "notify"))
    yield made
    made.close()


def hear(manager: FakeServiceManager, name: str) -> dict[str, str]:
    """The next message that has this field."""
    while name not in (heard := manager.hear()):
        assert "STOPPING" not in heard, f"no {name} before the end"
    return heard


def test_a_service_says_when_it_is_ready_alive_and_stopping(
    broker: Mosquitto, tmp_path: Path, manager: FakeServiceManager
) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
    with (
        App(broker.port, STATE) as app,
        NodeProcess(tmp_path, fake_configuration(broker.url, tmp_path), fake=True, **environment) as node,
    ):
        assert hear(manager, "READY")["STATUS"] == "online"
        app.take_state(BASE, "online")
        hear(manager, "WATCHDOG")
        hear(manager, "WATCHDOG")
        assert node.terminate() == 0
        assert hear(manager, "STOPPING")["STATUS"] == "draining"


def test_a_service_whose_model_loads_slowly_asks_for_time(
    broker: Mosquitto, tmp_path: Path, manager: FakeServiceManager
) -> None:
    gate = tmp_path / "gate"
    environment = {
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "300000",
        "FAKE_LOAD": str(gate),
    }
    configuration = fake_configuration(broker.url, tmp_path)
    with NodeProcess(tmp_path, configuration, fake=True, **environment) as node:
        for _ in range(3):
            heard = hear(manager, "EXTEND_TIMEOUT_USEC")
            assert "READY" not in heard
        gate.touch()
        hear(manager, "READY")
        assert node.terminate() == 0


def test_a_request_that_takes_its_time_is_no_fault(
    broker: Mosquitto, tmp_path: Path, manager: FakeServiceManager
) -> None:
    gate = tmp_path / "gate"
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
    configuration = fake_configuration(broker.url, tmp_path)
    with (
        App(broker.port, STATE, f"{BASE}/res/#") as app,
        NodeProcess(tmp_path, configuration, fake=True, **environment) as node,
    ):
        app.take_state(BASE, "online")
        app.publish(f"{BASE}/req/say", {"input": f"hold {gate}", "id": "1"})
        app.wait_until((tmp_path / "gate.held").exists, "the request runs")
        for _ in range(3):
            hear(manager, "WATCHDOG")
        gate.touch()
        assert app.take(f"{BASE}/res/say").json["status"] == "ok"
        assert node.terminate() == 0
