"""A daemon prepares its decoders by itself: when, what it tells, how it ends. Real broker, fake engine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.manifest import Bundle
from edgeslm.engine.worker.prepared import CACHE, Index
from edgeslm.errors import SelfTestError
from edgeslm.node.daemon import Waits
from edgeslm.serving.prepare import QuietTimes
from edgeslm.serving.warmup import WarmUp
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, Node, fake_configuration

INFO = f"{BASE}/info"
HASTY = Waits(quiet=QuietTimes(0.001, 0.001))
"""Every moment is a quiet one."""


async def prepare(bundle: Bundle, graph: str, state_dir: Path, **_: object) -> Index:
    """What fake engines take for prepared."""
    (state_dir / CACHE).mkdir(parents=True)
    fields: dict[str, Any] = {"bundle": bundle.digest, "graph": graph, "machine": "m", "files": ()}
    return Index(**fields, cores=2, threads=2, seconds={})


@pytest.fixture
def preparing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what prepares."""

    def set_prepare(prepare: Any) -> None:
        monkeypatch.setattr("edgeslm.serving.prepare.prepare", prepare)

    return set_prepare


def idle_s(node: Node) -> float:
    return node.extension(WarmUp).idle_s()


def test_its_engine_is_started_on_what_was_prepared_and_info_says_so(
    broker: Mosquitto, tmp_path: Path, preparing: Any
) -> None:
    preparing(prepare)
    configuration = fake_configuration(broker.url, tmp_path, prepare="auto")
    with (
        App(broker.port, INFO, f"{BASE}/state", f"{BASE}/res/#") as app,
        Node(tmp_path, configuration, waits=HASTY),
    ):
        app.take(INFO, lambda heard: heard.json["models"]["small"]["prepared"] is False)
        told = app.take(INFO, lambda heard: heard.json["models"]["small"]["prepared"] is True)
        assert "prepared" not in told.json["models"]["encoder"]
        app.publish(f"{BASE}/req/say", {"input": "hello", "id": "1"})
        assert app.take(f"{BASE}/res/say").json["status"] == "ok"


def test_nothing_is_prepared_where_it_is_not_wanted(
    broker: Mosquitto, tmp_path: Path, preparing: Any
) -> None:
    preparing(prepare)
    configuration = fake_configuration(broker.url, tmp_path, prepare="never")
    with App(broker.port, f"{BASE}/state") as app, Node(tmp_path, configuration, waits=HASTY) as node:
        app.take_state(BASE, "online")
        assert idle_s(node) >= 0
    assert not (tmp_path / "state" / CACHE).exists()


def test_a_node_that_works_or_is_not_online_is_not_idle(broker: Mosquitto, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    configuration = fake_configuration(broker.url, tmp_path)
    with App(broker.port, f"{BASE}/state", f"{BASE}/res/#") as app:
        with Node(tmp_path, configuration, waits=HASTY) as node:
            app.take_state(BASE, "online")
            app.wait_until(lambda: idle_s(node) > 0, "it is idle")
            app.publish(f"{BASE}/req/say", {"input": f"hold {gate}", "id": "1"})
            app.wait_until((tmp_path / "gate.held").exists, "the request runs")
            assert idle_s(node) == 0
            gate.touch()
            app.take(f"{BASE}/res/say")
            app.wait_until(lambda: idle_s(node) > 0, "it is idle again")
        assert idle_s(node) == 0


def test_a_stop_ends_what_is_being_prepared(broker: Mosquitto, tmp_path: Path, preparing: Any) -> None:
    began, ended = tmp_path / "began", tmp_path / "ended"

    async def for_ever(*_: object, **__: object) -> Index:
        began.touch()
        try:
            await asyncio.Event().wait()
        finally:
            ended.touch()
        raise AssertionError

    preparing(for_ever)
    configuration = fake_configuration(broker.url, tmp_path, prepare="auto")
    with App(broker.port, f"{BASE}/res/#") as app, Node(tmp_path, configuration, waits=HASTY):
        app.wait_until(began.exists, "it is being prepared")
        app.publish(f"{BASE}/req/say", {"input": "meanwhile", "id": "1"})
        assert app.take(f"{BASE}/res/say").json["status"] == "ok"
        assert not ended.exists()
    assert ended.exists()


def test_a_failed_self_test_is_an_alert(broker: Mosquitto, tmp_path: Path, preparing: Any) -> None:
    async def fail(*_: object, **__: object) -> Index:
        raise SelfTestError("2 of 8 answers differ from those of the build machine")

    preparing(fail)
    configuration = fake_configuration(broker.url, tmp_path, prepare="auto")
    with App(broker.port, f"{BASE}/state") as app, Node(tmp_path, configuration, waits=HASTY) as node:
        said = "Model small: 2 of 8 answers differ from those of the build machine."
        app.wait_until(lambda: said in node.daemon.health()["alerts"], "there is an alert")
        assert node.daemon.info()["models"]["small"]["prepared"] is False
