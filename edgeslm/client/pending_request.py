"""Pending requests and messages: retries until the result or the broker's acknowledgement arrives. Pure.

Nodes deduplicate requests, so an unnecessary retry is cheap, while without retries requests may be lost. A
request is resent with the same payload after each reconnect, after a growing interval without a result, and
when the node was busy. Only a result, a refusal or the timeout ends a request.
"""

from __future__ import annotations

import logging
import math
import random
from dataclasses import dataclass, field, replace
from typing import Protocol

from edgeslm.errors import BrokerError, EdgeslmError, TimedOut
from edgeslm.messages import Chunk, Result
from edgeslm.mqtt.diagnostics import Problem
from edgeslm.protocol.codec import parse_chunk, parse_result
from edgeslm.protocol.delivery import OutgoingMessage
from edgeslm.protocol.topics import Topics

log = logging.getLogger("edgeslm.client")

FIRST_INTERVAL_S = 5.0
"""Seconds without a result before the first retry; the interval doubles with each retry."""

LONGEST_INTERVAL_S = 30.0

NOBODY_INTERVAL_S = 2.0
"""Seconds between retries while no node is subscribed. The interval is short, since the broker reports
missing subscribers at once."""

LONGEST_EXPIRY_S = 2**32 - 1
"""Maximum Message Expiry Interval in seconds: the property has four bytes (MQTT 5 section 3.3.2.3.3)."""

JITTER = 0.25
"""Relative jitter of intervals, so that the apps of a site don't retry all at once."""

NOBODY_LISTENS = 0x10
"""PUBACK reason code "No matching subscribers" (MQTT 5 section 3.4.2.1)."""

TRANSIENT = frozenset({0x91, 0x97})
"""PUBACK reason codes "Packet Identifier in use" and "Quota exceeded". After any other failure, a retry can't
help."""


# Events of a request. ``generation`` counts the connections.


@dataclass(frozen=True, slots=True)
class Ready:
    """The client has subscribed to the reply topic on the current connection, so it may send the request."""

    generation: int


@dataclass(frozen=True, slots=True)
class Lost:
    """A connection broke or could not be made."""

    generation: int
    problem: Problem


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The broker's PUBACK: its reason code and the code's name."""

    reason: int
    name: str


@dataclass(frozen=True, slots=True)
class Room:
    """The broker's Receive Maximum allows one more message in flight."""


@dataclass(frozen=True, slots=True)
class NodeUp:
    """The node's state is online: the node has subscribed to its topics."""


@dataclass(frozen=True, slots=True)
class Answered:
    payload: bytes


@dataclass(frozen=True, slots=True)
class Piece:
    payload: bytes


@dataclass(frozen=True, slots=True)
class Heard:
    """A message of a subscription. ``retained`` is true if the message was published before the
    subscription."""

    topic: str
    payload: bytes = field(repr=False)
    retained: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """A permanent failure: the client or stream was closed, or the subscription was refused."""

    error: EdgeslmError


Event = Ready | Lost | Acknowledged | Room | NodeUp | Answered | Piece | Heard | Failed


class Sender(Protocol):
    """Interface of the connection over which requests are sent."""

    node_state: str | None
    """The last state that the node has published."""

    def send(self, outgoing: OutgoingMessage) -> int | None:
        """Publishes a message. :return: the number of the current connection (the ``generation`` of an
        event); None if the message can't be sent now."""


def named(node: str) -> str:
    """The name of a node or pool in an error message, such as ``the node 'hall'`` or ``the pool
    'triage'``."""
    pool = Topics(node).pool
    return f"the node {node!r}" if pool is None else f"the pool {pool!r}"


def nobody(node: str) -> str:
    pool = Topics(node).pool
    return f"No node {node!r}" if pool is None else f"No member of the pool {pool!r}"


