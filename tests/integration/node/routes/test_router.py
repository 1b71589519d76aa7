"""Windows of routes in a running daemon: a real broker, a fake engine that says what it is shown."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from edgeslm.knowledge.index.collection import Collection
from edgeslm.node.routes.router import TicketQueue, brings
from edgeslm.protocol.topic_filters import subscription_identifier
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.fakes import make_delivery
from tests.support.nodes import BASE, Node, NodeProcess, fake_configuration

ROUTES: list[dict[str, Any]] = [
    {
        "from": "hall/+/log",
        "task": "brief",
        "name": "hall",
        "input": "{{ payload.text }}",
        "to": "hall/{{ topic[1] }}/digest",
        "window": {"last": 3},
    },
    {"from": "yard/log", "task": "brief", "name": "yard", "to": "yard/digest", "window": {"on": "yard/end"}},
    {"from": "gate/log", "task": "brief", "name": "gate", "window": {"every": 1}},
]


@pytest.fixture
def configuration(broker: Mosquitto, tmp_path: Path) -> dict[str, Any]:
    return fake_configuration(broker.url, tmp_path, routes=ROUTES)


def counts(result: dict[str, Any]) -> dict[str, tuple[int, list[str]]]:
    return {point["text"]: (point["count"], point["ids"]) for point in result["points"]}


def test_so_many_messages_make_a_digest_with_their_ids(
    broker: Mosquitto, configuration: dict[str, Any], tmp_path: Path
) -> None:
    with (
        App(broker.port, f"{BASE}/state", "hall/+/digest") as app,
        Node(tmp_path, configuration) as node,
    ):
        app.take_state(BASE, "online")
        for number, text in enumerate(("Belt 2 tore", "Belt 3 tore", "Spindle is hot")):
            app.publish("hall/a/log", {"id": f"m{number}", "text": text})
            app.publish("hall/b/log", {"text": text})
        first, second = (app.take(f"hall/{hall}/digest").json for hall in "ab")
        assert (first["status"], first["task"], first["result"]["messages"]) == ("ok", "brief", 3)
        assert "topic" not in first
        assert counts(first["result"]) == {"Belt * tore": (2, ["m0", "m1"]), "Spindle is hot": (1, ["m2"])}
        assert first["result"]["text"] == "3 messages. 2 times: Belt * tore; Spindle is hot"
        ids = [id for _, found in counts(second["result"]).values() for id in found]
        assert len(set(ids)) == 3 and all(id.startswith("hall/b/log@2") for id in ids)
        assert node.daemon.health()["results"]["ok"] == 2


def test_a_message_elsewhere_and_time_complete_a_window(
    broker: Mosquitto, configuration: dict[str, Any], tmp_path: Path
) -> None:
    with (
        App(broker.port, f"{BASE}/state", "yard/digest", f"{BASE}/event/gate") as app,
        Node(tmp_path, configuration),
    ):
        app.take_state(BASE, "online")
        app.publish("yard/end", "nothing came yet")
        app.publish("yard/log", "Truck 1 left")
        app.publish("yard/log", "Truck 2 left")
        app.publish("yard/end", "the shift is over")
        app.publish("gate/log", "Gate is open")
        digest = app.take("yard/digest").json["result"]
        assert [(text, count) for text, (count, _) in counts(digest).items()] == [("Truck * left", 2)]
        assert app.take(f"{BASE}/event/gate").json["result"]["messages"] == 1
        assert app.untaken("yard/digest") == []


@pytest.mark.parametrize("more", [{}, {"remember": "log"}])
def test_what_completes_a_window_overtakes_nothing_and_is_not_overtaken(
    broker: Mosquitto, configuration: dict[str, Any], tmp_path: Path, more: dict[str, str]
) -> None:
    configuration["knowledge"] = {"log": {"path": str(tmp_path / "log")}}
    configuration["routes"] = [{**ROUTES[1], **more}]
    if not more:
        with Collection(tmp_path / "log", writes=True):
            pass
    with App(broker.port, f"{BASE}/state", "yard/digest") as app, Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        for count in (20, 7):
            for number in range(count):
                app.publish("yard/log", f"Truck {number} left")
            app.publish("yard/end", "the shift is over")
        app.publish("yard/log", "Truck 1 left")
        assert [app.take("yard/digest").json["result"]["messages"] for _ in range(2)] == [20, 7]


def test_what_waits_in_line_goes_on_in_its_order() -> None:
    order = list[str]()

    async def go(line: TicketQueue, name: str, ready: asyncio.Event) -> None:
        with line.place() as place:
            await ready.wait()
            await place.reach()
            order.append(name)

    async def scene() -> None:
        line, slow, now = TicketQueue(), asyncio.Event(), asyncio.Event()
        now.set()
        tasks = [asyncio.create_task(go(line, *wanted)) for wanted in (("a", now), ("b", slow), ("c", now))]
        await asyncio.sleep(0.01)
        assert order == ["a"]
        given_up = asyncio.create_task(go(line, "d", now))
        tasks.append(asyncio.create_task(go(line, "e", now)))
        await asyncio.sleep(0)
        given_up.cancel()
        slow.set()
        await asyncio.gather(*tasks)
        assert order == ["a", "b", "c", "e"]

    asyncio.run(scene())


def test_a_window_outlives_kill_9_and_its_counts_are_exact(
    broker: Mosquitto, configuration: dict[str, Any], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with (
        App(broker.port, f"{BASE}/state", "hall/+/digest") as app,
        NodeProcess(tmp_path, configuration, fake=True) as node,
    ):
        node.wait_online(app)
        for number in range(2):
            app.publish("hall/a/log", {"id": str(number), "text": f"Belt {number} tore"})
        for number in range(3):
            app.publish("hall/b/log", {"id": str(number), "text": f"hold {gate}"})
        app.wait_until((tmp_path / "gate.held").exists, "the digest is being made")
        node.kill()
        gate.touch()
        app.publish("hall/a/log", {"id": "2", "text": "Belt 2 tore"})
        node.start()
        assert counts(app.take("hall/a/digest").json["result"]) == {"Belt * tore": (3, ["0", "1", "2"])}
        assert app.take("hall/b/digest").json["result"]["messages"] == 3
        assert node.terminate() == 0
        assert app.untaken("hall/#") == []


def test_a_message_is_for_the_routes_of_the_filter_that_brought_it() -> None:
    both = make_delivery(topic="a/b")
    assert brings(both, "a/+") and brings(both, "a/#") and not brings(both, "b/#")
    one = make_delivery(topic="a/b", identifiers=(subscription_identifier("a/+"),))
    assert brings(one, "a/+") and not brings(one, "a/#")
