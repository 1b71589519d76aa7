"""Forwarding: assigns requests to nodes, handles the nodes' answers, and retries on other nodes after errors
and timeouts.

This module does no I/O: the caller passes in the clock and an object that sends messages. Call
:meth:`Forwarder.tick` a few times a second.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

from edgeslm.dispatcher.members import Members, News
from edgeslm.dispatcher.policy import Candidate, choose
from edgeslm.dispatcher.queue import Answer, DispatchQueue, ForwardedRequest, Sending
from edgeslm.dispatcher.throughput import Throughput
from edgeslm.errors import Busy, Cancelled, Expired, Poisoned, RequestError, TimedOut, UnknownTask
from edgeslm.messages import Chunk, Request, Result
from edgeslm.protocol.codec import Cancel

log = logging.getLogger("edgeslm.dispatcher")

MOST_ENDS: Final = 3
"""Retry limit: a request during which this many nodes crashed is a poison message."""
REFUSED_S: Final = 5.0
"""Seconds until a node that refused a request may get the same request again."""
LONGEST_PAUSE_S: Final = 5.0
"""Maximum number of seconds before a busy node gets requests again."""
SILENT_S: Final = 10.0
"""Seconds for which a stuck node gets no requests; after that, the node gets one request as a probe."""
CANCEL_S: Final = 5.0
"""Timeout for a node's confirmation of a cancellation."""
SETTLE_S: Final = 5.0
"""Seconds after connecting within which all retained messages of nodes are expected to arrive."""
RETRY_MS: Final = 2000
LEAD_S: Final = 0.05
"""A node that already has two requests or more gets another request only if the node is expected to finish
its requests within this number of seconds."""
LEAST_LEFT: Final = 0.1
"""Minimum fraction of a running request's expected time that counts as remaining, so that a node doesn't look
idle when its request takes longer than expected."""
FORGET_EVERY_S: Final = 3600.0
HEALTH_S: Final = 45.0
"""Age in seconds at which load balancing ignores the number of requests in a node's health message. Up to
this age, the weight of that number decreases linearly from 1 to 0. Nodes publish health messages every 30
s."""

ELSEWHERE = frozenset({"unknown_task", "model_unavailable", "no_memory", "internal"})
"""Error codes after which another node is tried."""


class Nodes(Protocol):
    """Sends messages to nodes; :meth:`ended` is called for a request whose node crashed."""

    def forward(self, order: ForwardedRequest, node: str) -> None: ...
    def withdraw(self, order: ForwardedRequest, node: str) -> None: ...
    def ended(self, order: ForwardedRequest) -> None: ...


