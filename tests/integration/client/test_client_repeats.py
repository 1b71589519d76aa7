"""A client that repeats until it has its result: over a real broker that is killed, frozen and full."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeslm.client import Client
from edgeslm.errors import BrokerError, TimedOut
from edgeslm.messages import Chunk
from edgeslm.mqtt import connection
from edgeslm.node.daemon import Daemon
from edgeslm.protocol.codec import encode_state
from edgeslm.protocol.delivery import Delivery
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, Node, fake_configuration
from tests.support.small_nodes import SmallNode

MakeBroker = Callable[..., Mosquitto]

BALANCED = "persistence true\nautosave_on_changes false\nautosave_interval 1\n"


@pytest.fixture
def node(broker: Mosquitto) -> Iterator[SmallNode]:
    with SmallNode(broker.url) as node:
        yield node


@pytest.fixture
def client(broker: Mosquitto) -> Iterator[Client]:
    with Client(broker.url, "hall", repeat_after_s=0.2) as client:
        yield client


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as pool:
        yield pool


def assert_same(deliveries: list[Delivery]) -> None:
    """Repeats: what a node tells a request by is the same in all of them, and none of them is retained."""
    assert len({(one.topic, one.payload, one.correlation, one.response_topic) for one in deliveries}) == 1
    assert deliveries[0].correlation
    expiries_s = [one.expiry_s or 0 for one in deliveries]
    assert expiries_s == sorted(expiries_s, reverse=True) and expiries_s[-1] > 0


def test_a_request_without_a_result_is_repeated_byte_for_byte(client: Client, node: SmallNode) -> None:
    result = client.request("second", "Grüße", {"max_tokens": 5}, timeout=60)
    assert result.result == {"text": "Grüße"}
    assert len(node.deliveries) >= 2
    assert_same(node.deliveries)


def test_two_requests_of_the_same_text_are_no_repeats(client: Client, node: SmallNode) -> None:
    for _ in range(2):
        assert client.request("echo", "a", timeout=30).status == "ok"
    assert len({one.correlation for one in node.deliveries}) == 2


def test_what_the_broker_forgets_when_it_is_killed_is_sent_again(
    broker: Mosquitto, node: SmallNode, pool: ThreadPoolExecutor
) -> None:
    """The broker keeps nothing, and the first delivery was acknowledged by broker and node."""
    with Client(broker.url, "hall", repeat_after_s=1000) as client:
        waiting = pool.submit(client.request, "second", "a", timeout=60)
        node.wait_for_request()
        broker.kill()
        broker.start()
        assert waiting.result(60).result == {"text": "a"}
    assert len(node.deliveries) == 2
    assert_same(node.deliveries)


def test_a_request_that_begins_while_the_broker_is_away(
    broker: Mosquitto, node: SmallNode, client: Client, pool: ThreadPoolExecutor
) -> None:
    broker.kill()
    waiting = pool.submit(client.request, "echo", "a", timeout=60)
    broker.start()
    assert waiting.result(60).status == "ok"


def test_many_requests_over_a_broker_that_is_killed_again_and_again(
    make_broker: MakeBroker, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    broker = make_broker(BALANCED, folder=tmp_path)
    with SmallNode(broker.url) as node, Client(broker.url, "hall", repeat_after_s=0.5) as client:
        texts = [f"text {number}" for number in range(120)]
        waiting = [pool.submit(client.request, "second", text, timeout=100) for text in texts]
        for deliveries in (40, 80):
            while len(node.deliveries) < deliveries:
                time.sleep(0.01)
            broker.kill()
            broker.start()
        assert [one.result(100).result for one in waiting] == [{"text": text} for text in texts]
        assert len({one.correlation for one in node.deliveries}) == 120


def test_no_more_is_under_way_than_the_broker_takes(
    make_broker: MakeBroker, pool: ThreadPoolExecutor
) -> None:
    """One that is strict about it would hang up (MQTT 5 section 4.9)."""
    broker = make_broker("max_inflight_messages 2\n")
    with SmallNode(broker.url) as node, Client(broker.url, "hall") as client:
        waiting = [pool.submit(client.request, "echo", "a", timeout=60) for _ in range(200)]
        assert {one.result(60).status for one in waiting} == {"ok"}
        assert len(node.deliveries) == 200


def test_busy_is_asked_again(client: Client, node: SmallNode) -> None:
    assert client.request("busy-once", "a", timeout=60).status == "ok"
    assert_same(node.deliveries)


def test_busy_for_longer_than_the_time_out_is_the_result(client: Client, node: SmallNode) -> None:
    result = client.request("busy", "a", timeout=60)
    assert result.error is not None
    assert (result.error.code, result.error.retry_after_ms) == ("busy", 3_600_000)
    assert len(node.deliveries) == 1


def test_pieces_come_once_although_the_request_is_run_twice(client: Client, node: SmallNode) -> None:
    chunks: list[Chunk] = []
    result = client.request("second", "one two three", timeout=60, on_chunk=chunks.append)
    assert [(chunk.seq, chunk.text) for chunk in chunks] == [(0, "one"), (1, "two"), (2, "three")]
    assert result.result == {"text": "one two three"}


def test_what_the_broker_refuses_is_an_error_at_once(make_broker: MakeBroker, tmp_path: Path) -> None:
    (tmp_path / "acl").write_text("topic readwrite edgeslm/v1/hall/state\ntopic read #\n")
    broker = make_broker(f"acl_file {tmp_path / 'acl'}\n")
    with (
        Client(broker.url, "hall") as client,
        pytest.raises(BrokerError, match=r"^The broker refuses the request: Not authorized\.$"),
    ):
        client.request("echo", "a", timeout=300)


def test_a_node_that_the_broker_has_forgotten_is_waited_for(
    broker: Mosquitto, pool: ThreadPoolExecutor
) -> None:
    """Its state says that it was there a moment ago, so it isn't a mistake in the name."""
    with App(broker.port) as app, Client(broker.url, "hall") as client:
        app.publish("edgeslm/v1/hall/state", encode_state("online", "b"), retain=True)
        app.wait_until(lambda: client.node_state == "online", "the client has seen the node")
        waiting = pool.submit(client.request, "echo", "a", timeout=60)
        app.wait_until(lambda: "edgeslm/v1/hall/req/echo" in broker.log, "the broker has had the request")
        with SmallNode(broker.url) as node:
            assert waiting.result(60).status == "ok"
            assert len(node.deliveries) == 1


