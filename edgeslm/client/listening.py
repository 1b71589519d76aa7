"""Listening to topics: what passes, and which messages are retained; clears retained messages."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from edgeslm.client.pending_request import NOBODY_LISTENS
from edgeslm.errors import BrokerError
from edgeslm.mqtt.broker_address import BrokerAddress
from edgeslm.mqtt.connection import PAUSES_S, BrokerLink, ConnectionSettings, Network
from edgeslm.mqtt.diagnostics import Problem, Welcome
from edgeslm.protocol.delivery import OutgoingMessage, Subscription

if TYPE_CHECKING:
    from paho.mqtt.client import MQTTMessage
    from paho.mqtt.reasoncodes import ReasonCode

CALM_S = 0.5
"""Seconds without a retained message after which all of them count as received."""
_LARGEST = 1024 * 1024


class OnMessage(Protocol):
    """Gets each message, on the network thread."""

    def __call__(self, topic: str, payload: bytes, retained: bool, /) -> None: ...


def _ignore(topic: str, payload: bytes, retained: bool) -> None:
    pass


class Listening:
    """A connection to a broker that reads the messages of some topic filters. ``on_message`` gets each."""

    def __init__(
        self, address: BrokerAddress, filters: Sequence[str], on_message: OnMessage = _ignore
    ) -> None:
        self._on_message = on_message
        self._address = address
        self._filters = filters
        self._changed = threading.Condition()
        self._link: BrokerLink | None = None
        self._problem: Problem | None = None
        self._refused: str | None = None
        self._is_subscribed = False
        self._last_at = 0.0
        self._found: dict[str, bytes] = {}
        self._unconfirmed: set[int] = set()
        self._denied: list[str] = []
        self._unheard: set[int] = set()
        settings = ConnectionSettings(
            client_id=f"edgeslm-listening-{secrets.token_hex(8)}",
            keepalive_s=15,
            session_expiry_s=0,
            receive_maximum=256,
            maximum_packet_size=_LARGEST,
            keeps_session=False,
        )
        self._network = Network(address, settings, self, PAUSES_S)

    def __enter__(self) -> Listening:
        self._network.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._network.stop(5.0)

    def retained(self, timeout_s: float) -> dict[str, bytes]:
        """Topic -> payload of each retained message, as soon as all have come.

        :raises BrokerError: no connection within ``timeout_s``, or the broker refuses the subscription.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_subscribed or self._problem or self._refused, timeout_s)
            if self._refused or not self._is_subscribed:
                silent = f"The broker at {self._address} is silent."
                raise BrokerError(self._refused or (self._problem.sentence if self._problem else silent))
            while (left_s := self._last_at + CALM_S - time.monotonic()) > 0:
                self._changed.wait(left_s)
            return dict(self._found)

    def send(self, message: OutgoingMessage) -> int:
        """:return: the message's number. :raises BrokerError: the connection is closed."""
        with self._changed:
            sent = self._link.publish(message) if self._link is not None else None
            if sent is None:
                raise BrokerError(f"The broker at {self._address} closed the connection; try again.")
            return sent.mid

    def is_unheard(self, mid: int) -> bool:
        """Whether the broker has said that nobody subscribes to the message's topic, or that it is
        forbidden."""
        return mid in self._unheard

    def clear(self, topics: Sequence[str], timeout_s: float) -> None:
        """:raises BrokerError: the broker doesn't confirm it, or forbids it."""
        with self._changed:
            for topic in topics:
                sent = self._link.publish(OutgoingMessage(topic, b"", retain=True)) if self._link else None
                if sent is None:
                    raise BrokerError(f"The broker at {self._address} closed the connection; try again.")
                self._unconfirmed.add(sent.mid)
            if not self._changed.wait_for(lambda: not self._unconfirmed, timeout_s):
                raise BrokerError(f"The broker at {self._address} doesn't confirm all topics; try again.")
        if self._denied:
            raise BrokerError(
                f"The broker forbids to clear some topics ({self._denied[0]}); its access list must allow it."
            )

    # The listener, on the network thread

    def welcomed(self, link: BrokerLink, welcome: Welcome) -> None:
        with self._changed:
            self._link, self._problem = link, None
        link.subscribe([Subscription(one, every_time=True) for one in self._filters])

    def received(self, link: BrokerLink, message: MQTTMessage) -> None:
        if message.qos:
            link.ack(message.mid)
        self._on_message(message.topic, bytes(message.payload), bool(message.retain))
        with self._changed:
            if message.retain and message.payload:
                self._found[message.topic] = bytes(message.payload)
                self._last_at = time.monotonic()
                self._changed.notify_all()

    def acknowledged(self, link: BrokerLink, mid: int, reason: ReasonCode) -> None:
        with self._changed:
            self._unconfirmed.discard(mid)
            if reason.is_failure or reason.value == NOBODY_LISTENS:
                self._unheard.add(mid)
            if reason.is_failure:
                self._denied.append(str(reason))
            self._changed.notify_all()

    def subscribed(self, link: BrokerLink, mid: int, failures: Sequence[str | None]) -> None:
        with self._changed:
            failed = [one for one in failures if one]
            self._is_subscribed = not failed
            if failed:
                self._refused = (
                    f"The broker refuses the subscription ({failed[0]}); its access list must allow it."
                )
            self._last_at = time.monotonic()
            self._changed.notify_all()

    def lost(self, problem: Problem) -> None:
        with self._changed:
            self._link, self._problem = None, problem
            self._changed.notify_all()