class PendingRequest:
    """State machine of a request. After :meth:`begin`, call :meth:`advance` for each event, and after
    :meth:`wait_s` seconds without an event.

    ``outgoing`` is resent unchanged except for its expiry, since nodes recognize repeated requests by their
    content. ``chunks`` collects only pieces whose ``seq`` is above the highest so far, so that no text comes
    twice if the node runs the request again. The caller removes the pieces that it has read. Times are
    ``time.monotonic()`` seconds.
    """

    def __init__(
        self,
        outgoing: OutgoingMessage,
        sender: Sender,
        *,
        node: str,
        timeout_s: float,
        interval_s: float = FIRST_INTERVAL_S,
    ) -> None:
        self.outgoing = outgoing
        self.chunks: list[Chunk] = []
        self._sender = sender
        self._node = node
        self._timeout_s = timeout_s
        self._first_interval_s = interval_s
        self._interval_s = interval_s
        self._until = self._next_at = math.inf
        self._sent_on: int | None = None
        self._is_under_way = False
        self._was_accepted = False
        self._nobody_listens = False
        self._is_held = False
        self._was_busy = False
        self._lost: Problem | None = None
        self._highest_seq = -1
        self.times_sent = 0

    def begin(self, now: float) -> None:
        """Starts the timeout."""
        self._until, self._next_at = now + self._timeout_s, now

    def wait_s(self, now: float) -> float:
        """Seconds until :meth:`advance` must be called, even without an event."""
        return max(0.0, min(self._next_at, self._until) - now)

    def abandon(self, cancel_topic: str, now: float) -> None:
        """Cancels the request on the node, if it was ever sent."""
        if self.times_sent:
            # The cancel lives as long as the request, which may still reach an offline node.
            left_s = math.ceil(min(max(0.0, self._until - now) + LONGEST_INTERVAL_S, LONGEST_EXPIRY_S))
            correlation = self.outgoing.correlation
            self._sender.send(OutgoingMessage(cancel_topic, b"", correlation=correlation, expiry_s=left_s))

    def advance(self, event: Event | None, now: float) -> Result | None:
        """Handles an event and sends the request if it is due. :return: the result, or None if it hasn't
        arrived yet.

        :raises TimedOut: no result came in time.
        :raises BrokerError: the message was refused, no node is subscribed, or the client was closed.
        :raises ProtocolError: the answer isn't a result.
        :raises TooLarge: the packet is too large for the broker.
        """
        result = self._take(event, now) if event is not None else None
        if result is not None:
            return result
        if now >= self._until:
            raise TimedOut(self._why_not())
        if now >= self._next_at:
            self._send_now(now)
        return None

    def _send_now(self, now: float) -> None:
        self._next_at = now + self._interval_with_jitter()
        if self._is_under_way:  # the broker hasn't acknowledged the last copy yet
            return
        expiry_s = math.ceil(min(max(1.0, self._until - now), LONGEST_EXPIRY_S))
        generation = self._sender.send(replace(self.outgoing, expiry_s=expiry_s))
        if generation is None:  # `Ready` or `Room` follows
            return
        self.times_sent += 1
        if self.times_sent > 1:
            log.info("no result yet: the request was sent again (number %d)", self.times_sent)
        self._sent_on = generation
        self._is_under_way = True
        self._is_held = False
        self._lost = None
        self._interval_s = max(self._interval_s, min(2 * self._interval_s, LONGEST_INTERVAL_S))

    def _interval_with_jitter(self) -> float:
        return self._interval_s * random.uniform(1 - JITTER, 1 + JITTER)

    def _take(self, event: Event, now: float) -> Result | None:
        match event:
            case Answered(payload):
                return self._take_result(parse_result(payload), now)
            case Piece(payload):
                self._take_chunk(parse_chunk(payload), now)
            case Ready(generation):
                self._lost = None
                if generation != self._sent_on:
                    self._is_under_way = False
                    self._interval_s = self._first_interval_s
                    self._hurry(now)
            case Lost(generation, problem):
                self._take_loss(generation, problem)
            case Acknowledged():
                self._take_acknowledgement(event, now)
            case Room():
                self._hurry(now)
            case NodeUp():
                if self._nobody_listens:
                    self._hurry(now)
            case Failed(error):
                raise error
        return None

    def _hurry(self, now: float) -> None:
        if not self._is_held:
            self._next_at = now

    def _take_result(self, result: Result, now: float) -> Result | None:
        if result.error is None or result.error.code != "busy":
            return result
        if self._is_held:  # the answer to an earlier copy
            return None
        retry_after_ms = result.error.retry_after_ms
        wait_s = max(0.1, retry_after_ms / 1000) if retry_after_ms is not None else self._interval_s
        if now + wait_s >= self._until:
            return result
        self._was_busy = self._is_held = True
        self._next_at = now + wait_s * random.uniform(1.0, 1 + JITTER)
        log.info("the node is busy: the request is sent again in %.1f s", self._next_at - now)
        return None

    def _take_chunk(self, chunk: Chunk, now: float) -> None:
        if not self._is_held:  # the node is working on it
            self._next_at = max(self._next_at, now + self._interval_with_jitter())
        if chunk.seq > self._highest_seq:
            self._highest_seq = chunk.seq
            self.chunks.append(chunk)

    def _take_loss(self, generation: int, problem: Problem) -> None:
        self._lost = problem
        if problem.fatal:
            raise BrokerError(problem.sentence)
        if generation == self._sent_on:
            self._is_under_way = False

    def _take_acknowledgement(self, acknowledged: Acknowledged, now: float) -> None:
        self._is_under_way = False
        self._nobody_listens = acknowledged.reason == NOBODY_LISTENS
        if acknowledged.reason >= 0x80:
            if acknowledged.reason not in TRANSIENT:
                raise BrokerError(f"The broker refuses the request: {acknowledged.name}.")
        elif not self._nobody_listens:
            self._was_accepted = True
        elif self._was_accepted or self._sender.node_state not in (None, "stopped"):
            # The broker was killed and lost the node's session; the node will reconnect. An `offline` node
            # will too: after a suspend, a broker may publish wills of old connections.
            self._next_at = now + NOBODY_INTERVAL_S * random.uniform(1 - JITTER, 1 + JITTER)
        else:
            is_node = Topics(self._node).pool is None
            advice = "check the name, or start the node" if is_node else "check both names, or start a member"
            for_it = "" if is_node else " for this task"
            raise BrokerError(f"{nobody(self._node)} listens{for_it} at this broker; {advice}.")

    def _why_not(self) -> str:
        said = f"No result came within {self._timeout_s:g} s"
        if self._lost is not None:
            return f"{said}: there is no connection. {self._lost.sentence}"
        if self._nobody_listens:
            return f"{said}: {named(self._node)} hasn't come back to this broker."
        if self._is_under_way or not self.times_sent:
            return f"{said}: the broker doesn't answer any more."
        if self.times_sent > 1:
            said += f", though the request was sent {self.times_sent} times"
        state = self._sender.node_state
        if state is None and Topics(self._node).pool is not None:  # only dispatchers have one
            is_so = "was busy" if self._was_busy else "has none that answered"
            return f"{said}; {named(self._node)} {is_so}."
        is_so = f"is {state}" if state else "has never been online here"
        return f"{said}; {named(self._node)} {is_so}{' and was busy' if self._was_busy else ''}."