def test_a_node_that_said_goodbye_and_has_no_session_is_said_at_once(broker: Mosquitto) -> None:
    with App(broker.port) as app, Client(broker.url, "hall") as client:
        app.publish("edgeslm/v1/hall/state", encode_state("stopped", "b"), retain=True)
        app.wait_until(lambda: client.node_state == "stopped", "the client has seen the node")
        with pytest.raises(BrokerError, match="No node 'hall' listens"):
            client.request("echo", "a", timeout=300)


def test_a_node_that_does_not_come_back(broker: Mosquitto) -> None:
    with App(broker.port) as app, Client(broker.url, "hall") as client:
        app.publish("edgeslm/v1/hall/state", encode_state("online", "b"), retain=True)
        app.wait_until(lambda: client.node_state == "online", "the client has seen the node")
        with pytest.raises(TimedOut, match=r"within 2 s: the node 'hall' hasn't come back to this broker"):
            client.request("echo", "a", timeout=2)


def test_a_broker_that_does_not_come_back(broker: Mosquitto, client: Client) -> None:
    broker.kill()
    with pytest.raises(TimedOut, match=r"within 2 s: there is no connection\. Nothing listens at mqtt"):
        client.request("echo", "a", timeout=2)


def test_a_broker_that_is_frozen(broker: Mosquitto, node: SmallNode, client: Client) -> None:
    assert client.request("echo", "a", timeout=30).status == "ok"
    broker.freeze()
    try:
        with pytest.raises(TimedOut, match=r"within 0\.5 s: the broker doesn't answer any more"):
            client.request("echo", "a", timeout=0.5)
    finally:
        broker.thaw()
    assert client.request("echo", "a", timeout=30).status == "ok"


