"""Deduplication: a request that arrives twice is computed once (idempotent) and answered twice.

Running requests are known here (single flight); answered ones are in the journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from edgeslm.messages import Request
from edgeslm.node.in_flight import InFlight
from edgeslm.protocol.codec import Topics
from edgeslm.storage.journal import Journal, JournalEntry, request_key


def journal_key(request: Request, held: InFlight, task: str, topics: Topics) -> bytes | None:
    """The key that a request and its repeats share; None: it can't be deduplicated."""
    if not request.named:
        return held.key
    name = request.correlation
    name = b"correlation " + name if name else b"id " + request.id.encode()
    # Keys of pools and nodes must differ; a task's name has no slash.
    asked = task if topics.pool is None else f"{topics.node}/{task}"
    return request_key(request.reply_to, name, asked, held.delivery.payload)


def find_known(journal: Journal, request: Request, held: InFlight, key: bytes | None) -> JournalEntry | None:
    """The request's journal entry. One without id or correlation is a repeat only if MQTT's DUP is set."""
    return journal.find(key) if key is not None and (request.named or held.delivery.dup) else None


class SingleFlight:
    """Running requests by key; repeats wait for the first to finish."""

    def __init__(self) -> None:
        self._running: dict[bytes, asyncio.Future[None]] = {}

    def running(self, key: bytes | None) -> asyncio.Future[None] | None:
        """A future that ends with the running request of this key; None: there is none."""
        return None if key is None else self._running.get(key)

    @contextmanager
    def flight(self, key: bytes | None) -> Iterator[None]:
        """Marks the request as running inside the block."""
        if key is None:
            yield
            return
        finished = asyncio.get_running_loop().create_future()
        self._running[key] = finished
        try:
            yield
        finally:
            del self._running[key]
            finished.set_result(None)
