"""The daemon's connection to the broker, seen from the asyncio loop.

Deliveries come in, publishes and acknowledgements go out. It keeps the rules that make "at least once" true:
a persistent session, acknowledgements in the order of receipt and only on the connection that brought the
message, results sent again after a reconnect, never more in flight than the broker allows. Knows no JSON
and no tasks; whether a delivery was seen before is for the caller to find out.
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
from edgeslm.mqtt.loop_bridge import LoopBridge
from edgeslm.mqtt.outbox import NeverFits, Outbox, OutboxFull, Parcel
from edgeslm.protocol.delivery import Delivery, OutgoingMessage, Subscription
from edgeslm.protocol.topics import check_topic_name

if TYPE_CHECKING:
    from edgeslm.config.sections import Broker

__all__ = ["BusClient", "BusListener", "Delivery", "NeverFits", "OutboxFull", "Subscription", "Will"]

log = logging.getLogger("edgeslm.mqtt")

ANSWERABLE_BYTES = 16 * 1024 * 1024
"""Packets up to this size are let in even if the node reads less, so that their senders get ``too_large``;
the broker drops larger ones without a word (MQTT 5 section 3.1.2.11.4)."""

UNSENT_BYTES = 1024 * 1024
"""What of QoS 0 may wait for the socket; beyond it, pieces of streams are dropped."""

OUTBOX_BYTES = 16 * 1024 * 1024
"""What of QoS 1 may wait for the broker's acknowledgement."""


class BusListener(Protocol):
    """Whose connection it is. Called in the loop."""

    def connected(self) -> None:
        """After each CONNACK: subscribe, and publish what is retained; the broker may have lost both."""

    def delivered(self, delivery: Delivery) -> None:
        """Each message."""

    def disconnected(self) -> None:
        """A connection has ended, or could not be made."""
        return


