"""The request handler: a delivery is parsed, deduplicated (idempotent), answered and acknowledged.

Who answers it is handed in: a node's engines, or the nodes of a pool.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Protocol

from edgeslm.errors import InternalError
from edgeslm.messages import ErrorBody, Request, Result, Trace
from edgeslm.mqtt.publisher import Publisher
from edgeslm.node.deduplication import SingleFlight, find_known, journal_key
from edgeslm.node.in_flight import InFlight
from edgeslm.protocol.codec import (
    MAX_CORRELATION_BYTES,
    Rejected,
    Topics,
    encode_result,
    error_result,
    parse_request,
)
from edgeslm.storage.journal import Journal
from edgeslm.telemetry.health import Meter

log = logging.getLogger("edgeslm.node")

Answer = Callable[[Request, InFlight, bytes | None, int], Awaitable[tuple[Result, bytes]]]
"""Answers a request with this key in the journal (None: nothing is remembered of it) and what it cost before
(:class:`edgeslm.storage.journal.JournalEntry`); the result, and how it is encoded."""


class Clerk(Protocol):
    """Sees what comes and what becomes of it."""

    def taken(self, request: Request) -> None: ...
    def note(
        self, what: str, request: Request | Rejected, result: Result | None, size: int | None
    ) -> None: ...


class RequestHandler:
    """``trace`` makes the trace of a request of its ``traceparent``."""

    def __init__(
        self,
        answer: Answer,
        *,
        clerk: Clerk,
        journal: Journal,
        publisher: Publisher,
        meter: Meter,
        trace: Callable[[str | None], Trace | None],
    ) -> None:
        self._answer = answer
        self._clerk = clerk
        self._journal = journal
        self._publisher = publisher
        self._meter = meter
        self._trace = trace
        self._single_flight = SingleFlight()

    async def serve(
        self, held: InFlight, task: str, topics: Topics, *, replies: Sequence[str], packet_bytes: int
    ) -> None:
        """Returns when the broker has the result, or it is given up. ``replies`` are topic filters."""
        delivery = held.delivery
        if delivery.retain:  # MQTT 3.1.1 brings it again with each subscription
            self._meter.drop("retained")
            return
        request = parse_request(
            delivery, task=task, topics=topics, allowed_replies=replies, packet_limit=packet_bytes
        )
        if (trace := self._trace(delivery.traceparent)) is not None:
            request = replace(request, trace=trace)
        if isinstance(request, Rejected):
            refused = error_result(request.id, request.task, request.error)
            self._meter.count(refused)
            self._clerk.note("request", request, refused, delivery.size)
            await self._publisher.send(request, refused, encode_result(refused))
            return
        self._clerk.taken(request)
        key = journal_key(request, held, task, topics)
        if (running := self._single_flight.running(key)) is not None:
            self._meter.repeats["attached"] += 1
            await asyncio.shield(running)
            return
        with self._single_flight.flight(key):
            await self._serve_once(request, held, key)

    async def give_up(self, topics: Topics, held: InFlight, error: Exception) -> None:
        """What a mistake of ours ended is answered and reported dead, whatever was known of it by then."""
        delivery = held.delivery
        task = delivery.topic.rpartition("/")[2]
        why = InternalError(f"the node failed on it ({type(error).__name__})")
        correlation = delivery.correlation or b""
        if len(correlation) > MAX_CORRELATION_BYTES:
            correlation = b""
        id = correlation.hex()[:32] or secrets.token_hex(8)
        request = Rejected(task, id, topics.result(task), why, correlation or None)
        result = error_result(request.id, task, why)
        try:
            self._meter.count(result)
            await self._publisher.resend(request, encode_result(result))
        finally:
            await self._publisher.report_dead(request, ErrorBody.of(why))

    async def _serve_once(self, request: Request, held: InFlight, key: bytes | None) -> None:
        delivery = held.delivery
        known = find_known(self._journal, request, held, key)
        if known is not None and known.result is not None:
            self._meter.repeats["resent"] += 1
            self._clerk.note("repeat", request, None, delivery.size)
            await self._publisher.resend(request, known.result)
            return
        try:
            result, payload = await self._answer(request, held, key, known.lost if known else 0)
        except Exception as error:  # a mistake of ours; the sender must not wait for ever
            log.error("request %s failed: %s", request.id, type(error).__name__)
            log.debug("request %s", request.id, exc_info=error)
            why = InternalError(f"the node failed on it ({type(error).__name__})")
            result = error_result(request.id, request.task, why)
            payload = encode_result(result)
        self._clerk.note("request", request, result, delivery.size)
        await self._publisher.send(request, result, payload)
