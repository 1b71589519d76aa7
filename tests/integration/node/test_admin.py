"""A running node that is told things by its operator: a real broker, a fake engine."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgeslm.errors import ConfigError
from edgeslm.node.admin import Admin
from edgeslm.telemetry.systemd import ServiceManager
from tests.support.apps import App, Heard
from tests.support.brokers import Mosquitto
from tests.support.nodes import (
    BASE,
    TASKS,
    Node,
    NodeProcess,
    fake_configuration,
    write_bundle,
    write_configuration,
)
from tests.support.operators import Operator, ask

ALL = {"allow": ["ping", "log_level", "reload", "drain"]}


@pytest.fixture
def configuration(broker: Mosquitto, tmp_path: Path) -> dict[str, Any]:
    return fake_configuration(broker.url, tmp_path, control=ALL)


@pytest.fixture
def app(broker: Mosquitto) -> Iterator[App]:
    filters = (
        f"{BASE}/{name}" for name in ("state", "info", "health", "ctl/+/res", "ctl/models/+/res", "res/#")
    )
    with App(broker.port, *filters, "out/#") as app:
        yield app


def wait_announced(app: App, task: str) -> None:
    app.wait_until(
        lambda: any(task in heard.json["tasks"] for heard in app.untaken(f"{BASE}/info")), "it is announced"
    )


def test_a_node_takes_no_command_unless_it_is_allowed(broker: Mosquitto, tmp_path: Path, app: App) -> None:
    configuration = fake_configuration(broker.url, tmp_path, control={"allow": ["ping"]})
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        app.publish(f"{BASE}/ctl/drain", b"")
        assert Operator(app).give("ping")["status"] == "ok"
        assert app.untaken(f"{BASE}/ctl/drain/res") == []
        assert ask(app, "say", "still here", b"1")["status"] == "ok"


def test_commands_are_answered_and_wrong_ones_refused(
    configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        operator = Operator(app)
        assert operator.give("ping")["result"]["version"]
        assert operator.give("log_level", level="debug")["result"] == {"level": "debug"}
        assert operator.give("log_level", level="loud")["error"]["code"] == "invalid_request"
        assert operator.give("log_level", level="info")["status"] == "ok"
        assert "no argument 'force'" in operator.give("ping", force=True)["error"]["message"]

        def pings() -> list[Heard]:
            return app.untaken(f"{BASE}/ctl/ping/res")

        app.publish(f"{BASE}/ctl/ping", b"[1]")
        app.wait_until(
            lambda: any(
                h.json["status"] == "error" and "id" not in h.json
                for h in app.untaken(f"{BASE}/ctl/ping/res")
            ),
            "what is no command is refused",
        )


def test_a_retained_command_is_left_alone(broker: Mosquitto, tmp_path: Path, app: App) -> None:
    app.publish(f"{BASE}/ctl/drain", b"", retain=True)
    with Node(tmp_path, fake_configuration(broker.url, tmp_path, control=ALL)):
        app.take_state(BASE, "online")
        assert Operator(app).give("ping")["status"] == "ok"
        assert app.untaken(f"{BASE}/ctl/drain/res") == []


def test_a_changed_file_is_taken_up(configuration: dict[str, Any], tmp_path: Path, app: App) -> None:
    with Node(tmp_path, configuration) as node:
        app.take_state(BASE, "online")
        pids = node.worker_pids
        tasks = {name: TASKS[name] for name in ("say", "vector")}
        tasks["mood"] = {**TASKS["triage"], "labels": ["good", "bad"]}
        routes = [{"from": "in/log", "task": "mood", "to": "out/mood"}]
        write_configuration(tmp_path, {**configuration, "tasks": tasks, "routes": routes})
        operator = Operator(app)
        answer = operator.give("reload")
        assert set(answer["result"]["changed"]) == {
            *("tasks.triage", "tasks.strict", "tasks.fields", "tasks.manual", "tasks.brief"),
            *("tasks.mood", "routes"),
        }
        wait_announced(app, "mood")
        assert ask(app, "mood", "a fine day", b"1")["result"]["label"] in ("good", "bad")
        assert ask(app, "triage", "gone", b"2")["error"]["code"] == "unknown_task"
        app.publish("in/log", "a fine day")
        app.wait_until(lambda: bool(app.untaken("out/mood")), "the new route works")
        assert node.worker_pids == pids, "models that are the same are not loaded again"
        write_configuration(tmp_path, {**configuration, "tasks": tasks})
        assert operator.give("reload")["result"]["changed"] == ["routes"]


def test_a_wrong_file_changes_nothing(configuration: dict[str, Any], tmp_path: Path, app: App) -> None:
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        operator = Operator(app)
        for wrong, words in (
            ({"tasks": {}}, "tasks"),
            ({"limits": {"queue": 7}}, "limits: such a change needs a restart"),
            ({"models": {"small": {"bundle": str(tmp_path / "nowhere")}}}, "encoder"),
        ):
            write_configuration(tmp_path, {**configuration, **wrong})
            answer = operator.give("reload")
            assert answer["status"] == "error"
            assert words in answer["error"]["message"]
            assert ask(app, "say", "as before", words.encode())["status"] == "ok"
        bad = write_bundle(tmp_path / "bad")
        (bad / "model.onnx").write_bytes(b"something else")
        models = {**configuration["models"], "small": {"bundle": str(bad)}}
        write_configuration(tmp_path, {**configuration, "models": models})
        assert operator.give("reload")["status"] == "error"
        assert ask(app, "say", "as before", b"9")["status"] == "ok"


def test_a_failed_reload_tells_every_mistake(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mistakes = {"node": "hall", "broker": "mqtt://localhost", "tsks": {}, "rutes": []}
    file = write_configuration(tmp_path, mistakes)
    node, presence = SimpleNamespace(config=None), SimpleNamespace(state="online")
    admin = Admin(file, *cast(Any, (node, None, None, presence, ServiceManager())))
    with caplog.at_level(logging.ERROR), pytest.raises(ConfigError):
        asyncio.run(admin.reload())
    for said in (*admin.alerts, caplog.records[-1].getMessage()):
        assert "tsks" in said
        assert "rutes" in said
        assert "\n" not in said, "the log would write it as \\n"
    assert str(tmp_path) not in admin.alerts[0]


def test_the_alert_of_a_failed_reload_tells_five_mistakes_and_how_many_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = {f"wrong{number}": number for number in range(40)}
    valid = {"node": "hall", "broker": {"url": "mqtt://localhost"}, "models": {"small": {"bundle": "/m"}}}
    task = {"kind": "embed", "model": "small"}
    file = write_configuration(tmp_path, {**valid, "tasks": {"vector": task}, **wrong})
    node, presence = SimpleNamespace(config=None), SimpleNamespace(state="online")
    admin = Admin(file, *cast(Any, (node, None, None, presence, ServiceManager())))
    with caplog.at_level(logging.ERROR), pytest.raises(ConfigError) as failure:
        asyncio.run(admin.reload())
    (alert,) = admin.alerts
    assert [name for name in wrong if f"{name}:" in alert] == [f"wrong{number}" for number in range(5)]
    assert alert.endswith(f"(and {len(failure.value.problems) - 5} more)")
    logged = caplog.records[-1].getMessage()
    assert all(f"{name}:" in logged for name in wrong)


def test_a_model_is_replaced_while_requests_are_answered(
    configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    with Node(tmp_path, configuration) as node:
        app.take_state(BASE, "online")
        before = node.worker_pids
        for number in range(20):
            app.publish(f"{BASE}/req/say", f"text {number}", correlation=b"n%d" % number)
        other = write_bundle(tmp_path / "other")
        models = {**configuration["models"], "small": {"bundle": str(other)}}
        write_configuration(tmp_path, {**configuration, "models": models})
        assert Operator(app).give("reload")["result"]["changed"] == ["models.small"]
        for number in range(20, 40):
            app.publish(f"{BASE}/req/say", f"text {number}", correlation=b"n%d" % number)
        wanted = {b"n%d" % number for number in range(40)}
        app.wait_until(
            lambda: wanted <= {heard.correlation for heard in app.untaken(f"{BASE}/res/say")},
            "all are answered",
        )
        assert all(heard.json["status"] == "ok" for heard in app.untaken(f"{BASE}/res/say"))
        app.wait_until(lambda: node.worker_pids["small"] != before["small"], "the other one serves")
        assert node.worker_pids["encoder"] == before["encoder"]
        with pytest.raises(ProcessLookupError):
            os.kill(before["small"], 0)


def test_sighup_reads_the_file_again_and_drain_ends_the_node(
    configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    with NodeProcess(tmp_path, configuration, fake=True) as node:
        node.wait_online(app)
        write_configuration(tmp_path, {**configuration, "tasks": {"mood": TASKS["say"]}})
        os.kill(node.pid, signal.SIGHUP)
        wait_announced(app, "mood")
        assert Operator(app).give("drain")["result"] == {"state": "draining"}
        app.take_state(BASE, "stopped")
        assert node.wait() == 0
