"""Requests over HTTP: answered, deduplicated and journalled like those over MQTT, but not published."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from edgeslm.errors import InternalError, RequestError
from edgeslm.messages import DIRECT, Request, Result
from edgeslm.node.attempts import AttemptLog
from edgeslm.node.backend import NodeBackend
from edgeslm.protocol.codec import Rejected, encode_result, error_result
from edgeslm.serving.scheduler import OnChunk
from edgeslm.storage.journal import Journal, JournalEntry, request_key

log = logging.getLogger("edgeslm.node")


@dataclass(slots=True)
class DirectRequests:
    """Answers requests of the HTTP API. A request with an id (``named``) runs once: its repeats, even after a
    restart, get the stored result."""

    backend: NodeBackend
    journal: Journal
    _flights: dict[bytes, asyncio.Task[bytes]] = field(default_factory=dict, init=False)
    """Running requests with an id, by journal key. They run on if nobody waits for them."""

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
            return await self._run(request, payload, None, None, on_chunk)
        key = request_key(request.reply_to, b"id " + request.id.encode(), request.task, payload)
        flight = self._flights.get(key)
        if flight is None:
            known = self.journal.find(key)
            if known is not None and known.result is not None:
                self.backend.observers.meter.repeats["resent"] += 1
                self.backend.note("repeat", request, None, len(payload))
                return known.result
            flight = asyncio.create_task(self._run(request, payload, key, known, on_chunk))
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._flights.pop(key))
        else:
            self.backend.observers.meter.repeats["attached"] += 1
        return await asyncio.shield(flight)

    async def browse(self, client: str, collection: str, source: str | None) -> bytes:
        """The encoded list of a collection's documents, or the text of one. It runs no model, and so waits in
        no queue."""
        library = self.backend.service.deployment.library
        try:
            result = Result("", collection, "ok", await library.browse(collection, source))
        except RequestError as error:
            result = error_result("", collection, error)
        self.backend.observers.audit.note(
            "read",
            knowledge=collection,
            reply_to=DIRECT + client,
            status=result.status,
            code=result.error.code if result.error is not None else None,
        )
        return encode_result(result)

    def abandon(self) -> None:
        """Cancels all running requests that have an id."""
        for flight in self._flights.values():
            flight.cancel()

    async def _run(
        self,
        request: Request,
        payload: bytes,
        key: bytes | None,
        known: JournalEntry | None,
        on_chunk: OnChunk | None,
    ) -> bytes:
        try:
            self.backend.accept(request)
            attempt = AttemptLog(self.journal, key, known)
            result, encoded = await self.backend.answer(request, attempt, on_chunk=on_chunk)
        except Exception as error:  # a bug; the client still needs an answer
            log.error("request %s failed: %s", request.id, type(error).__name__)
            log.debug("request %s", request.id, exc_info=error)
            why = InternalError(f"the node failed on it ({type(error).__name__})")
            result = error_result(request.id, request.task, why)
            encoded = encode_result(result)
        self.backend.note("api", request, result, len(payload))
        return encoded
