"""The endpoint over real sockets: scrapers that are slow, many or rude cost nobody else anything."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.telemetry.scrape import CONNECTIONS, MOST_BYTES, ScrapeEndpoint
from tests.support.brokers import free_port

LOOPBACK = "127.0.0.1"
GET = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"


class FakeNode:
    """Whose uptime is how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None
        self.dropped: dict[str, int] = {}

    def health(self) -> dict[str, Any]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return {"uptime_s": self.asked, "dropped": self.dropped}

    def info(self) -> dict[str, Any]:
        return {}


class Stand:
    """An endpoint, and what asks it."""

    def __init__(self, **limits: float) -> None:
        self.node = FakeNode()
        self.endpoint = ScrapeEndpoint((LOOPBACK, free_port()), self.node, **limits)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert self.endpoint.port is not None
        return await asyncio.open_connection(LOOPBACK, self.endpoint.port)

    async def ask(self, request: bytes = GET) -> bytes:
        reader, writer = await self.connect()
        try:
            writer.write(request)
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def with_stand(work: Any, **limits: float) -> None:
    async def whole() -> None:
        stand = Stand(**limits)
        await stand.endpoint.start()
        try:
            await work(stand)
        finally:
            await stand.endpoint.stop()

    run(whole())


def test_a_scrape() -> None:
    async def work(stand: Stand) -> None:
        head, _, body = (await stand.ask()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; ")
        assert f"Content-Length: {len(body)}\r\n".encode() in head
        assert b"edgeslm_uptime_seconds 1.0\n" in body

    with_stand(work)


def test_accept_chooses_the_format() -> None:
    async def work(stand: Stand) -> None:
        asked = b"GET /metrics?x=1 HTTP/1.1\r\naCCept:  application/openmetrics-text \r\n\r\n"
        assert b"Content-Type: application/openmetrics-text; " in await stand.ask(asked)

    with_stand(work)


def test_who_asks_again_at_once_gets_the_same() -> None:
    async def work(stand: Stand) -> None:
        assert len({await stand.ask() for _ in range(5)}) == 1
        assert stand.node.asked == 1

    with_stand(work, fresh_s=1e9)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metricsx HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
        (b"\xff\xfe\x00 \xff \xff\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 2 * MOST_BYTES + b"\r\n\r\n", b"431"),
    ],
)
def test_what_is_no_scrape_is_refused(request_: bytes, status: bytes) -> None:
    async def work(stand: Stand) -> None:
        answer = await stand.ask(request_)
        # What is left unread may reset the connection before the answer is there.
        assert answer[9:12] == status or (status == b"431" and not answer)
        assert b"200 OK" in await stand.ask()

    with_stand(work)


def test_head_has_no_body() -> None:
    async def work(stand: Stand) -> None:
        assert (await stand.ask(b"HEAD /metrics HTTP/1.1\r\n\r\n")).endswith(b"close\r\n\r\n")

    with_stand(work)


def test_the_silent_are_let_go_and_no_more_than_a_few_are_let_in() -> None:
    async def work(stand: Stand) -> None:
        silent = [await stand.connect() for _ in range(CONNECTIONS)]
        for _, writer in silent:
            writer.write(b"GET /met")
        one_more, writer = await stand.connect()
        with pytest.raises(ConnectionError):  # closed at once, so that nobody waits for nothing
            assert not await one_more.read()
            raise ConnectionError
        writer.close()
        for reader, writer in silent:
            assert not await reader.read()
            writer.close()
        assert b"200 OK" in await stand.ask()

    with_stand(work, patience_s=0.2)


def test_who_reads_nothing_is_let_go() -> None:
    async def work(stand: Stand) -> None:
        stand.node.dropped = {"x" * 50_000_000: 1}
        before = asyncio.all_tasks()
        reader, writer = await stand.connect()
        writer.write(GET)
        while asyncio.all_tasks() == before:
            await asyncio.sleep(0.01)
        while asyncio.all_tasks() != before:
            await asyncio.sleep(0.01)
        with pytest.raises(ConnectionError):
            assert len(await reader.read()) < 50_000_000
            raise ConnectionError
        writer.close()

    with_stand(work, patience_s=0.2)


def test_a_mistake_of_ours_is_one_answer() -> None:
    async def work(stand: Stand) -> None:
        stand.node.error = KeyError("x")
        assert b"500" in (await stand.ask())[:20]
        stand.node.error = None
        assert b"200 OK" in await stand.ask()

    with_stand(work)


def test_a_port_that_is_taken_is_a_problem_and_no_end() -> None:
    async def work() -> None:
        with socket.socket() as other:
            other.bind((LOOPBACK, 0))
            other.listen()
            endpoint = ScrapeEndpoint(other.getsockname(), FakeNode())
            await endpoint.start()
            assert endpoint.port is None
            assert endpoint.problem is not None and "can't be listened on" in endpoint.problem
            await endpoint.stop()

    run(work())


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda rest: b"GET /metrics HTTP/1.1\r\n" + rest))
def test_whatever_is_asked_the_answer_is_one_of_http(head: bytes) -> None:
    endpoint = ScrapeEndpoint((LOOPBACK, 1), FakeNode())
    answer = endpoint.answer(head + b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.1 (200|400|404|405) [A-Za-z ]+\r\n", answer)
    assert b"\r\n\r\n" in answer
