"""MQTT client of the daemon, for the asyncio loop: receives messages, and sends messages and
acknowledgements.

Guarantees at-least-once delivery. The client uses a persistent session and resends messages after a
reconnect. Messages are acknowledged in the order of receipt, and only on the connection on which they
arrived. The number of messages in flight stays within the broker's limit. The caller deduplicates deliveries.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from edgeslm.errors import BrokerError, InvalidRequest
from edgeslm.mqtt.broker_address import BrokerAddress
from edgeslm.mqtt.certificate_expiry import ending_soon
from edgeslm.mqtt.connection import (
    SESSION_EXPIRY_S,
    BrokerLink,
    ConnectionSettings,
    Network,
    Sent,
    Will,
)
from edgeslm.mqtt.diagnostics import Problem, SessionTakenOver, Welcome, shortcomings
from edgeslm.mqtt.flow_control import STEADY_S
from edgeslm.mqtt.loop_bridge import LoopBridge
from edgeslm.mqtt.outbox import NeverFits, Outbox, OutboxFull, Parcel
from edgeslm.protocol.delivery import Delivery, OutgoingMessage, Subscription
from edgeslm.protocol.topics import check_topic_name

if TYPE_CHECKING:
    from edgeslm.config.sections import Broker

__all__ = ["BusClient", "BusListener", "Delivery", "NeverFits", "OutboxFull", "Subscription", "Will"]

log = logging.getLogger("edgeslm.mqtt")

ANSWERABLE_BYTES = 16 * 1024 * 1024
"""Minimum value, in bytes, of the Maximum Packet Size that the node sends in CONNECT. The broker silently
drops packets above the Maximum Packet Size (MQTT 5 section 3.1.2.11.4). The minimum lets requests arrive that
exceed the node's own size limit, so that the node can answer them with the error ``too_large``."""

UNSENT_BYTES = 1024 * 1024
"""Limit, in bytes, of unsent QoS 0 messages; above it, new QoS 0 messages, such as pieces of streamed
answers, are dropped."""

SUBSCRIBE_AGAIN_S = 1.0, 60.0
"""First and longest pause, in seconds, before refused subscriptions are tried again."""

OUTBOX_BYTES = 16 * 1024 * 1024
"""Limit, in bytes, of QoS 1 and 2 messages that are queued or that the broker hasn't acknowledged."""


class BusListener(Protocol):
    """Callbacks of the connection, called in the event loop."""

    def connected(self) -> None:
        """Called after each CONNACK. Subscribe and publish retained messages in this method, since the broker
        may have lost the subscriptions and messages."""

    def delivered(self, delivery: Delivery) -> None:
        """Called for each message."""

    def disconnected(self) -> None:
        """Called when a connection ended or an attempt to connect failed."""
        return


