"""One MQTT client with blocking methods, which acknowledges messages only when told so, or at once."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgeslm.mqtt.paho_client import make_properties, send_small_packets_at_once

WAIT_S: Final = 10.0
QUIET_S: Final = 1.0
"""Without a message for so long, all that the broker has was delivered."""
SESSION_S: Final = 3600


class Refused(Exception):
    """The broker refused or didn't answer; the text says what."""


class Peer:
    """A connection with client id ``name``, made on entry.

    ``keep``: the session outlives the connection. ``will`` is topic and payload, ``will_delay_s`` its delay.
    ``acks``: whether each message is acknowledged at once.
    """

    def __init__(
        self,
        port: int,
        name: str,
        *,
        mqtt5: bool = True,
        keep: bool = False,
        acks: bool = True,
        receive_maximum: int = 256,
        maximum_packet: int | None = None,
        session_s: int = SESSION_S,
        will: tuple[str, str] | None = None,
        will_delay_s: int = 0,
    ) -> None:
        self.messages: list[mqtt.MQTTMessage] = []
        self.granted: Any = None
        self.resumed = False
        self.lost = ""
        self._mqtt5 = mqtt5
        self._acks = acks
        self._changed = threading.Condition()
        self._answers: dict[tuple[str, int], Any] = {}
        self._heard_at = time.monotonic()
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            clean_session=None if mqtt5 else not keep,
            protocol=mqtt.MQTTv5 if mqtt5 else mqtt.MQTTv311,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        self._client.max_inflight_messages_set(100)
        self._client.on_socket_open = send_small_packets_at_once
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message
        self._client.on_publish = lambda c, u, mid, reason, p: self._note("publish", mid, reason)
        self._client.on_subscribe = lambda c, u, mid, reasons, p: self._note("subscribe", mid, reasons)
        if will is not None:
            delay = {"WillDelayInterval": will_delay_s} if mqtt5 else {}
            properties = make_properties(PacketTypes.WILLMESSAGE, **delay) if mqtt5 else None
            self._client.will_set(*will, qos=1, properties=properties)
        properties = None
        if mqtt5:
            properties = make_properties(
                PacketTypes.CONNECT,
                SessionExpiryInterval=session_s if keep else 0,
                ReceiveMaximum=receive_maximum,
                MaximumPacketSize=maximum_packet,
            )
        if mqtt5:
            self._client.connect_async("127.0.0.1", port, 30, clean_start=not keep, properties=properties)
        else:
            self._client.connect_async("127.0.0.1", port, 30)

    def __enter__(self) -> Peer:
        try:
            self._client.reconnect()
        except OSError as error:
            raise Refused(f"no connection: {error}") from error
        self._client.loop_start()
        self._wait(lambda: self.granted is not None or bool(self.lost), "no CONNACK")
        if self.lost:
            self._client.loop_stop()
            raise Refused(self.lost)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Says goodbye."""
        with contextlib.suppress(OSError):
            self._client.disconnect()
        self._client.loop_stop()

    def drop(self) -> None:
        """Ends the connection without a goodbye, as a crash does."""
        sock: Any = self._client.socket()  # paho's stub has no shutdown
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._client.loop_stop()

    def subscribe(self, filter_: str) -> None:
        mid = self._client.subscribe(filter_, 1)[1]
        if mid is None:
            raise Refused("the connection is gone")
        reasons = self._answer("subscribe", mid, f"no SUBACK for {filter_}")
        if reasons[0].is_failure:
            raise Refused(f"{filter_} is refused: {reasons[0].getName()}")

    def publish(self, topic: str, payload: str | bytes, *, retain: bool = False, **properties: Any) -> int:
        """Returns the reason code of the PUBACK, once it has come."""
        return self.publish_all(topic, [payload], retain=retain, **properties)[0]

    def publish_all(
        self, topic: str, payloads: Sequence[str | bytes], *, retain: bool = False, **properties: Any
    ) -> list[int]:
        """Publishes all at QoS 1, and returns the reason codes of the PUBACKs."""
        made: Properties | None = None
        if self._mqtt5:
            made = make_properties(PacketTypes.PUBLISH, **properties)
        mids = [self._client.publish(topic, one, 1, retain, made).mid for one in payloads]
        return [self._answer("publish", mid, f"no PUBACK on {topic}").value for mid in mids]

    def take(self, count: int, wait_s: float = WAIT_S) -> list[str]:
        """The payloads of the messages, once there are ``count``, or none has come for ``wait_s``."""
        with self._changed:
            while len(self.messages) < count:
                seen = len(self.messages)
                if not self._changed.wait(wait_s) and len(self.messages) == seen:
                    break
        return self.texts

    def drain(self, quiet_s: float = QUIET_S) -> list[str]:
        """The payloads of all messages, once the broker has no more."""
        while time.monotonic() < self._heard_at + quiet_s:
            time.sleep(0.02)
        return self.texts

    @property
    def texts(self) -> list[str]:
        return [one.payload[:64].decode(errors="replace") for one in list(self.messages)]

    def _answer(self, kind: str, mid: int, otherwise: str) -> Any:
        self._wait(lambda: (kind, mid) in self._answers or bool(self.lost), otherwise)
        if (kind, mid) not in self._answers:
            raise Refused(self.lost)
        return self._answers.pop((kind, mid))

    def _wait(self, holds: Callable[[], bool], otherwise: str) -> None:
        with self._changed:
            if not self._changed.wait_for(holds, 3 * WAIT_S):
                raise Refused(otherwise)

    # paho's callbacks, on its thread

    def _note(self, kind: str, mid: int, value: Any) -> None:
        with self._changed:
            self._answers[kind, mid] = value
            self._changed.notify_all()

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        with self._changed:
            if reason.is_failure:
                self.lost = reason.getName()
            else:
                self.resumed = flags.session_present
                self.granted = properties if properties is not None else object()
            self._heard_at = time.monotonic()
            self._changed.notify_all()

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        with self._changed:
            self.lost = self.lost or f"the broker hung up: {reason.getName()}"
            self._changed.notify_all()

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        if self._acks:
            client.ack(message.mid, message.qos)
        with self._changed:
            self._heard_at = time.monotonic()
            self.messages.append(message)
            self._changed.notify_all()
