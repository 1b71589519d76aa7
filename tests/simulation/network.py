"""Simulated network, and a paho client on it.

:class:`SimNetwork` replaces the thread of :class:`edgeslm.mqtt.connection.Network`; the rest of the MQTT
client, from ``BrokerLink`` on, is the product's.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, Literal, get_args

from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from edgeslm.errors import BrokerError
from edgeslm.mqtt import connection
from edgeslm.mqtt.connection import BrokerLink, Network
from edgeslm.mqtt.diagnostics import Problem, connection_failure, silent_refusal
from tests.simulation.broker import Broker, Filter, Message
from tests.simulation.loop import OUTSIDE, PROCESS, Process, SimLoop

MOST_DELAY_S = 0.02
NAMESAKES = 0.3
"""Share of the messages of QoS 0 that get the packet identifier of an unacknowledged message."""
Stage = Literal["connack", "suback not sent", "suback"]
"""The packet after which a broker hangs up."""
STAGES: tuple[Stage, ...] = get_args(Stage)


class Wire:
    """The network between one broker and its clients. ``delay_s`` is the longest delay of a packet.

    ``partitioned`` names clients that can't reach the broker. ``flaps`` is called at each CONNACK and returns
    the seconds until the broker hangs up, with a reason code or None for a broken connection. ``closes`` is
    called when the broker is about to send CONNACK or SUBACK, and returns after which packet it hangs up,
    before it has read any further packet, also with a reason code or None.
    """

    def __init__(self, loop: SimLoop, broker: Broker, chance: random.Random) -> None:
        self.loop = loop
        self.broker = broker
        self.chance = chance
        self.delay_s = MOST_DELAY_S
        self.partitioned: set[str] = set()
        self.flaps: Callable[[str], tuple[float, int | None] | None] = lambda client: None
        self.closes: Callable[[str], tuple[Stage, int | None] | None] = lambda client: None
        self.links: dict[Link, None] = {}

    def open(self, link: Link) -> None:
        if not self.broker.is_up or link.client in self.partitioned:
            raise ConnectionRefusedError
        self.links[link] = None

    def cut_later(self, process: Process | None) -> None:
        """A process has ended; the broker notices now or later."""
        for link in list(self.links):
            if link.owner is process:
                link.cut(self.chance.choice((0.0, 0.01, self.chance.uniform(0, 2))))

    def cut(self, client: str | None = None) -> None:
        """Breaks connections: packets on the way are lost."""
        for link in list(self.links):
            if client is None or link.client == client:
                link.cut(self.chance.choice((0.0, 0.0, self.chance.uniform(0, 3))))


class Link:
    """One TCP connection of ``client``; the broker's :class:`~tests.simulation.broker.Peer`.

    ``take`` gets the broker's packets, in the context of ``owner``; ``ended`` is called once, with the reason
    code of a DISCONNECT or None.
    """

    def __init__(
        self,
        wire: Wire,
        client: str,
        receive_maximum: int,
        owner: Process | None,
        take: Callable[[tuple[Any, ...]], None],
        ended: Callable[[int | None], None],
    ) -> None:
        self.wire = wire
        self.client = client
        self.receive_maximum = receive_maximum
        self.owner = owner
        self._context = owner.context if owner is not None else OUTSIDE
        self._take = take
        self._ended = ended
        self.is_open = True
        self._is_deaf = False
        """Whether the broker reads no more packets of this connection."""
        self._to_client_at = self._to_broker_at = 0.0

    def deliver(self, packet: tuple[Any, ...]) -> None:
        """From the broker."""
        if not self.is_open:
            return
        closes = self.wire.closes(self.client) if packet[0] in ("connack", "suback") else None
        if closes is not None and closes[0].startswith(packet[0]):
            stage, code = closes
            if stage != "suback not sent":
                self._pass_on(packet)
            self._is_deaf = True
            self.wire.loop.call_at(self._to_client_at + 1e-6, self._hang_up, code, context=OUTSIDE)
            return
        self._pass_on(packet)

    def _pass_on(self, packet: tuple[Any, ...]) -> None:
        at = max(self._to_client_at + 1e-7, self.wire.loop.now + self._delay())
        self._to_client_at = at
        self.wire.loop.call_at(at, self._arrive, packet, context=self._context)

    def _arrive(self, packet: tuple[Any, ...]) -> None:
        if not self.is_open:
            return
        if packet[0] == "disconnect":
            self._close()
            self._ended(packet[1])
            return
        if packet[0] == "connack" and (flap := self.wire.flaps(self.client)) is not None:
            after_s, code = flap
            self.wire.loop.call_later(after_s, self._hang_up, code, context=OUTSIDE)
        self._take(packet)

    def _hang_up(self, code: int | None) -> None:
        if not self.is_open:
            return
        if code is not None:
            self._pass_on(("disconnect", code))
            self.wire.broker.lost(self)
        else:
            self.cut(0.0)

    def send(self, action: Callable[[Broker], None]) -> bool:
        """To the broker. :return: whether the connection is open."""
        if not self.is_open or (self.owner is not None and self.owner.is_dead):
            return False
        at = max(self._to_broker_at + 1e-7, self.wire.loop.now + self._delay())
        self._to_broker_at = at
        self.wire.loop.call_at(at, self._reach, action, context=OUTSIDE)
        return True

    def _reach(self, action: Callable[[Broker], None]) -> None:
        if self.is_open and self.wire.broker.is_up and not self._is_deaf:
            action(self.wire.broker)

    def cut(self, broker_notices_s: float = 0.0) -> None:
        """The connection breaks. The broker may notice later than the client."""
        if not self.is_open:
            return
        self._close()
        if broker_notices_s:
            self.wire.loop.call_later(broker_notices_s, self.wire.broker.lost, self, context=OUTSIDE)
        else:
            self.wire.broker.lost(self)
        self.wire.loop.call_soon(self._ended, None, context=self._context)

    def close(self) -> None:
        """By the client, without DISCONNECT."""
        if self.is_open:
            self._close()
            self.wire.broker.lost(self)

    def _close(self) -> None:
        self.is_open = False
        self.wire.links.pop(self, None)

    def _delay(self) -> float:
        return self.wire.chance.random() ** 3 * self.wire.delay_s


WIRES: dict[str, Wire] = {}
"""Broker host -> its network."""

_REASONS: dict[tuple[int, int], ReasonCode] = {}


def reason(packet: int, code: int) -> ReasonCode:
    if (packet, code) not in _REASONS:
        _REASONS[packet, code] = ReasonCode(packet, identifier=code)
    return _REASONS[packet, code]


class _Sent:
    """A published message, like paho's ``MQTTMessageInfo``."""

    __slots__ = ("mid", "rc")

    def __init__(self, mid: int, rc: MQTTErrorCode) -> None:
        self.mid = mid
        self.rc = rc

    def is_published(self) -> bool:
        return True


