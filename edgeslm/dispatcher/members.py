"""Pool members: states and tasks of nodes, from their state, info and health messages.

Pure. Messages may come from any client of the broker, so every field is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgeslm.dispatcher.settings import Wanted
from edgeslm.errors import InvalidRequest
from edgeslm.protocol.strict_json import decode_text, parse_json
from edgeslm.protocol.versions import PROTOCOL_VERSION, is_spoken

MOST_NODES = 20_000
"""Maximum number of known nodes, including nodes of other pools, so that faked nodes can't fill the memory. A
node takes about half a kilobyte of memory."""
FORGET_S = 7 * 24 * 3600.0
"""Seconds without being online after which a node is forgotten. Brokers keep a node's session as long."""
MOST_MEMBERS = 1000
MOST_PROBLEMS = 20
STATE_CHARACTERS = 16
MOST_TASKS = 256
News = Literal["ended", "left", "ready", "changed"]
"""What a message of a node means: the node crashed or lost its connection (``ended``), stopped or is draining
(``left``), came online (``ready``), or changed its tasks (``changed``)."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A task that a node serves for the pool. ``model`` is the digest of the task's model; ``document`` is
    the task's entry in the node's info message."""

    kind: str
    model: str | None
    document: Mapping[str, Any]


@dataclass(slots=True)
class Node:
    """What is known of a node. ``offers`` are the tasks that the node serves for the pool. ``why_not`` is the
    reason why the node isn't a member although its info message names the pool. ``wrong`` maps tasks to the
    reason why the node gets no requests for the task from the pool. ``busy`` is the number of queued and
    running requests according to the node's last health message."""

    state: str = "unknown"
    offers: dict[str, Offer] = field(default_factory=dict)
    why_not: str | None = None
    wrong: dict[str, str] = field(default_factory=dict)
    busy: int = 0
    away_since: float | None = None
    """Time of the first :meth:`Members.forget_gone` since the node was online; None while it is online."""


