"""Deduplication: a request that comes twice is computed once (idempotent) and answered twice.

What is being answered is known here (single flight), what was answered is in the journal.
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
    """By which a repeat is known; None if nothing is remembered of the request."""
    if not request.named:
        return held.key
    name = request.correlation
    name = b"correlation " + name if name else b"id " + request.id.encode()
    # A task has no slash in its name: what was sent to a pool is no repeat of what came to a node.
    asked = task if topics.pool is None else f"{topics.node}/{task}"
    return request_key(request.reply_to, name, asked, held.delivery.payload)


def find_known(journal: Journal, request: Request, held: InFlight, key: bytes | None) -> JournalEntry | None:
    """What the journal has of it. A request without a name is a repeat only if the broker says so."""
    return journal.find(key) if key is not None and (request.named or held.delivery.dup) else None


class SingleFlight:
    """Requests that are being answered, by key: their repeats wait for that."""

    def __init__(self) -> None:
        self._running: dict[bytes, asyncio.Future[None]] = {}

    def running(self, key: bytes | None) -> asyncio.Future[None] | None:
        """What to wait for; None if nothing with this key is being answered."""
        return None if key is None else self._running.get(key)

    @contextmanager
    def flight(self, key: bytes | None) -> Iterator[None]:
        """While this lasts, the request is being answered."""
        if key is None:
            yield
            return
        landed = asyncio.get_running_loop().create_future()
        self._running[key] = landed
        try:
            yield
        finally:
            del self._running[key]
            landed.set_result(None)