class SimPahoClient:
    """The part of ``paho.mqtt.client.Client`` that ``BrokerLink`` uses."""

    def __init__(self, *arguments: Any, client_id: str = "", **options: Any) -> None:
        self.client_id = client_id
        self._is_mqtt5 = options.get("protocol") == MQTTProtocolVersion.MQTTv5
        self._link: Link | None = None
        self._mid = 0
        self._unacknowledged: dict[int, None] = {}
        self._will: tuple[str, bytes] | None = None
        self.ended: asyncio.Future[None] | None = None
        self.answered: asyncio.Future[None] | None = None
        self.on_connect: Any = None
        self.on_disconnect: Any = None
        self.on_message: Any = None
        self.on_publish: Any = None
        self.on_subscribe: Any = None

    def max_inflight_messages_set(self, most: int) -> None:
        return

    def username_pw_set(self, username: str, password: str | None = None) -> None:
        return

    def will_set(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False) -> None:
        self._will = (topic, payload)

    def open(self, wire: Wire, receive_maximum: int, expiry_s: float) -> None:
        """Sends CONNECT."""
        loop = asyncio.get_running_loop()
        self._unacknowledged.clear()
        self.ended, self.answered = loop.create_future(), loop.create_future()
        link = Link(wire, self.client_id, receive_maximum, PROCESS.get(), self._take, self._end)
        wire.open(link)
        self._link = link
        how: dict[str, Any] = {"expiry_s": expiry_s, "will": self._will, "clean": False}
        link.send(lambda broker: void(broker.connect(link, **how, mqtt5=self._is_mqtt5)))

    def _end(self, code: int | None) -> None:
        if code is not None and self.on_disconnect is not None:
            flags = SimpleNamespace(is_disconnect_packet_from_server=True)
            self.on_disconnect(self, None, flags, reason(PacketTypes.DISCONNECT, code), None)
        self._link = None
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(None)

    def _take(self, packet: tuple[Any, ...]) -> None:
        kind = packet[0]
        if kind == "publish":
            _, mid, message, identifiers, dup, sent_at = packet
            self.on_message(self, None, _received(mid, message, identifiers, dup, sent_at))
        elif kind == "puback":
            self._unacknowledged.pop(packet[1], None)
            self.on_publish(self, None, packet[1], reason(PacketTypes.PUBACK, packet[2]), None)
        elif kind == "suback":
            codes = [reason(PacketTypes.SUBACK, code) for code in packet[2]]
            self.on_subscribe(self, None, packet[1], codes, None)
        elif kind == "connack":
            flags = SimpleNamespace(session_present=packet[2])
            granted = SimpleNamespace(ReceiveMaximum=packet[3])
            self.on_connect(self, None, flags, reason(PacketTypes.CONNACK, packet[1]), granted)
            if self.answered is not None and not self.answered.done():
                self.answered.set_result(None)

    # What BrokerLink calls

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool, properties: Any) -> _Sent:
        link = self._link
        self._mid = self._mid % 65535 + 1
        mid = self._mid
        if qos:
            self._unacknowledged[mid] = None
        elif self._unacknowledged and link is not None and link.wire.chance.random() < NAMESAKES:
            # paho numbers messages of QoS 0 too, and doesn't skip numbers in use, so 65,535 messages later:
            mid = next(iter(self._unacknowledged))
        expiry = getattr(properties, "MessageExpiryInterval", None)
        message = Message(
            0,
            topic,
            bytes(payload),
            qos,
            retain,
            getattr(properties, "ResponseTopic", None),
            getattr(properties, "CorrelationData", None),
            None if expiry is None or link is None else link.wire.loop.now + expiry,
        )
        if link is None or not link.send(lambda broker: broker.publish(link, mid, message)):
            return _Sent(mid, MQTTErrorCode.MQTT_ERR_NO_CONN)
        if qos == 0:  # paho reports it when it is written
            ok = reason(PacketTypes.PUBACK, 0)
            link.wire.loop.call_soon(lambda: link.is_open and self.on_publish(self, None, mid, ok, None))
        return _Sent(mid, MQTTErrorCode.MQTT_ERR_SUCCESS)

    def ack(self, mid: int, qos: int) -> None:
        if (link := self._link) is not None:
            link.send(lambda broker: broker.acknowledge(link, mid))

    def subscribe(self, topics: Iterable[tuple[str, Any]], properties: Any = None) -> tuple[int, int | None]:
        link = self._link
        self._mid = self._mid % 65535 + 1
        mid = self._mid
        identifier = getattr(properties, "SubscriptionIdentifier", None)
        if isinstance(identifier, list):
            identifier = identifier[0] if identifier else None
        filters = [
            Filter(name, how)
            if isinstance(how, int)
            else Filter(name, how.QoS, identifier, how.retainHandling)
            for name, how in topics
        ]
        if link is None or not link.send(lambda broker: broker.subscribe(link, mid, filters)):
            return MQTTErrorCode.MQTT_ERR_NO_CONN, None
        return MQTTErrorCode.MQTT_ERR_SUCCESS, mid

    def unsubscribe(self, topics: list[str]) -> None:
        if (link := self._link) is not None:
            self._mid = self._mid % 65535 + 1
            mid = self._mid
            link.send(lambda broker: broker.unsubscribe(link, mid, topics))

    def disconnect(self, properties: Any = None) -> None:
        expiry = getattr(properties, "SessionExpiryInterval", None)
        if (link := self._link) is not None:
            link.send(lambda broker: broker.disconnect(link, expiry_s=expiry))

    def leave(self) -> None:
        """DISCONNECT, and waits until it is sent."""
        if (link := self._link) is not None:
            link.wire.broker.disconnect(link)

    def drop(self) -> None:
        if (link := self._link) is not None:
            self._link = None
            link.close()