class Members:
    """The members of the pool ``pool``. ``wanted`` maps each task of the pool to the requirements for nodes;
    if it is None, the pool has all tasks that its members offer."""

    def __init__(self, pool: str, wanted: Mapping[str, Wanted] | None) -> None:
        self._pool = pool
        self._wanted = wanted
        self._nodes: dict[str, Node] = {}
        self._ours: dict[str, Node] = {}
        """Nodes whose info message names the pool."""
        self.version = 0
        """Increases whenever members, their states or offers may have changed."""

    def hear(self, name: str, kind: str, payload: bytes) -> News | None:
        """Handles a retained message of a node; an empty payload means that the message was deleted at the
        broker."""
        try:
            document = parse_json(decode_text(payload)) if payload else {}
        except InvalidRequest:
            return None
        if not isinstance(document, dict) or (name not in self._nodes and len(self._nodes) >= MOST_NODES):
            return None
        if kind == "info" and name not in self._ours and len(self._ours) >= MOST_MEMBERS:
            return None
        node = self._nodes.setdefault(name, Node())
        if kind == "state":
            news = self._hear_state(node, document)
            self.version += news is not None and name in self._ours
            return news
        if kind == "info":
            was = (dict(node.offers), node.why_not)
            self._hear_info(node, document)
            is_ours = self._ours.pop(name, None) is not None
            if node.offers or node.wrong or node.why_not:
                self._ours[name] = node
            self.version += is_ours or name in self._ours
            return "changed" if was != (node.offers, node.why_not) else None
        node.busy = _whole(document.get("queue")) + _whole(document.get("in_flight"))
        return None

    def forget_gone(self, now: float) -> list[str]:
        """Forgets the nodes that haven't been online for :data:`FORGET_S`; call it about once an hour.

        Their retained messages may stay at the broker, so a later connect makes them known again for a while.

        :param now: seconds of any monotonic clock. :return: names of the forgotten nodes.
        """
        gone = []
        for name, node in self._nodes.items():
            if node.state == "online":
                continue
            if node.away_since is None:
                node.away_since = now
            elif now - node.away_since >= FORGET_S:
                gone.append(name)
        for name in gone:
            del self._nodes[name]
            self.version += self._ours.pop(name, None) is not None
        return gone

    def doing(self, task: str) -> list[str]:
        """Members that are online and serve ``task``."""
        return [name for name, node in self._ours.items() if node.state == "online" and task in node.offers]

    def is_offered(self, task: str) -> bool:
        """Whether some member serves the task, online or not."""
        return any(task in node.offers for node in self._ours.values())

    @property
    def online(self) -> list[str]:
        return [name for name, node in self._ours.items() if node.offers and node.state == "online"]

    @property
    def known(self) -> dict[str, str]:
        """All members, with their states."""
        return {name: node.state for name, node in sorted(self._ours.items()) if node.offers}

    @property
    def tasks(self) -> dict[str, Offer]:
        """Every offered task, with the offer of the member whose name comes first in the alphabet."""
        found: dict[str, Offer] = {}
        for _, node in sorted(self._ours.items()):
            for task, offer in node.offers.items():
                found.setdefault(task, offer)
        return found

    def knows(self, name: str) -> bool:
        """Whether a node is a member, online or not."""
        return name in self._nodes and bool(self._nodes[name].offers)

    def models(self, task: str) -> set[str]:
        """Digests of the models with which members serve a task."""
        offers = [node.offers[task] for node in self._ours.values() if task in node.offers]
        return {offer.model for offer in offers if offer.model}

    def busy(self, name: str) -> int:
        """Number of requests queued or running at a node, according to its last health message."""
        node = self._nodes.get(name)
        return 0 if node is None else node.busy

    @property
    def problems(self) -> list[str]:
        """Messages about nodes that name the pool but can't be members, and about tasks for which a node gets
        no requests."""
        found = []
        for name, node in sorted(self._ours.items()):
            if node.why_not:
                found.append(f"Node {name} is left out: {node.why_not}.")
            found += [f"Node {name} gets no {task}: {why}." for task, why in sorted(node.wrong.items())]
        more = len(found) - MOST_PROBLEMS
        return found if more <= 0 else [*found[:MOST_PROBLEMS], f"{more} more like these."]

    @staticmethod
    def _hear_state(node: Node, document: Mapping[str, Any]) -> News | None:
        state, was = document.get("state"), node.state
        is_one = isinstance(state, str) and len(state) <= STATE_CHARACTERS
        node.state = str(state) if is_one else "unknown"
        if node.state == was:
            return None
        if node.state == "online":
            node.away_since = None
            return "ready"
        return "ended" if node.state == "offline" else "left"

    def _hear_info(self, node: Node, document: Mapping[str, Any]) -> None:
        node.offers, node.wrong, node.why_not = {}, {}, None
        pool = document.get("pool")
        if not isinstance(pool, Mapping) or pool.get("name") != self._pool:
            return
        protocol = document.get("protocol")
        if not isinstance(protocol, int) or isinstance(protocol, bool) or not is_spoken(protocol):
            node.why_not = f"its version of the protocol is too far from {PROTOCOL_VERSION}"
            return
        if pool.get("by") != "dispatcher":
            node.why_not = (
                "it takes the pool's requests from the broker too, so that all would be run twice; "
                "set `pool: by: dispatcher` there"
            )
            return
        tasks, named = document.get("tasks"), pool.get("tasks")
        for task in (named if isinstance(named, list) else [])[:MOST_TASKS]:
            about = tasks.get(task) if isinstance(tasks, Mapping) and isinstance(task, str) else None
            if isinstance(about, Mapping) and (self._wanted is None or task in self._wanted):
                offer = Offer(_text(about.get("kind")) or "", _digest(document, about), about)
                why = self._why_wrong(task, offer)
                if why is None:
                    node.offers[task] = offer
                else:
                    node.wrong[task] = why

    def _why_wrong(self, task: str, offer: Offer) -> str | None:
        wanted = self._wanted[task] if self._wanted is not None else Wanted()
        if wanted.kind is not None and offer.kind != wanted.kind:
            return f"it is of the kind {offer.kind[:40]!r} there and not {wanted.kind!r}"
        if wanted.model is not None and not (offer.model or "").startswith(wanted.model):
            return f"its model there is {(offer.model or 'none')[:80]} and not {wanted.model}"
        return None


def _digest(info: Mapping[str, Any], task: Mapping[str, Any]) -> str | None:
    models, model = info.get("models"), task.get("model")
    about = models.get(model) if isinstance(models, Mapping) and isinstance(model, str) else None
    return _text(about.get("digest")) if isinstance(about, Mapping) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: Any) -> int:
    return max(0, value) if isinstance(value, int) and not isinstance(value, bool) else 0