class PendingMessage:
    """A message that gets no answer and is resent until acknowledged; used like a :class:`PendingRequest`."""

    def __init__(
        self, outgoing: OutgoingMessage, sender: Sender, *, node: str, now: float, timeout_s: float
    ) -> None:
        self.outgoing = outgoing
        self._sender = sender
        self._node = node
        self._timeout_s = timeout_s
        self._until = now + timeout_s
        self._next_at = math.inf

    def wait_s(self, now: float) -> float:
        """Seconds until :meth:`advance` must be called, even without an event."""
        return max(0.0, min(self._next_at, self._until) - now)

    def advance(self, event: Event | None, now: float) -> bool | None:
        """Handles an event and sends the message if it is due. :return: true once the broker has acknowledged
        the message.

        :raises TimedOut: no acknowledgement in time.
        :raises BrokerError: the message was refused, no node is subscribed, or the client was closed.
        """
        match event:
            case Acknowledged(reason, name):
                if reason == NOBODY_LISTENS:
                    raise BrokerError(f"{nobody(self._node)} listens at this broker; it was not delivered.")
                if reason < 0x80:
                    return True
                if reason not in TRANSIENT:
                    raise BrokerError(f"The broker refuses the message: {name}.")
                self._next_at = now + NOBODY_INTERVAL_S
            case Ready() | Room():
                self._next_at = now
            case Lost(_, problem) if problem.fatal:
                raise BrokerError(problem.sentence)
            case Failed(error):
                raise error
        if now >= self._until:
            raise TimedOut(f"The broker didn't take the message within {self._timeout_s:g} s.")
        if now >= self._next_at:
            self._next_at = math.inf
            self._sender.send(self.outgoing)
        return None