def void(result: object) -> None:
    return None


def _received(
    mid: int, message: Message, identifiers: tuple[int, ...], dup: bool, sent_at: float
) -> SimpleNamespace:
    properties = SimpleNamespace()
    if message.response_topic is not None:
        properties.ResponseTopic = message.response_topic
    if message.correlation is not None:
        properties.CorrelationData = message.correlation
    if message.expires_at is not None:
        properties.MessageExpiryInterval = max(0, math.ceil(message.expires_at - sent_at))
    if identifiers:
        properties.SubscriptionIdentifier = list(identifiers)
    return SimpleNamespace(
        topic=message.topic,
        payload=message.payload,
        qos=message.qos,
        retain=message.retain,
        dup=dup,
        mid=mid,
        properties=properties,
    )


class SimNetwork(Network):
    """The network thread's work as a task of the loop."""

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._work())

    def stop(self, timeout_s: float) -> bool:
        self._stop.set()
        if self._link is not None:
            client: Any = self._link._client
            client.leave()
        self._task.cancel()
        return True

    @property
    def is_alive(self) -> bool:
        return not self._task.done()

    @property
    def silent_s(self) -> float:
        return 0.0

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began_at = loop.time()
            was_welcome = False
            try:
                self._link = BrokerLink(self._address, self._settings, self._listener, mqtt5=self._mqtt5)
                problem = await self._serve(self._link)
                was_welcome = self._link.was_welcome
            except BrokerError as error:
                problem = Problem(str(error))
            self._link = None
            if problem.version_refused and self._mqtt5:
                self._mqtt5 = False
                continue
            self._listener.lost(problem)
            if problem.fatal:
                return
            failures += 1
            if was_welcome and loop.time() - began_at > connection.PATIENCE * self._first_pause_s:
                failures = 0
            jitter: Any = vars(connection)["random"]
            await asyncio.sleep(self._longest_pause(failures) * jitter.uniform(0.5, 1.0))
            while not self._is_allowed:
                await asyncio.sleep(0.05)

    async def _serve(self, link: BrokerLink) -> Problem:
        client: Any = link._client
        settings = self._settings
        wire = WIRES[self._address.host]
        try:
            await asyncio.sleep(wire.chance.random() * wire.delay_s)
            client.open(wire, settings.receive_maximum, settings.session_expiry_s)
            both = [client.answered, client.ended]
            done, _ = await asyncio.wait(both, timeout=settings.answer_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                said = f"The broker at {self._address} doesn't answer; is it an MQTT broker?"
                return Problem(said, unanswered=True)
            await client.ended
        except OSError as error:
            return link._problem or connection_failure(self._address, error)
        finally:
            client.on_disconnect = None
            client.drop()
        if not link.was_welcome:
            return link._problem or silent_refusal(self._address)
        lost = Problem(f"The connection to the broker at {self._address} was lost.")
        return link._problem or lost
