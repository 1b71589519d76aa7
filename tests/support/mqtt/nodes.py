"""MQTT clients on a real broker, and a relay that loses packets, for connection tests."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from edgeslm.config.sections import Broker
from edgeslm.mqtt.client import BusClient, BusListener, Subscription, Will
from edgeslm.protocol.delivery import Delivery, OutgoingMessage
from tests.support.brokers import Mosquitto

WAIT_S = 30.0
STATE = Will("node/state", b"offline")
MakeBroker = Callable[..., Mosquitto]


class Node(BusListener):
    """An MQTT client that records what it gets; it subscribes to ``node/req/+`` on every connect."""

    def __init__(
        self, url: str, subscriptions: list[str | Subscription] | None = None, **changes: Any
    ) -> None:
        login = {name: changes.pop(name) for name in list(changes) if name in Broker.model_fields}
        self.inbox: asyncio.Queue[Delivery] = asyncio.Queue()
        self.births = 0
        self.cannot_bear: bytes | None = None
        """A payload that its callback fails on."""
        self._subscriptions = subscriptions or ["node/req/+"]
        values: dict[str, Any] = {
            "client_id": "node",
            "queue": 256,
            "packet_bytes": 65_536,
            "will": STATE,
            "pauses_s": (0.05, 0.5),
        }
        self.bus = BusClient(Broker(url=url, **login), self, **{**values, **changes})

    def delivered(self, delivery: Delivery) -> None:
        self.inbox.put_nowait(delivery)
        if delivery.payload == self.cannot_bear:
            raise ValueError("a secret text")

    def connected(self) -> None:
        self.births += 1
        self.bus.subscribe(self._subscriptions)
        self.bus.publish(OutgoingMessage("node/state", b"online", retain=True))

    @property
    def ready(self) -> bool:
        """Whether the broker has the subscriptions, known from the acknowledgement of a later message."""
        return self.bus.connected and self.births > 0 and not self.bus.waiting_bytes

    async def take(self) -> Delivery:
        return await asyncio.wait_for(self.inbox.get(), WAIT_S)

    async def __aenter__(self) -> Node:
        await self.bus.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.bus.stop()


class Wire:
    """A TCP relay before the broker that can lose packets and cut connections."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []
        self.swallow_up = False
        self.swallow_down = False
        self.taken = 0
        self.flows = asyncio.Event()
        self.flows.set()

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.url = f"mqtt://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.sleep(0.05)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, back]
        self.taken += 1
        up = self._pump(reader, back, lambda: self.swallow_up)
        down = self._pump(there, writer, lambda: self.swallow_down)
        with contextlib.suppress(OSError):
            await asyncio.gather(up, down)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, swallow: Callable[[], bool]
    ) -> None:
        try:
            while data := await reader.read(65_536):
                await self.flows.wait()
                if not swallow():
                    writer.write(data)
        finally:
            writer.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main(), 2 * WAIT_S)

    asyncio.run(bounded())


@contextlib.asynccontextmanager
async def two(url: str, **changes: Any) -> AsyncIterator[tuple[Node, Node]]:
    """A node, and a client that is subscribed to all of its messages."""
    app = Node(url, ["node/state", "out/#"], client_id="app", will=Will("app/state", b"gone"))
    async with app, Node(url, **changes) as node:
        await until(lambda: app.ready and node.ready)
        yield node, app


async def say(app: Node, *payloads: bytes) -> None:
    for payload in payloads:
        await app.bus.publish(OutgoingMessage("node/req/t", payload))


def as_long_as(values: list[int], length: int) -> bool:
    return len(values) >= length


def born(node: Node, births: int) -> bool:
    return node.births == births and node.ready


def pubacks(broker: Mosquitto, client_id: str = "node") -> list[int]:
    """Packet identifiers of the PUBACKs that the broker received, in order."""
    return [int(mid) for mid in re.findall(rf"Received PUBACK from {client_id} \(Mid: (\d+)", broker.log)]


def retained(broker: Mosquitto, topic: str) -> bytes:
    command = ["mosquitto_sub", "-p", str(broker.port), "-t", topic, "-C", "1", "-W", "10", "-N"]
    return subprocess.run(command, check=True, capture_output=True).stdout


def password_lines(folder: Path, user: str, password: str) -> str:
    file = folder / "passwords"
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", str(file), user, password], check=True, capture_output=True
    )
    return f"password_file {file}\n"
