"""The demo's app on the bus, against a node with a fake engine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeslm.cli.demo.traffic import Traffic
from edgeslm.errors import BrokerError, EdgeslmError
from tests.support.apps import WAIT_S, App
from tests.support.brokers import Mosquitto, free_port
from tests.support.nodes import BASE, Node, fake_configuration

ROUTES = [
    {"from": "demo/sms/+", "task": "triage", "to": "demo/sms/{{ topic[2] }}/label"},
    {
        "from": "demo/plant/+/report",
        "task": "triage",
        "input": "{{ payload.note }}",
        "when": "payload.note",
        "to": "demo/plant/{{ payload.machine }}/urgency",
    },
]


@pytest.fixture
def traffic(broker: Mosquitto, tmp_path: Path) -> Iterator[Traffic]:
    configuration = fake_configuration(broker.url, tmp_path, routes=ROUTES)
    with App(broker.port, f"{BASE}/state") as app, Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        with Traffic(broker.url, "hall", patience_s=WAIT_S) as traffic:
            yield traffic


@pytest.mark.parametrize("in_flight", [1, 4])
def test_answers_of_a_route_come_in_the_order_of_their_messages(traffic: Traffic, in_flight: int) -> None:
    texts = ["normal", "critical", "normal", "critical", "critical", "normal"]
    messages = [(f"demo/sms/{number}", text) for number, text in enumerate(texts)]
    answers = list(traffic.through_route(messages, "{}/label", in_flight))
    assert [answer.label for answer in answers] == texts
    assert [answer.number for answer in answers] == list(range(6))
    assert all(answer.confidence == 0.9 and answer.ms > 0 for answer in answers)


def test_the_topic_of_a_result_may_come_from_the_payload(traffic: Traffic) -> None:
    traffic.publish("demo/plant/0/report", {"machine": "press-4", "note": ""})  # skipped: nothing comes back
    messages = [("demo/plant/1/report", {"machine": "press-4", "note": "critical"})] * 2
    answers = traffic.through_route(messages, "demo/plant/{machine}/urgency")
    assert [answer.label for answer in answers] == ["critical", "critical"]


@pytest.mark.parametrize("in_flight", [1, 4])
def test_requests_of_every_kind(traffic: Traffic, in_flight: int) -> None:
    texts = ["one", "two", "three", "four", "five"]
    assert [one.label for one in traffic.requests("say", texts, in_flight=in_flight)] == texts
    assert [one.label for one in traffic.requests("fields", ["x"])] == ["press-4"]
    options = [{"context": "every 40 hours"}]
    assert [one.label for one in traffic.requests("manual", ["40 hours"], options)] == ["40 hours"]


def test_errors_are_shown_as_such(traffic: Traffic) -> None:
    assert [one.label for one in traffic.requests("nothing", ["x"])] == ["error: unknown_task"]


def test_a_daemon_that_ends_is_noticed(broker: Mosquitto) -> None:
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(EdgeslmError, match="the daemon ended with status 3"):
        Traffic.wait_online(broker.url, "hall", process)


def test_a_broker_that_is_not_there_is_a_sentence() -> None:
    with pytest.raises(BrokerError, match="can't be reached"):
        Traffic(f"mqtt://127.0.0.1:{free_port()}", "hall", patience_s=WAIT_S)