class Forwarder:
    """Forwards requests to nodes. A node has at most ``window`` requests at a time. Variables and parameters
    for a :class:`ForwardedRequest` are called ``order``."""

    def __init__(
        self,
        nodes: Nodes,
        members: Members,
        *,
        window: int,
        clock: Callable[[], float],
    ) -> None:
        self._nodes = nodes
        self._members = members
        self._window = window
        self._clock = clock
        self._orders: dict[bytes, ForwardedRequest] = {}
        self._loads: dict[str, dict[ForwardedRequest, Sending]] = {}
        self._pauses: dict[str, float] = {}
        self._silent: dict[str, float] = {}
        self._others: dict[str, tuple[int, float]] = {}
        """Node -> number of requests that the node has from other clients, according to its last health
        message, and the time when the message arrived."""
        self._count = 0
        self._has_settled = False
        self._forget_at = clock() + FORGET_EVERY_S
        self.waiting = DispatchQueue()
        self.throughput = Throughput()
        self.connected_at = clock()
        """Time of the last connect, at which the dispatcher subscribed to the nodes' messages."""
        self.counts: Counter[str] = Counter({"late": 0, "elsewhere": 0, "overdue": 0})

    def submit(self, order: ForwardedRequest) -> None:
        """Queues a request; the request's future gets the answer."""
        self._count += 1
        order.number = self._count
        while order.correlation in self._orders:  # left from a session that the broker has lost
            order.variant += 1
        self._orders[order.correlation] = order
        if order.ends >= MOST_ENDS:
            self._give_up(order, self._poisoned())
            return
        self.waiting.add(order)
        self.pump()

    def repeat(self) -> None:
        """Sends every unanswered request to its nodes again, since the broker may have lost the request or
        its answer; nodes deduplicate requests."""
        for node, load in self._loads.items():
            for order in load:
                self._nodes.forward(order, node)

    def drop(self, order: ForwardedRequest) -> None:
        """Forgets a request; nodes may still run it."""
        self._orders.pop(order.correlation, None)
        self.waiting.remove(order)
        for node in order.at:
            self._loads[node].pop(order, None)

    @property
    def in_flight(self) -> int:
        """Number of requests that were sent to nodes and aren't answered yet."""
        return len({id(order) for load in self._loads.values() for order in load})

    def load(self, node: str) -> int:
        return len(self._loads.get(node, ()))

    def is_silent(self, node: str) -> bool:
        return node in self._silent

    # Messages of nodes

    def hear(self, node: str, kind: str, payload: bytes) -> None:
        """Handles a node's state, info or health message."""
        now = self._clock()
        news = self._members.hear(node, kind, payload)
        if kind == "health" and self._members.knows(node):
            self._others[node] = max(0, self._members.busy(node) - self.load(node)), now
        if news is not None:
            self._take_news(node, news)
            self.pump()

    def _take_news(self, node: str, news: News) -> None:
        if news == "ready":
            self._pauses.pop(node, None)
            self._silent.pop(node, None)
        if news not in ("ended", "left"):
            return
        # A draining node answers running requests; it returns the others at its next start.
        if news == "left" and self._members.known.get(node) == "draining":
            return
        self.throughput.forget(node)
        for order in list(self._loads.pop(node, {})):
            order.at.pop(node, None)
            order.left_at.add(node)
            if news == "ended":
                order.ends += 1
                self._nodes.ended(order)
            if order.ends >= MOST_ENDS:
                self._give_up(order, self._poisoned())
            else:
                self._put_back(order)

    def answer(
        self, node: str, correlation: bytes, result: Result, payload: bytes
    ) -> ForwardedRequest | None:
        """Handles a node's result. :return: the request that the result belongs to; None if the request is
        unknown, or another node has answered it already."""
        now = self._clock()
        self._silent.pop(node, None)
        order = self._orders.get(correlation)
        if order is None or order.request.task != result.task:
            self.counts["late"] += 1
            return None
        sending = order.at.pop(node, None)
        order.left_at.discard(node)
        self._loads.get(node, {}).pop(order, None)
        if sending is not None:
            self._learn(node, sending, result, now)
        code = result.error.code if result.error is not None else None
        if code == "busy":
            retry_ms = result.error.retry_after_ms if result.error is not None else None
            pause_s = min(LONGEST_PAUSE_S, max(0.05, (retry_ms or 200) / 1000))
            self._pauses[node] = now + pause_s
            self._put_back(order)
        elif code == "cancelled" and not order.is_cancelled:
            # The node remembers that this order was withdrawn from it before: use another correlation,
            # unless another node has the order under this one.
            if not order.at:
                del self._orders[order.correlation]
                order.variant += 1
                self._orders[order.correlation] = order
            self._put_back(order)
        elif code in ELSEWHERE:
            order.refusals[node] = now + REFUSED_S
            order.refused = result, payload
            self._put_back(order)
            self._end_if_all_refuse(order)
        else:
            self._finish(order, (result, payload))
        self.pump()
        return order

    def piece(self, node: str, correlation: bytes, chunk: Chunk) -> Request | None:
        """Handles a chunk of a streamed answer. :return: the request whose client gets the chunk; None if the
        chunk has to be dropped."""
        self._silent.pop(node, None)
        order = self._orders.get(correlation)
        if order is None or chunk.seq <= order.highest_seq or not order.request.options.get("stream"):
            return None
        order.highest_seq = chunk.seq
        if (sending := order.at.get(node)) is not None:  # a sign of progress
            patience_s = self.throughput.patience_s(node, order.request.task, sending.service_s)
            sending.patience_at = max(sending.patience_at, self._clock() + patience_s)
        return order.request

    def undelivered(self, order: ForwardedRequest, node: str, error: RequestError | None) -> None:
        """Handles a failed publish to a node. ``error`` is the reason of a permanent failure; with None, a
        retry may succeed."""
        if order.at.pop(node, None) is None:
            return
        self._loads[node].pop(order, None)
        order.refusals[node] = self._clock() + (REFUSED_S if error is not None else 0.0)
        if error is not None:
            order.refused = order.refuse(error)
        self._put_back(order)
        self._end_if_all_refuse(order)

    def cancel(self, cancel: Cancel) -> None:
        for order in [one for one in self._orders.values() if cancel.means(one.request)]:
            order.is_cancelled = True
            order.cancelled_at = self._clock()
            self.waiting.remove(order)
            if not order.at:
                self._give_up(order, Cancelled("It was cancelled before a node had it."))
            for node in order.at:
                self._nodes.withdraw(order, node)

    def refuse_stranded(self) -> None:
        """Refuses queued requests whose task no online node serves. Call it when such requests hold back too
        many acknowledgements: once unacknowledged requests use up the Receive Maximum, the broker delivers no
        other requests."""
        if self._clock() - self.connected_at <= SETTLE_S:
            return
        for order in list(self.waiting):
            if not self._members.doing(order.request.task):
                task = order.request.task
                why = f"No node of the pool that does the task {task!r} is online; try again later."
                self._give_up(order, Busy(why, retry_after_ms=RETRY_MS))

    def tick(self) -> None:
        """Handles requests that have timed out, stuck nodes, and pauses that are over."""
        now = self._clock()
        self._has_settled = now - self.connected_at > SETTLE_S and bool(self._members.known)
        for order in list(self._orders.values()):
            self._check_limits(order, now)
        for node, load in self._loads.items():
            late = [order for order, sending in load.items() if now > sending.patience_at]
            if late:
                self._mark_stuck(node, late, now)
        for until_of in (self._pauses, *(order.refusals for order in self.waiting)):
            for node in [node for node, until in until_of.items() if now >= until]:
                del until_of[node]
        if now >= self._forget_at:
            self._forget_at = now + FORGET_EVERY_S
            self._forget_gone(now)
        self.pump()

    def _forget_gone(self, now: float) -> None:
        """Forgets the nodes that were gone for a week: renamed nodes would fill the memory over the years."""
        for node in self._members.forget_gone(now):
            log.info("node %s was away for a week and is forgotten", node)
            self.throughput.forget(node)
            self._silent.pop(node, None)
            self._others.pop(node, None)
            if not self.load(node):
                self._loads.pop(node, None)

    # Ends of orders

    def _check_limits(self, order: ForwardedRequest, now: float) -> None:
        """Ends a request that has expired or timed out, whose cancellation no node has confirmed in time, or
        whose task no member serves."""
        expires_at = order.request.expires_at
        if expires_at is not None and now >= expires_at:
            self._give_up(order, Expired("The time in which its sender wanted it has passed."))
        elif now >= order.give_up_at:
            self._give_up(order, self._too_late(order))
        elif order.is_cancelled and now > order.cancelled_at + CANCEL_S:
            self._give_up(order, Cancelled("It was cancelled."))
        elif self._has_settled and not order.at and not self._members.is_offered(order.request.task):
            self._give_up(order, UnknownTask(f"No node of the pool does the task {order.request.task!r}."))

    def _too_late(self, order: ForwardedRequest) -> RequestError:
        task = order.request.task
        if not self._members.is_offered(task):
            return UnknownTask(f"No node of the pool has ever offered the task {task!r}.")
        if order.at or order.left_at:
            return TimedOut("No node of the pool answered in time.")
        if not self._members.doing(task):
            return TimedOut(f"No node of the pool that does the task {task!r} is online.")
        return Busy("All nodes of the pool are busy; try again later.", retry_after_ms=RETRY_MS)

    @staticmethod
    def _poisoned() -> RequestError:
        return Poisoned(f"{MOST_ENDS} nodes ended while they had this request")

    def _give_up(self, order: ForwardedRequest, error: RequestError) -> None:
        self._finish(order, order.refuse(error))

    def _finish(self, order: ForwardedRequest, answer: Answer) -> None:
        self._orders.pop(order.correlation, None)
        self.waiting.remove(order)
        for node in order.at:
            self._loads[node].pop(order, None)
        for node in {*order.at, *order.left_at}:
            self._nodes.withdraw(order, node)
        order.at.clear()
        order.settle(answer)

    def _put_back(self, order: ForwardedRequest) -> None:
        """Queues a request again, for another node or a later time."""
        if order.is_cancelled:
            self._give_up(order, Cancelled("It was cancelled."))
        elif not order.at:
            self.counts["elsewhere"] += 1
            self.waiting.add(order)

    def _end_if_all_refuse(self, order: ForwardedRequest) -> None:
        others = set(self._members.doing(order.request.task)) - order.refusals.keys()
        if order.refused is not None and not order.at and not others and not order.is_cancelled:
            self._finish(order, order.refused)

    def _mark_stuck(self, node: str, late: list[ForwardedRequest], now: float) -> None:
        self._silent[node] = now + SILENT_S
        for order in late:
            sending = order.at[node]
            sending.patience_at = now + 2 * (now - sending.sent_at)
            others = set(self._members.doing(order.request.task)) - order.at.keys() - self._silent.keys()
            if len(order.at) > 1 or order.is_cancelled:
                continue
            self.counts["overdue"] += 1
            if others:
                log.warning("node %s has not answered for %.1f s", node, now - sending.sent_at)
                self.waiting.add(order)
            else:  # order or answer may be lost in a broker restart; nodes deduplicate
                self._nodes.forward(order, node)

    def _learn(self, node: str, sending: Sending, result: Result, now: float) -> None:
        total = result.timings_ms.get("total")
        if result.status == "error" or total is None or not math.isfinite(total):
            return
        service_s = max(0.0, total - result.timings_ms.get("queue", 0.0)) / 1000
        answer_s = now - sending.sent_at
        self.throughput.learn(
            node, result.task, service_s=min(service_s, answer_s), answer_s=answer_s, now=now
        )

    # Assignment

    def pump(self) -> None:
        """Sends queued requests to nodes, by the load-balancing policy."""
        now = self._clock()
        for task in self.waiting.tasks():
            ready = [order for order in self.waiting.of(task) if order.not_before <= now]
            if not ready:
                continue
            candidates = {
                node: self._candidate(node, task, now)
                for node in self._members.doing(task)
                if self._silent.get(node, now) <= now
            }
            while ready and (choice := choose(len(ready), list(candidates.values()))) is not None:
                position, found = choice
                order = self._nearest(ready, position, found.node)
                if order is None:  # this node has refused all of them
                    del candidates[found.node]
                    continue
                ready.remove(order)
                self._send(order, found, now)
                candidates[found.node] = self._candidate(found.node, task, now)

    def _candidate(self, node: str, task: str, now: float) -> Candidate:
        load = self._loads.get(node, {})
        service_s = self.throughput.service_s(node, task, now)
        is_sounded_out = service_s is None or node in self._silent
        room = 1 if is_sounded_out else self._window
        ready_s = max(0.0, self._pauses.get(node, now) - now)
        if load:
            first = next(iter(load.values()))
            begun_s = min(now - first.sent_at, first.service_s * (1 - LEAST_LEFT))
            ready_s += max(0.0, sum(sending.service_s for sending in load.values()) - begun_s)
        others, heard_at = self._others.get(node, (0, now))
        ready_s += others * max(0.0, 1 - (now - heard_at) / HEALTH_S) * (service_s or 0.0)
        # One queued order bridges the network delay, except for very short orders. Others wait here, where
        # they can still go to another node.
        has_room = len(load) < room and (len(load) < 2 or ready_s < LEAD_S)
        return Candidate(node, ready_s, service_s, has_room and node not in self._pauses)

    @staticmethod
    def _nearest(ready: list[ForwardedRequest], position: int, node: str) -> ForwardedRequest | None:
        """The request at ``position`` in the queue ``ready`` or, if it can't go to the node, the nearest
        request that can."""
        for order in [*ready[position:], *reversed(ready[:position])]:
            if node not in order.at and node not in order.refusals:
                return order
        return None

    def _send(self, order: ForwardedRequest, to: Candidate, now: float) -> None:
        expected_s = to.ready_s + (to.service_s or 0.0)
        patience_s = self.throughput.patience_s(to.node, order.request.task, expected_s)
        sending = Sending(now, now + patience_s, to.service_s or 0.0)
        self.waiting.remove(order)
        order.at[to.node] = sending
        self._loads.setdefault(to.node, {})[order] = sending
        self._nodes.forward(order, to.node)
