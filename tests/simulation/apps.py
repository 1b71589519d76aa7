"""Simulated senders: apps with and without repeats, and sensors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.simulation.broker import Filter, Message
from tests.simulation.engine import What
from tests.simulation.network import Link, Wire

AGAIN_S = 4.0
"""Seconds after which a repeating sender sends a request again that has no result."""


Names = Literal["both", "correlation", "id", "topic"]
"""How the sender tells to which request a result belongs: by Correlation Data, an id, both, or by a reply
topic of its own."""


@dataclass(eq=False)
class Ask:
    """A request, or a message for a route, and what became of it."""

    name: str
    text: str
    topic: str
    app: str
    reply_to: str | None
    repeats: bool
    expiry_s: float | None = None
    body: bytes | None = None
    """Payload of a message that isn't a request."""
    options: dict[str, Any] = field(default_factory=dict)
    names: Names = "both"
    mqtt5: bool = True
    qos: int = 1
    error: str = ""
    """Code of the error result that it must get."""
    engine: list[What] = field(default_factory=list)
    """What the engine does in each run of it."""
    is_poison: bool = False
    """Whether the node ends each time that it reads it."""
    published_at: float | None = None
    accepted: int = 0
    """Number of times that the broker accepted it."""
    accepted_at: float | None = None
    results: list[tuple[float, bytes]] = field(default_factory=list)
    """Time and payload of each result that the broker accepted."""
    dead: int = 0
    got: int = 0
    """Number of results that the sender got."""
    forgotten: int = 0
    """Number of copies that a killed broker forgot."""
    reverted: int = 0
    """Number of copies that a killed broker delivers again as if it had never delivered them."""
    kept: bool = False
    """Whether a node had it on disk, or was obliged to."""
    runs: list[tuple[float, int]] = field(default_factory=list)
    """Time and boot of each run."""
    done: list[tuple[float, int]] = field(default_factory=list)
    crashed_at: float = -1.0
    """When an engine or node last ended while it ran."""
    kills: list[float] = field(default_factory=list)
    """When the node was killed while it ran."""
    purged: bool = False
    """Whether the node's operator erased it."""
    cancels: str | None = None
    """Name of the request that this message cancels."""
    points: int = 0
    """Crash points that the node has on disk for it."""
    new_points: int = 0
    """Crash points that the node has only in memory until it runs again."""
    points_since: float | None = None
    """When it got its first crash point; None if it has none, or they can't be followed any more."""

    def is_expired(self, now: float) -> bool:
        """Whether the request, and so its result, has expired. Neither has to be delivered then."""
        deadline_ms = self.options.get("deadline_ms")
        limits_s = [self.expiry_s, deadline_ms / 1000 if deadline_ms is not None else None]
        limit_s = min((one for one in limits_s if one is not None), default=None)
        return limit_s is not None and self.published_at is not None and now > self.published_at + limit_s

    @property
    def is_request(self) -> bool:
        return self.body is None

    @property
    def is_named(self) -> bool:
        """Whether the node recognizes a repeat of it."""
        return self.is_request and self.names != "topic"

    @property
    def is_single(self) -> bool:
        """Whether the broker has delivered it as one message."""
        return self.accepted <= 1 and not self.reverted

    @property
    def correlation(self) -> bytes | None:
        is_told = self.reply_to is not None or self.cancels is not None
        is_told = is_told and self.mqtt5 and self.names in ("both", "correlation")
        return (self.cancels or self.name).encode() if is_told else None

    def lose_points(self) -> None:
        """The node forgets crash points of an attempt that ends without a result of its own."""
        self.points = self.new_points = 0
        self.points_since = None

    @property
    def payload(self) -> bytes:
        if self.body is not None:
            return self.body
        told: dict[str, Any] = {"id": self.name} if self.names in ("both", "id") else {}
        if not self.mqtt5:
            told["reply_to"] = self.reply_to
        if self.options:
            told["options"] = self.options
        return json.dumps({**told, "input": self.text}).encode()

    @property
    def is_ended(self) -> bool:
        return bool(self.results) or self.dead > 0


class App:
    """An MQTT client with a session that the broker keeps. It sends each request until the broker accepts it;
    one that repeats sends a request again until it has a result."""

    def __init__(self, wire: Wire, name: str, on_message: Callable[[str, Message], None]) -> None:
        self._wire = wire
        self.name = name
        self.reply_to = f"edgeslm/v1/{name}/res/app"
        self._on_message = on_message
        self._link: Link | None = None
        self._mid = 0
        self._unaccepted: dict[Ask, None] = {}
        self._sent: dict[int, Ask] = {}
        self.wants: dict[str, Ask] = {}
        self.is_closed = False

    def ask(self, ask: Ask) -> None:
        self._unaccepted[ask] = None
        if ask.repeats:
            self.wants[ask.name] = ask
        self._send(ask)

    async def run(self) -> None:
        """Keeps a connection."""
        chance = self._wire.chance
        while not self.is_closed:
            link = self._connect(asyncio.get_running_loop().create_future())
            if link is not None:
                await self._ended
            self._link = None
            await asyncio.sleep(chance.uniform(0.05, 0.5))

    def _connect(self, ended: asyncio.Future[None]) -> Link | None:
        self._ended = ended
        self._sent.clear()
        link = Link(self._wire, self.name, 20, None, self._take, lambda code: _settle(ended))
        try:
            self._wire.open(link)
        except OSError:
            return None
        self._link = link
        how: dict[str, Any] = {"expiry_s": 1e6, "will": None, "clean": False}
        link.send(lambda broker: _void(broker.connect(link, **how, mqtt5=broker.speaks_mqtt5)))
        return link

    async def repeat(self) -> None:
        while not self.is_closed:
            await asyncio.sleep(AGAIN_S)
            for ask in list(self.wants.values()):
                if ask.got or ask.is_expired(self._wire.loop.now):
                    del self.wants[ask.name]
                    continue
                if ask not in self._unaccepted:
                    self._unaccepted[ask] = None
                    self._send(ask)

    def _take(self, packet: tuple[Any, ...]) -> None:
        link = self._link
        if link is None:
            return
        if packet[0] == "connack":
            wanted = Filter(f"{self.reply_to}/#", 1, None, 2)
            link.send(lambda broker: broker.subscribe(link, 65535, [wanted]))
            for ask in list(self._unaccepted):
                self._send(ask)
        elif packet[0] == "puback":
            if packet[1] in self._sent:
                self._unaccepted.pop(self._sent.pop(packet[1]), None)
        elif packet[0] == "publish":
            mid, message = packet[1], packet[2]
            self._on_message(self.name, message)
            if mid:
                link.send(lambda broker: broker.acknowledge(link, mid))

    def _send(self, ask: Ask) -> None:
        if (link := self._link) is None:
            return
        self._mid = self._mid % 60000 + 1
        mid = self._mid
        if ask.qos:
            self._sent[mid] = ask
        else:
            self._unaccepted.pop(ask, None)
        loop = self._wire.loop
        if ask.published_at is None:
            ask.published_at = loop.now
        message = Message(
            0,
            ask.topic,
            ask.payload,
            ask.qos,
            response_topic=ask.reply_to if ask.mqtt5 else None,
            correlation=ask.correlation,
            expires_at=None if ask.expiry_s is None else ask.published_at + ask.expiry_s,
        )
        link.send(lambda broker: broker.publish(link, mid, message))


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _void(result: object) -> None:
    return None