class BusClient:
    """A connection that comes back by itself, until :meth:`stop` or a failure that trying again won't mend.

    ``queue`` is the Receive Maximum: so many QoS 1 deliveries may be unacknowledged at a time.
    ``packet_bytes`` is the largest payload that is handed on. ``pauses_s`` are the first and the longest
    pause before a connection is tried again.
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
        """Read on the network's thread. Whoever clears it has no connection made again."""
        self.may_connect.set()
        self._outbox = Outbox(OUTBOX_BYTES)
        self._bridge: LoopBridge | None = None
        self._network: Network | None = None
        self._link: BrokerLink | None = None
        self._welcome: Welcome | None = None
        self._loop: asyncio.AbstractEventLoop  # asking for it is a system call before Python 3.12
        self._failed: asyncio.Future[None]
        self._generation = 0
        self._receipts: deque[int] = deque()
        self._acked: set[int] = set()
        self._asked_for: dict[int, list[Subscription]] = {}
        self._unwanted: set[str] = set()
        self._unsent: deque[tuple[Sent, int]] = deque()
        self._unsent_bytes = 0
        self._last_problem = ""
        self._shortcomings: list[str] = []
        self._unsent_dropped = 0

    async def start(self) -> None:
        """Starts connecting and returns; BrokerError if the password file can't be read."""
        loop = self._loop = asyncio.get_running_loop()
        self._failed = loop.create_future()
        self._failed.add_done_callback(_look_at)
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
        """Says goodbye, which drops the will and keeps the session. What was not sent is given up."""
        if self._network is None or self._bridge is None:
            return
        network, self._network = self._network, None
        self._bridge.close()
        if not await asyncio.to_thread(network.stop, timeout_s):
            log.warning("the network thread didn't end within %g s", timeout_s)
        self._link = None
        for parcel in self._outbox.clear():
            parcel.settle(BrokerError("The node stopped before the broker had acknowledged the message."))
        if not self._failed.done():
            self._failed.cancel()

    @property
    def failed(self) -> asyncio.Future[None]:
        """Raises BrokerError when trying again is no use: another client of the same name, which is told by
        SessionTakenOver, or no MQTT 5."""
        return self._failed

    @property
    def shortcomings(self) -> list[str]:
        """What the broker doesn't give a node, as sentences, of the last connection; and certificates that
        end soon."""
        return [*self._shortcomings, *ending_soon(self._broker)]

    @property
    def connected(self) -> bool:
        return self._link is not None

    @property
    def resumed(self) -> bool:
        """Whether the broker still had the node's session when the connection was made."""
        return self._welcome is not None and self._welcome.session_present

    @property
    def network_alive(self) -> bool:
        """Whether the network thread runs; with ``network_silent_s`` the watchdog's food."""
        return self._network is not None and self._network.is_alive

    @property
    def network_silent_s(self) -> float:
        """Seconds since the network thread last went round its loop; connecting may take it 20 s."""
        return self._network.silent_s if self._network is not None else 0.0

    @property
    def dropped(self) -> int:
        """QoS 0 messages dropped, coming in or going out, because one side was too slow or away."""
        return self._unsent_dropped + (self._bridge.dropped if self._bridge else 0)

    @property
    def speaks_mqtt5(self) -> bool:
        """Whether the last connection was of MQTT 5, with Response Topics and Correlation Data."""
        return self._welcome is not None and self._welcome.mqtt5

    @property
    def is_held_up(self) -> bool:
        """Whether half of what the broker brings at a time, by our Receive Maximum or by its own, only waits
        for an earlier delivery to be acknowledged."""
        its = self._welcome.receive_maximum if self._welcome is not None else 65535
        return len(self._acked) >= min(self._settings.receive_maximum, its) / 2

    @property
    def waiting_bytes(self) -> int:
        """Bytes that the broker has not acknowledged yet."""
        return self._outbox.bytes

    # Out

    def subscribe(self, subscriptions: Iterable[str | Subscription]) -> None:
        """Subscribes on this connection; call it from ``on_connect``. A plain filter gets QoS 1.

        A filter that the broker refuses is logged as an error with the filter, unless it is optional.
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
        """Asks the broker to forget filters; without a connection, once there is one."""
        self._unwanted.update(filters)
        if self._link is not None and self._unwanted:
            self._link.unsubscribe(sorted(self._unwanted))
            self._unwanted.clear()

    def publish(self, message: OutgoingMessage) -> asyncio.Future[None]:
        """Publishes; the future is done when the broker has acknowledged the message.

        It raises BrokerError if the broker refuses it, or at once if the topic is impossible, the message is
        larger than the broker takes or the outbox is full. While there is no connection QoS 1 waits (a newer
        retained message takes the place of a waiting one, an expired one counts as done) and QoS 0 is
        dropped. QoS 0 is done at once. QoS 2 is resent like QoS 1 after a reconnect: at least once.
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
        """Tells the broker to forget a delivery, as soon as all earlier ones are acknowledged too.

        MQTT 5 [MQTT-4.6.0-2] wants PUBACKs in the order of receipt. Does nothing for QoS 0, and nothing if
        the message came over an earlier connection: the broker sends it again, and its packet identifier
        may be somebody else's by now.

        :return: whether that is all there is to do: False if it waits for earlier ones, or comes again.
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
        """Sends what the broker's Receive Maximum leaves room for."""
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
            if expiry_s != message.expiry_s:  # it has waited
                message = replace(message, expiry_s=expiry_s)
            sent = self._link.publish(message)
            if sent is None:
                self._outbox.put_back(parcel)
                return
            self._outbox.flow.sent(sent.mid, parcel)

    # The receiver's side of the bridge: called in the loop, in the order of the network

    def link_up(self, generation: int, link: BrokerLink, welcome: Welcome) -> None:
        self._generation = generation
        self._link = link
        self._welcome = welcome
        self._outbox.flow.receive_maximum = welcome.receive_maximum
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

    def delivered(self, delivery: Delivery) -> None:
        if delivery.qos and delivery.generation == self._generation:
            self._receipts.append(delivery.mid)
        if not delivery.topic or not self._guarded(self._listener.delivered, delivery):
            self.ack(delivery)  # it would only come back

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
        for one, failure in zip(self._asked_for.pop(mid, []), failures, strict=False):
            if failure and one.optional:
                log.debug("the broker refuses the subscription to %s: %s", one.filter, failure)
            elif failure:
                log.error(
                    "the broker refuses the subscription to %s: %s; allow it there", one.filter, failure
                )
                sentence = f"The broker refuses the subscription to {one.filter} ({failure}); allow it there."
                if sentence not in self._shortcomings:
                    self._shortcomings.append(sentence)

    def _forget_receipts(self) -> None:
        self._receipts.clear()
        self._acked.clear()
        self._asked_for.clear()

    @staticmethod
    def _guarded(call: Callable[..., None], *values: object) -> bool:
        try:
            call(*values)
        except Exception as error:
            log.error("a message could not be handled: %s", type(error).__name__)
            log.debug("a message could not be handled", exc_info=True)
            return False
        return True


def _look_at(done: asyncio.Future[None]) -> None:
    """Marks a failure as seen, for callers that don't wait."""
    if not done.cancelled() and (error := done.exception()) is not None:
        log.debug("not published: %s", error)
