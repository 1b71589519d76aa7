"""The dispatch queue: requests that wait for a node, by task and priority."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field

from edgeslm.errors import RequestError
from edgeslm.messages import Request, Result
from edgeslm.protocol.codec import error_result
from edgeslm.protocol.delivery import Delivery
from edgeslm.storage.journal import reader_key

Answer = tuple[Result, bytes | None]
"""A result, and its encoded payload if the result comes from a node."""


@dataclass(slots=True)
class Sending:
    """A request that was sent to a node. ``patience_at`` is the time from which the request counts as
    overdue; ``service_s`` is the time in seconds that the node is expected to need for the request."""

    sent_at: float
    patience_at: float
    service_s: float


@dataclass(slots=True, eq=False)
class ForwardedRequest:
    """A request with its state in the dispatcher. Variables and parameters for a forwarded request are called
    ``order``.

    ``identity`` identifies the request to nodes and stays the same after a restart; ``key`` is its journal
    key. ``ends`` counts the nodes that crashed while they had the request. ``at`` contains the nodes that
    have the request; ``left_at`` contains nodes that went offline but may still have the request.
    ``refusals`` maps each node that can't run the request now to the time of the next attempt. ``not_before``
    is the earliest time to send the request.
    """

    request: Request
    payload: bytes
    identity: bytes
    answered: asyncio.Future[Answer]
    give_up_at: float
    not_before: float = 0.0
    ends: int = 0
    key: bytes | None = None
    number: int = 0
    variant: int = 0
    is_cancelled: bool = False
    cancelled_at: float = math.inf
    highest_seq: int = -1
    at: dict[str, Sending] = field(default_factory=dict)
    left_at: set[str] = field(default_factory=set)
    refusals: dict[str, float] = field(default_factory=dict)
    refused: Answer | None = None
    receipt: Delivery | None = None
    """The MQTT delivery of the answer, which is acknowledged once the answer is passed on."""

    @property
    def correlation(self) -> bytes:
        """Correlation Data with which the request is sent to nodes. A node that has cancelled the request
        doesn't run it again with the same Correlation Data; the dispatcher then increases ``variant``, which
        changes the Correlation Data."""
        return reader_key(self.identity, f"again {self.variant}") if self.variant else self.identity

    @property
    def rank(self) -> tuple[float, float, int]:
        """Sort key: priority, then expiry, then arrival."""
        expires_at = self.request.expires_at
        return -self.request.priority, math.inf if expires_at is None else expires_at, self.number

    def settle(self, answer: Answer) -> None:
        if not self.answered.done():
            self.answered.set_result(answer)

    def refuse(self, error: RequestError) -> Answer:
        return error_result(self.request.id, self.request.task, error), None


class DispatchQueue:
    """Requests that wait for a node, per task, sorted by rank."""

    def __init__(self) -> None:
        self._queues: dict[str, list[tuple[tuple[float, float, int], ForwardedRequest]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[ForwardedRequest]:
        for queue in self._queues.values():
            for _, order in queue:
                yield order

    def __contains__(self, order: ForwardedRequest) -> bool:
        queue = self._queues.get(order.request.task, [])
        place = bisect_left(queue, order.rank, key=lambda pair: pair[0])
        return place < len(queue) and queue[place][1] is order

    def add(self, order: ForwardedRequest) -> None:
        if order not in self:
            insort(self._queues.setdefault(order.request.task, []), (order.rank, order), key=lambda p: p[0])
            self._count += 1

    def remove(self, order: ForwardedRequest) -> None:
        if order in self:
            queue = self._queues[order.request.task]
            del queue[bisect_left(queue, order.rank, key=lambda pair: pair[0])]
            self._count -= 1
            if not queue:
                del self._queues[order.request.task]

    def tasks(self) -> list[str]:
        """Tasks with queued requests, the most urgent first."""
        return sorted(self._queues, key=lambda task: self._queues[task][0][0])

    def of(self, task: str) -> list[ForwardedRequest]:
        return [order for _, order in self._queues.get(task, [])]
