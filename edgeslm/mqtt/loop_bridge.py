"""Loop bridge: passes events from the network thread to the asyncio loop.

Code on the network thread must not be slow, since late keep-alives make the broker publish the will, and must
not raise, since an exception ends the thread. While the loop can't keep up, the network thread pauses reading
(backpressure), so that a flood of large messages waits in the broker instead of in memory.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from edgeslm.mqtt.diagnostics import Problem, Welcome
from edgeslm.mqtt.publish_filter import TRACEPARENT
from edgeslm.protocol.delivery import Delivery

if TYPE_CHECKING:
    from paho.mqtt.client import MQTTMessage
    from paho.mqtt.reasoncodes import ReasonCode

    from edgeslm.mqtt.connection import BrokerLink

BRIDGE_BYTES = 8 * 1024 * 1024
"""Limit of payload bytes that wait for the loop; above it, the network thread pauses reading."""

BRIDGE_WAIT_S = 1.0


class Receiver(Protocol):
    """Callbacks in the event loop, called in the order of the network events."""

    def link_up(self, generation: int, link: BrokerLink, welcome: Welcome) -> None: ...
    def delivered(self, delivery: Delivery) -> None: ...
    def acknowledged(self, generation: int, mid: int, failure: str | None) -> None: ...
    def subscribed(self, generation: int, mid: int, failures: Sequence[str | None]) -> None: ...
    def link_down(self, problem: Problem) -> None: ...


class LoopBridge:
    """The ``Listener`` of the network thread. At most ``most_qos0`` QoS 0 messages wait for the loop.

    :param wait_s: longest time, in seconds, for which the network thread pauses reading.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        receiver: Receiver,
        *,
        packet_limit: int,
        most_qos0: int,
        wait_s: float = BRIDGE_WAIT_S,
    ) -> None:
        self._loop = loop
        self._receiver = receiver
        self._packet_limit = packet_limit
        self._most_qos0 = most_qos0
        self._wait_s = wait_s
        self._generation = 0
        self._mail: deque[tuple[Callable[..., None], tuple[object, ...]]] = deque()
        self._is_called = False
        self._room = threading.Condition()
        self._waiting = 0
        self._waiting_bytes = 0
        self._is_closed = False
        self.dropped = 0

    def close(self) -> None:
        """Drops all events from now on."""
        with self._room:
            self._is_closed = True
            self._room.notify_all()

    def welcomed(self, link: BrokerLink, welcome: Welcome) -> None:
        self._generation += 1
        self._post(self._receiver.link_up, self._generation, link, welcome)

    def acknowledged(self, link: BrokerLink, mid: int, reason: ReasonCode) -> None:
        failure = reason.getName() if reason.is_failure else None
        self._post(self._receiver.acknowledged, self._generation, mid, failure)

    def subscribed(self, link: BrokerLink, mid: int, failures: Sequence[str | None]) -> None:
        self._post(self._receiver.subscribed, self._generation, mid, failures)

    def lost(self, problem: Problem) -> None:
        self._post(self._receiver.link_down, problem)

    def received(self, link: BrokerLink, message: MQTTMessage) -> None:
        delivery = self._stamp(message)
        weight = len(delivery.payload)
        with self._room:
            if delivery.qos == 0 and (self._waiting >= self._most_qos0 or self._is_full()):
                self.dropped += 1
                return
            if self._is_full():
                self._room.wait_for(lambda: self._is_closed or not self._is_full(), self._wait_s)
            self._waiting += 1
            self._waiting_bytes += weight
        self._post(self._deliver, delivery, weight)

    def _is_full(self) -> bool:
        return self._waiting_bytes > BRIDGE_BYTES

    def _deliver(self, delivery: Delivery, weight: int) -> None:
        with self._room:
            self._waiting -= 1
            self._waiting_bytes -= weight
            self._room.notify_all()
        if not self._is_closed:
            self._receiver.delivered(delivery)

    def _stamp(self, message: MQTTMessage) -> Delivery:
        try:
            topic = message.topic
        except UnicodeDecodeError:  # brokers refuse such topics; receivers ignore an empty one
            topic = ""
        size = len(message.payload)
        return Delivery(
            topic=topic,
            payload=bytes(message.payload) if size <= self._packet_limit else b"",
            qos=message.qos,
            retain=message.retain,
            dup=message.dup,
            response_topic=getattr(message.properties, "ResponseTopic", None),
            correlation=getattr(message.properties, "CorrelationData", None),
            expiry_s=getattr(message.properties, "MessageExpiryInterval", None),
            generation=self._generation,
            mid=message.mid,
            size=size,
            received_at=time.monotonic(),
            identifiers=tuple(getattr(message.properties, "SubscriptionIdentifier", ())),
            traceparent=_traceparent(message),
        )

    def _post(self, call: Callable[..., None], *values: object) -> None:
        """Queues an event. Only the first event in the queue wakes the loop, since waking it is expensive;
        the loop then takes all queued events."""
        if self._is_closed:
            return
        self._mail.append((call, values))
        if self._is_called:
            return
        self._is_called = True
        try:
            self._loop.call_soon_threadsafe(self._take_in)
        except RuntimeError:  # the loop has ended
            self.close()

    def _take_in(self) -> None:
        self._is_called = False  # first, so that later events wake the loop again
        for _ in range(len(self._mail)):
            call, values = self._mail.popleft()
            try:
                call(*values)
            except Exception as error:  # one bad message must not delay the others
                context = {"message": "an event of the MQTT connection failed", "exception": error}
                self._loop.call_exception_handler(context)


def _traceparent(message: MQTTMessage) -> str | None:
    """The traceparent property; ``publish_filter`` has removed all other User Properties."""
    pairs: list[tuple[str, str]] = getattr(message.properties, "UserProperty", [])
    return next((value for name, value in pairs if name == TRACEPARENT), None)
