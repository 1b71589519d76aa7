"""Routes of a running daemon: a real broker, a fake engine."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.mqtt import connection
from edgeslm.protocol.topic_filters import subscription_identifier
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, Node, fake_configuration

ROUTES: list[dict[str, Any]] = [
    {
        "from": "plant/+/log",
        "task": "triage",
        "input": "{{ payload.text }}",
        "when": "payload.level > 1",
        "to": "plant/{{ topic[1] }}/log/label",
    },
    {"from": "plant/+/log/label", "task": "say", "name": "speak", "input": "{{ payload.result.label }} now"},
    {"from": "door/+", "task": "triage", "name": "door", "on_change": True, "to": "out/door/{{ topic[1] }}"},
    {"from": "often/+", "task": "triage", "name": "often", "max_rate": "2/h"},
    {"from": "built", "task": "triage", "name": "built", "to": "out/{{ payload.where }}"},
    {
        "from": "kept/#",
        "task": "triage",
        "name": "kept",
        "to": "shelf/kept",
        "accept_retained": True,
        "retain": True,
    },
    {"from": "fresh/#", "task": "triage", "name": "fresh", "to": "out/fresh"},
    {"from": "a/#", "task": "say", "name": "a-all", "to": "out/all"},
    {"from": "a/+/c", "task": "say", "name": "a-c", "to": "out/c"},
    {"from": "a/b/+", "task": "say", "name": "a-b", "to": "out/b"},
    {"from": "a/b/+", "task": "triage", "name": "a-b-too", "to": "out/b2"},
]


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path_factory.mktemp("broker"))
    broker.start()
    with App(broker.port) as early:
        early.publish("kept/door", "was critical before the node came", retain=True)
        early.publish("fresh/door", "was critical before the node came", retain=True)
        early.publish(f"{BASE}/req/triage", "crash", retain=True)
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def node(bus: Mosquitto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    configuration = fake_configuration(bus.url, folder, routes=ROUTES, limits={"packet_bytes": 65_536})
    with App(bus.port, f"{BASE}/state") as app, Node(folder, configuration) as node:
        app.take_state(BASE, "online")
        yield node


@pytest.fixture
def app(bus: Mosquitto, node: Node) -> Iterator[App]:
    with App(bus.port, "out/#", "plant/#", f"{BASE}/event/#", f"{BASE}/res/#") as app:
        yield app


_numbers = itertools.count()


def settle(app: App) -> None:
    """Until everything that was published before is done: the engine works in the order of arrival."""
    name = b"settled-%d" % next(_numbers)
    app.publish(f"{BASE}/req/triage", "x", correlation=name)
    app.take(f"{BASE}/res/triage", lambda heard: heard.correlation == name)


def dropped(node: Node) -> dict[str, int]:
    counts: dict[str, int] = node.daemon.health()["dropped"]
    return counts


def test_a_template_reads_the_payload_and_names_the_topic_and_one_route_feeds_another(app: App) -> None:
    app.publish("plant/press-4/log", {"text": "critical noise", "level": 3})
    label = app.take("plant/press-4/log/label")
    assert (label.json["status"], label.json["result"]["label"]) == ("ok", "critical")
    assert label.json["topic"] == "plant/press-4/log"
    told = app.take(f"{BASE}/event/speak").json
    assert (told["result"]["text"], told["topic"]) == ("critical now", "plant/press-4/log/label")


def test_when_skips_a_message_and_counts_it(app: App, node: Node) -> None:
    before = dropped(node).get("condition", 0)
    app.publish("plant/press-4/log", {"text": "critical noise", "level": 0})
    settle(app)
    assert app.untaken("plant/press-4/log/label") == []
    assert dropped(node)["condition"] == before + 1


@pytest.mark.parametrize("payload", [b"\xff", b"no JSON", b'{"level": 3}', b"[1]", b"", b"x" * 70_000])
def test_a_message_that_does_not_fit_a_route_is_counted_and_left_alone(
    app: App, node: Node, payload: bytes
) -> None:
    before = sum(dropped(node).values())
    app.publish("plant/press-4/log", payload)
    settle(app)
    assert sum(dropped(node).values()) == before + 1
    assert app.untaken("plant/press-4/log/label") == []


def test_on_change_publishes_what_differs_from_the_last_on_its_topic(app: App) -> None:
    for door, text in (
        ("n", "normal"),
        ("n", "normal, too"),
        ("s", "normal"),
        ("n", "critical"),
        ("n", "normal"),
    ):
        app.publish(f"door/{door}", text)
    settle(app)
    labels = [(heard.topic[-1], heard.json["result"]["label"]) for heard in app.untaken("out/door/#")]
    assert labels == [("n", "normal"), ("s", "normal"), ("n", "critical"), ("n", "normal")]


def test_max_rate_drops_the_rest_and_counts_it(app: App, node: Node) -> None:
    before = dropped(node).get("rate", 0)
    for number in range(5):
        app.publish(f"often/{number}", "x")
    settle(app)
    assert len(app.untaken(f"{BASE}/event/often")) == 2
    assert dropped(node)["rate"] == before + 3


@pytest.mark.parametrize("where", ["x/+/y", "#", "a\0b", "", "//", 5])
def test_an_output_topic_that_may_not_be_published_to_is_refused_and_counted(
    app: App, node: Node, where: object
) -> None:
    before = sum(dropped(node).values())
    app.publish("built", {"where": where, "text": "critical"})
    settle(app)
    taken = app.untaken("out/#")
    assert (len(taken), sum(dropped(node).values()) - before) == ((1, 0) if where == 5 else (0, 1))


def test_an_output_topic_of_the_node_itself_is_refused(app: App, bus: Mosquitto, tmp_path: Path) -> None:
    """Here only the payload shows that the route would write into its own node."""
    routes = [{"from": "built2", "task": "triage", "to": "{{ payload.where }}/v1/hall2/req/say"}]
    configuration = fake_configuration(bus.url, tmp_path, routes=routes, node="hall2")
    with App(bus.port, "edgeslm/v1/hall2/#") as other, Node(tmp_path, configuration) as node:
        other.take_state("edgeslm/v1/hall2", "online")
        other.publish("built2", {"where": "edgeslm"})
        other.publish("edgeslm/v1/hall2/req/triage", "x")
        other.take("edgeslm/v1/hall2/res/triage")
        assert dropped(node)["own_topic"] == 1


def test_retained_messages_are_read_only_where_they_are_asked_for(
    app: App, node: Node, bus: Mosquitto
) -> None:
    app.subscribe("shelf/#")
    kept = app.take("shelf/kept")  # published retained by the route, from what was retained before the start
    assert (kept.retain, kept.json["result"]["label"]) == (True, "critical")
    app.publish("fresh/door", "normal")
    assert app.take("out/fresh").json["result"]["label"] == "normal"
    settle(app)
    assert app.untaken("out/#") == []
    assert node.daemon.health()["results"].get("poisoned", 0) == 0  # the retained request was not run


def test_overlapping_filters_handle_a_message_once_a_route(app: App, node: Node) -> None:
    """The broker sends such a message once for each filter that it fits."""
    app.publish("a/b/c", "hello")
    settle(app)
    assert sorted(heard.topic for heard in app.untaken("out/#")) == ["out/all", "out/b", "out/b2", "out/c"]
    app.publish("a/x/c", "hello")
    app.publish("a/y", "hello")
    settle(app)

    topics = sorted(heard.topic for heard in app.untaken("out/#"))
    assert topics == ["out/all"] * 3 + ["out/b", "out/b2"] + ["out/c"] * 2


def test_without_subscription_identifiers_every_matching_route_reads_the_message(
    make_broker: Callable[..., Mosquitto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For brokers that have none; they send a message once, or twice (which is then read twice)."""
    read_welcome = connection.read_welcome

    def without(*values: Any, **named: Any) -> Any:
        return dataclasses.replace(read_welcome(*values, **named), identifiers_available=False)

    monkeypatch.setattr(connection, "read_welcome", without)
    broker = make_broker()
    routes = [
        {"from": "b/+", "task": "say", "name": "one", "to": "out/one"},
        {"from": "b/+", "task": "say", "name": "two", "to": "out/two"},
    ]
    configuration = fake_configuration(broker.url, tmp_path, routes=routes)
    with App(broker.port, f"{BASE}/#", "out/#") as app, Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        app.publish("b/c", "hello")
        assert app.take("out/one").json["result"]["text"] == "hello"
        assert app.take("out/two").json["result"]["text"] == "hello"


def test_a_subscription_identifier_is_in_range_and_stays_the_same() -> None:
    assert subscription_identifier("factory/+/log") == subscription_identifier("factory/+/log")
    identifiers = [subscription_identifier(f"f/{number}") for number in range(2000)]
    assert all(0 < identifier < 2**28 for identifier in identifiers)
    assert len(set(identifiers)) == 2000


def test_a_message_that_a_template_cant_read_is_an_alert(app: App, node: Node) -> None:
    app.publish("built", {"room": "a payload without the field that the route's topic needs"})
    app.wait_until(
        lambda: any("route built couldn't use" in one for one in node.daemon.health()["alerts"]),
        "health has the alert",
    )
    (alert,) = (one for one in node.daemon.health()["alerts"] if "route built" in one)
    assert "the last came on built: " in alert and "a payload without" not in alert
