"""Answers in pieces: iterated in a thread and in a loop, left early, closed from elsewhere. A real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import pytest

from edgeslm.client import BrokerError, Cancelled, Client, EdgeslmError, TimedOut
from edgeslm.client.pending_request import PendingRequest, Ready
from edgeslm.client.session import ClientSession, Inbox
from edgeslm.client.stream import Stream
from edgeslm.protocol.delivery import OutgoingMessage
from edgeslm.protocol.topics import Topics
from tests.integration.client.test_client import assert_cancelled, wait_for
from tests.support.brokers import Mosquitto
from tests.support.small_nodes import SmallNode


@pytest.fixture
def node(broker: Mosquitto) -> Iterator[SmallNode]:
    with SmallNode(broker.url) as node:
        yield node


@pytest.fixture
def client(broker: Mosquitto, node: SmallNode) -> Iterator[Client]:
    with Client(broker.url, "hall") as client:
        yield client


def test_pieces_then_the_result(client: Client) -> None:
    answer = client.stream("stream", "one two three", timeout=60)
    assert [chunk.text for chunk in answer] == ["one", "two", "three"]
    assert answer.result.unwrap() == {"text": "one two three"}


def test_pieces_then_the_result_in_a_loop(client: Client) -> None:
    async def scene() -> None:
        async with client.stream("stream", "one two three", timeout=60) as answer:
            assert [chunk.text async for chunk in answer] == ["one", "two", "three"]
        assert answer.result.unwrap() == {"text": "one two three"}

    asyncio.run(scene())


def test_an_error_has_no_pieces(client: Client) -> None:
    answer = client.stream("stream", "a", {"max_token": 1}, timeout=60)
    assert list(answer) == []
    assert answer.result.error is not None and answer.result.error.code == "invalid_request"


def test_nothing_is_sent_before_it_is_iterated(client: Client, node: SmallNode) -> None:
    client.stream("stream", "a").close()
    assert client.request("echo", "b", timeout=60).status == "ok"
    assert [one.task for one in node.requests] == ["echo"]


def test_who_leaves_early_has_it_cancelled(client: Client, node: SmallNode) -> None:
    """The first delivery to ``second`` gets two words and no result."""
    for chunk in client.stream("second", "one two three", timeout=60):
        if chunk.text == "two":
            break
    assert_cancelled(node)


def test_who_leaves_a_loop_early_has_it_cancelled(client: Client, node: SmallNode) -> None:
    async def scene() -> None:
        async with client.stream("second", "one two three", timeout=60) as answer:
            async for chunk in answer:
                if chunk.text == "two":
                    break

    asyncio.run(scene())
    assert_cancelled(node)


def test_it_can_be_closed_from_another_thread(client: Client, node: SmallNode) -> None:
    answer = client.stream("silent", "a", timeout=60)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(list, answer)
        node.wait_for_request()
        answer.close()
        with pytest.raises(Cancelled):
            waiting.result(30)
    assert_cancelled(node)
    with pytest.raises(EdgeslmError, match="isn't here yet"):
        print(answer.result)


def test_it_times_out(client: Client, node: SmallNode) -> None:
    with pytest.raises(TimedOut):
        list(client.stream("silent", "a", timeout=0.5))
    wait_for(lambda: node.told)


def test_it_is_iterated_once(client: Client) -> None:
    answer = client.stream("stream", "one", timeout=60)
    assert len(list(answer)) == 1
    with pytest.raises(EdgeslmError, match="iterated once"):
        list(answer)
    answer.close()
    assert answer.result.status == "ok"


def test_a_client_that_is_not_open_says_so() -> None:
    with pytest.raises(BrokerError, match="isn't open"):
        Client("mqtt://127.0.0.1", "hall").stream("echo", "a")


class SlowSession(ClientSession):
    """Sends nothing anywhere; while it does something, ``meanwhile`` happens in another thread."""

    def __init__(self, *, enlisting: bool = False, sending: bool = False) -> None:
        super().__init__(Topics("hall"), "app")
        self.sent: list[str] = []
        self.meanwhile: Callable[[], None]
        self.threads: list[Thread] = []
        self.by_signal = False
        self._slow_at = {"enlisting": enlisting, "sending": sending}

    def enlist(self, task: str, outgoing: OutgoingMessage, inbox: Inbox) -> None:
        self._take_time("enlisting")
        inbox(Ready(1))

    def send(self, outgoing: OutgoingMessage) -> int | None:
        self.sent.append(outgoing.topic)
        self._take_time("sending")
        return 1

    def _take_time(self, at: str) -> None:
        if self._slow_at[at] and self.by_signal:
            self._slow_at[at] = False
            self.meanwhile()
        elif self._slow_at[at]:
            self._slow_at[at] = False
            self.threads.append(Thread(target=self.meanwhile))
            self.threads[0].start()
            self.threads[0].join(0.3)


@pytest.mark.parametrize("by_signal", [False, True])
@pytest.mark.parametrize("at", ["enlisting", "sending"])
def test_what_is_closed_while_it_is_sent_is_cancelled(at: str, by_signal: bool) -> None:
    """From another thread, or from a signal's handler in the same one."""
    session = SlowSession(**{at: True})
    session.by_signal = by_signal

    message = OutgoingMessage("request", b"{}", response_topic="reply", correlation=b"1")
    pending = PendingRequest(message, session, node="hall", timeout_s=60)
    stream = Stream(session, "echo", "cancel", pending)
    session.meanwhile = stream.close
    with pytest.raises(Cancelled):
        list(stream)
    for thread in session.threads:
        thread.join()
    assert session.sent in ([], ["request", "cancel"])
