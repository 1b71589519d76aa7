"""Peers: clients of other nodes at the same broker, for tasks that escalate.

The node opens one connection per peer, at the first request to the peer, and always logs in to the broker
with its own login.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from edgeslm.config.sections import Broker
from edgeslm.errors import BrokerError
from edgeslm.messages import Result
from edgeslm.mqtt.broker_address import BrokerAddress

if TYPE_CHECKING:
    from edgeslm.client import Client

CONNECT_TIMEOUT_S = 5.0
NO_OPTIONS: Final[Mapping[str, Any]] = MappingProxyType({})
_AWAY = ("stopped", "offline")
"""States in which a node can't answer, so that a request would only wait at the broker."""


class Peers:
    """MQTT clients for other nodes, one client per node. ``own_name`` is the name of this node, which is part
    of the reply topics."""

    def __init__(
        self,
        broker: Broker,
        prefix: str,
        own_name: str,
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._broker = broker
        self._own_name = own_name
        self._prefix = prefix
        self._clients: dict[str, asyncio.Task[Client]] = {}
        self._is_closed = False

    async def ask(
        self,
        node: str,
        task: str,
        input: str | Mapping[str, Any],
        timeout_s: float,
        options: Mapping[str, Any] = NO_OPTIONS,
    ) -> Result:
        """The other node's result, which may be an error result.

        :raises EdgeslmError: the node can't be reached, is offline, or doesn't answer in time.
        """
        give_up_at = time.monotonic() + timeout_s
        client = await self._client(node, timeout_s)
        if client.node_state in _AWAY:
            raise BrokerError(f"the node {node} is {client.node_state}")
        left_s = max(0.0, give_up_at - time.monotonic())
        return await client.request_async(task, input, options or None, timeout=left_s)

    async def close(self) -> None:
        self._is_closed = True
        opening, self._clients = list(self._clients.values()), {}
        for opened in await asyncio.gather(*opening, return_exceptions=True):
            if not isinstance(opened, BaseException):
                await asyncio.to_thread(opened.close)

    async def _client(self, node: str, timeout_s: float) -> Client:
        """The client of a node. Concurrent callers share one attempt to connect, which goes on even if one
        caller times out."""
        if self._is_closed:
            raise BrokerError("this node is stopping")
        opening = self._clients.get(node)
        if opening is None or (opening.done() and opening.exception() is not None):
            opening = self._clients[node] = asyncio.create_task(self._open(node))
            opening.add_done_callback(
                lambda task: task.cancelled() or task.exception()
            )  # retrieves the exception if nobody waits
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(opening)
        except TimeoutError:
            raise BrokerError("the broker doesn't answer") from None

    async def _open(self, node: str) -> Client:
        from edgeslm.client import Client  # few nodes escalate

        client = Client(
            BrokerAddress.of(self._broker),
            node,
            prefix=self._prefix,
            name=self._own_name,
            connect_timeout_s=self._connect_timeout_s,
        )
        await asyncio.to_thread(client.open)
        return client
