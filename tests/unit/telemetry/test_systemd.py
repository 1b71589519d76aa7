"""sd_notify(3) against a real datagram socket."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeslm.telemetry.systemd import ServiceManager
from tests.support.service_manager import FakeServiceManager


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[FakeServiceManager]:
    made = FakeServiceManager(str(tmp_path / "notify"))
    yield made
    made.close()


@pytest.fixture
def environment(tmp_path: Path, listener: FakeServiceManager) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(tmp_path / "notify")}


def test_the_words_of_a_life(listener: FakeServiceManager, environment: dict[str, str]) -> None:
    manager = ServiceManager(environment)
    assert manager
    manager.status("loading\nmodels")
    assert listener.hear() == {"STATUS": "loading models"}, "a line break would begin another field"
    manager.ready("online")
    assert listener.hear() == {"READY": "1", "STATUS": "online"}
    manager.alive()
    assert listener.hear() == {"WATCHDOG": "1"}
    manager.stopping("draining", within_s=1.5)
    assert listener.hear() == {"STOPPING": "1", "STATUS": "draining", "EXTEND_TIMEOUT_USEC": "1500000"}


def test_an_abstract_socket() -> None:
    name = f"edgeslm-test-{os.getpid()}"
    listener = FakeServiceManager(f"\0{name}")
    ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).ready("online")
    assert listener.hear()["READY"] == "1"
    listener.close()


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234"])
def test_without_a_socket_nothing_happens(address: str) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    assert not manager
    assert manager.watchdog_s is None
    manager.ready("online")
    asyncio.run(manager.watch(lambda: pytest.fail("there is nobody to tell")))


def test_one_that_is_gone_does_no_harm(tmp_path: Path) -> None:
    for path in (tmp_path / "gone", tmp_path / ("long" * 100)):
        manager = ServiceManager({"NOTIFY_SOCKET": str(path)})
        manager.ready("online")
        manager.alive()


def test_what_could_not_be_said_is_said_later_but_for_a_sign_of_life(tmp_path: Path) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    manager.ready("online")
    manager.alive()
    listener = FakeServiceManager(str(tmp_path / "notify"))
    manager.status("busy")
    assert listener.hear() == {"READY": "1", "STATUS": "busy"}
    listener.close()


def test_a_full_buffer_is_not_waited_for(listener: FakeServiceManager, environment: dict[str, str]) -> None:
    manager = ServiceManager(environment)
    for _ in range(10_000):  # far more than a socket holds
        manager.status("x" * 1000)
    while not listener.is_quiet():
        pass
    manager.ready("online")
    assert listener.hear() == {"READY": "1", "STATUS": "online"}


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "2500000"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": str(os.getpid())}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_s_time(variables: dict[str, str], seconds: float | None) -> None:
    assert ServiceManager({"NOTIFY_SOCKET": "/run/x", **variables}).watchdog_s == seconds


class Watched:
    """A service whose fault is set from outside; ``run`` watches it while ``steps`` go on in a thread."""

    def __init__(self, manager: ServiceManager, **limits: float) -> None:
        self.manager = manager
        self.limits = limits
        self.fault: str | None = None

    def run(self, steps: Callable[[], None]) -> None:
        async def both() -> None:
            watching = asyncio.create_task(self.manager.watch(lambda: self.fault, **self.limits))
            await asyncio.to_thread(steps)
            watching.cancel()

        asyncio.run(both())


def hear_until(listener: FakeServiceManager, name: str) -> dict[str, str]:
    while name not in (heard := listener.hear()):
        pass
    return heard


def test_a_service_is_fed_for_while_it_is_alive(
    listener: FakeServiceManager, environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    service = Watched(ServiceManager({**environment, "WATCHDOG_USEC": "30000"}))
    service.manager.ready("online")

    def steps() -> None:
        hear_until(listener, "WATCHDOG")
        service.fault = "The network thread has ended."
        heard = hear_until(listener, "STATUS")
        while "WATCHDOG" in heard or heard["STATUS"] == "online":
            heard = hear_until(listener, "STATUS")
        assert heard == {"STATUS": "The network thread has ended."}
        service.fault = None
        assert listener.hear() == {"STATUS": "online"}, "nothing was said while it was stuck"
        assert listener.hear() == {"WATCHDOG": "1"}

    service.run(steps)
    assert caplog.text.count("stuck") == 1


def test_a_slow_start_asks_for_time_and_a_ready_service_for_none(
    listener: FakeServiceManager, environment: dict[str, str]
) -> None:
    service = Watched(ServiceManager(environment), look_s=0.01)

    def steps() -> None:
        for _ in range(3):
            assert listener.hear() == {"EXTEND_TIMEOUT_USEC": "30000"}
        service.manager.ready("online")
        hear_until(listener, "READY")

    service.run(steps)
    assert listener.is_quiet()


def test_a_start_without_end_asks_for_no_more_time(
    listener: FakeServiceManager, environment: dict[str, str]
) -> None:
    Watched(ServiceManager(environment), start_limit_s=0.0).run(lambda: None)
    assert listener.is_quiet()
