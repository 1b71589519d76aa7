"""Troubles that a random run of ``benchmarks/robustness/chaos.py`` seldom meets. Real broker, fake engine."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.apps import App
from tests.support.benchmarks.scripts import load_scripts
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, Node, NodeProcess, fake_configuration
from tests.support.paths import python_path

pytestmark = pytest.mark.e2e

MakeBroker = Callable[..., Mosquitto]
TRIAGE = f"{BASE}/req/triage"
REPLY = f"{BASE}/res/triage/desk"
HOUR_S = 3600


@pytest.fixture
def make_proxy() -> Iterator[Callable[[int], Any]]:
    """Makes the benchmark's proxies: ``make_proxy(port)``."""
    module = load_scripts("chaos_proxy")["chaos_proxy"]
    proxies: list[Any] = []

    def make(port: int) -> Any:
        proxies.append(module.Proxy(port))
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.stop()


def ask(app: App, name: str, text: str = "all fine", **how: Any) -> None:
    app.publish(TRIAGE, text, reply_to=REPLY, correlation=name.encode(), **how)


def hold(app: App, folder: Path, name: str, **how: Any) -> Path:
    """A request that runs until the returned file exists."""
    gate = folder / name
    ask(app, name, f"hold {gate}", **how)
    app.wait_until(Path(f"{gate}.held").exists, f"{name} runs")
    return gate


def names(app: App) -> list[bytes | None]:
    """Whose results have come by the time that a later request is answered."""
    app.publish(TRIAGE, "last", reply_to=f"{REPLY}/last")
    app.take(f"{REPLY}/last")
    return [heard.correlation for heard in app.untaken(REPLY)]


def test_200_results_that_wait_for_a_connection_come_once_each(
    make_broker: MakeBroker, make_proxy: Callable[[int], Any], tmp_path: Path
) -> None:
    broker = make_broker("max_inflight_messages 256\n")
    proxy = make_proxy(broker.port)
    configuration = fake_configuration(f"mqtt://127.0.0.1:{proxy.port}", tmp_path)
    with App(broker.port, f"{BASE}/#") as app, Node(tmp_path, configuration) as node:
        app.take_state(BASE, "online")
        gate = hold(app, tmp_path, "0")
        for number in range(1, 200):
            ask(app, str(number))
        app.wait_until(lambda: node.daemon.health()["queue"] == 199, "all wait")
        proxy.close()
        proxy.cut()
        gate.touch()
        app.wait_until(
            lambda: node.daemon.health()["queue"] == node.daemon.health()["in_flight"] == 0, "all are done"
        )
        assert not app.untaken(REPLY)
        proxy.open()
        proxy.cut()
        came = [app.take(REPLY).correlation for _ in range(200)]
        assert len(set(came)) == 200
        app.take_state(BASE, "online")
        assert names(app) == []
    # Nothing is left in the broker's session, or it would come again now.
    with App(broker.port, f"{BASE}/#") as app, Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        assert names(app) == []


def test_a_request_that_runs_longer_than_the_keep_alive_does_not_cost_the_connection(
    broker: Mosquitto, tmp_path: Path
) -> None:
    configuration = fake_configuration(broker.url, tmp_path)
    configuration["broker"]["keepalive_s"] = 1
    with App(broker.port, f"{BASE}/#") as app, Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        gate = hold(app, tmp_path, "slow")

        def pings() -> int:
            return broker.log.count("Received PINGREQ from edgeslm-hall")

        enough = pings() + 3  # twice the time after which the broker gives up a client that is silent
        app.wait_until(lambda: pings() >= enough, "the network thread speaks while the engine works")
        gate.touch()
        assert app.take(REPLY).json["status"] == "ok"
        assert not [heard for heard in app.untaken(f"{BASE}/state") if heard.json["state"] != "starting"]
    assert "exceeded timeout" not in broker.log


SHIFTED_CLOCK = """
import os, time
def shift():
    with open(os.environ["CLOCK_SHIFT"]) as file:
        seconds = int(file.read() or 0)
    if seconds:
        open(os.environ["CLOCK_SHIFT"] + ".used", "w").close()
    return seconds
wall, wall_ns = time.time, time.time_ns
time.time = lambda: wall() + shift()
time.time_ns = lambda: wall_ns() + shift() * 10**9
"""


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
def test_a_clock_that_jumps_by_an_hour_changes_nothing(
    broker: Mosquitto, tmp_path: Path, jump_s: int
) -> None:
    """As when the time comes from the network after the start, on a board without a clock of its own."""
    (tmp_path / "sitecustomize.py").write_text(SHIFTED_CLOCK)
    shift = tmp_path / "shift"
    shift.write_text("0")
    configuration = fake_configuration(broker.url, tmp_path, log_level="debug")
    clock = {"PYTHONPATH": python_path(tmp_path), "CLOCK_SHIFT": str(shift)}
    with (
        App(broker.port, f"{BASE}/#") as app,
        NodeProcess(tmp_path, configuration, fake=True, **clock) as node,
    ):
        node.wait_online(app)
        ask(app, "before")
        before = app.take(REPLY).payload
        gate = hold(app, tmp_path, "runs", expiry_s=600)
        ask(app, "waits", expiry_s=600)
        shift.write_text(str(jump_s))
        ask(app, "after", expiry_s=600)
        gate.touch()
        came = {heard.correlation: heard for heard in (app.take(REPLY) for _ in range(3))}
        assert {name: heard.code for name, heard in came.items()} == {
            b"runs": None,
            b"waits": None,
            b"after": None,
        }
        ask(app, "before")
        assert app.take(REPLY).payload == before, "a repeat is still known"
        node.kill()
        node.start()
        node.wait_online(app)
        ask(app, "before")  # others may come twice, from before the kill
        again = app.take(REPLY, lambda heard: heard.correlation == b"before")
        assert again.payload == before, "also at a start with the new time"
        assert Path(f"{shift}.used").exists(), "nobody looked at the clock"
        assert node.terminate() == 0


def test_a_full_disk_makes_the_node_busy_until_there_is_room(broker: Mosquitto, tmp_path: Path) -> None:
    """The kernel refuses the daemon's writes, as a full disk does; a limit of the process needs no rights."""
    with (
        App(broker.port, f"{BASE}/#") as app,
        NodeProcess(tmp_path, fake_configuration(broker.url, tmp_path), fake=True) as node,
    ):
        node.wait_online(app)
        gate = hold(app, tmp_path, "runs")
        limits = resource.prlimit(node.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (0, limits[1]))
        gate.touch()
        assert app.take(REPLY).json["status"] == "ok"  # what ran is answered
        ask(app, "new")
        assert app.take(REPLY).code == "busy"
        resource.prlimit(node.pid, resource.RLIMIT_FSIZE, limits)

        def answered() -> bool:
            ask(app, "new")
            return app.take(REPLY).code is None

        app.wait_until(answered, "requests are taken again")
        node.kill()
        node.start()
        node.wait_online(app)
        gate.unlink()  # a second run would wait for it
        ask(app, "runs", f"hold {gate}")
        assert app.take(REPLY, lambda heard: heard.correlation == b"runs").json["status"] == "ok"
        assert node.terminate() == 0
