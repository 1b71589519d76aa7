"""The pool's backend: forwards requests to the nodes of a pool and returns the nodes' answers."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import Final

from edgeslm.dispatcher.nodes import NodeSide
from edgeslm.dispatcher.queue import Answer, ForwardedRequest
from edgeslm.dispatcher.settings import DispatcherSettings
from edgeslm.errors import Busy, UnknownTask
from edgeslm.messages import Request, Result
from edgeslm.node.attempts import TRANSIENT, AttemptLog
from edgeslm.node.in_flight import InFlight
from edgeslm.protocol.codec import Cancel, Rejected, encode_result
from edgeslm.protocol.strict_json import decode_text, encode_json, parse_json
from edgeslm.serving.quotas import ClientQuotas
from edgeslm.storage.journal import Journal, delivery_key
from edgeslm.telemetry.health import Meter

log = logging.getLogger("edgeslm.dispatcher")

RETURN_S: Final = 1.0
"""Seconds before a redelivered request is forwarded again, since a node's answer to it may arrive first."""
OWN_KEPT: Final = frozenset({"cancelled", "poisoned"})
"""Error codes of the dispatcher's own error results that the journal stores. After other errors of the
dispatcher, a repeated request runs again, since other nodes may have joined the pool."""


class PoolBackend:
    """Returns a node's answer as the pool's answer; the request and the node's answer are acknowledged
    together."""

    def __init__(self, settings: DispatcherSettings, nodes: NodeSide, journal: Journal, meter: Meter) -> None:
        limits = settings.limits
        share = limits.sender_queue or max(1, limits.queue // 2)
        self._quotas = ClientQuotas(share, limits.sender_tokens_per_min, nameless_queue=limits.sender_queue)
        self._settings = settings
        self._nodes = nodes
        self._journal = journal
        self._meter = meter

    def accept(self, request: Request) -> None:
        """Does nothing, since a pool takes no corrections."""

    async def answer(self, request: Request, attempt: AttemptLog, held: InFlight) -> tuple[Result, bytes]:
        order = ForwardedRequest(
            request,
            held.delivery.payload,
            _identity(request, held, attempt.key),
            asyncio.get_running_loop().create_future(),
            give_up_at=request.received_at + self._settings.limits.request_timeout_s,
            not_before=time.monotonic() + RETURN_S if held.delivery.dup else 0.0,
            ends=attempt.lost,
            key=attempt.key,
        )
        result, payload = await self._ask(order, held)
        code = result.error.code if result.error is not None else None
        if payload is None:
            is_kept = code in OWN_KEPT
            payload = encode_result(result)
        else:
            is_kept = code not in TRANSIENT
            result, payload = as_the_pools(request, result, payload, time.monotonic())
        self._meter.count(result)
        if attempt.key is not None and is_kept:
            self._journal.finish(attempt.key, order.ends, payload)
        held.receipt = order.receipt
        return result, payload

    def cancel(self, cancel: Cancel, pool: str | None) -> None:
        self._nodes.forwarder.cancel(cancel)

    def note(self, what: str, request: Request | Rejected, result: Result | None, size: int | None) -> None:
        log.debug("%s %s: %s", what, request.id, result.status if result is not None else "sent again")

    async def _ask(self, order: ForwardedRequest, held: InFlight) -> Answer:
        request = order.request
        if held.refusal is not None:
            return order.refuse(Busy(held.refusal, retry_after_ms=1000))
        tasks = self._settings.tasks
        if tasks is not None and request.task not in tasks:
            known = ", ".join(sorted(tasks))
            return order.refuse(UnknownTask(f"This pool does no task of that name; it does {known}."))
        try:
            self._quotas.admit(request.sender or "", lambda: 1.0)
        except Busy as error:
            return order.refuse(error)
        usage: dict[str, int] = {}
        try:
            self._nodes.submit(order)
            answer = await order.answered
            usage = dict(answer[0].usage)
            return answer
        except asyncio.CancelledError:
            self._nodes.forwarder.drop(order)
            raise
        finally:
            self._quotas.settle(request.sender or "", usage)


def _identity(request: Request, held: InFlight, key: bytes | None) -> bytes:
    """A key of the request that is the same after a restart of the dispatcher, so that a node recognizes the
    repeated request and resends its answer."""
    if request.named and key is not None:
        return key
    # Without the session's number, which differs between machines.
    return delivery_key(0, held.delivery) if not held.qos0 else request.id.encode()


def as_the_pools(request: Request, result: Result, payload: bytes, now: float) -> tuple[Result, bytes]:
    """Turns a node's result into the pool's result. ``payload`` is the node's encoded result; fields of the
    result that this version doesn't know are kept. The time in which the request waited for the node or was
    transmitted counts as queue time."""
    timings = dict(result.timings_ms)
    if "total" in timings:
        total = (now - request.received_at) * 1000
        waited = max(0.0, total - timings["total"])
        timings = {name: round(value, 1) for name, value in timings.items()}
        timings["queue"] = round(timings.get("queue", 0.0) + waited, 1)
        timings["total"] = round(max(total, timings["total"]), 1)
    document = {**parse_json(decode_text(payload)), "id": request.id}
    if timings:
        document["timings_ms"] = timings
    return replace(result, id=request.id, timings_ms=timings), encode_json(document)
