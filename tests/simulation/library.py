"""A simulated app that asks with the product's client library."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from edgeslm.client import BrokerError, Chunk, Client, Result, Stream, TimedOut
from edgeslm.protocol.codec import parse_result
from edgeslm.protocol.delivery import OutgoingMessage
from edgeslm.protocol.topics import Topics
from tests.simulation.apps import Ask
from tests.simulation.ledger import Ledger

TIMEOUTS_S = (1.0, 15.0, 15.0, 600.0)
LATE_S = 0.5
"""Seconds after its timeout within which a request must have ended."""


class _Client(Client):
    """Tells of each request before it is sent."""

    on_request: Callable[[OutgoingMessage], None]

    def _stream(self, *told: Any, **how: Any) -> Stream:
        stream = super()._stream(*told, **how)
        self.on_request(stream._pending.outgoing)
        return stream


class LibraryApp:
    """Asks with one :class:`edgeslm.client.Client`, and gives some requests up.

    Each request must end by its timeout, or with a result that the node has sent. Pieces of an answer must
    come in order, and be its beginning if none is missing.
    """

    def __init__(self, ledger: Ledger, topics: Topics, chance: random.Random) -> None:
        self._ledger = ledger
        self._chance = chance
        self._client = _Client("mqtt://b0", topics.node, prefix=topics.prefix)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def name(self) -> str:
        """Its MQTT client identifier."""
        return self._client._settings.client_id

    def open(self) -> None:
        self._client.open()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._client.close()

    def ask(self) -> None:
        """Sends a request of a drawn kind."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._ask(f"library {len(self._tasks)}"))
        self._tasks.append(task)
        if self._chance.random() < 0.1:
            loop.call_later(self._chance.choice((0.0, 0.05, 2.0)), task.cancel)

    async def _ask(self, text: str) -> None:
        task = self._chance.choice(("say", "say", "rate"))
        timeout_s = self._chance.choice(TIMEOUTS_S)
        pieces: list[Chunk] | None = [] if task == "say" and self._chance.random() < 0.4 else None
        asks: list[Ask] = []

        def sends(outgoing: OutgoingMessage) -> None:
            name = (outgoing.correlation or b"").decode()
            ask = Ask(name, text, outgoing.topic, self.name, outgoing.response_topic, True)
            ask.names, ask.expiry_s, ask.published_at = "correlation", timeout_s, self._ledger.now
            ask.options = {} if pieces is None else {"stream": True}
            self._ledger.add(ask)
            asks.append(ask)

        self._client.on_request = sends
        on_chunk = None if pieces is None else pieces.append
        began_at = self._ledger.now
        until = began_at + timeout_s
        try:
            result = await self._client.request_async(task, text, timeout=timeout_s, on_chunk=on_chunk)
            self._check(asks[0], result, pieces or [], until)
        except TimedOut:
            if self._ledger.now < until:
                self._ledger.violation("library", f"{text} timed out after {self._ledger.now - began_at} s")
        except Exception as error:
            if not isinstance(error, BrokerError) or "listens at this broker" not in str(error):
                self._ledger.violation("library", f"{text}: {error!r}")
        finally:
            for ask in asks:
                if not ask.got:  # the client has given it up, or never sent it
                    ask.repeats, ask.expiry_s = False, self._ledger.now - began_at
        if self._ledger.now > until + LATE_S:
            self._ledger.violation("library", f"{text} ended {self._ledger.now - began_at} s after its start")

    def _check(self, ask: Ask, result: Result, pieces: list[Chunk], until: float) -> None:
        ask.got += 1
        if result not in [parse_result(payload) for _, payload in ask.results]:
            self._ledger.violation("library", f"{ask.text} got a result that the node didn't send: {result}")
        wait_ms = result.error.retry_after_ms if result.error is not None else None  # of a busy node
        if wait_ms is not None and self._ledger.now + wait_ms / 1000 < until:
            self._ledger.violation("library", f"{ask.text} wasn't sent again when the node was busy")
        numbers = [piece.seq for piece in pieces]
        if numbers != sorted(set(numbers)):
            self._ledger.violation("library", f"{ask.text} got its pieces in the order {numbers}")
        if result.status == "ok" and numbers == [*range(len(pieces))]:
            begin = "".join(piece.text for piece in pieces)
            if not result.unwrap().get("text", "").startswith(begin):
                self._ledger.violation("library", f"{ask.text} got other pieces than its result: {begin!r}")
