"""Kills of mosquitto under load: acknowledged messages that it forgets, by shipped configuration.

    python benchmarks/robustness/chaos.py broker [--kills 20] [--profiles strict balanced] [--seed 1]

A client keeps QoS 1 messages in flight and notes which the broker acknowledged. The subscriber has a
persistent session and behaves like a node:

  away       not connected; connects after the restart
  busy       connected; acknowledges each message a little later, so the broker always has changes to save
  thinking   connected; acknowledges nothing before the kill, like a node whose model takes its time

``forgotten``: acknowledged to the client, not by the subscriber, and not delivered again after the restart.
``lost``: those of them that the subscriber never got. Prints a table, then one JSON line. ``--program`` and
``--plugin`` measure a mosquitto 2.1 with ``sqlite-2.1``.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import signal
import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks.lib.shipped import ShippedBroker
from edgeslm.mqtt.paho_client import send_small_packets_at_once

SUBSCRIBERS = ("away", "busy", "thinking")
TOPIC = "edgeslm/v1/kills/req/triage"
PAYLOAD_BYTES = 200
IN_FLIGHT = 16
PER_S = 300
"""As many messages a second at most: less than the queue of the shipped configuration takes in one run."""

THINKING_MOST = 200
"""A node holds no more than its Receive Maximum; what goes beyond that the broker queues."""

WAIT_S = 20.0
QUIET_S = 0.5
"""Without a message for so long, all that the broker still has was delivered."""

ACK_AFTER_S = 0.05
"""How late a busy node acknowledges."""

LOAD_S = {"strict": (0.2, 1.2), "balanced": (0.2, 4.2), "sqlite-2.1": (0.2, 1.2)}
"""When the kill comes; for ``balanced`` at any point between two of its saves."""


@dataclass
class Tally:
    """What one profile did to one kind of subscriber; a figure each kill."""

    accepted: list[int] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    load_s: float = 0.0

    def figures(self) -> dict[str, Any]:
        return {
            "kills": len(self.accepted),
            "accepted": sum(self.accepted),
            "accepted_per_s": round(sum(self.accepted) / max(self.load_s, 0.001)),
            "kills_that_forgot": sum(1 for one in self.forgotten if one),
            "forgotten": sum(self.forgotten),
            "forgotten_median": statistics.median(self.forgotten),
            "forgotten_most": max(self.forgotten),
            "lost": sum(self.lost),
        }


def connect(port: int, name: str, *, keep: bool) -> tuple[mqtt.Client, threading.Event]:
    """A client that isn't connected yet, and the event of its connection."""
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        client_id=name,
        protocol=mqtt.MQTTv5,
        manual_ack=True,
        reconnect_on_failure=False,
    )
    client.max_inflight_messages_set(1000)
    client.on_socket_open = send_small_packets_at_once
    connected = threading.Event()
    client.on_connect = lambda *_: connected.set()
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 3600 if keep else 0
    properties.ReceiveMaximum = 256
    client.connect_async("127.0.0.1", port, clean_start=not keep, properties=properties)
    return client, connected


def open_connection(client: mqtt.Client, connected: threading.Event) -> None:
    client.reconnect()
    client.loop_start()
    if not connected.wait(WAIT_S):
        raise SystemExit("the broker did not answer")