class BusClient:
    """A connection that reconnects until :meth:`stop` or a permanent failure.

    ``queue`` is the Receive Maximum, the limit of unacknowledged QoS 1 deliveries. ``packet_bytes`` is the
    maximum payload size; if a message has a larger payload, the listener gets the message without its
    payload. ``pauses_s`` are the first and the longest reconnect pause.
    """

    def __init__(
        self,
        broker: Broker,
        listener: BusListener,
        *,
        client_id: str,
        queue: int,
        packet_bytes: int,
        will: Will | None = None,
        session_expiry_s: int = SESSION_EXPIRY_S,
        pauses_s: tuple[float, float] = (0.5, 60.0),
    ) -> None:
        self._broker = broker
        self._settings = ConnectionSettings(
            client_id=client_id,
            keepalive_s=broker.keepalive_s,
            session_expiry_s=session_expiry_s,
            receive_maximum=queue,
            maximum_packet_size=max(ANSWERABLE_BYTES, 2 * packet_bytes),
            will=will,
        )
        self._packet_limit = packet_bytes
        self._listener = listener
        self._pauses_s = pauses_s
        self.may_connect = threading.Event()
        """While this event is cleared, the network thread doesn't reconnect."""
        self.may_connect.set()
        self._outbox = Outbox(OUTBOX_BYTES)
        self._bridge: LoopBridge | None = None
        self._network: Network | None = None
        self._link: BrokerLink | None = None
        self._welcome: Welcome | None = None
        self._loop: asyncio.AbstractEventLoop  # cached: get_running_loop is a system call before Python 3.12
        self._failed: asyncio.Future[None]
        self._generation = 0
        self._receipts: deque[int] = deque()
        self._acked: set[int] = set()
        self._asked_for: dict[int, list[Subscription]] = {}
        self._refused: dict[str, Subscription] = {}
        self._subscribe_again_s = SUBSCRIBE_AGAIN_S[0]
        self._subscribing_again: asyncio.TimerHandle | None = None
        self._unwanted: set[str] = set()
        self._unsent: deque[tuple[Sent, int]] = deque()
        self._unsent_bytes = 0
        self._last_problem = ""
        self._shortcomings: list[str] = []
        self._unsent_dropped = 0

    async def start(self) -> None:
        """Starts to connect, and returns at once. :raises BrokerError: the password file can't be read."""
        loop = self._loop = asyncio.get_running_loop()
        self._failed = loop.create_future()
        self._bridge = LoopBridge(
            loop, self, packet_limit=self._packet_limit, most_qos0=self._settings.receive_maximum
        )
        self._network = Network(
            BrokerAddress.of(self._broker),
            self._settings,
            self._bridge,
            self._pauses_s,
            self.may_connect,
        )
        self._network.start()

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Disconnects cleanly: the broker drops the will and keeps the session. Unsent messages fail."""
        if self._network is None or self._bridge is None:
            return
        network, self._network = self._network, None
        self._bridge.close()
        if not await asyncio.to_thread(network.stop, timeout_s):
            log.warning("the network thread didn't end within %g s", timeout_s)
        self._link = None
        self._forget_receipts()
        for parcel in self._outbox.clear():
            parcel.settle(BrokerError("The node stopped before the broker had acknowledged the message."))
        if not self._failed.done():
            self._failed.cancel()

    @property
    def failed(self) -> asyncio.Future[None]:
        """A future that raises BrokerError on a permanent failure, or SessionTakenOver if another client with
        the same client id took over the session."""
        return self._failed

    @property
    def shortcomings(self) -> list[str]:
        """Warnings about features that the broker of the last connection lacks, and about certificates that
        expire soon."""
        return [*self._shortcomings, *ending_soon(self._broker)]

    @property
    def connected(self) -> bool:
        return self._link is not None

    @property
    def resumed(self) -> bool:
        """Whether the last connection resumed the session at the broker."""
        return self._welcome is not None and self._welcome.session_present

    @property
    def network_alive(self) -> bool:
        """Whether the network thread runs; the watchdog uses this and ``network_silent_s``."""
        return self._network is not None and self._network.is_alive

    @property
    def network_silent_s(self) -> float:
        """Seconds since the last iteration of the network thread's loop; a connection attempt may block the
        loop for 20 s."""
        return self._network.silent_s if self._network is not None else 0.0

    @property
    def dropped(self) -> int:
        """Number of QoS 0 messages, sent or received, that were dropped because the broker or the node was
        slow or offline."""
        return self._unsent_dropped + (self._bridge.dropped if self._bridge else 0)

    @property
    def speaks_mqtt5(self) -> bool:
        """Whether the last connection used MQTT 5, with Response Topic and Correlation Data."""
        return self._welcome is not None and self._welcome.mqtt5

    @property
    def is_held_up(self) -> bool:
        """Whether at least half of the Receive Maximum is taken by finished deliveries that can't be
        acknowledged yet, because an earlier delivery isn't finished. The smaller of the node's and the
        broker's Receive Maximum applies."""
        its = self._welcome.receive_maximum if self._welcome is not None else 65535
        return len(self._acked) >= min(self._settings.receive_maximum, its) / 2

    @property
    def waiting_bytes(self) -> int:
        """Bytes of outgoing messages that the broker hasn't acknowledged yet."""
        return self._outbox.bytes

    # Out

    def subscribe(self, subscriptions: Iterable[str | Subscription]) -> None:
        """Subscribes on this connection; call this method from ``connected``. A filter that is a string gets
        QoS 1.

        A refused subscription is logged as an error, and is tried again after growing pauses, unless the
        subscription is optional.
        """
        packets: dict[int | None, list[Subscription]] = {}
        takes_identifiers = self._welcome is not None and self._welcome.identifiers_available
        for one in subscriptions:
            wanted = Subscription(one) if isinstance(one, str) else one
            self._unwanted.discard(wanted.filter)
            packets.setdefault(wanted.identifier if takes_identifiers else None, []).append(wanted)
        for identifier, group in packets.items():
            group = [replace(one, identifier=identifier) for one in group]
            if self._link is not None and (mid := self._link.subscribe(group)) is not None:
                self._asked_for[mid] = group

    def unsubscribe(self, filters: Iterable[str]) -> None:
        """Unsubscribes now, or after the next connect."""
        self._unwanted.update(filters)
        for one in self._unwanted:
            self._refused.pop(one, None)
        if self._link is not None and self._unwanted:
            self._link.unsubscribe(sorted(self._unwanted))
            self._unwanted.clear()

    def publish(self, message: OutgoingMessage) -> asyncio.Future[None]:
        """Publishes a message. The returned future is done when the broker has acknowledged the message.

        The future raises BrokerError if the broker refuses the message, the topic is invalid, the message is
        too large or the outbox is full. Without a connection, QoS 1 messages are queued; a newer retained
        message replaces a queued message of its topic, and an expired message counts as done. A QoS 0 message
        is done at once; without a connection, it is dropped. A QoS 2 message is resent like a QoS 1 message,
        so it may arrive more than once.
        """
        done: asyncio.Future[None] = self._loop.create_future()
        expires_at = time.monotonic() + message.expiry_s if message.expiry_s is not None else None
        parcel = Parcel(message, expires_at, [done])
        try:
            check_topic_name(message.topic)
            self._check_size(parcel)
            if message.qos == 0:
                self._publish_qos0(parcel)
                parcel.settle()
            else:
                self._outbox.add(parcel)
                self._send_waiting()
        except (OutboxFull, NeverFits) as error:
            parcel.settle(error)
        except (BrokerError, InvalidRequest) as error:
            parcel.settle(BrokerError(f"The message can't be published. {error}"))
        return done

    def ack(self, delivery: Delivery) -> bool:
        """Acknowledges a delivery as soon as all earlier deliveries are acknowledged.

        MQTT 5 [MQTT-4.6.0-2] requires PUBACKs in the order of receipt. Does nothing for QoS 0. Messages of an
        earlier connection are not acknowledged either: the broker resends them, and their packet identifiers
        may be in use again.

        :return: false if the acknowledgement has to wait, or the broker will resend the message.
        """
        if delivery.qos == 0:
            return True
        if delivery.generation != self._generation or self._link is None:
            return False
        self._acked.add(delivery.mid)
        while self._receipts and self._receipts[0] in self._acked:
            mid = self._receipts.popleft()
            self._acked.discard(mid)
            self._link.ack(mid)
        return delivery.mid not in self._acked

    def _check_size(self, parcel: Parcel) -> None:
        limit = self._welcome.maximum_packet_size if self._welcome else None
        if limit is not None and parcel.size > limit:
            raise BrokerError(
                f"It has {parcel.size} bytes and the broker takes {limit}; raise max_packet_size there."
            )

    def _publish_qos0(self, parcel: Parcel) -> None:
        while self._unsent and self._unsent[0][0].is_published():
            self._unsent_bytes -= self._unsent.popleft()[1]
        if self._link is None or self._unsent_bytes + parcel.size > UNSENT_BYTES:
            self._unsent_dropped += 1
            return
        sent = self._link.publish(parcel.message)
        if sent is None:
            self._unsent_dropped += 1
            return
        self._unsent.append((sent, parcel.size))
        self._unsent_bytes += parcel.size
        namesake = self._outbox.flow.get(sent.mid)
        if namesake is not None:
            namesake.namesakes += 1

    def _send_waiting(self) -> None:
        """Sends queued messages up to the broker's Receive Maximum."""
        while self._link is not None and self._outbox.flow.room > 0:
            if (parcel := self._outbox.take()) is None:
                return
            expiry_s = parcel.expiry_s(time.monotonic())
            try:
                self._check_size(parcel)
            except BrokerError as error:
                self._outbox.drop(parcel, error)
                continue
            if expiry_s == 0:
                self._outbox.drop(parcel)
                continue
            message = parcel.message
            if expiry_s != message.expiry_s:  # it was queued for some time
                message = replace(message, expiry_s=expiry_s)
            sent = self._link.publish(message)
            if sent is None:
                self._outbox.put_back(parcel)
                return
            self._outbox.flow.sent(sent.mid, parcel)

    # Receiver of the bridge: called in the loop, in network order

    def link_up(self, generation: int, link: BrokerLink, welcome: Welcome) -> None:
        self._generation = generation
        self._link = link
        self._welcome = welcome
        self._outbox.flow.begin(welcome.receive_maximum)
        if self._outbox.flow.is_suspended:
            self._loop.call_later(STEADY_S, self._resume, generation)
        self._forget_receipts()
        log.info("connected to the broker%s", ", session resumed" if welcome.session_present else "")
        self._shortcomings = shortcomings(
            welcome, session_expiry_s=self._settings.session_expiry_s, packet_limit=self._packet_limit
        )
        for sentence in self._shortcomings:
            log.warning("%s", sentence)
        self.unsubscribe(())
        self._guarded(self._listener.connected)
        self._send_waiting()

    def _resume(self, generation: int) -> None:
        if generation == self._generation and self._link is not None:
            self._outbox.flow.resume()
            self._send_waiting()

    def link_down(self, problem: Problem) -> None:
        self._link = None
        self._forget_receipts()
        self._unsent.clear()
        self._unsent_bytes = 0
        guilty = self._outbox.flow.hung_up() if problem.packet_refused else ()
        self._outbox.land_all(guilty, BrokerError(problem.sentence))
        level = logging.WARNING if problem.sentence != self._last_problem else logging.DEBUG
        log.log(level, "%s", problem.sentence)
        self._last_problem = problem.sentence
        self._guarded(self._listener.disconnected)
        if problem.fatal and not self._failed.done():
            kind = SessionTakenOver if problem.taken_over else BrokerError
            self._failed.set_exception(kind(problem.sentence))
            self._failed.exception()  # no warning of asyncio if nobody awaits it

    def delivered(self, delivery: Delivery) -> None:
        if delivery.qos and delivery.generation == self._generation:
            self._receipts.append(delivery.mid)
        if not delivery.topic or not self._guarded(self._listener.delivered, delivery):
            self.ack(delivery)  # else it would be redelivered and fail again

    def acknowledged(self, generation: int, mid: int, failure: str | None) -> None:
        parcel = self._outbox.flow.get(mid)
        if generation != self._generation or parcel is None:
            return
        if parcel.namesakes:
            parcel.namesakes -= 1
            return
        refusal = f"The broker refuses the message to {parcel.message.topic}: {failure}."
        error = BrokerError(refusal) if failure else None
        self._outbox.landed(mid, error)
        self._last_problem = ""
        if not len(self._outbox):
            self._outbox.flow.passed()
        self._send_waiting()

    def subscribed(self, generation: int, mid: int, failures: Sequence[str | None]) -> None:
        if generation != self._generation:
            return
        for one, refusal in zip(self._asked_for.pop(mid, []), failures, strict=False):
            failure = refusal or (self._welcome and self._welcome.fault_of(one.filter))
            if failure and one.optional:
                log.debug("the broker refuses the subscription to %s: %s", one.filter, failure)
            elif failure:
                sentence = f"The broker refuses the subscription to {one.filter} ({failure}); allow it there."
                if sentence not in self._shortcomings:
                    log.error(
                        "the broker refuses the subscription to %s: %s; allow it there", one.filter, failure
                    )
                    self._shortcomings.append(sentence)
                self._refused[one.filter] = one
            elif self._refused.pop(one.filter, None) is not None:
                log.warning("the broker accepts the subscription to %s now", one.filter)
                start = f"The broker refuses the subscription to {one.filter} ("
                self._shortcomings = [told for told in self._shortcomings if not told.startswith(start)]
        if self._refused and self._subscribing_again is None:
            pause_s = self._subscribe_again_s
            self._subscribe_again_s = min(2 * pause_s, SUBSCRIBE_AGAIN_S[1])
            self._subscribing_again = self._loop.call_later(pause_s, self._subscribe_again)

    def _subscribe_again(self) -> None:
        self._subscribing_again = None
        self.subscribe(list(self._refused.values()))

    def _forget_receipts(self) -> None:
        self._receipts.clear()
        self._acked.clear()
        self._asked_for.clear()
        self._refused.clear()
        self._subscribe_again_s = SUBSCRIBE_AGAIN_S[0]
        if self._subscribing_again is not None:
            self._subscribing_again.cancel()
            self._subscribing_again = None

    @staticmethod
    def _guarded(call: Callable[..., None], *values: object) -> bool:
        try:
            call(*values)
        except Exception as error:
            log.error("a message could not be handled: %s", type(error).__name__)
            log.debug("a message could not be handled", exc_info=True)
            return False
        return True
