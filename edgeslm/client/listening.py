"""Listening to topics: what passes, and which messages are retained; clears retained messages."""

from __future__ import annotations

import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, Self

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


class Listener(ABC):
    """A connection to a broker that reads the messages of some topic filters. Thread-safe.

    :param name: what the client id begins with. :param needs_all: whether each filter must be allowed; else
        one of them is enough.
    """

    def __init__(
        self, address: BrokerAddress, filters: Sequence[str], name: str, *, needs_all: bool = True
    ) -> None:
        self._address = address
        self._filters = filters
        self._needs_all = needs_all
        self._changed = threading.Condition()
        self._link: BrokerLink | None = None
        self._problem: Problem | None = None
        self._refused: str | None = None
        self._is_subscribed = False
        self._retained_at = 0.0
        """Time at which the last retained message, or the acknowledgement of the subscription, arrived."""
        self._version = 0
        settings = ConnectionSettings(
            client_id=f"{name}-{secrets.token_hex(8)}",
            keepalive_s=15,
            session_expiry_s=0,
            receive_maximum=256,
            maximum_packet_size=_LARGEST,
            keeps_session=False,
        )
        self._network = Network(address, settings, self, PAUSES_S)

    @abstractmethod
    def take(self, topic: str, payload: bytes, retained: bool) -> None:
        """Takes a message, on the network thread, with the lock ``_changed``."""

    def __enter__(self) -> Self:
        self._network.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._network.stop(5.0)

    @property
    def problem(self) -> str | None:
        """Why there is no connection to the broker now, as an error message; None if there is no problem."""
        return self._problem.sentence if self._problem else None

    def wait(self, timeout_s: float) -> bool:
        """Waits up to ``timeout_s`` seconds for a change. :return: whether there was a change."""
        with self._changed:
            version = self._version
            return self._changed.wait_for(lambda: self._version != version, timeout_s)

    def settle(self, timeout_s: float) -> None:
        """Waits for the retained messages. MQTT doesn't mark the last retained message, so this method waits
        until no retained message has arrived for a short time; other messages don't prolong the wait.

        :raises BrokerError: no connection within ``timeout_s``, or the broker refuses the subscription.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_subscribed or self._problem or self._refused, timeout_s)
            if self._refused or not self._is_subscribed:
                raise BrokerError(
                    self._refused or self.problem or f"The broker at {self._address} is silent."
                )
            give_up_at = time.monotonic() + timeout_s
            while not self._is_complete():
                left_s = min(self._retained_at + CALM_S, give_up_at) - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(left_s)

    def _is_complete(self) -> bool:
        """Whether no more retained messages can come."""
        return False

    def _note(self) -> None:
        self._version += 1
        self._changed.notify_all()

    # Called on the network thread

    def welcomed(self, link: BrokerLink, welcome: Welcome) -> None:
        with self._changed:
            self._link, self._problem = link, None
            self._note()
        link.subscribe([Subscription(one, every_time=True) for one in self._filters])

    def received(self, link: BrokerLink, message: MQTTMessage) -> None:
        if message.qos:
            link.ack(message.mid)
        with self._changed:
            self.take(message.topic, bytes(message.payload), bool(message.retain))
            if message.retain:
                self._retained_at = time.monotonic()
            self._note()

    @abstractmethod
    def acknowledged(self, link: BrokerLink, mid: int, reason: ReasonCode) -> None:
        """The broker has a published message, or refuses it."""

    def subscribed(self, link: BrokerLink, mid: int, failures: Sequence[str | None]) -> None:
        with self._changed:
            failed = [(one, why) for one, why in zip(self._filters, failures, strict=True) if why]
            self._is_subscribed = not failed if self._needs_all else len(failed) < len(failures)
            if not self._is_subscribed:
                (one, why), *_ = failed
                self._refused = (
                    f"The broker refuses the subscription to {one} ({why}); its access list must allow it."
                )
            self._retained_at = time.monotonic()
            self._note()

    def lost(self, problem: Problem) -> None:
        with self._changed:
            self._link, self._problem = None, problem
            self._note()


class OnMessage(Protocol):
    """Gets each message, on the network thread."""

    def __call__(self, topic: str, payload: bytes, retained: bool, /) -> None: ...


def _ignore(topic: str, payload: bytes, retained: bool) -> None:
    pass


class Listening(Listener):
    """Reads the messages of some topic filters and can clear retained ones. ``on_message`` gets each."""

    def __init__(
        self, address: BrokerAddress, filters: Sequence[str], on_message: OnMessage = _ignore
    ) -> None:
        super().__init__(address, filters, "edgeslm-listening")
        self._on_message = on_message
        self._found: dict[str, bytes] = {}
        self._unconfirmed: set[int] = set()
        self._denied: list[str] = []
        self._unheard: set[int] = set()

    def retained(self, timeout_s: float) -> dict[str, bytes]:
        """Topic -> payload of each retained message, as soon as all have come.

        :raises BrokerError: no connection within ``timeout_s``, or the broker refuses the subscription.
        """
        self.settle(timeout_s)
        with self._changed:
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

    def take(self, topic: str, payload: bytes, retained: bool) -> None:
        self._on_message(topic, payload, retained)
        if retained and payload:
            self._found[topic] = payload

    def acknowledged(self, link: BrokerLink, mid: int, reason: ReasonCode) -> None:
        with self._changed:
            self._unconfirmed.discard(mid)
            if reason.is_failure or reason.value == NOBODY_LISTENS:
                self._unheard.add(mid)
            if reason.is_failure:
                self._denied.append(str(reason))
            self._note()