class Subscriber:
    """One connection of the node's session. ``got`` and ``acked`` are the numbers of messages."""

    def __init__(self, port: int, ack_after_s: float | None) -> None:
        self.got: set[int] = set()
        self.acked: set[int] = set()
        self.heard_at = time.monotonic()
        self._ack_after_s = ack_after_s
        self._waiting: deque[tuple[float, mqtt.MQTTMessage]] = deque()
        self._ended = threading.Event()
        self._client, connected = connect(port, "edgeslm-kills", keep=True)
        self._client.on_message = self._on_message
        self._subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        open_connection(self._client, connected)
        self._acks = threading.Thread(target=self._acknowledge, daemon=True)
        self._acks.start()

    def subscribe(self) -> None:
        self._client.subscribe(TOPIC, 1)
        if not self._subscribed.wait(WAIT_S):
            raise SystemExit("the broker did not confirm the subscription")

    def drain(self) -> None:
        """Waits until the broker has no more."""
        while time.monotonic() < self.heard_at + QUIET_S or self._waiting:
            time.sleep(0.02)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._ended.set()
        self._acks.join(WAIT_S)

    def _on_message(self, client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
        self.heard_at = time.monotonic()
        self.got.add(int(message.payload[:12]))
        if self._ack_after_s is not None:
            self._waiting.append((self.heard_at + self._ack_after_s, message))

    def _acknowledge(self) -> None:
        while not self._ended.wait(0.002):
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                _, message = self._waiting.popleft()
                if self._client.ack(message.mid, message.qos) == mqtt.MQTT_ERR_SUCCESS:
                    self.acked.add(int(message.payload[:12]))


class Sender:
    """Keeps up to ``IN_FLIGHT`` messages under way, ``PER_S`` a second, ``most`` in all."""

    def __init__(self, port: int, first: int, most: float) -> None:
        self._next = first
        self._end = first + most
        self._numbers: dict[int, int] = {}  # by packet identifier; one sender uses none of them twice
        self._acknowledged: list[int] = []
        self._room = threading.Semaphore(IN_FLIGHT)
        self._ended = threading.Event()
        self._client, connected = connect(port, "sender", keep=False)
        self._client.on_publish = self._on_publish
        open_connection(self._client, connected)
        self._thread = threading.Thread(target=self._send, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def accepted(self) -> set[int]:
        """The numbers of the messages that the broker acknowledged."""
        return {self._numbers[mid] for mid in self._acknowledged}

    def stop(self) -> int:
        """Ends it; gives the number of the next message."""
        self._ended.set()
        self._room.release()
        self._thread.join(WAIT_S)
        self._client.loop_stop()
        return self._next

    def _send(self) -> None:
        due = time.monotonic()
        while self._next < self._end:
            self._room.acquire()
            due = max(due + 1 / PER_S, time.monotonic())
            if self._ended.wait(max(0.0, due - time.monotonic())):
                return
            payload = b"%012d" % self._next
            sent = self._client.publish(TOPIC, payload.ljust(PAYLOAD_BYTES, b"."), qos=1)
            self._numbers[sent.mid] = self._next
            self._next += 1

    def _on_publish(self, client: mqtt.Client, userdata: object, mid: int, reason: Any, _: object) -> None:
        # No lock here: paho holds its own, and publish() wants that one.
        self._acknowledged += [] if reason.is_failure else [mid]
        self._room.release()


def kill_once(broker: ShippedBroker, kind: str, first: int, load_s: float, tally: Tally) -> int:
    """One kill of a running broker; it runs again afterwards with an empty queue. Gives the next number."""
    node = None if kind == "away" else Subscriber(broker.port, ACK_AFTER_S if kind == "busy" else None)
    sender = Sender(broker.port, first, THINKING_MOST if kind == "thinking" else math.inf)
    sender.start()
    time.sleep(load_s)
    broker.end(signal.SIGKILL)
    following = sender.stop()
    if node is not None:
        node.close()
    broker.start()
    again = Subscriber(broker.port, 0.0)
    again.drain()
    again.close()
    forgotten = sender.accepted - again.got - (node.acked if node else set())
    tally.accepted.append(len(sender.accepted))
    tally.forgotten.append(len(forgotten))
    tally.lost.append(len(forgotten - (node.got if node else set())))
    tally.load_s += load_s
    return following


def measure(
    profile: str,
    kinds: Sequence[str],
    kills: int,
    chance: random.Random,
    *,
    program: str = "mosquitto",
    plugin: Path | None = None,
) -> dict[str, Tally]:
    """``kills`` kills for each kind of subscriber, in a broker folder each."""
    tallies = {}
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            broker = ShippedBroker(profile, Path(folder), program=program, plugin=plugin)
            broker.start()
            try:
                node = Subscriber(broker.port, None)
                node.subscribe()
                node.close()
                broker.end()  # which saves the session
                broker.start()
                tally, number = Tally(), 1
                for _ in range(kills):
                    number = kill_once(broker, kind, number, chance.uniform(*LOAD_S[profile]), tally)
                tallies[kind] = tally
            finally:
                broker.end(signal.SIGKILL)
    return tallies


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=20, metavar="N")
    parser.add_argument("--profiles", nargs="+", default=["strict", "balanced"], choices=list(LOAD_S))
    parser.add_argument("--subscribers", nargs="+", default=list(SUBSCRIBERS), choices=SUBSCRIBERS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--program", default="mosquitto", help="the broker")
    parser.add_argument("--plugin", type=Path, help="where mosquitto 2.1 has persist-sqlite")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    print(f"seed {args.seed}, {args.kills} kills each\n")
    print(f"{'profile':<11} {'node':<9} {'accepted':>8} {'each s':>7} {'kills that forgot':>18}", end=" ")
    print(f"{'forgotten: sum, median, most':>30} {'lost':>5}")
    found: dict[str, dict[str, Any]] = {}
    for profile in args.profiles:
        found[profile] = {}
        for kind in args.subscribers:
            tallies = measure(profile, [kind], args.kills, chance, program=args.program, plugin=args.plugin)
            seen = found[profile][kind] = tallies[kind].figures()
            print(
                f"{profile:<11} {kind:<9} {seen['accepted']:>8} {seen['accepted_per_s']:>7} "
                f"{seen['kills_that_forgot']:>18} {seen['forgotten']:>10} {seen['forgotten_median']:>10g} "
                f"{seen['forgotten_most']:>8} {seen['lost']:>5}",
                flush=True,
            )
    print(
        json.dumps(
            {"benchmark": "broker_kills", "machine": platform.machine(), "seed": args.seed, "found": found}
        )
    )
