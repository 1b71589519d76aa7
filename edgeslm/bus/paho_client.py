"""paho's client with the parts of it that a busy node waits for done otherwise: its socket, and two packets.

paho has no public way to do either; it calls these methods by name, so that a version which calls them
something else does its own slower work instead. ``tests/bus/test_paho_client.py`` tells.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from typing import TYPE_CHECKING, cast

from paho.mqtt.client import PUBACK, PUBLISH, Client
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from edgeslm.bus.buffered_socket import BufferedSocket
from edgeslm.bus.packets import ReceivedProperties, read_publish, read_success

if TYPE_CHECKING:
    from paho.mqtt.client import SocketLike

TURN_S = 0.2
"""How long the network thread waits when there is nothing to do."""

READING_S = 0.05
"""How long it reads before it looks after the rest, while the broker sends without a pause."""

KIND = 0xF0
"""The bits of a packet's first byte that say what it is."""

SUCCESS = ReasonCode(PacketTypes.PUBACK, "Success")
NO_PROPERTIES = ReceivedProperties({})


GATHER_RATE = 300
"""Messages a second from which on they gather."""
GATHER_S = 0.002
"""How long."""
GATHER_LOOK_S = 0.1
"""How often the rate is looked at."""


class Alarm:
    """Wakes a thread out of ``select``. ``ring`` fits any thread and never waits, even when all is over."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)

    def fileno(self) -> int:
        return self._ours.fileno()

    def ring(self) -> None:
        with contextlib.suppress(OSError):
            self._theirs.send(b"!")

    def quiet(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._ours.recv(4096)

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


class Pace:
    """Lets messages gather before a turn while many come.

    A turn for every packet takes the interpreter lock from the event loop each time. With few messages
    nothing may wait: what is published and not acknowledged when something breaks comes twice.
    """

    def __init__(self) -> None:
        self._looked_at = time.monotonic()
        self._received = 0
        self._gathers = False

    def keep(self, received: int) -> None:
        """Waits a moment, or not; ``received`` counts messages since the connection was made."""
        now = time.monotonic()
        if (since_s := now - self._looked_at) > GATHER_LOOK_S:
            self._gathers = received - self._received > GATHER_RATE * since_s
            self._looked_at, self._received = now, received
        if self._gathers:
            time.sleep(GATHER_S)


class PahoClient(Client):
    """Its socket is a ``BufferedSocket``; with MQTT 5, plain requests and PUBACKs are read by ``packets``."""

    def turn(self, alarm: Alarm) -> MQTTErrorCode:
        """Waits for something to do, or for the alarm, and does it: as ``loop``, but many packets at a time.

        For one thread, with a connection; failures come as from ``loop``.
        """
        sock = cast(BufferedSocket, self.socket())
        writes = [sock] if self.want_write() or sock.unsent else []
        wait_s = 0.0 if sock.pending() else TURN_S
        readable, _, _ = select.select([sock.fileno(), alarm.fileno()], writes, [], wait_s)
        if alarm.fileno() in readable:
            alarm.quiet()
        if sock.fileno() in readable or sock.pending():
            until = time.monotonic() + READING_S
            while not (code := self.loop_read()) and sock.pending() and time.monotonic() < until:
                continue
            if code:
                return code
        if self.socket() is None:
            return MQTTErrorCode.MQTT_ERR_CONN_LOST
        if code := self.loop_write():
            return code
        try:
            sock.flush()
        except OSError:
            return MQTTErrorCode.MQTT_ERR_CONN_LOST
        return self.loop_misc()

    def _create_socket(self) -> SocketLike:
        return BufferedSocket(cast(socket.socket, super()._create_socket()))

    def _packet_handle(self) -> MQTTErrorCode:
        first, body = self._in_packet["command"], self._in_packet["packet"]
        if self._protocol == MQTTProtocolVersion.MQTTv5:
            if first & KIND == PUBLISH and (message := read_publish(first, body)) is not None:
                self._handle_on_message(message)
                return MQTTErrorCode.MQTT_ERR_SUCCESS  # acknowledged later: manual_ack
            if first & KIND == PUBACK and (mid := read_success(body)) is not None:
                return self._succeeded(mid)
        return super()._packet_handle()

    def _succeeded(self, mid: int) -> MQTTErrorCode:
        with self._out_message_mutex:
            if mid in self._out_messages:  # else it was acknowledged twice
                return self._do_on_publish(mid, SUCCESS, NO_PROPERTIES)
        return MQTTErrorCode.MQTT_ERR_SUCCESS
