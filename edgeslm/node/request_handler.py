"""The request handler: parses, deduplicates, answers and acknowledges a request.

A :class:`Backend` computes the answer: a node's engines, or the nodes of a pool.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from edgeslm.errors import InternalError, InvalidRequest
from edgeslm.messages import Request, Result
from edgeslm.mqtt.publisher import Publisher
from edgeslm.node.attempts import AttemptLog
from edgeslm.node.deduplication import SingleFlight, find_known, journal_key
from edgeslm.node.in_flight import Admission, InFlight
from edgeslm.protocol.codec import (
    Cancel,
    Rejected,
    Topics,
    encode_result,
    error_result,
    parse_cancel,
    parse_request,
)
from edgeslm.storage.journal import Journal
from edgeslm.telemetry.health import Meter
from edgeslm.telemetry.tracing import Tracer

log = logging.getLogger("edgeslm.node")


class Backend(Protocol):
    """Computes answers. :meth:`accept` is called for each valid request, and :meth:`note` when a request was
    rejected, repeated or answered.

    :meth:`answer` also encodes the result, counts it, and journals it unless the error is transient.
    """

    def accept(self, request: Request) -> None: ...
    async def answer(self, request: Request, attempt: AttemptLog, held: InFlight) -> tuple[Result, bytes]: ...
    def cancel(self, cancel: Cancel, pool: str | None) -> None: ...
    def note(
        self, what: str, request: Request | Rejected, result: Result | None, size: int | None
    ) -> None: ...


@dataclass(slots=True)
class RequestHandler:
    """``replies`` are topic filters: a request's reply topic must match one of them. ``packet_bytes`` is the
    maximum size of a request, in bytes."""

    backend: Backend
    admission: Admission
    publisher: Publisher
    journal: Journal
    meter: Meter
    tracer: Tracer
    replies: Sequence[str]
    packet_bytes: int
    _single_flight: SingleFlight = field(default_factory=SingleFlight, init=False)

    async def handle(self, held: InFlight, topics: Topics, task: str) -> None:
        """Handles a request, from parsing to acknowledgement. Returns when the broker has acknowledged the
        result or the result can't be sent."""
        held.addressee = topics, task
        async with self.admission.hold(held):
            delivery = held.delivery
            if delivery.retain:  # the broker repeats it with each subscription
                self.meter.drop("retained")
                return
            limit = self.packet_bytes
            request = parse_request(
                delivery, task=task, topics=topics, allowed_replies=self.replies, packet_limit=limit
            )
            if (trace := self.tracer.trace(delivery.traceparent)) is not None:
                request = replace(request, trace=trace)
            if isinstance(request, Rejected):
                refused = error_result(request.id, request.task, request.error)
                self.meter.count(refused)
                self.backend.note("request", request, refused, delivery.size)
                await self.publisher.send(request, refused, encode_result(refused))
                return
            self.backend.accept(request)
            key = journal_key(request, held, task, topics)
            if (running := self._single_flight.running(key)) is not None:
                self.meter.repeats["attached"] += 1
                await asyncio.shield(running)
                return
            with self._single_flight.flight(key):
                known = find_known(self.journal, request, held, key)
                if known is not None and known.result is not None:
                    self.meter.repeats["resent"] += 1
                    self.backend.note("repeat", request, None, delivery.size)
                    await self.publisher.resend(request, known.result)
                    return
                attempt = AttemptLog(self.journal, key, known)
                try:
                    result, payload = await self.backend.answer(request, attempt, held)
                except Exception as error:  # a bug; the client still needs an answer
                    log.error("request %s failed: %s", request.id, type(error).__name__)
                    log.debug("request %s", request.id, exc_info=error)
                    why = InternalError(f"the node failed on it ({type(error).__name__})")
                    result = error_result(request.id, request.task, why)
                    payload = encode_result(result)
                self.backend.note("request", request, result, delivery.size)
                await self.publisher.send(request, result, payload)

    async def cancel(self, held: InFlight, pool: str | None) -> None:
        """Cancels a request. Call it in an asyncio task, like :meth:`handle`: asyncio starts tasks in order,
        so a request that arrived just before its cancellation reaches the scheduler first."""
        async with self.admission.hold(held):
            delivery = held.delivery
            try:
                self.backend.cancel(parse_cancel(delivery.payload, delivery.correlation), pool)
            except InvalidRequest as error:
                log.warning("a message on %s names no request", delivery.topic)
                log.debug("a message on %s names no request: %s", delivery.topic, error)
