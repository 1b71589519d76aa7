"""The ledger of a run: what was asked and what became of it, and the invariants of delivery."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeslm.mqtt.client import OUTBOX_BYTES
from edgeslm.node.attempts import LOST_ENGINE, MOST_LOST, TRANSIENT
from edgeslm.node.daemon import Daemon
from edgeslm.storage.journal import LOST_NODE
from tests.simulation.apps import Ask
from tests.simulation.broker import Message
from tests.simulation.engine import LONG, answer_to
from tests.simulation.loop import SimLoop
from tests.simulation.others import label_of
from tests.simulation.routes import WINDOWS, RouteLedger

if TYPE_CHECKING:
    from tests.simulation.node import SimNode
    from tests.simulation.world import Outcome, World

MOST_KILLS = 2
"""A request in whose runs the node was killed this often must not run again."""


@dataclass(frozen=True, slots=True)
class Violation:
    at: float
    invariant: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.invariant} at {self.at:.3f} s: {self.sentence}"


class Ledger:
    """Watches broker, nodes, engines and senders."""

    def __init__(self, loop: SimLoop, note: Callable[[str], None]) -> None:
        self._loop = loop
        self.note = note
        self.nodes: dict[str, SimNode] = {}
        self.asks: dict[str, Ask] = {}
        self.by_text: dict[str, Ask] = {}
        self.by_payload: dict[bytes, Ask] = {}
        self.routes = RouteLedger(self)
        self.violations: list[Violation] = []
        self.codes: dict[str, int] = {}
        self.disk_trouble_at = -1.0
        """When a disk last lost, refused or changed something."""
        self.refused_since: float | None = None
        """Since when the disk refuses writes; None if it doesn't."""
        self._known_since: float | None = None
        """Since when the node knows that it can't write its journal."""
        self.has_flipped = False
        """Whether the disk has changed something."""
        self._is_told = False
        """Whether a node has told that the disk changed something."""
        self._running: dict[str, Ask] = {}
        self.has_names = False
        """Whether a model redacts messages."""
        self.keeps_answers = True
        """Whether the journal keeps each answer until the end of the run."""
        self.bugs: dict[str, list[Ask]] = {}
        """Topic -> messages on which a bug ended the work."""
        self.dead_on: Counter[str] = Counter()
        """Reply topic -> dead letters. Those of a message that a route can't read name its topic."""
        self.filters: Callable[[], set[str]] = set
        """The filters to which a node is subscribed now."""

    def violation(self, invariant: str, sentence: str) -> None:
        self.note(f"VIOLATION {invariant}: {sentence}")
        self.violations.append(Violation(self._loop.now - 1000.0, invariant, sentence))

    @property
    def now(self) -> float:
        return self._loop.now

    def add(self, ask: Ask) -> None:
        self.asks[ask.name] = ask
        self.by_text[ask.text] = ask
        self.by_payload[ask.payload] = ask

    # The broker's Watcher

    def _ask_of(self, message: Message) -> Ask | None:
        if message.correlation is not None:
            name = message.correlation.decode()
            return self.asks.get(f"x{name}" if message.topic.endswith("/cancel") else name)
        return self.by_payload.get(message.payload)

    def _answered(self, body: dict[str, Any], topic: str) -> Ask | None:
        """The request to which a result or a dead letter with this body and reply topic belongs."""
        if (ask := self.asks.get(body["id"])) is not None:
            return ask
        if (ask := self.asks.get(topic.rpartition("/")[2])) is not None and ask.names == "topic":
            return ask
        try:
            return self.asks.get(bytes.fromhex(body["id"]).decode())
        except ValueError:
            return None

    def accepted(self, client: str, message: Message, *, has_readers: bool) -> None:
        node = self.nodes.get(client)
        if node is None:
            ask = self._ask_of(message)
            if ask is not None:
                ask.accepted += 1
                # The broker forgot the node's session, or hasn't all of its subscriptions yet.
                if not has_readers or not self.routes.filters(ask) <= self.filters():
                    ask.forgotten += 1
                if ask.accepted_at is None:
                    ask.accepted_at = self._loop.now
            self.note(f"accepted {message.topic} {ask.name if ask else message.payload!r}")
        elif message.topic == node.topics.dead:
            body = json.loads(message.payload)
            if "ended the connection" in body["message"]:  # this broker never does so because of a message
                self.violation("given up", f"{body['id']}: {body['message']}")
            topic = body["reply_to"]
            self.dead_on[topic] += 1
            for ask in self.bugs.pop(topic, ()):
                ask.dead += 1
            dead = self._answered(body, topic) or self.routes.ask_of(topic)
            if dead is not None:
                dead.dead += 1
                self.note(f"dead {dead.name}")
            elif (name := body["reply_to"].removeprefix("out/")) in WINDOWS:
                self.routes.failed(node, name)
        elif "/res/" in message.topic:
            body = json.loads(message.payload)
            is_bug = body["status"] == "error" and body["error"]["code"] == "internal"
            if (ask := self._answered(body, message.topic)) is None:
                if not is_bug:
                    self.violation("asker", f"a result of {body['id']!r}, which nobody asked")
                return
            is_ours = message.topic == ask.reply_to and message.correlation == ask.correlation
            if not is_ours and not (is_bug and message.topic.startswith(f"{node.topics.base}/res/")):
                self.violation("asker", f"the result of {ask.name} went to {message.topic}")
            self.result(ask, message)
        elif message.topic.startswith("out/"):
            self.routes.result(node, message)

    def result(self, ask: Ask, message: Message) -> None:
        """A result of a request, or of a message that a route reads."""
        body = json.loads(message.payload)
        self.note(f"result {ask.name} {body['status']} {body.get('error', {}).get('code', '')}")
        code = body["status"] if body["status"] != "error" else body["error"]["code"]
        self.codes[code] = self.codes.get(code, 0) + 1
        if body["status"] == "ok" and (ask.error or not is_right(ask, body["result"])):
            self.violation("content", f"{ask.name} got {body['result']}")
        elif code in TRANSIENT or code in ("cancelled", "timeout"):
            ask.lose_points()
        if body["status"] == "ok":
            for at, before in ask.results:
                same = before == message.payload
                is_again = at > self.disk_trouble_at and json.loads(before)["status"] == "ok"
                if not same and is_again and self.is_known_again(ask):
                    self.violation("same result", f"{ask.name} got two different results")
                    break
        daemon = next(iter(self.nodes.values())).daemon
        if daemon is None or daemon._journal._unsaved:  # the disk failed: it is only in memory
            self.disk_trouble_at = self._loop.now + 1e-6
        ask.results.append((self._loop.now, message.payload))

    def is_known_again(self, ask: Ask) -> bool:
        """Whether the node recognizes each repeat; a message without id is known by its packet identifier,
        and by the number of the broker's session, which a bad disk may change."""
        if self.has_flipped and (ask.accepted_at or 0.0) <= self.disk_trouble_at:
            return False
        return self.keeps_answers and (ask.is_named or ask.is_single)

    def released(self, client: str, message: Message) -> None:
        """The client acknowledged a message, or it expired at the broker."""
        node = self.nodes.get(client)
        ask = self._ask_of(message) if node is not None else None
        if node is None or ask is None:
            return
        is_missing = self.routes.is_missing(ask) and not self.routes.given_up
        if is_missing and node.config.durability == "broker":
            self.violation("acknowledged early", f"{ask.name} was acknowledged, and no collection has it")
        if not (ask.is_request or self.routes.has_result(ask)):
            return
        if ask.is_ended or ask.is_expired(self._loop.now) or self.is_excused(ask):
            pass
        elif node.config.durability == "spool":
            ask.kept = True
        else:
            self.violation("acknowledged early", f"{ask.name} was acknowledged without a result")

    def forgotten(self, messages: list[Message]) -> None:
        for message in messages:
            if (ask := self._own(message)) is not None:
                ask.forgotten += 1
                self.note(f"the broker forgot {ask.name}")

    def reverted(self, messages: list[Message]) -> None:
        for message in messages:
            if (ask := self._own(message)) is not None:
                ask.reverted += 1
                self.note(f"the broker has an earlier state of {ask.name}")

    def is_excused(self, ask: Ask) -> bool:
        """Whether a dead letter may be about this message of a route."""
        return not ask.is_request and self.dead_on[ask.topic] > 0

    def _own(self, message: Message) -> Ask | None:
        """The request or message for a route that ``message`` is; None for a result."""
        ask = self._ask_of(message)
        return ask if ask is not None and message.topic == ask.topic else None

    # Engines

    def ran(self, node: str, text: str) -> None:
        if text == "." or self.routes.is_digest(text):  # "." is the warm-up's
            self.routes.check_texts(text)
            return
        ask = self.by_text.get(text)
        if ask is None:
            self.violation("content", f"an engine got a text that nobody sent: {text!r}")
            return
        now = self._loop.now
        boot = next(iter(self.nodes.values())).boots
        self.note(f"the engine runs {ask.name}")
        self._check_busy(ask, next(iter(self.nodes.values())).daemon)
        for at, payload in ask.results:
            is_known = at > self.disk_trouble_at and self.is_known_again(ask)
            if json.loads(payload)["status"] == "ok" and is_known:
                self.violation("twice", f"{ask.name} ran again after its result was sent")
                break
        if any(
            done_boot == boot
            and at > self.disk_trouble_at
            and at > ask.crashed_at
            and self.is_known_again(ask)
            for at, done_boot in ask.done
        ):
            self.violation("twice", f"{ask.name} ran twice in one process")
        kills = sum(at > self.disk_trouble_at for at in ask.kills)
        if kills >= MOST_KILLS and self.is_known_again(ask):
            self.violation("poison", f"{ask.name} ran again after the node was killed {len(ask.kills)} times")
        ask.points, ask.new_points = ask.points + ask.new_points, 0
        since = ask.points_since
        is_certain = since is not None and since > self.disk_trouble_at and self.is_known_again(ask)
        if ask.points >= MOST_LOST and is_certain:
            self.violation("poison", f"{ask.name} ran again with {ask.points} crash points")
        ask.runs.append((now, boot))
        self._running[node] = ask

    def _check_busy(self, ask: Ask, daemon: Daemon | None) -> None:
        """A request that comes while the node can't write its journal must not run."""
        if daemon is None or daemon.database.problem is None or ask.accepted_at is None:
            return
        if self.refused_since is None or self._known_since is None:
            return
        if self.refused_since < self._known_since < ask.accepted_at and ask.is_request:
            self.violation("busy", f"{ask.name} ran although the journal can't be written")

    def done(self, node: str, text: str) -> None:
        ask = self.by_text.get(text)
        if ask is not None:
            ask.done.append((self._loop.now, next(iter(self.nodes.values())).boots))
        self._running.pop(node, None)

    def crashed(self, node: str) -> None:
        if (ask := self._running.pop(node, None)) is not None:
            ask.crashed_at = self._loop.now
            ask.new_points += LOST_ENGINE
            ask.points_since = ask.points_since or self._loop.now

    # Nodes

    def node_started(self, node: SimNode, daemon: Daemon) -> None:
        self.note(f"boot {node.boots}")
        self.routes.meters.append(daemon.meter)
        self._known_since = None

    def node_abandoned(self) -> None:
        """A node that ends has broken off what it did: these requests aren't to blame if it is killed now."""
        self._running.clear()
        for ask in self.asks.values():
            ask.lose_points()

    def node_killed(self, daemon: Daemon | None) -> None:
        if daemon is not None:
            self.see_damage(daemon)
            if daemon.database.problem is not None:  # what it sent up to now was only in its memory
                self.disk_failed()
        for ask in self._running.values():
            ask.crashed_at = self._loop.now
            # An engine may still work on a request that ended, by its deadline for example.
            is_ended = any(at >= ask.runs[-1][0] for at, _ in ask.results)
            if daemon is not None and not is_ended:
                ask.kills.append(self._loop.now)
                ask.points += LOST_NODE
                ask.points_since = ask.points_since or self._loop.now
        self._running.clear()
        for ask in self.asks.values():
            ask.new_points = 0
            if daemon is None:  # it ended on its own, and broke off what it did
                ask.lose_points()

    def node_disconnected(self, daemon: Daemon) -> None:
        """After the node has handled a lost connection: what it holds must be in the spool."""
        for held in daemon._pipeline._admission:
            if not held.is_request or held.qos0:
                continue
            ask = self.by_text.get(_text(held.delivery.payload))
            if held.spooled is not None:
                if ask is not None:
                    ask.kept = True
            elif not self.keeps_answers and daemon.database.used_bytes > daemon.config.limits.journal_bytes:
                continue
            elif daemon.database.problem is None and self._loop.now - self.disk_trouble_at > 5.0:
                name = ask.name if ask is not None else "a message"
                self.violation("spool", f"{name} isn't in the spool after the connection broke")

    def power_cut(self) -> None:
        self.disk_trouble_at = self._loop.now

    def disk_failed(self) -> None:
        self.disk_trouble_at = self._loop.now

    def disk_flipped(self) -> None:
        self.disk_trouble_at = self._loop.now
        self.has_flipped = True

    @property
    def may_lose(self) -> bool:
        """Whether messages that were only on the disk may be lost: it changed some, and a node told it."""
        return self.has_flipped and self._is_told

    def see_damage(self, daemon: Daemon) -> None:
        if daemon.database.damage is not None and not self._is_told:
            self._is_told = True
            self.note("the node tells that its disk is bad")

    # Senders

    def got(self, app: str, message: Message) -> None:
        body = json.loads(message.payload)
        topic = message.topic.removesuffix("/stream")
        ask = self._answered(body, topic)
        if ask is None or ask.app != app or topic != ask.reply_to:
            self.violation("asker", f"{app} got a message on {message.topic} that it didn't ask for")
        elif topic == message.topic:
            ask.got += 1
        elif not ask.options.get("stream"):
            self.violation("asker", f"{ask.name} got a piece of an answer, and asked for none")

    # Checks

    def unfinished(self) -> int:
        return sum(
            ask.accepted > 0 and not ask.is_ended and (ask.is_request or self.routes.has_result(ask))
            for ask in self.asks.values()
        )

    def check_bounds(self, world: World) -> None:
        daemon = world.node.daemon
        if daemon is None or not world.node.is_up:
            return
        self.see_damage(daemon)
        if daemon.database.problem is None:
            self._known_since = None
        elif self._known_since is None:
            self._known_since = self._loop.now
        limits = daemon.config.limits
        pipeline, bus = daemon._pipeline, daemon.bus
        bounds = {
            "messages in flight": (len(pipeline._admission), 2 * limits.queue + limits.qos0_queue),
            "waiting requests": (daemon.service.scheduler.waiting, daemon.service.scheduler.limit),
            "bytes in the outbox": (bus.waiting_bytes, OUTBOX_BYTES),
            "unsaved results": (len(daemon._journal._unsaved), 1024),
            "receipts": (len(bus._receipts), limits.queue),
            "messages sent at a time": (
                len(bus._outbox.flow),
                bus._welcome.receive_maximum if bus._welcome else 65535,
            ),
        }
        for name, (found, most) in bounds.items():
            if found > most:
                self.violation("bounds", f"{found} {name}, and {most} are the limit")

    def is_idle(self, world: World) -> bool:
        return self.why_busy(world) == ""

    def why_busy(self, world: World) -> str:
        node, daemon = world.node, world.node.daemon
        if not node.is_up or daemon is None or not daemon.bus.connected:
            return "the node isn't connected"
        if len(daemon._pipeline._admission):
            return f"{len(daemon._pipeline._admission)} messages are in flight in the node"
        if len(daemon.bus._outbox):
            return f"{len(daemon.bus._outbox)} messages are in the outbox"
        if len(daemon._pipeline._spool):
            return f"{len(daemon._pipeline._spool)} messages are in the spool"
        for name, session in world.broker.sessions.items():
            if session.queue or session.in_flight:
                return f"{len(session.queue) + len(session.in_flight)} messages wait at the broker for {name}"
        if not any(one.endswith("/req/+") for one in world.broker.sessions[node.client].filters):
            return "the node has no subscription to its requests"
        if self.routes.waiting(daemon):
            return "a complete window has no digest"
        for ask in self.asks.values():
            if ask.is_expired(self._loop.now) or not ask.qos:
                continue
            if ask.accepted and ask.repeats and not ask.got:
                return f"{ask.name} is repeated and has no result"
            if not ask.accepted:
                return f"{ask.name} isn't accepted"
        return ""

    def finish(self, world: World) -> None:
        self.routes.finish(world.node)
        if (same := self.asks.get("same")) is not None and not self.may_lose and not self.is_excused(same):
            results = len({payload for _, payload in same.results}) + same.dead
            if results < same.accepted - same.forgotten:
                self.violation("equal", f"{same.accepted} equal messages have {results} results")
        for ask in self.asks.values():
            if not ask.accepted or ask.is_ended or ask.is_expired(self._loop.now):
                continue
            if not (ask.is_request or self.routes.has_result(ask)) or self.is_excused(ask):
                continue
            if ask.forgotten and not ask.kept and not ask.repeats:
                continue
            if ask.kept and self.may_lose:
                continue
            self.violation("lost", f"{ask.name} was accepted and has no result (kept: {ask.kept})")
        for ask in self.asks.values():
            if ask.results and not ask.got and not ask.repeats and ask.forgotten == 0:
                self.note(f"{ask.name}: its sender didn't get the result")

    def count(self, outcome: Outcome) -> None:
        outcome.asks = len(self.asks)
        outcome.results = sum(bool(ask.results) for ask in self.asks.values())
        outcome.forgotten = sum(not ask.is_ended and ask.forgotten > 0 for ask in self.asks.values())
        outcome.codes.update(self.codes)


def is_right(ask: Ask, result: dict[str, Any]) -> bool:
    if ask.topic.endswith("/rate"):
        return bool(result.get("label") == label_of(ask.text))
    return bool(result.get("text") == answer_to(ask.text) + ("." * LONG if "long" in ask.engine else ""))


def _text(payload: bytes) -> str:
    try:
        body: Any = json.loads(payload)
    except ValueError:
        return payload.decode(errors="replace")
    return str(body.get("input", body.get("said", ""))) if isinstance(body, dict) else str(body)
