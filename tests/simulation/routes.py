"""Routes, windows and corrections of a simulated node, and their invariants."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm.knowledge.index.queries import Memory
from edgeslm.node.daemon import Daemon
from edgeslm.storage.feedback_store import FeedbackStore
from edgeslm.telemetry.health import Meter
from tests.simulation.apps import Ask
from tests.simulation.broker import Message, matches
from tests.simulation.engine import PERSON

if TYPE_CHECKING:
    from tests.simulation.ledger import Ledger
    from tests.simulation.node import SimNode

TASKS = """
  digest: {kind: summarize, model: small}
  sort: {kind: classify, model: small, labels: {good: all is well, bad: look at it}}
  rate:
    kind: classify
    stages: [small, "node:n9/rate"]
    labels: {good: all is well, bad: look at it}
    calibration: none
    threshold: 0.9
"""
ROUTES = """
routes:
  - {name: said, from: in/+/log, task: say, input: "{{ payload.said }}", to: "out/{{ payload.id }}/said"}
  - {name: four, from: in/a/log, task: digest, to: out/four, window: {last: 4}FOUR}
  - {name: timed, from: in/+/log, task: digest, to: out/timed, window: {every: EVERY}}
  - {name: closed, from: in/b/log, task: digest, to: out/closed, window: {on: in/close}REDACT}
  - {name: hidden, from: private/r, task: digest, to: out/hidden, window: {last: 3}REDACT, remember: notes}
  - {name: kept, from: keep/k, remember: notes}
"""
"""Continues the tasks of a node's configuration."""


def config(folder: Path, change: str, *, has_names: bool) -> str:
    """The rest of a node's configuration, after its first task."""
    redact = ", redact: [email, person], redact_model: names" if has_names else ", redact: [email]"
    every = "3" if change == "routes" else "2"
    language = ", language: en" if change == "collection" else ""
    notes = f"knowledge: {{notes: {{path: {folder / 'notes'}{language}}}}}"
    routes = ROUTES.replace("EVERY", every).replace("REDACT", redact)
    routes = routes.replace("FOUR", redact if change == "routes" else "")
    return TASKS.rstrip() + routes + notes


WINDOWS = {"four": "in/a/log", "timed": "in/+/log", "closed": "in/b/log", "hidden": "private/r"}
"""Name of each route with windows, and the filter of the topics that it watches."""
LAST = {"four": 4, "hidden": 3}
"""Number of messages of each window of a route, for the routes that have it."""
REDACTED = {"closed", "hidden"}
"""Names of the routes with windows that always redact."""
REMEMBERED = {"private/r", "keep/k"}
"""Topics whose messages a collection keeps."""
FILTERS = (*WINDOWS.values(), "keep/k", "in/close")
NOTE = "note"
"""What windows read begins with this word, so that the engines' calls for digests are told from others."""


