"""A node tells Home Assistant of itself, again and no more than there is. Real broker, fake engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.apps import App, Heard
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, TASKS, Node, fake_configuration, write_configuration

MakeBroker = Callable[..., Mosquitto]
TOPICS = "homeassistant/+/edgeslm_hall/+/config"
ROUTES = [{"name": "log", "from": "factory/+/log", "task": "triage"}]


def take_all(app: App, count: int) -> list[Heard]:
    app.wait_until(lambda: len(app.untaken(TOPICS)) >= count, "all entities are told")
    return [app.take(TOPICS) for _ in range(count)]


def names(messages: list[Heard]) -> list[str]:
    return sorted(heard.topic.split("/")[3] for heard in messages)


def test_all_is_told_when_home_assistant_starts_and_taken_back_when_it_is_gone(
    make_broker: MakeBroker, tmp_path: Path
) -> None:
    broker = make_broker()

    def configuration(**changes: Any) -> dict[str, Any]:
        return fake_configuration(broker.url, tmp_path, **changes)

    discovery = {"discovery": {"prefix": "homeassistant"}}
    count = len(TASKS) + len(ROUTES) + 10  # nine of the node, and a field of the task fields
    with App(broker.port, TOPICS, f"{BASE}/state") as app:
        with Node(tmp_path, configuration(routes=ROUTES, **discovery)):
            app.take_state(BASE, "online")
            first = take_all(app, count)
            app.publish("homeassistant/status", "offline")
            app.publish("homeassistant/status", "online")
            again = take_all(app, count)
            assert {one.topic: one.json for one in again} == {one.topic: one.json for one in first}
            assert all(one.qos == 1 for one in again)
        with App(broker.port, TOPICS) as late:
            assert {one.topic for one in take_all(late, count)} == {one.topic for one in first}, "retained"
        with Node(tmp_path, configuration(**discovery)):
            app.take_state(BASE, "online")
            assert [one.topic.split("/")[3] for one in take_all(app, count) if not one.payload] == [
                "route_log"
            ]
        with Node(tmp_path, configuration()):  # switched off
            app.take_state(BASE, "online")
            assert names(take_all(app, count - 1)) == names(
                [one for one in first if "route_log" not in one.topic]
            )
        with App(broker.port, TOPICS) as late:
            late.subscribe("$SYS/broker/uptime")
            late.take("$SYS/broker/uptime")
            assert not late.untaken(TOPICS)


def test_a_reload_tells_what_changed(make_broker: MakeBroker, tmp_path: Path) -> None:
    broker = make_broker()
    common: dict[str, Any] = {"discovery": {"prefix": "homeassistant"}, "control": {"allow": ["reload"]}}
    with (
        App(broker.port, TOPICS, f"{BASE}/state", f"{BASE}/ctl/#") as app,
        Node(tmp_path, fake_configuration(broker.url, tmp_path, routes=ROUTES, **common)),
    ):
        app.take_state(BASE, "online")
        app.take(TOPICS, lambda heard: "route_log" in heard.topic and heard.payload != b"")
        routes = [{**ROUTES[0], "name": "news"}]
        write_configuration(tmp_path, fake_configuration(broker.url, tmp_path, routes=routes, **common))
        app.publish(f"{BASE}/ctl/reload", "")
        app.take(TOPICS, lambda heard: "route_log" in heard.topic and heard.payload == b"")
        app.take(TOPICS, lambda heard: "route_news" in heard.topic and heard.payload != b"")


def test_a_node_that_may_not_hear_home_assistant_serves(make_broker: MakeBroker, tmp_path: Path) -> None:
    rights = tmp_path / "rights"
    rights.write_text("topic readwrite edgeslm/#\n")
    broker = make_broker(f"acl_file {rights}\n")
    configuration = fake_configuration(broker.url, tmp_path, discovery={"prefix": "homeassistant"})
    with App(broker.port, f"{BASE}/#") as app, Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        app.publish(f"{BASE}/req/say", "fine")
        assert app.take(f"{BASE}/res/say").json["status"] == "ok"
