"""What became of the requests to a pool, and the invariants of its dispatchers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeslm.dispatcher.queue import ForwardedRequest
from edgeslm.node.attempts import TRANSIENT
from tests.simulation.apps import Ask
from tests.simulation.broker import Message
from tests.simulation.engine import LONG, answer_to
from tests.simulation.ledger import Violation
from tests.simulation.loop import PROCESS, SimLoop

if TYPE_CHECKING:
    from tests.simulation.node import SimDispatcher
    from tests.simulation.pool import PoolWorld

CODES = {
    "ok",
    "busy",
    "timeout",
    "unknown_task",
    "expired",
    "cancelled",
    "poisoned",
    "invalid_request",
    "no_memory",
}
"""What the requests of a run may get: ``ok`` or the code of an error. An engine that fails has no memory."""
MOST_KILLED = 6
"""Nodes that a request may kill: each dispatcher gives it up after three, and counts only its own."""


class PoolLedger:
    """Watches the broker, the dispatchers and the engines of one pool, whose dispatchers use the client
    identifier ``client``."""

    def __init__(self, loop: SimLoop, note: Callable[[str], None], client: str) -> None:
        self._loop = loop
        self._client = client
        self.note = note
        self.asks: dict[str, Ask] = {}
        self.by_text: dict[str, Ask] = {}
        self.violations: list[Violation] = []
        self.codes: Counter[str] = Counter()
        self.leader: Callable[[], SimDispatcher | None] = lambda: None
        """The dispatcher whose connection is the pool's session."""
        self.disk_trouble_at: dict[str, float] = {}
        """Dispatcher -> when its disk last lost or refused something."""
        self._stored: dict[tuple[str, str], tuple[float, bytes]] = {}
        """Request and dispatcher -> the last result that it sent and keeps, and when it sent it."""
        self._running: dict[str, Ask] = {}
        """Node -> the request that it ran last."""

    def violation(self, invariant: str, sentence: str) -> None:
        self.note(f"VIOLATION {invariant}: {sentence}")
        self.violations.append(Violation(self._loop.now - 1000.0, invariant, sentence))

    def add(self, ask: Ask) -> None:
        self.asks[ask.name] = ask
        self.by_text[ask.text] = ask

    # The broker's Watcher

    def accepted(self, client: str, message: Message, *, has_readers: bool) -> None:
        if client.startswith("app-"):
            if (ask := self._own(message)) is not None:
                ask.accepted += 1
                ask.accepted_at = ask.accepted_at or self._loop.now
                ask.forgotten += not has_readers
                self.note(f"accepted {ask.name}")
        elif client != self._client:
            return
        elif message.topic.endswith("/dead"):
            if (ask := self._answered(json.loads(message.payload)["id"])) is not None:
                ask.dead += 1
                self.note(f"dead {ask.name}")
        elif "/res/" in message.topic:
            self._result(message)

    def _result(self, message: Message) -> None:
        body = json.loads(message.payload)
        code = body["error"]["code"] if body["status"] == "error" else body["status"]
        self.codes[code] += 1
        ask = self._answered(body["id"]) or self._answered(message.topic.rpartition("/")[2])
        dispatcher = self.leader()
        leader = dispatcher.name if dispatcher is not None else ""
        if ask is None:
            self.violation("asker", f"a result of {body['id']!r}, which nobody asked")
            return
        self.note(f"{leader} answers {ask.name} {code}")
        if message.topic != ask.reply_to or message.correlation != ask.correlation:
            self.violation("asker", f"the result of {ask.name} went to {message.topic}")
        if code not in CODES or (ask.error and code == "ok"):
            self.violation("content", f"{ask.name} got {body}")
        tail = "." * LONG if "long" in ask.engine else ""
        if code == "ok" and body["result"].get("text") != answer_to(ask.text) + tail:
            self.violation("content", f"{ask.name} got {body['result']}")
        before = self._stored.get((ask.name, leader))
        if before is not None and before[1] != message.payload and self._knows(ask, leader):
            self.violation("same result", f"{ask.name} got two different results of {leader}")
        ask.results.append((self._loop.now, message.payload))
        is_kept = code not in TRANSIENT and code not in ("expired", "timeout", "unknown_task")
        if is_kept and dispatcher is not None and dispatcher.can_store:
            self._stored[ask.name, leader] = self._loop.now, message.payload

    def _knows(self, ask: Ask, dispatcher: str) -> bool:
        """Whether this dispatcher has a result of the request in its journal."""
        stored_at, _ = self._stored.get((ask.name, dispatcher), (-1.0, b""))
        return ask.is_named and stored_at > self.disk_trouble_at.get(dispatcher, 0.0)

    def released(self, client: str, message: Message) -> None:
        """The client acknowledged a message, or it expired at the broker."""
        ask = self._own(message) if client == self._client else None
        if ask is not None and not ask.is_ended and not ask.is_expired(self._loop.now):
            self.violation("acknowledged early", f"{ask.name} was acknowledged without a result")

    def forgotten(self, messages: list[Message]) -> None:
        for message in messages:
            if (ask := self._own(message)) is not None:
                ask.forgotten += 1
                self.note(f"the broker forgot {ask.name}")

    def reverted(self, messages: list[Message]) -> None:
        return

    def _answered(self, name: str) -> Ask | None:
        if (ask := self.asks.get(name)) is not None:
            return ask
        try:
            return self.asks.get(bytes.fromhex(name).decode())
        except ValueError:
            return None

    def _own(self, message: Message) -> Ask | None:
        """The request that ``message`` is; None for other messages."""
        if message.topic.endswith("/cancel"):
            return None
        try:
            ask = self.by_text.get(json.loads(message.payload).get("input", ""))
        except (ValueError, AttributeError):
            return None
        return ask if ask is not None and message.topic == ask.topic else None

    # Dispatchers and engines

    def submitted(self, order: ForwardedRequest) -> None:
        """A dispatcher begins to look for a node that answers the request."""
        process = PROCESS.get()
        ask = self.by_text.get(str(order.request.input))
        if process is None or ask is None:
            self.violation("content", f"a dispatcher forwards {order.request.input!r}, which nobody sent")
        elif self._knows(ask, process.name):
            self.violation("twice", f"{process.name} forwards {ask.name}, whose result it has sent")

    def ran(self, node: str, text: str) -> None:
        if text == ".":  # the warm-up's
            return
        if (ask := self.by_text.get(text)) is None:
            self.violation("content", f"an engine got a text that nobody sent: {text!r}")
            return
        self.note(f"{node} runs {ask.name}")
        ask.runs.append((self._loop.now, 0))
        self._running[node] = ask

    def killed_by_run(self, node: str) -> None:
        """A node is killed by the request that it runs."""
        ask = self._running[node]
        ask.kills.append(self._loop.now)
        if len(ask.kills) > MOST_KILLED and not self.disk_trouble_at:
            self.violation("poison", f"{ask.name} has killed {len(ask.kills)} nodes")

    def got(self, app: str, message: Message) -> None:
        topic = message.topic.removesuffix("/stream")
        ask = self._answered(json.loads(message.payload)["id"]) or self._answered(topic.rpartition("/")[2])
        if ask is None or ask.app != app or topic != ask.reply_to:
            self.violation("asker", f"{app} got a message on {message.topic} that it didn't ask for")
        elif topic == message.topic:
            ask.got += 1
        elif not ask.options.get("stream"):
            self.violation("asker", f"{ask.name} got a piece of an answer, and asked for none")

    # Checks

    def unfinished(self) -> int:
        return sum(ask.accepted > 0 and not ask.is_ended for ask in self.asks.values())

    def check_bounds(self, dispatcher: SimDispatcher) -> None:
        work = dispatcher.dispatcher.work if dispatcher.dispatcher is not None else None
        if work is None:
            return
        limits, forwarder = dispatcher.settings.limits, work.nodes.forwarder
        bounds = {
            "messages in flight": (len(work._admission), 2 * limits.queue + limits.qos0_queue),
            "requests at a node": (
                max((len(load) for load in forwarder._loads.values()), default=0),
                limits.node_queue,
            ),
            "early answers": (len(work.nodes._early), 1000),
        }
        for name, (found, most) in bounds.items():
            if found > most:
                self.violation("bounds", f"{found} {name}, and {most} are the limit")

    def why_busy(self, world: PoolWorld) -> str:
        """Why the pool isn't idle; empty if it is."""
        leaders = [one.dispatcher.work for one in world.dispatchers if one.dispatcher and one.dispatcher.work]
        if len(leaders) != 1 or not leaders[0]._acks.leads:
            return f"{len(leaders)} dispatchers lead"
        work = leaders[0]
        for bus in (work.pool, work.nodes.bus):
            if not bus.connected or len(bus._outbox):
                return f"the dispatcher has {len(bus._outbox)} messages in an outbox"
        if len(work._admission) or work.nodes.forwarder._orders or work.nodes._early:
            return f"the dispatcher has {len(work._admission)} messages in flight"
        for node in world.nodes:
            if (
                node.daemon is None
                or not node.daemon.bus.connected
                or node.name not in work.nodes.members.online
            ):
                return f"{node.name} isn't online"
            if len(node.daemon._pipeline._admission) or len(node.daemon.bus._outbox):
                return f"{node.name} has messages"
        for name, session in world.broker.sessions.items():
            if session.queue or session.in_flight:
                return f"{len(session.queue) + len(session.in_flight)} messages wait at the broker for {name}"
        for ask in self.asks.values():
            if ask.is_expired(self._loop.now) or not ask.qos:
                continue
            if not ask.accepted:
                return f"{ask.name} isn't accepted"
            if ask.repeats and not ask.got:
                return f"{ask.name} is repeated and has no result"
        return ""

    def finish(self) -> None:
        for ask in self.asks.values():
            if not ask.accepted or ask.is_ended or ask.is_expired(self._loop.now):
                continue
            if not ask.forgotten or ask.repeats:
                self.violation("lost", f"{ask.name} was accepted and has no result")
