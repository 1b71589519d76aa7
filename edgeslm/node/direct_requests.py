"""Requests that come over HTTP: answered, deduplicated and journalled like those over MQTT, but not
published."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from edgeslm.errors import InternalError
from edgeslm.messages import Request
from edgeslm.node.attempts import AttemptLog
from edgeslm.node.backend import NodeBackend
from edgeslm.node.deduplication import SingleFlight
from edgeslm.protocol.codec import Rejected, encode_result, error_result
from edgeslm.serving.scheduler import OnChunk
from edgeslm.storage.journal import Journal, request_key

log = logging.getLogger("edgeslm.node")


@dataclass(slots=True)
class DirectRequests:
    """Answers requests of the HTTP API. A request with an id (``named``) runs once: its repeats, even after a
    restart, get the stored result."""

    backend: NodeBackend
    journal: Journal
    _single_flight: SingleFlight = field(default_factory=SingleFlight, init=False)
    _flying: set[asyncio.Task[bytes]] = field(default_factory=set, init=False)
    """Requests with an id, which run on if nobody waits for them."""

    def reject(self, rejected: Rejected, size: int) -> bytes:
        """The encoded error of an invalid request, which is counted and audited."""
        result = error_result(rejected.id, rejected.task, rejected.error)
        self.backend.observers.meter.count(result)
        self.backend.note("api", rejected, result, size)
        return encode_result(result)

    async def answer(self, request: Request, payload: bytes, on_chunk: OnChunk | None) -> bytes:
        """The encoded result. ``payload`` is the encoded request, as it came. If cancelled, the request is
        cancelled too, unless it has an id: then it runs on, and its result is stored."""
        if not request.named:
            return await self._run(request, payload, None, on_chunk)
        key = request_key(request.reply_to, b"id " + request.id.encode(), request.task, payload)
        while (running := self._single_flight.running(key)) is not None:
            self.backend.observers.meter.repeats["attached"] += 1
            await asyncio.shield(running)
            if (known := self.journal.find(key)) is not None and known.result is not None:
                return known.result
        known = self.journal.find(key)
        if known is not None and known.result is not None:
            self.backend.observers.meter.repeats["resent"] += 1
            self.backend.note("repeat", request, None, len(payload))
            return known.result
        task = asyncio.create_task(self._fly(request, payload, key, on_chunk))
        self._flying.add(task)
        task.add_done_callback(self._flying.discard)
        return await asyncio.shield(task)

    def abandon(self) -> None:
        """Cancels all running requests that have an id."""
        for task in self._flying:
            task.cancel()

    async def _fly(self, request: Request, payload: bytes, key: bytes, on_chunk: OnChunk | None) -> bytes:
        with self._single_flight.flight(key):
            return await self._run(request, payload, key, on_chunk)

    async def _run(
        self, request: Request, payload: bytes, key: bytes | None, on_chunk: OnChunk | None
    ) -> bytes:
        self.backend.accept(request)
        known = self.journal.find(key) if key is not None else None
        attempt = AttemptLog(self.journal, key, known)
        try:
            result, encoded = await self.backend.answer(request, attempt, on_chunk=on_chunk)
        except Exception as error:  # a bug; the client still needs an answer
            log.error("request %s failed: %s", request.id, type(error).__name__)
            log.debug("request %s", request.id, exc_info=error)
            why = InternalError(f"the node failed on it ({type(error).__name__})")
            result = error_result(request.id, request.task, why)
            encoded = encode_result(result)
        self.backend.note("api", request, result, len(payload))
        return encoded
