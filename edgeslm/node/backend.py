"""The node's backend: answers requests from clients and routes with its own engines."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeslm.errors import Busy
from edgeslm.messages import Request, Result
from edgeslm.mqtt.publisher import Publisher
from edgeslm.node.attempts import AttemptLog
from edgeslm.node.feedback import Corrections
from edgeslm.node.in_flight import InFlight
from edgeslm.protocol.codec import Cancel, Rejected, encode_result, error_result
from edgeslm.serving.scheduler import OnChunk
from edgeslm.serving.service import Service
from edgeslm.telemetry.audit import AuditLog
from edgeslm.telemetry.health import Meter
from edgeslm.telemetry.tracing import Tracer

if TYPE_CHECKING:
    from edgeslm.console.feed import Feed


@dataclass(frozen=True, slots=True)
class Observers:
    """Metrics, tracing, audit log and console feed; each sees every request and result."""

    meter: Meter
    tracer: Tracer
    audit: AuditLog
    feed: Feed | None = None


@dataclass(slots=True)
class NodeBackend:
    """Answers requests with the engines of ``service``. ``corrections`` gets the text of each request, since
    a later correction may give only the request's id."""

    service: Service
    publisher: Publisher
    observers: Observers
    corrections: Corrections

    def accept(self, request: Request) -> None:
        self.corrections.remember(request)

    async def answer(
        self,
        request: Request,
        attempt: AttemptLog,
        held: InFlight | None = None,
        on_chunk: OnChunk | None = None,
    ) -> tuple[Result, bytes]:
        """The result and its encoded payload. ``held`` is the MQTT message of the request, or None if the
        request came over HTTP or from a route. If ``held`` has a ``refusal``, the result is the error
        ``busy``. Pieces of a streamed answer go to ``on_chunk``, if given, or else to the broker."""
        feed, result = self.observers.feed, None
        onlooker = feed.watch(request) if feed is not None else None
        if onlooker is not None:
            attempt.on_turn = onlooker.begun
        try:
            if held is None or held.refusal is None:
                result = await self.service.submit(
                    request, on_chunk or self.publisher.chunks_of(request), attempt
                )
            else:
                busy = Busy(held.refusal, retry_after_ms=math.ceil(self.service.scheduler.wait_s * 1000))
                result = error_result(request.id, request.task, busy)
        except asyncio.CancelledError:
            attempt.withdraw()
            raise
        finally:
            if onlooker is not None:
                onlooker.ended(result)
        self.observers.meter.count(result)
        self.observers.tracer.record(request, result)
        payload = encode_result(result if request.source is None else replace(result, topic=request.source))
        attempt.end(result, payload)
        return result, payload

    def cancel(self, cancel: Cancel, pool: str | None) -> None:
        self.service.cancel(lambda request: request.pool == pool and cancel.means(request))

    def note(self, what: str, request: Request | Rejected, result: Result | None, size: int | None) -> None:
        """Adds an entry with metadata to the audit log, without any text of the request."""
        task = None
        if isinstance(request, Request):
            task = self.service.deployment.task_for(request)
        self.observers.audit.note(
            what,
            task=request.task,
            kind=task.kind if task is not None else None,
            id=request.id,
            reply_to=request.reply_to,
            bytes=size,
            status=result.status if result is not None else None,
            code=result.error.code if result is not None and result.error is not None else None,
            ms=round(result.timings_ms.get("total", 0.0), 1) if result is not None else None,
            tokens=sum(result.usage.values()) if result is not None and result.usage else None,
        )
