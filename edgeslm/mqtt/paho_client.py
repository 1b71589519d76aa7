"""paho adapter: drives paho's client on the network thread, by its public methods only."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any, cast

from paho.mqtt.client import Client
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.properties import Properties

from edgeslm.mqtt.buffered_socket import BufferedSocket
from edgeslm.mqtt.publish_filter import PublishFilter

if TYPE_CHECKING:
    from paho.mqtt.client import SocketLike

TURN_S = 0.2
"""Longest time, in seconds, that the idle network thread waits until the socket is ready or the ``Alarm``
rings."""

READING_S = 0.05
"""Longest time, in seconds, that the network thread reads before it writes, if the broker sends without a
pause."""

GATHER_RATE = 300
"""Number of received messages per second above which the network thread batches its reads."""
GATHER_S = 0.002
"""Delay, in seconds, before each batched read."""
GATHER_LOOK_S = 0.1
"""Interval, in seconds, at which the message rate is measured."""


class Alarm:
    """Wakes a thread that waits in ``select``. ``ring`` is thread-safe and never blocks, even after
    ``close``."""

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
    """Batches messages under load, by a short delay before each iteration of the network loop.

    Without batches, each packet would need an iteration of the network loop, which takes the interpreter lock
    from the event loop. At low load nothing is delayed, since a delayed acknowledgement may be lost with the
    connection, and the message is then delivered twice.
    """

    def __init__(self) -> None:
        self._looked_at = time.monotonic()
        self._received = 0
        self._gathers = False

    def keep(self, received: int) -> None:
        """Waits for a short time under load. ``received`` counts messages since the connection was made."""
        now = time.monotonic()
        if (since_s := now - self._looked_at) > GATHER_LOOK_S:
            self._gathers = received - self._received > GATHER_RATE * since_s
            self._looked_at, self._received = now, received
        if self._gathers:
            time.sleep(GATHER_S)


def turn(client: Client, alarm: Alarm) -> MQTTErrorCode:
    """One iteration of the network loop: like paho's ``loop``, but for many packets at a time.

    First waits until the socket is ready or the alarm rings. Not thread-safe. The error codes are the same as
    those of paho's ``loop``.
    """
    sock = cast(BufferedSocket, client.socket())
    writes = [sock] if client.want_write() or sock.unsent else []
    wait_s = 0.0 if sock.pending() else TURN_S
    readable, _, _ = select.select([sock.fileno(), alarm.fileno()], writes, [], wait_s)
    if alarm.fileno() in readable:
        alarm.quiet()
    if sock.fileno() in readable or sock.pending():
        until = time.monotonic() + READING_S
        while not (code := client.loop_read()) and sock.pending() and time.monotonic() < until:
            continue
        if code:
            return code
    if client.socket() is None:
        return MQTTErrorCode.MQTT_ERR_CONN_LOST
    if code := client.loop_write():
        return code
    try:
        sock.flush()
    except OSError:
        return MQTTErrorCode.MQTT_ERR_CONN_LOST
    return client.loop_misc()


class SocketContext:
    """Wraps paho's sockets. paho uses the class like an ``ssl.SSLContext``, which is the only public way to
    replace paho's socket.

    :param tls: context for TLS, which also checks the broker's name; None for a connection without TLS.
    """

    check_hostname = True
    """True, so that paho doesn't check the broker's name itself."""

    def __init__(self, tls: ssl.SSLContext | None, *, mqtt5: bool) -> None:
        self._tls = tls
        self._mqtt5 = mqtt5

    def wrap_socket(
        self, sock: socket.socket, server_hostname: str, do_handshake_on_connect: bool
    ) -> BufferedSocket:
        if self._tls is not None:
            sock = self._tls.wrap_socket(
                sock, server_hostname=server_hostname, do_handshake_on_connect=do_handshake_on_connect
            )
        return BufferedSocket(sock, PublishFilter() if self._mqtt5 else None)


def wrap_sockets(client: Client, tls: ssl.SSLContext | None, *, mqtt5: bool) -> None:
    """Makes the client use a ``BufferedSocket``; with MQTT 5, the socket also filters PUBLISH packets."""
    client.tls_set_context(cast(ssl.SSLContext, SocketContext(tls, mqtt5=mqtt5)))


def cut(client: Client) -> None:
    """Closes the connection without DISCONNECT. Call it on the thread of :func:`turn`."""
    sock = client.socket()
    if sock is not None:
        cast(BufferedSocket, sock).cut()
        client.loop_read()  # paho notices that the socket is closed


def make_properties(packet_type: int, **values: Any) -> Properties:
    """MQTT 5 properties; ``values`` maps paho's property names to values, and None values are left out."""
    properties = Properties(packet_type)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        if value is not None:
            setattr(properties, name, value)
    return properties


def send_small_packets_at_once(client: Client, userdata: Any, sock: SocketLike) -> None:
    """Disables Nagle's algorithm, which may delay each small packet by 40 ms."""
    if isinstance(sock, socket.socket | BufferedSocket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
