"""MQTT client for tests, as an app or a sensor: MQTT 5 or 3.1.1, keeps every message until it is taken."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes

from edgeslm.mqtt.paho_client import make_properties, send_small_packets_at_once
from edgeslm.protocol.topic_filters import matches

WAIT_S = float(os.environ.get("EDGESLM_TEST_WAIT_S", "120"))
"""Timeout that no busy machine reaches; nothing is asserted about it. Emulated machines need more."""

_names = itertools.count(1)


@dataclass(frozen=True)
class Heard:
    """A received message."""

    topic: str
    payload: bytes
    retain: bool
    qos: int
    correlation: bytes | None = None
    expiry_s: int | None = None
    user_properties: tuple[tuple[str, str], ...] = ()

    @property
    def json(self) -> dict[str, Any]:
        value = json.loads(self.payload)
        assert isinstance(value, dict)
        return value

    @property
    def code(self) -> str | None:
        """The error code of a result; None if it isn't an error."""
        error = self.json.get("error")
        return error["code"] if error else None


class App:
    """A client; ``version`` is 5 or 4 (MQTT 3.1.1). The constructor waits for its subscriptions."""

    def __init__(
        self,
        port: int,
        *filters: str,
        version: int = 5,
        username: str | None = None,
        password: str | None = None,
        ca_file: Path | None = None,
        cert_file: Path | None = None,
    ) -> None:
        self._changed = threading.Condition()
        self._untaken: list[Heard] = []
        self._connected = threading.Event()
        self._acknowledged: set[int] = set()
        self.version = version
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"test-app-{next(_names)}",
            protocol=mqtt.MQTTv5 if version == 5 else mqtt.MQTTv311,
        )
        self._client.on_message = self._on_message
        self._client.on_connect = lambda *_: self._connected.set()
        self._client.on_subscribe = lambda client, userdata, mid, codes, properties: self._note(mid)
        self._client.on_socket_open = send_small_packets_at_once
        self._client.max_inflight_messages_set(1000)
        if username is not None:
            self._client.username_pw_set(username, password)
        if ca_file is not None:
            self._client.tls_set(
                str(ca_file),
                str(cert_file) if cert_file else None,
                str(cert_file.with_suffix(".key")) if cert_file else None,
            )
        self._client.connect("localhost" if ca_file else "127.0.0.1", port)
        self._client.loop_start()
        assert self._connected.wait(WAIT_S), "the broker didn't let the test's app in"
        if filters:
            self.subscribe(*filters)

    def __enter__(self) -> App:
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, *filters: str) -> None:
        mid = self._client.subscribe([(one, 1) for one in filters])[1]
        with self._changed:
            assert mid is not None
            assert self._changed.wait_for(lambda: mid in self._acknowledged, WAIT_S)

    def publish(
        self,
        topic: str,
        payload: bytes | str | Mapping[str, Any],
        *,
        qos: int = 1,
        retain: bool = False,
        reply_to: str | None = None,
        correlation: bytes | None = None,
        expiry_s: int | None = None,
        user_property: tuple[str, str] | None = None,
    ) -> None:
        """Returns when the broker has the message (QoS 1)."""
        body = payload if isinstance(payload, bytes | str) else json.dumps(payload)
        properties = None
        if self.version == 5:
            properties = make_properties(
                PacketTypes.PUBLISH,
                ResponseTopic=reply_to,
                CorrelationData=correlation,
                MessageExpiryInterval=expiry_s,
                UserProperty=user_property,
            )
        self._client.publish(topic, body, qos, retain, properties).wait_for_publish(WAIT_S)

    def take(self, topic_filter: str, where: Callable[[Heard], bool] = lambda heard: True) -> Heard:
        """The oldest matching message that wasn't taken yet; waits for it."""

        def found() -> Heard | None:
            return next(
                (one for one in self._untaken if matches(topic_filter, one.topic) and where(one)), None
            )

        with self._changed:
            heard = self._changed.wait_for(found, WAIT_S)
            if not heard:
                raise AssertionError(
                    f"nothing came on {topic_filter}; there is: "
                    + "; ".join(f"{one.topic} {one.payload[:200]!r}" for one in self._untaken)
                )
            self._untaken.remove(heard)
            return heard

    def untaken(self, topic_filter: str) -> list[Heard]:
        """Matching messages that were received and not taken."""
        with self._changed:
            return [one for one in self._untaken if matches(topic_filter, one.topic)]

    def take_state(self, base: str, state: str) -> Heard:
        return self.take(f"{base}/state", lambda heard: heard.json["state"] == state)

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        """Waits for a condition that no message shows."""
        give_up_at = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < give_up_at, f"waited in vain: {what}"
            time.sleep(0.01)

    def _note(self, mid: int) -> None:
        with self._changed:
            self._acknowledged.add(mid)
            self._changed.notify_all()

    def _on_message(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:
        properties = message.properties
        heard = Heard(
            message.topic,
            bytes(message.payload),
            message.retain,
            message.qos,
            getattr(properties, "CorrelationData", None),
            getattr(properties, "MessageExpiryInterval", None),
            tuple(getattr(properties, "UserProperty", ())),
        )
        with self._changed:
            self._untaken.append(heard)
            self._changed.notify_all()
