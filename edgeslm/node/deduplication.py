"""Deduplication: if a request arrives twice, the node computes the answer once and sends it twice, so
requests are idempotent.

This module tracks running requests (single flight); answered requests are in the journal.
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
    """The key of a request in the journal; repeats of the request have the same key. None if the request
    can't be deduplicated."""
    if not request.named:
        return held.key
    name = request.correlation
    name = b"correlation " + name if name else b"id " + request.id.encode()
    # Keys of pools and nodes must differ; a task's name has no slash.
    asked = task if topics.pool is None else f"{topics.node}/{task}"
    return request_key(request.reply_to, name, asked, held.delivery.payload)


def find_known(journal: Journal, request: Request, held: InFlight, key: bytes | None) -> JournalEntry | None:
    """The journal entry of an earlier delivery of the request; None if there is no entry. A request without
    id and Correlation Data counts as a repeat only if MQTT's DUP flag is set."""
    return journal.find(key) if key is not None and (request.named or held.delivery.dup) else None


class SingleFlight:
    """Tracks running requests by journal key, so that a repeated request can wait until the running request
    has finished."""

    def __init__(self) -> None:
        self._running: dict[bytes, asyncio.Future[None]] = {}

    def running(self, key: bytes | None) -> asyncio.Future[None] | None:
        """A future that is done when the running request with this key ends; None if no such request runs."""
        return None if key is None else self._running.get(key)

    @contextmanager
    def flight(self, key: bytes | None) -> Iterator[None]:
        """Context manager that marks the request as running."""
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
