"""Bugs in the product's code: work on messages that fails, and messages that end the node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from edgeslm.protocol.delivery import Delivery
from tests.simulation.loop import Killed
from tests.simulation.setup import Setup

if TYPE_CHECKING:
    from tests.simulation.world import World

Bug = Literal["request", "route", "memory"]
"""A bug hits the next ``request``, the next message of a ``route``, or the next report of such a bug
(``memory``)."""


class Bugs:
    """What the product's code calls, as set in ``patches``. ``waiting`` are the bugs that come next."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.setup: Setup = world.setup
        self.waiting: list[Bug] = []

    def _comes(self, bug: Bug) -> bool:
        if bug not in self.waiting:
            return False
        self.waiting.remove(bug)
        return True

    def on_request(self, delivery: Delivery) -> None:
        """A node is about to parse a request."""
        if not self._comes("request"):
            return
        world = self._world
        world.note("a bug ends the work on a request")
        ask = world.ledger.asks.get((delivery.correlation or b"").decode())
        ask = ask or world.ledger.by_payload.get(delivery.payload)
        if ask is not None:
            reply_to = world.node.topics.result(ask.topic.rpartition("/")[2])
            world.ledger.bugs.setdefault(reply_to, []).append(ask)
        raise MemoryError if world.chance.random() < 0.5 else RuntimeError("a bug")

    def on_route(self, name: str, topic: str, payload: bytes) -> None:
        """The route ``name`` is about to read a message."""
        world = self._world
        ask = world.ledger.by_payload.get(payload)
        if ask is not None:
            world.ledger.routes.came(name, ask, world.node.boots)
        if ask is not None and ask.is_poison:
            world.node.kill()
            raise Killed
        if ask is not None and self._comes("route"):
            world.note(f"a bug ends the work on {ask.name}")
            world.ledger.bugs.setdefault(topic, []).append(ask)
            raise RuntimeError("a bug")

    def on_digest(self, name: str, messages: Mapping[str, Any], *, redacts: bool) -> None:
        """A node is about to summarize the ``messages`` of a window; ``redacts`` is whether the route redacts
        messages now."""
        self._world.ledger.routes.summarizes(name, messages["messages"], redacts=redacts)

    def on_report(self) -> None:
        """A node is about to report a message on which a bug ended the work."""
        if self._comes("memory"):
            raise MemoryError
