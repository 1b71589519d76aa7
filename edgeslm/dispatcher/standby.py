"""Standby dispatcher: waits until the active dispatcher's lease expires.

:func:`look` reads the lease once, for an active dispatcher whose connection broke, since another dispatcher
may have taken over.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from typing import Any

from edgeslm.dispatcher.ack_log import Answered, parse_keys
from edgeslm.dispatcher.lease import QUIET_S, Lease, Word, parse_lease
from edgeslm.dispatcher.settings import PAUSES_S, DispatcherSettings
from edgeslm.dispatcher.topics import PoolTopics
from edgeslm.errors import BrokerError
from edgeslm.mqtt.client import BusClient, BusListener, Subscription
from edgeslm.protocol.delivery import Delivery

JITTER_S = 0.5
"""Longest random delay in seconds, so that several standbys don't take over at the same time."""


async def look(settings: DispatcherSettings, client_id: str) -> Word | None:
    """Waits until the broker can be reached, and returns the retained lease; None if there is none.

    :raises BrokerError: the broker refuses the connection for good.
    """
    looker = _Look(settings, client_id)
    bus = looker.bus
    await bus.start()
    try:
        waiting = asyncio.create_task(looker.is_connected.wait())
        either: list[asyncio.Future[Any]] = [waiting, bus.failed]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if bus.failed.done():
            bus.failed.result()
        async with asyncio.timeout(QUIET_S):
            return await looker.heard
    except TimeoutError:
        return None
    finally:
        await bus.stop()


class _Look(BusListener):
    """Reads the retained lease into the future ``heard``."""

    def __init__(self, settings: DispatcherSettings, client_id: str) -> None:
        self._topic = PoolTopics(settings.pool, settings.prefix).lease
        self.bus = _separate_client(settings, client_id, self)
        self.heard: asyncio.Future[Word | None] = asyncio.get_running_loop().create_future()
        self.is_connected = asyncio.Event()

    def connected(self) -> None:
        self.bus.subscribe([Subscription(self._topic, every_time=True)])
        self.is_connected.set()

    def delivered(self, delivery: Delivery) -> None:
        self.bus.ack(delivery)
        if not self.heard.done():
            self.heard.set_result(parse_lease(delivery.payload))


def _separate_client(settings: DispatcherSettings, client_id: str, listener: BusListener) -> BusClient:
    """An MQTT client without a persistent session, in addition to the client of the pool's session."""
    return BusClient(
        settings.broker,
        listener,
        client_id=f"{client_id}.standby-{secrets.token_hex(8)}",
        queue=16,
        packet_bytes=settings.limits.packet_bytes,
        session_expiry_s=0,
        pauses_s=PAUSES_S,
    )


class Standby:
    """Waits for the lease. ``client_id`` is the client id of the pool's session; the standby connects with
    the same client id plus a suffix. The standby copies the active dispatcher's acknowledgement log to
    ``answered``."""

    def __init__(
        self, settings: DispatcherSettings, client_id: str, answered: Answered, *, is_first: bool
    ) -> None:
        self._answered = answered
        self._topics = PoolTopics(settings.pool, settings.prefix)
        self._lease = Lease(settings.name, is_first=is_first)
        self._news = asyncio.Event()
        self.bus = _separate_client(settings, client_id, self)

    async def wait(self, hold_off_s: float = 0.0) -> None:
        """Returns when the lease is free, after ``hold_off_s`` seconds at the earliest. The call can be
        cancelled.

        :raises BrokerError: the broker refuses the connection for good, or lacks MQTT 5.
        """
        await self.bus.start()
        not_before = time.monotonic() + hold_off_s + random.uniform(0, JITTER_S)
        try:
            while (wait_s := max(self._lease.wait_s(time.monotonic()), not_before - time.monotonic())) > 0:
                self._news.clear()
                news = asyncio.create_task(self._news.wait())
                either: list[asyncio.Future[Any]] = [news, self.bus.failed]
                try:
                    await asyncio.wait(
                        either, timeout=min(wait_s, 3600.0), return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    news.cancel()
                if self.bus.failed.done():
                    self.bus.failed.result()
                if self.bus.connected and not self.bus.speaks_mqtt5:
                    raise BrokerError(
                        "The broker speaks only MQTT 3.1.1, but a dispatcher needs MQTT 5; use another "
                        "broker, such as mosquitto."
                    )
        finally:
            await self.bus.stop()

    def connected(self) -> None:
        topics = (self._topics.lease, self._topics.clients.state)
        self.bus.subscribe([Subscription(topic, every_time=True) for topic in topics])
        self.bus.subscribe([Subscription(self._topics.answered, qos=0)])
        self._lease.listen(time.monotonic())
        self._news.set()

    def disconnected(self) -> None:
        self._lease.lose()
        self._news.set()

    def delivered(self, delivery: Delivery) -> None:
        self.bus.ack(delivery)
        if delivery.topic == self._topics.answered:
            if not delivery.retain and not delivery.payload:
                self._answered.clear()
            elif not delivery.retain:
                self._answered.add(parse_keys(delivery.payload))
            return
        if delivery.topic == self._topics.lease:
            self._lease.hear(delivery.payload, time.monotonic())
        else:
            self._lease.hear_state(delivery.payload, time.monotonic())
        self._news.set()
