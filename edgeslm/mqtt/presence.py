"""Presence: the retained ``state``, ``info`` and ``health`` of a node.

Presence messages are published again after each connect, since the broker may have lost them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol

from edgeslm.errors import BrokerError
from edgeslm.mqtt.client import BusClient
from edgeslm.protocol.codec import StateName, Topics, encode_document, encode_state
from edgeslm.protocol.delivery import OutgoingMessage

log = logging.getLogger("edgeslm.mqtt")

ANNOUNCE_S: Final = 5.0


class StatusSource(Protocol):
    """Source of the current ``info`` and ``health`` documents."""

    def info(self) -> Mapping[str, Any]: ...
    def health(self) -> Mapping[str, Any]: ...


class Presence:
    """:param announce_s: seconds that a change of state waits for the broker's acknowledgement."""

    def __init__(
        self,
        bus: BusClient,
        topics: Topics,
        boot_id: str,
        source: StatusSource,
        *,
        announce_s: float = ANNOUNCE_S,
    ) -> None:
        self._announce_s = announce_s
        self._bus = bus
        self._topics = topics
        self._boot_id = boot_id
        self._source = source
        self._announcing: set[asyncio.Task[None]] = set()
        self.state: StateName = "starting"

    async def change(self, state: StateName) -> None:
        """Publishes a new state; returns after the acknowledgement or a timeout. Without a connection, the
        state is published after the next connect."""
        self.state = state
        if self._bus.connected:
            with contextlib.suppress(TimeoutError):  # the broker may be unreachable: go on
                async with asyncio.timeout(self._announce_s):
                    await self.retain(self._topics.state, encode_state(state, self._boot_id))

    async def come_online(self) -> None:
        """Publishes ``info`` and ``health``, then the state ``online``."""
        self.state = "online"
        if self._bus.connected:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._announce_s):
                    await self.retain(self._topics.info, encode_document(self._source.info()))
                    await self.publish_health()
        await self.change("online")

    def announce(self) -> None:
        """Publishes ``state``, ``info`` and ``health`` after a connect."""
        self._begin(self._topics.state, encode_state(self.state, self._boot_id))
        self._begin(self._topics.info, encode_document(self._source.info()))
        self._begin(self._topics.health, encode_document(self._source.health()))

    def announce_info(self) -> None:
        if self._bus.connected:
            self._begin(self._topics.info, encode_document(self._source.info()))

    def announce_health(self) -> None:
        if self._bus.connected:
            self._begin(self._topics.health, encode_document(self._source.health()))

    async def publish_health(self) -> None:
        await self.retain(self._topics.health, encode_document(self._source.health()))

    async def retain(self, topic: str, payload: bytes) -> None:
        """Publishes a retained message; returns when the broker has acknowledged or refused it."""
        try:
            await self._bus.publish(OutgoingMessage(topic, payload, retain=True))
        except BrokerError as error:
            log.warning("%s could not be published: %s", topic, error)

    def _begin(self, topic: str, payload: bytes) -> None:
        task = asyncio.create_task(self.retain(topic, payload))
        self._announcing.add(task)
        task.add_done_callback(self._announcing.discard)
