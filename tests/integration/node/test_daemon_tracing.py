"""Traces of a node that works, at a collector that takes them or not. Real broker, fake engine."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeslm.telemetry import tracing
from tests.support.apps import WAIT_S, App, Heard
from tests.support.brokers import Mosquitto, free_port
from tests.support.collectors import FakeCollector, values
from tests.support.nodes import BASE, Node, fake_configuration

MakeBroker = Callable[..., Mosquitto]
TRACE = "0af7651916cd43dd8448eb211c80319c"
SENT = ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01")
ROUTES = [{"name": "log", "from": "factory/log", "task": "triage"}]


def traceparent(heard: Heard) -> str | None:
    return dict(heard.user_properties).get("traceparent")


def by_name(spans: list[Any]) -> dict[str, Any]:
    return {span.name: span for span in spans}


@pytest.fixture(autouse=True)
def sent_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library waits so many milliseconds for more spans."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")


def test_a_request_and_a_route_are_traced(make_broker: MakeBroker, tmp_path: Path) -> None:
    broker = make_broker()
    with FakeCollector() as collector, App(broker.port, f"{BASE}/#") as app:
        configuration = fake_configuration(
            broker.url, tmp_path, routes=ROUTES, tracing={"endpoint": collector.endpoint}
        )
        with Node(tmp_path, configuration) as node:
            app.take_state(BASE, "online")
            app.publish(f"{BASE}/req/triage", "a secret", user_property=SENT)
            result = app.take(f"{BASE}/res/triage")
            spans = by_name(collector.wait_for(4))
            whole = spans["request triage"]
            assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, "b7ad6b7169203331")
            assert traceparent(result) == f"00-{TRACE}-{whole.span_id.hex()}-01"
            assert {spans[phase].parent_span_id for phase in ("queue", "prefill", "decode")} == {
                whole.span_id
            }
            took_ms = (whole.end_time_unix_nano - whole.start_time_unix_nano) / 1e6
            assert took_ms == pytest.approx(result.json["timings_ms"]["total"], abs=0.1)
            assert values(whole.attributes)["edgeslm.status"] == "ok"
            app.publish("factory/log", "another secret", user_property=SENT)
            header = traceparent(app.take(f"{BASE}/event/log"))
            route = collector.wait_for(8)[4]
            assert header == f"00-{TRACE}-{route.span_id.hex()}-01"
            app.publish(f"{BASE}/req/triage", {"input": "x", "options": {"seed": "no"}}, user_property=SENT)
            assert (traceparent(app.take(f"{BASE}/res/triage")) or "").startswith(f"00-{TRACE}-")
            assert node.daemon.health()["alerts"] == []
        assert set(collector.requests) == {("/v1/traces", "application/x-protobuf")}
        assert collector.resource["service.name"] == "edgeslm"
        assert collector.resource["service.instance.id"] == "hall"
        assert not any(b"secret" in message.SerializeToString() for message in collector.messages)


def test_a_collector_that_hangs_holds_nobody_back(make_broker: MakeBroker, tmp_path: Path) -> None:
    broker = make_broker()
    with socket.create_server(("127.0.0.1", 0)) as collector, App(broker.port, f"{BASE}/#") as app:
        endpoint = f"http://127.0.0.1:{collector.getsockname()[1]}"
        configuration = fake_configuration(broker.url, tmp_path, tracing={"endpoint": endpoint})
        with Node(tmp_path, configuration) as node:
            app.take_state(BASE, "online")
            app.publish(f"{BASE}/req/triage", "the first")
            assert app.take(f"{BASE}/res/triage").json["status"] == "ok"
            collector.settimeout(WAIT_S)
            connection, _ = collector.accept()
            with connection:
                for number in range(20):
                    app.publish(f"{BASE}/req/triage", f"number {number}")
                assert [app.take(f"{BASE}/res/triage").json["status"] for _ in range(20)] == ["ok"] * 20
                assert node.daemon.health()["results"] == {"ok": 21}


def test_a_collector_that_is_away_is_an_alert_until_it_is_back(
    make_broker: MakeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "TIMEOUT_S", 0.2)
    broker, port = make_broker(), free_port()
    configuration = fake_configuration(broker.url, tmp_path, tracing={"endpoint": f"http://127.0.0.1:{port}"})

    def ask_until(app: App, node: Node, alerts: int) -> None:
        def asked() -> bool:
            app.publish(f"{BASE}/req/triage", "fine")
            assert app.take(f"{BASE}/res/triage").json["status"] == "ok"
            return len(node.daemon.health()["alerts"]) == alerts

        app.wait_until(asked, "the alert")

    with App(broker.port, f"{BASE}/#") as app, Node(tmp_path, configuration) as node:
        app.take_state(BASE, "online")
        ask_until(app, node, 1)
        assert "doesn't take" in node.daemon.health()["alerts"][0]
        with FakeCollector(port):
            ask_until(app, node, 0)


def test_without_a_collector_a_context_comes_back_as_it_was_sent(
    make_broker: MakeBroker, tmp_path: Path
) -> None:
    broker = make_broker()
    with App(broker.port, f"{BASE}/#") as app, Node(tmp_path, fake_configuration(broker.url, tmp_path)):
        app.take_state(BASE, "online")
        app.publish(f"{BASE}/req/triage", "fine", user_property=SENT)
        assert traceparent(app.take(f"{BASE}/res/triage")) == SENT[1]
        app.publish(f"{BASE}/req/triage", "fine", user_property=("traceparent", "nonsense"))
        assert traceparent(app.take(f"{BASE}/res/triage")) is None
