"""Listening to a node and to the topics of its routes: in a thread and in a loop, over a real broker."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeslm.client import BrokerError, Client, EdgeslmError, InvalidRequest, News, ProtocolError, TimedOut
from edgeslm.client import subscription as module
from edgeslm.messages import Result
from edgeslm.protocol.codec import encode_result
from tests.integration.client.test_client import wait_for
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.small_nodes import SmallNode

EVENT = "edgeslm/v1/hall/event/notes"


@pytest.fixture
def app(broker: Mosquitto) -> Iterator[App]:
    with App(broker.port) as app:
        yield app


@pytest.fixture
def client(broker: Mosquitto) -> Iterator[Client]:
    with Client(broker.url, "hall") as client:
        yield client


def event(number: int) -> bytes:
    return encode_result(Result(f"{number}", "triage", "ok", {"label": "critical"}))


def test_events_of_a_route_are_results(client: Client, app: App) -> None:
    with client.listen("event/+", timeout=60) as events:
        for number in range(3):
            app.publish(EVENT, event(number))
        heard = list(itertools.islice(events, 3))
    assert [one.result().id for one in heard] == ["0", "1", "2"]
    assert heard[0].topic == EVENT and not heard[0].retained
    assert heard[0].result().unwrap() == {"label": "critical"}


def test_events_in_a_loop(client: Client, app: App) -> None:
    async def scene() -> str:
        async with client.listen("event/notes", timeout=60) as events:
            await asyncio.to_thread(app.publish, EVENT, event(7))
            async for one in events:
                return one.result().id
        raise AssertionError

    assert asyncio.run(scene()) == "7"


def test_what_is_retained_comes_first_and_whoever_else_listens(client: Client, app: App) -> None:
    app.publish("edgeslm/v1/hall/health", {"version": "1"}, retain=True)
    for _ in range(2):
        health = next(iter(client.listen("health", timeout=60)))
        assert health.retained and health.json() == {"version": "1"}

    async def scene() -> News:
        return await anext(aiter(client.listen("health", timeout=60)))

    with client.listen("health", timeout=60) as other:
        assert asyncio.run(scene()).json() == {"version": "1"}
        assert next(iter(other)).json() == {"version": "1"}


def test_the_state_of_a_node_that_comes_and_goes(broker: Mosquitto, client: Client) -> None:
    states = []
    with client.listen("state", timeout=60) as said:
        with SmallNode(broker.url):
            pass
        for one in said:
            states.append(one.json()["state"])
            if states[-1] == "stopped":
                break
    assert states == ["online", "stopped"] and client.node_state == "stopped"


def test_topics_of_a_route(client: Client, app: App) -> None:
    with client.listen(topics=["factory/+/log/label"], timeout=60) as labels:
        app.publish("factory/4/log", b"not for us")
        app.publish("factory/4/log/label", b"critical")
        one = next(iter(labels))
    assert (one.topic, one.payload) == ("factory/4/log/label", b"critical")
    with pytest.raises(ProtocolError, match="is not JSON"):
        one.json()
    with pytest.raises(ProtocolError, match="isn't a result"):
        one.result()


def test_results_of_those_who_named_no_reply_topic(broker: Mosquitto, client: Client, app: App) -> None:
    """And those who ask meanwhile get theirs."""
    with SmallNode(broker.url), client.listen("res/echo", timeout=60) as results:
        app.publish("edgeslm/v1/hall/req/echo", b"from a sensor")
        assert next(iter(results)).result().unwrap() == {"text": "from a sensor"}
        assert client.request("echo", "mine", timeout=60).unwrap() == {"text": "mine"}


def test_listening_outlives_the_broker(make_broker: Callable[..., Mosquitto], tmp_path: Path) -> None:
    broker = make_broker(folder=tmp_path)
    with Client(broker.url, "hall") as client, client.listen("event/+", timeout=100) as events:
        broker.kill()
        broker.start()
        with App(broker.port) as app, ThreadPoolExecutor(1) as pool:
            heard = pool.submit(lambda: next(iter(events)))
            while not heard.done():  # the subscription comes back a moment after the connection
                app.publish(EVENT, event(1))
            assert heard.result().result().id == "1"


def test_silence_times_out(client: Client) -> None:
    with pytest.raises(TimedOut, match=r"Nothing came on edgeslm/v1/hall/health within 0\.2 s"):
        next(iter(client.listen("health", timeout=0.2)))


def test_it_ends_when_it_is_closed_from_another_thread_or_the_client_is(broker: Mosquitto) -> None:
    for closes in ("listening", "client"):
        with Client(broker.url, "hall") as client, ThreadPoolExecutor(1) as pool:
            events = client.listen("event/+")
            with events:
                waiting = pool.submit(list, events)
                (events if closes == "listening" else client).close()
                assert waiting.result(30) == []


def test_what_nobody_listens_to_any_more_is_unsubscribed(broker: Mosquitto, client: Client) -> None:
    with client.listen("event/+") as one, client.listen("event/+", "health"):
        one.close()
        assert "UNSUBSCRIBE" not in broker.log
    wait_for(lambda: broker.log.count("Received UNSUBSCRIBE") == 1)
    assert EVENT.replace("notes", "+") in broker.log.partition("Received UNSUBSCRIBE")[2]


def test_a_filter_that_can_t_be_is_refused_here(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="whole level"):
        client.listen("event/a+")


def test_what_is_no_channel(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="no channel 'events'"):
        client.listen("events")
    with pytest.raises(InvalidRequest, match="Nothing to listen to"):
        client.listen()


def test_one_listens_once_and_in_one_way(client: Client) -> None:
    events = client.listen("event/+")
    with events, pytest.raises(EdgeslmError, match="is used once"), events:
        pass
    events = client.listen("event/+")

    async def scene() -> None:
        async with events:
            with pytest.raises(EdgeslmError, match="async for"):
                next(iter(events))

    asyncio.run(scene())


def test_a_listener_who_takes_nothing_costs_no_more_memory_than_that(
    client: Client, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 5)
    with client.listen("event/+", timeout=60) as events:
        for number in range(20):
            app.publish(EVENT, event(number))
        wait_for(lambda: events.missed >= 15)
        assert next(iter(events)).result().id == "0"


def test_a_broker_that_is_away_is_said(make_broker: Callable[..., Mosquitto]) -> None:
    broker = make_broker()
    with Client(broker.url, "hall", connect_timeout_s=5.0) as client:
        broker.kill()
        wait_for(lambda: client._session.problem)
        with pytest.raises(BrokerError, match=r"was lost|Nothing listens"), client.listen("state"):
            pass
