"""Other nodes at a real broker: asked by name, and as the last stage of a task. Fake engines."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.config.sections import Broker
from edgeslm.errors import BrokerError, EdgeslmError, ProtocolError, TimedOut
from edgeslm.messages import Result
from edgeslm.node.daemon import WAITS, Waits
from edgeslm.node.peers import Peers
from tests.support.apps import WAIT_S, App, Heard
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, TASKS, Node, fake_configuration
from tests.support.small_nodes import SmallNode

SERVER = "edgeslm/v1/server"
REPLY = f"{BASE}/res/app"


# -- asking ----------------------------------------------------------------------------------------


def play(url: str, scene: Callable[[Peers], Awaitable[None]], **timeouts: float) -> None:
    async def run() -> None:
        neighbours = Peers(Broker(url=url), "edgeslm", "panel", **timeouts)
        try:
            await scene(neighbours)
        finally:
            await neighbours.close()

    asyncio.run(run())


def connections(broker: Mosquitto) -> int:
    """How many apps have come."""
    return broker.log.count(" as edgeslm-app-")


def test_another_node_answers(broker: Mosquitto) -> None:
    async def scene(neighbours: Peers) -> None:
        result = await neighbours.ask("server", "echo", "Grüße", 60)
        assert (result.status, result.result) == ("ok", {"text": "Grüße"})

    with SmallNode(broker.url, "server"):
        play(broker.url, scene)


def test_one_connection_serves_all_that_is_asked_of_a_node(broker: Mosquitto) -> None:
    async def scene(neighbours: Peers) -> None:
        texts = [f"text {number}" for number in range(10)]
        asked = [neighbours.ask("server", "echo", text, 60) for text in texts]
        assert [result.result for result in await asyncio.gather(*asked)] == [
            {"text": text} for text in texts
        ]
        await neighbours.ask("server", "echo", "later", 60)
        assert connections(broker) == 1
        await neighbours.ask("hall", "echo", "x", 60)
        assert connections(broker) == 2

    with SmallNode(broker.url, "server"), SmallNode(broker.url, "hall"):
        play(broker.url, scene)


def test_nothing_connects_before_it_is_needed(broker: Mosquitto) -> None:
    async def scene(neighbours: Peers) -> None:
        pass

    play(broker.url, scene)
    assert connections(broker) == 0


@pytest.mark.parametrize(("task", "error"), [("silent", TimedOut), ("garbage", ProtocolError)])
def test_what_is_no_answer_is_an_error(broker: Mosquitto, task: str, error: type[EdgeslmError]) -> None:
    async def scene(neighbours: Peers) -> None:
        with pytest.raises(error):
            await neighbours.ask("server", task, "x", 0.2 if task == "silent" else 60)

    with SmallNode(broker.url, "server"):
        play(broker.url, scene)


def test_a_node_that_never_was_there(broker: Mosquitto) -> None:
    async def scene(neighbours: Peers) -> None:
        with pytest.raises(BrokerError):
            await neighbours.ask("server", "echo", "x", 60)

    play(broker.url, scene)


def test_a_broker_that_isnt_there_is_tried_again(
    make_broker: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    broker = make_broker()

    async def scene(neighbours: Peers) -> None:
        broker.kill()
        for _ in range(2):
            with pytest.raises(BrokerError):
                await neighbours.ask("server", "echo", "x", 60)
        await asyncio.to_thread(broker.start)
        with SmallNode(broker.url, "server"):
            async with asyncio.timeout(WAIT_S):
                assert (await ask_until_reached(neighbours)).status == "ok"

    play(broker.url, scene, connect_timeout_s=0.5)


async def ask_until_reached(neighbours: Peers) -> Result:
    while True:
        with contextlib.suppress(BrokerError):  # this machine may be slow
            return await neighbours.ask("server", "echo", "x", 60)


def test_what_waits_when_it_is_closed_is_an_error(broker: Mosquitto) -> None:
    async def scene(neighbours: Peers) -> None:
        asking = asyncio.create_task(neighbours.ask("server", "silent", "x", 60))
        await asyncio.to_thread(node.wait_for_request)
        await neighbours.close()
        with pytest.raises(BrokerError, match="closed"):
            await asking
        with pytest.raises(BrokerError, match="this node is stopping"):
            await neighbours.ask("server", "echo", "x", 60)

    with SmallNode(broker.url, "server") as node:
        play(broker.url, scene)


def test_what_is_given_up_while_it_connects_leaves_no_connection(broker: Mosquitto) -> None:
    async def scene(neighbours: Peers) -> None:
        broker.freeze()
        asking = asyncio.create_task(neighbours.ask("server", "echo", "x", 60))
        await asyncio.sleep(0.1)
        asking.cancel()
        broker.thaw()
        with pytest.raises(asyncio.CancelledError):
            await asking

    play(broker.url, scene)
    assert [thread.name for thread in threading.enumerate() if thread.name == "edgeslm-bus"] == []


# -- the last stage of a task ----------------------------------------------------------------------


def topic(last: str = "node:server/triage", **more: Any) -> dict[str, Any]:
    """What a fake engine is never sure enough of."""
    labels = {"kind": "classify", "labels": ["normal", "critical"]}
    return {**TASKS, "topic": {**labels, "stages": ["small", last], "threshold": 0.95, **more}}


def node_of(broker: Mosquitto, folder: Path, waits: Waits = WAITS, **changes: Any) -> Node:
    folder.mkdir(exist_ok=True)
    return Node(folder, fake_configuration(broker.url, folder, **changes), waits=waits)


@pytest.fixture
def app(broker: Mosquitto) -> Iterator[App]:
    with App(broker.port, f"{BASE}/#", f"{SERVER}/state") as app:
        yield app


def ask(app: App, payload: Any, correlation: bytes = b"1") -> Heard:
    app.publish(f"{BASE}/req/topic", payload, reply_to=REPLY, correlation=correlation)
    return app.take(REPLY)


def test_what_no_stage_is_sure_of_another_node_answers(broker: Mosquitto, app: App, tmp_path: Path) -> None:
    with (
        node_of(broker, tmp_path / "server", node="server"),
        node_of(broker, tmp_path / "hall", tasks=topic()),
    ):
        app.take_state(SERVER, "online")
        app.take_state(BASE, "online")
        heard = ask(app, {"input": "a critical thing", "id": "42"})
    result = heard.json
    assert (result["id"], result["task"], result["status"]) == ("42", "topic", "ok")
    assert (result["result"]["label"], result["result"]["stage"]) == ("critical", "node:server/triage")
    assert result["usage"] == {"prompt_tokens": 14, "completion_tokens": 6}, "of both nodes"


def test_info_names_the_stages(broker: Mosquitto, app: App, tmp_path: Path) -> None:
    with node_of(broker, tmp_path, tasks=topic()):
        tasks = app.take(f"{BASE}/info").json["tasks"]
        app.take_state(BASE, "online")
    assert tasks["topic"]["stages"] == ["small", "node:server/triage"]
    assert "stages" not in tasks["triage"]


def test_without_the_other_node_the_result_of_this_one_stands(
    broker: Mosquitto, app: App, tmp_path: Path
) -> None:
    with node_of(broker, tmp_path, tasks=topic(), limits={"request_timeout_s": 5}):
        app.take_state(BASE, "online")
        never_there = ask(app, "a critical thing").json
        with node_of(broker, tmp_path / "server", node="server"):
            app.take_state(SERVER, "online")
        app.take_state(SERVER, "stopped")
        gone = ask(app, "a critical thing", b"2").json
    for result in (never_there, gone):
        assert (result["status"], result["result"]["stage"]) == ("abstained", "small")
        assert result["result"]["label"] == "critical"


@pytest.mark.parametrize("text", ["fail too_long", "fail no_memory"])
def test_an_error_of_this_node_stands_without_the_other(
    broker: Mosquitto, app: App, tmp_path: Path, text: str
) -> None:
    with node_of(broker, tmp_path, tasks=topic()):
        app.take_state(BASE, "online")
        assert ask(app, text).code == text.removeprefix("fail ")


def test_what_this_node_cant_the_other_may(broker: Mosquitto, app: App, tmp_path: Path) -> None:
    with SmallNode(broker.url, "server"), node_of(broker, tmp_path, tasks=topic("node:server/label")):
        app.take_state(BASE, "online")
        result = ask(app, "fail no_memory").json
    assert (result["status"], result["result"]) == ("ok", {"label": "critical", "stage": "node:server/label"})


def test_an_answer_without_a_label_of_the_task_is_none(broker: Mosquitto, app: App, tmp_path: Path) -> None:
    """The other node's task may be of another kind, or know other labels."""
    with SmallNode(broker.url, "server"), node_of(broker, tmp_path, tasks=topic("node:server/echo")):
        app.take_state(BASE, "online")
        result = ask(app, "a critical thing").json
    assert (result["status"], result["result"]["stage"]) == ("abstained", "small")