def test_a_broker_that_is_frozen_during_a_connect_is_asked_in_mqtt_5_again(
    broker: Mosquitto,
    node: SmallNode,
    client: Client,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It must not be taken for an old one that knows only MQTT 3.1.1: repeats and promises would be over."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(connection, "ANSWER_S", 0.3)
    assert client.request("echo", "a", timeout=30).status == "ok"
    while client.node_state is None:  # else nobody listening would be taken for a mistake in the name
        time.sleep(0.01)
    broker.kill()
    broker.start()
    broker.freeze()
    waiting = pool.submit(client.request, "echo", "a", timeout=60)
    silence = "doesn't answer; is it an MQTT broker?"
    while silence not in caplog.text:
        assert not waiting.done()
        time.sleep(0.01)
    broker.thaw()
    assert waiting.result(60).status == "ok"


# asyncio


def test_asyncio(broker: Mosquitto, node: SmallNode) -> None:
    async def ask() -> None:
        async with Client(broker.url, "hall", repeat_after_s=0.2) as client:
            chunks: list[Chunk] = []
            texts = [f"text {number}" for number in range(100)]
            results = await asyncio.gather(
                *(client.request_async("echo", text, timeout=30) for text in texts)
            )
            assert [one.result for one in results] == [{"text": text} for text in texts]
            result = await client.request_async("second", "one two three", timeout=60, on_chunk=chunks.append)
            assert result.result == {"text": "one two three"}
            assert [chunk.text for chunk in chunks] == ["one", "two", "three"]
            with pytest.raises(TimedOut):
                await client.request_async("silent", "a", timeout=0.1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.request_async("silent", "a", timeout=60), 0.1)

    asyncio.run(ask())
    assert_same([one for one in node.deliveries if one.topic.endswith("/second")])


def test_asyncio_over_a_broker_that_is_killed(broker: Mosquitto, node: SmallNode) -> None:
    async def ask() -> None:
        async with Client(broker.url, "hall", repeat_after_s=1000) as client:
            waiting = asyncio.create_task(client.request_async("second", "a", timeout=60))
            await asyncio.to_thread(node.wait_for_request)
            await asyncio.to_thread(broker.kill)
            await asyncio.to_thread(broker.start)
            assert (await waiting).result == {"text": "a"}

    asyncio.run(ask())


def test_a_loop_that_is_gone_disturbs_nobody(broker: Mosquitto, node: SmallNode, client: Client) -> None:
    async def leave() -> None:
        task = asyncio.create_task(client.request_async("silent", "a", timeout=60))
        await asyncio.to_thread(node.wait_for_request)
        task.cancel()

    asyncio.run(leave())
    assert client.request("echo", "a", timeout=30).status == "ok"


# The daemon


@pytest.fixture
def daemon(broker: Mosquitto, tmp_path: Path) -> Iterator[Daemon]:
    with (
        App(broker.port, f"{BASE}/state") as app,
        Node(tmp_path, fake_configuration(broker.url, tmp_path)) as node,
    ):
        app.take_state(BASE, "online")
        yield node.daemon


def test_the_daemon_does_not_run_repeats(
    broker: Mosquitto, daemon: Daemon, client: Client, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    gate = tmp_path / "gate"
    with App(broker.port) as app:
        waiting = pool.submit(client.request, "say", f"hold {gate}", timeout=60)
        app.wait_until(lambda: daemon.meter.repeats["attached"] >= 2, "the request was repeated")
        gate.touch()
        assert waiting.result(60).status == "ok"
    assert daemon.meter.statuses == {"ok": 1}


def test_the_daemon_runs_a_request_once_over_a_broker_that_forgets_it(
    broker: Mosquitto, daemon: Daemon, client: Client, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    gate = tmp_path / "gate"
    with App(broker.port) as app:
        waiting = pool.submit(client.request, "say", f"hold {gate}", timeout=60)
        app.wait_until(Path(f"{gate}.held").exists, "the request is running")
    broker.kill()
    gate.touch()
    broker.start()
    assert waiting.result(60).status == "ok"
    assert daemon.meter.statuses == {"ok": 1}
