"""Other nodes at the same broker, which tasks pass on to what they aren't sure of.

One connection a node, made when it is first needed, with this node's login. Knows no tasks: what is asked and
what becomes of the answer is the service's business.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

from edgeslm.client import Client
from edgeslm.errors import BrokerError
from edgeslm.messages import Result
from edgeslm.sections import Broker

CONNECT_TIMEOUT_S = 5.0


class Neighbours:
    """The other nodes, by name."""

    def __init__(self, broker: Broker, prefix: str) -> None:
        self._broker = broker
        self._prefix = prefix
        self._clients: dict[str, Client] = {}
        self._opening: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._is_closed = False

    async def ask(self, node: str, task: str, text: str, timeout_s: float) -> Result:
        """What the other node says; an error result is one too.

        :raises EdgeslmError: it can't be reached, or doesn't answer in time.
        """
        async with self._opening[node]:
            client = self._clients.get(node) or await self._open(node)
        return await client.request_async(task, text, timeout=timeout_s)

    async def close(self) -> None:
        self._is_closed = True
        clients, self._clients = self._clients, {}
        await asyncio.gather(*(asyncio.to_thread(client.close) for client in clients.values()))

    async def _open(self, node: str) -> Client:
        broker = self._broker
        client = Client(
            broker.url,
            node,
            prefix=self._prefix,
            username=broker.username,
            password_file=broker.password_file,
            ca_file=broker.ca_file,
            cert_file=broker.cert_file,
            key_file=broker.key_file,
            connect_timeout_s=CONNECT_TIMEOUT_S,
        )
        await asyncio.to_thread(client.open)
        if self._is_closed:
            await asyncio.to_thread(client.close)
            raise BrokerError("this node is stopping")
        self._clients[node] = client
        return client