def test_a_request_that_waits_for_another_node_is_cancelled_and_holds_nobody_up(
    broker: Mosquitto, app: App, tmp_path: Path
) -> None:
    with (
        SmallNode(broker.url, "server") as server,
        node_of(broker, tmp_path, tasks=topic("node:server/silent")),
    ):
        app.take_state(BASE, "online")
        app.publish(f"{BASE}/req/topic", "x", reply_to=REPLY, correlation=b"1")
        server.wait_for_request()
        app.publish(f"{BASE}/req/say", "meanwhile", correlation=b"2")
        assert app.take(f"{BASE}/res/say").json["status"] == "ok"
        app.publish(f"{BASE}/cancel", b"", correlation=b"1")
        assert app.take(REPLY).code == "cancelled"


def test_a_request_that_waits_for_another_node_outlives_a_restart(
    broker: Mosquitto, app: App, tmp_path: Path
) -> None:
    with SmallNode(broker.url, "server") as server:
        with node_of(broker, tmp_path, tasks=topic("node:server/silent"), waits=Waits(drain_limit_s=0.1)):
            app.take_state(BASE, "online")
            app.publish(f"{BASE}/req/topic", "a critical thing", reply_to=REPLY, correlation=b"1")
            server.wait_for_request()
        app.take_state(BASE, "stopped")
        with node_of(broker, tmp_path, tasks=topic("node:server/label")):
            result = app.take(REPLY).json
    assert (result["status"], result.get("error")) == ("ok", None)
    assert app.untaken(REPLY) == []


def test_a_node_of_a_version_too_far_apart_is_not_asked(broker: Mosquitto) -> None:
    async def scene(neighbours: Peers) -> None:
        with pytest.raises(ProtocolError, match="The node 'server' speaks protocol 7"):
            await neighbours.ask("server", "echo", "x", 60)

    with SmallNode(broker.url, "server") as server, App(broker.port) as app:
        app.publish(f"{SERVER}/info", {"protocol": 7}, retain=True)
        play(broker.url, scene)
        assert server.requests == []
