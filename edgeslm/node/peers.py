"""Peers: other nodes at the same broker, which tasks escalate to.

One connection a node, made when it is first needed, with this node's login. Knows no tasks: what is asked and
what becomes of the answer is the service's business.
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
"""States in which a node answers nothing; a broker may keep a request for it longer than anybody waits."""


class Peers:
    """The other nodes, by name. ``own_name`` is this node's, below which their answers come."""

    def __init__(self, broker: Broker, prefix: str, own_name: str) -> None:
        self._broker = broker
        self._own_name = own_name
        self._prefix = prefix
        self._clients: dict[str, asyncio.Task[Client]] = {}
        self._is_closed = False

    async def ask(
        self, node: str, task: str, text: str, timeout_s: float, options: Mapping[str, Any] = NO_OPTIONS
    ) -> Result:
        """What the other node says; an error result is one too.

        :raises EdgeslmError: it can't be reached, is away, or doesn't answer in time.
        """
        give_up_at = time.monotonic() + timeout_s
        client = await self._client(node, timeout_s)
        if client.node_state in _AWAY:
            raise BrokerError(f"the node {node} is {client.node_state}")
        left_s = max(0.0, give_up_at - time.monotonic())
        return await client.request_async(task, text, options or None, timeout=left_s)

    async def close(self) -> None:
        self._is_closed = True
        opening, self._clients = list(self._clients.values()), {}
        for opened in await asyncio.gather(*opening, return_exceptions=True):
            if not isinstance(opened, BaseException):
                await asyncio.to_thread(opened.close)

    async def _client(self, node: str, timeout_s: float) -> Client:
        """That of a node; who gives up waiting for it doesn't end its making, which others share."""
        if self._is_closed:
            raise BrokerError("this node is stopping")
        opening = self._clients.get(node)
        if opening is None or (opening.done() and opening.exception() is not None):
            opening = self._clients[node] = asyncio.create_task(self._open(node))
            opening.add_done_callback(
                lambda task: task.cancelled() or task.exception()
            )  # seen, if nobody waits
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(opening)
        except TimeoutError:
            raise BrokerError("the broker doesn't answer") from None

    async def _open(self, node: str) -> Client:
        from edgeslm.client import Client  # few nodes ask others

        client = Client(
            BrokerAddress.of(self._broker),
            node,
            prefix=self._prefix,
            name=self._own_name,
            connect_timeout_s=CONNECT_TIMEOUT_S,
        )
        await asyncio.to_thread(client.open)
        return client