class RouteLedger:
    """What routes made of the messages. Each message must be in one window of each route that reads it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._digests: dict[str, dict[tuple[str, ...], list[tuple[float, bytes]]]] = {
            name: {} for name in WINDOWS
        }
        """Route -> ids of a window -> its digests, with the time of each."""
        self._failed: set[str] = set()
        """Messages of windows whose digest is an error result or a dead letter."""
        self._places: dict[tuple[str, str], tuple[int, int] | None] = {}
        """Route and message -> process that took it, and its place; None if it was taken more than once."""
        self._next = 1
        self._memories: defaultdict[Ask, set[str]] = defaultdict(set)
        """Message -> its names in the collection."""
        self.meters: list[Meter] = []
        """Those of all processes."""

    @staticmethod
    def has_result(ask: Ask) -> bool:
        """Whether each message has a result of its own."""
        return ask.topic.endswith("/log")

    @staticmethod
    def filters(ask: Ask) -> set[str]:
        """The filters by which the routes get a message."""
        return {one for one in FILTERS if matches(one, ask.topic)}

    @staticmethod
    def is_digest(text: str) -> bool:
        """Whether a text that an engine got is about a window."""
        return text.startswith(NOTE)

    def check_texts(self, text: str) -> None:
        """Checks that messages which an engine got to summarize are as they were sent."""
        self._check_redacted(text, "an engine")
        from_or_for = rf"from \[email\] or (\[person\]|{PERSON})|for (user(\*|\d+)@example.org|\[email\]|\*)"
        line = rf"{NOTE} number (\*|\d+) has come( ({from_or_for}))?"
        if text != "." and not all(re.fullmatch(line, one) for one in text.splitlines()):
            self._ledger.violation("content", f"an engine got a note that nobody sent: {text!r}")

    def _check_redacted(self, text: str, reader: str) -> None:
        """Checks a text in which each address after "from", and each name, must be redacted."""
        if re.search(" from [^[]*@", text) or (self._ledger.has_names and PERSON in text):
            self._ledger.violation("redaction", f"{reader} got an address or a name: {text!r}")

    def came(self, route: str, ask: Ask, boot: int) -> None:
        """A process of a node, number ``boot``, has taken a message for a route."""
        self._places[route, ask.name] = None if (route, ask.name) in self._places else (boot, self._next)
        self._next += 1

    def summarizes(self, route: str, messages: Sequence[Mapping[str, str]], *, redacts: bool) -> None:
        """A node is about to summarize the messages of a window, which must be in their order of arrival."""
        places: dict[int, int] = {}
        for one in messages:
            if redacts and "@" in one["text"]:
                self._ledger.violation("redaction", f"{route} makes a digest of {one['text']!r}")
            boot, number = self._places.get((route, one["id"])) or (0, 0)
            if number < places.get(boot, 0):
                self._ledger.violation("window order", f"{route}: {one['id']} is after a later message")
            places[boot] = number

    def remembered(self, memory: Memory) -> None:
        """A collection has stored a message."""
        self._check_redacted(memory.text, "a collection")
        ask = self._named_in(memory)
        if ask is None or ask.topic != memory.topic or ask.topic not in REMEMBERED:
            self._ledger.violation("memory", f"a collection stored {memory.name!r}, which nobody sent for it")
        else:
            self._memories[ask].add(memory.name)

    def _named_in(self, memory: Memory) -> Ask | None:
        return self._ledger.asks.get(memory.name.partition(" ")[0])

    def is_missing(self, ask: Ask) -> bool:
        """Whether a message isn't in the collection that must have it."""
        is_excused = self._ledger.is_excused(ask) or self._ledger.may_lose
        return ask.topic in REMEMBERED and ask not in self._memories and not is_excused and not ask.purged

    @property
    def given_up(self) -> int:
        """Number of messages that a collection couldn't store."""
        return sum(meter.dropped["not_remembered"] for meter in self.meters)

    def ask_of(self, topic: str) -> Ask | None:
        """The message whose result goes to ``topic``."""
        asks = self._ledger.asks
        poison = next((one for one in asks.values() if one.is_poison and one.topic == topic), None)
        return poison or asks.get(topic.removeprefix("out/").removesuffix("/said"))

    def result(self, node: SimNode, message: Message) -> None:
        """The broker accepted a result of a route."""
        ledger, name = self._ledger, message.topic.removeprefix("out/")
        if name in WINDOWS:
            self._digest(node, name, message)
        elif (ask := self.ask_of(message.topic)) is None or not self.has_result(ask):
            ledger.violation("route", f"a result went to {message.topic}")
        else:
            ledger.result(ask, message)

    def _digest(self, node: SimNode, name: str, message: Message) -> None:
        ledger = self._ledger
        if node.daemon is not None:  # the digest may be the first that tells of a changed row
            ledger.see_damage(node.daemon)
        body = json.loads(message.payload)
        if body["status"] != "ok":
            ledger.note(f"the digest of {name} failed: {body['error']['code']}")
            self.failed(node, name)
            return
        told = body["result"]
        ids = tuple(one.partition("#")[0] for point in told["points"] for one in point["ids"])
        ledger.note(f"digest {name}: {' '.join(ids)}")
        # A message that can't be redacted is dropped with a dead letter.
        is_excused = told["dropped"] <= ledger.dead_on[message.topic] or ledger.may_lose
        if told["messages"] != len(ids) or not is_excused:
            ledger.violation("window", f"{name}: a digest of {told['messages']} messages names {len(ids)}")
        if len(ids) + told["dropped"] != LAST.get(name, len(ids) + told["dropped"]) and all(
            one in ledger.asks and (ledger.asks[one].accepted_at or 0.0) > ledger.disk_trouble_at
            for one in ids
        ):
            ledger.violation("window", f"{name}: a window has {len(ids)} messages")
        for one in ids:
            if one not in ledger.asks or not matches(WINDOWS[name], ledger.asks[one].topic):
                ledger.violation("window", f"{name}: {one} doesn't belong to this route")
        before = self._earlier_digests(name, ids)
        # Two windows have the same messages if these were sent or delivered again.
        is_clear = (
            ledger.keeps_answers
            and not ledger.may_lose
            and all(ledger.asks[one].is_single for one in ids if one in ledger.asks)
        )
        known_since = ledger.disk_trouble_at if is_clear else ledger.now
        if any(at > known_since and payload != message.payload for at, payload in before):
            ledger.violation("same result", f"{name}: two digests of one window")
        before.append((ledger.now, message.payload))

    def _earlier_digests(self, name: str, ids: tuple[str, ...]) -> list[tuple[float, bytes]]:
        """The digests so far of the window with these messages.

        A window that a power cut brought back may have other messages, since some can't be redacted now or
        couldn't be redacted before.
        """
        digests = self._digests[name]
        for known, told in list(digests.items()) if ids not in digests and name in REDACTED else ():
            is_brought_back = told[-1][0] <= self._ledger.disk_trouble_at and "same" not in ids
            if is_brought_back and (set(ids) < set(known) or set(ids) > set(known)):
                del digests[known]
                digests[max(ids, known, key=len)] = told
                return told
        return digests.setdefault(ids, [])

    def failed(self, node: SimNode, name: str) -> None:
        """The digest of a window of this route is an error, or was refused by the broker."""
        self._failed |= {row[0] for row in stored(node, name) if row[1]}

    def waiting(self, daemon: Daemon) -> bool:
        """Whether a complete window has no digest yet."""
        return any(one.batch for one in daemon._pipeline._router._aggregator.store.stored())

    def finish(self, node: SimNode) -> None:
        """At the end of a run."""
        for name, filter in WINDOWS.items():
            found = Counter(one for ids in self._digests[name] for one in ids)
            found.update(row[0] for row in stored(node, name))
            found["same"] += self._further(name)
            for ask in self._ledger.asks.values():
                if matches(filter, ask.topic):
                    is_lost = ask.name in self._failed or self._ledger.is_excused(ask) or ask.purged
                    least = 0 if is_lost or self._ledger.may_lose else ask.accepted - ask.forgotten
                    self._check(f"window {name}", ask, found[ask.name], least=least)
        missing = [ask.name for ask in self._ledger.asks.values() if self._must_be_kept(ask)]
        if len(missing) > self.given_up:
            self._ledger.violation("memory", f"{', '.join(missing)} can't be found in the collection")
        for ask, names in self._memories.items():
            # A node that can't write its journal forgets the session's number, and so the message's key.
            if (ask.accepted_at or 0.0) > self._ledger.disk_trouble_at:
                self._check("collection", ask, len(names), least=0)
        rows = FeedbackStore(node.config.state_dir).rows("sort")
        kept = Counter(row["text"] for row in rows)
        for ask in self._ledger.asks.values():
            if ask.topic == node.topics.feedback:
                # Copies of a correction are equal, so a redelivered copy counts as stored.
                self._check("corrections", ask, kept[ask.text], least=min(1, ask.accepted - ask.forgotten))

    def _must_be_kept(self, ask: Ask) -> bool:
        return self.is_missing(ask) and (ask.kept or ask.accepted > ask.forgotten)

    def _further(self, name: str) -> int:
        """How often the message that is sent again and again is in windows with the same ids as others."""
        digests = self._digests[name].items()
        return sum((len({raw for _, raw in told}) - 1) * ids.count("same") for ids, told in digests)

    def _check(self, where: str, ask: Ask, found: int, *, least: int) -> None:
        # A changed key lets a window have a redelivered message twice; no node can tell this.
        most = ask.accepted + ask.reverted + self._ledger.has_flipped
        if ask.name == "same":
            most += found  # a digest that is made again can't be told from another one
        if not least <= found <= most:
            self._ledger.violation(
                where, f"{ask.name} is there {found} times; it was accepted {ask.accepted} times"
            )


def stored(node: SimNode, route: str) -> list[tuple[str, int]]:
    """Id and batch of each message in the windows of a route on the disk; batch 0 is the open window."""
    database: Any = None if node.daemon is None else node.daemon.database._db
    if database is None:
        return []
    query = "SELECT name, batch FROM windows WHERE route = ? AND text IS NOT NULL"
    try:
        return [(name.partition("#")[0], batch) for name, batch in database.execute(query, (route,))]
    except sqlite3.Error:
        return []
