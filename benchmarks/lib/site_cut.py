"""Results lost when a site is cut off from its hub, and the time to catch up.

    python benchmarks/fleet/failures.py site [--minutes 10] [--per-s 10] [--speed 30] [--runs strict ...]

Two real mosquittos with the files that ``edgeslm provision`` makes, TLS and access lists included, and a
network between them that is cut (``lib/chaos_proxy.py``). A simulated node at the site publishes results at
QoS 1 and its health; a client at the hub reads them in a persistent session.

Time is simulated by the number of messages: a cut of ten minutes at ten results a second is 6,000 results,
sent ``--speed`` times as fast. Saves of the broker and retries of the bridge follow the clock.

A run is named ``PROFILE[:kill][:SECONDS]``: the profile of the site's broker; ``kill`` ends it with kill -9
at a random moment of the cut and restarts it; SECONDS is ``--save-s``.

  sent        results that the site's broker acknowledged
  lost        of those, results that never came to the hub; also in seconds, at the rate they were sent
  twice       results that came more than once
  disorder    the smallest number of results to move so that all are in order
  link s      from the return of the network to the connection of the bridge; caught up s: to the last result
  written MB  written by the site's broker during the cut; in real time --speed times as much where it saves
              by the clock, as ``balanced`` and ``--save-s`` do

Prints a table, then one JSON line; status 1 if a run without a kill loses a result, or one with ``strict``
more than the one message that the broker was writing.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import io
import json
import os
import platform
import random
import signal
import ssl
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks.lib.chaos_proxy import Proxy
from benchmarks.lib.processes import memory_of
from benchmarks.lib.shipped import RunningBroker, free_port
from edgeslm.cli import main as cli
from edgeslm.mqtt.paho_client import send_small_packets_at_once

NODE, SITE, APP = "hall", "plant-a", "central"
BASE = f"edgeslm/v1/{NODE}"
EVENT = f"{BASE}/event/yard"
CONFIGURATION = f"""\
node: {NODE}
broker: {{url: "mqtts://localhost"}}
models: {{small: {{bundle: /bundles/small}}}}
tasks: {{triage: {{kind: classify, model: small, labels: [normal, critical]}}}}
routes: [{{from: yard/+, task: triage, name: yard}}]
"""
RESULT: dict[str, Any] = {
    "task": "triage",
    "status": "ok",
    "result": {"label": "normal", "confidence": 0.91, "scores": {"normal": 0.91, "critical": 0.09}},
    "model": "small@sha256:1bcce68c1f66",
    "timings_ms": {"queue": 0.2, "prefill": 35.3, "decode": 0.0, "total": 36.9},
    "usage": {"prompt_tokens": 66, "completion_tokens": 0},
}
HEALTH_S = 30.0
WAIT_S = 180.0
AWAY_S = 1.0
"""How long a killed broker is away."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is done to the site's broker."""

    profile: str
    is_killed: bool = False
    save_s: int | None = None

    @classmethod
    def parse(cls, text: str) -> Run:
        """:raises ValueError: it is none."""
        profile, *parts = text.split(":")
        if profile not in ("strict", "balanced"):
            raise ValueError(f"there is no profile {profile}")
        seconds = [int(part) for part in parts if part != "kill"]
        return cls(profile, "kill" in parts, seconds[0] if seconds else None)

    def __str__(self) -> str:
        saving = "" if self.save_s is None else f", saved every {self.save_s} s"
        return f"{self.profile}{saving}{', killed' if self.is_killed else ''}"


@dataclass(frozen=True, slots=True)
class Found:
    """What came of one run; see the top of this file."""

    sent: int
    lost: int
    lost_s: float
    duplicates: int
    out_of_order: int
    waited_for_link_s: float
    caught_up_s: float
    most_waiting: int
    written_mb: float
    memory_mb: float


def connected(folder: Path, name: str, port: int) -> mqtt.Client:
    """A client with a session that stays, which connects again by itself."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"cut-{name}", protocol=mqtt.MQTTv5)
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    client.tls_set_context(context)
    client.on_socket_open = send_small_packets_at_once
    client.reconnect_delay_set(1, 1)
    client.max_inflight_messages_set(0)  # where it has a limit, messages behind it may pass each other
    welcome = threading.Event()
    client.on_connect = lambda *_: welcome.set()
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 3600
    client.connect("localhost", port, clean_start=False, properties=properties)
    client.loop_start()
    if not welcome.wait(WAIT_S):
        raise SystemExit("a broker let nobody in")
    return client


class Sender:
    """A simulated node: numbered results at a rate, and its health. paho repeats what wasn't acknowledged."""

    def __init__(self, folder: Path, port: int, per_s: float, health_s: float) -> None:
        self._per_s, self._health_s = per_s, health_s
        self._numbers: dict[int, int] = {}
        self._acknowledged: list[int] = []
        self._next = 0
        self._client = connected(folder, NODE, port)
        self._client.on_publish = lambda client, userdata, mid, reason, properties: (
            self._acknowledged.append(mid) if not reason.is_failure else None
        )
        self._client.publish(f"{BASE}/state", '{"state": "online", "boot_id": "b"}', 1, retain=True)

    @property
    def acknowledged(self) -> set[int]:
        return {self._numbers[mid] for mid in list(self._acknowledged) if mid in self._numbers}

    def send(self, count: int) -> None:
        """``count`` results at the rate, and returns when they have been handed to the client."""
        due = time.monotonic()
        health_due = due
        for _ in range(count):
            if due >= health_due:
                health_due += self._health_s
                self._client.publish(f"{BASE}/health", '{"queue": 0}', 1, retain=True)
            time.sleep(max(0.0, due - time.monotonic()))
            due += 1 / self._per_s
            payload = json.dumps({"id": f"{self._next}", **RESULT})
            self._numbers[self._client.publish(EVENT, payload, 1).mid] = self._next
            self._next += 1

    def settle(self) -> None:
        """Until all that was sent is acknowledged."""
        give_up_at = time.monotonic() + WAIT_S
        while len(self.acknowledged) < self._next:
            if time.monotonic() > give_up_at:
                raise SystemExit(f"the site's broker acknowledged {len(self.acknowledged)} of {self._next}")
            time.sleep(0.02)

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Reader:
    """Who reads at the hub: the numbers as they came, and when the bridge said that it is there."""

    def __init__(self, folder: Path, port: int) -> None:
        self.numbers: list[int] = []
        self.heard_at = 0.0
        self.is_linked = False
        self.linked_at = 0.0
        self._client = connected(folder, APP, port)
        self._client.on_message = self._on_message
        granted = threading.Event()
        self._client.on_subscribe = lambda *_: granted.set()
        self._client.subscribe([(f"site/{SITE}/{EVENT}", 1), (f"site/{SITE}/link", 1)])
        if not granted.wait(WAIT_S):
            raise SystemExit("the hub didn't confirm the subscription")

    def wait_for_link(self, wanted: bool) -> None:
        give_up_at = time.monotonic() + WAIT_S
        while self.is_linked != wanted:
            if time.monotonic() > give_up_at:
                raise SystemExit(f"the bridge {'did not connect' if wanted else 'is still there'}")
            time.sleep(0.01)

    def wait_for(self, numbers: set[int], patience_s: float) -> None:
        """Until they have all come, or nothing has for ``patience_s``."""
        since = time.monotonic()
        while not numbers <= set(self.numbers):
            if time.monotonic() - max(since, self.heard_at) > patience_s:
                return
            time.sleep(0.02)

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
        if message.topic.endswith("/link"):
            self.is_linked = message.payload == b"1"
            self.linked_at = time.monotonic()
        else:
            self.heard_at = time.monotonic()
            self.numbers.append(int(json.loads(message.payload)["id"]))


def moved(numbers: Sequence[int]) -> int:
    """How many of them stand outside of the longest ascending subsequence."""
    ends: list[int] = []
    for number in numbers:
        at = bisect.bisect_left(ends, number)
        ends[at : at + 1] = [number]
    return len(numbers) - len(ends)


def provision(*arguments: object) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        if cli.main(["provision", *map(str, arguments)]):
            raise SystemExit("edgeslm provision refused")


class Place:
    """A site and its hub in ``folder``, as ``edgeslm provision`` sets them up, and the network between."""

    def __init__(self, folder: Path, run: Run, restart_s: Sequence[int]) -> None:
        config = folder / "config.yaml"
        config.write_text(CONFIGURATION)
        self.hub_keys, self.site_keys = folder / "hub-keys", folder / "site-keys"
        self.hub, self.site = (
            RunningBroker(self._home(folder, name), free_port()) for name in ("hub", "site")
        )
        self.network = Proxy(self.hub.port)
        for keys, client in ((self.hub_keys, ("--app", APP)), (self.site_keys, ("--node", NODE))):
            provision("keys", keys, "--broker-host", "localhost", *client)
        saving = () if run.save_s is None else ("--save-s", run.save_s)
        url = f"mqtts://localhost:{self.network.port}"
        provision("site", self.hub_keys, config, "--site", SITE, "--hub", url, *saving)
        access = self.hub_keys / f"site-{SITE}.acl"
        provision("broker", self.hub_keys, "--app", f"{APP}:read=site/#", "--include", access,
                  "--port", self.hub.port, "--profile", "balanced")  # fmt: skip
        provision("broker", self.site_keys, config, "--port", self.site.port, "--profile", run.profile)
        bridge = (self.hub_keys / f"site-{SITE}.conf").read_text()
        if restart_s:
            bridge = bridge.replace("restart_timeout 5 60", "restart_timeout {} {}".format(*restart_s))
        self.hub.write(
            (self.hub_keys / "mosquitto.conf").read_text() + f"persistence_location {folder}/hub/\n"
        )
        settings = (self.site_keys / "mosquitto.conf").read_text()
        self.site.write(f"{settings}persistence_location {folder}/site/\n{bridge}")

    @staticmethod
    def _home(folder: Path, name: str) -> Path:
        (folder / name).mkdir()
        return folder / name

    def stop(self) -> None:
        self.site.end(signal.SIGKILL)
        self.network.stop()
        self.hub.end(signal.SIGKILL)


def written_bytes(pid: int) -> int:
    """What a process has handed to the disk's queue so far (proc_pid_io(5), ``wchar``: the page cache may
    merge what is replaced before it is written; ``write_bytes`` is 0 on a file system in memory)."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["wchar"])


def perform(run: Run, arguments: argparse.Namespace, chance: random.Random) -> Found:
    with tempfile.TemporaryDirectory(prefix="edgeslm-cut-") as name:
        place = Place(Path(name), run, arguments.restart_s)
        place.hub.start()
        reader = Reader(place.hub_keys, place.hub.port)
        place.site.start()
        try:
            reader.wait_for_link(True)
            sender = Sender(
                place.site_keys,
                place.site.port,
                arguments.per_s * arguments.speed,
                HEALTH_S / arguments.speed,
            )
            found = _cut(place, sender, reader, run, arguments, chance)
            sender.stop()
            reader.stop()
            return found
        finally:
            place.stop()


def _cut(
    place: Place,
    sender: Sender,
    reader: Reader,
    run: Run,
    arguments: argparse.Namespace,
    chance: random.Random,
) -> Found:
    per_minute = round(arguments.per_s * 60)
    in_cut = round(per_minute * arguments.minutes)
    sender.send(per_minute)
    sender.settle()
    reader.wait_for(sender.acknowledged, 10.0)
    place.network.close()
    place.network.cut()
    reader.wait_for_link(False)
    before = len(set(reader.numbers))
    written = written_bytes(place.site.pid)
    killed_after = round(in_cut * chance.uniform(0.3, 0.7)) if run.is_killed else in_cut
    sender.send(killed_after)
    done = 0
    if run.is_killed:
        done = written_bytes(place.site.pid) - written
        place.site.end(signal.SIGKILL)
        time.sleep(AWAY_S)
        place.site.start()
        written = written_bytes(place.site.pid)
        sender.send(in_cut - killed_after)
    sender.settle()
    done += written_bytes(place.site.pid) - written
    memory = memory_of(place.site.pid).peak
    most_waiting = len(sender.acknowledged) - before
    began = time.monotonic()
    place.network.open()
    reader.wait_for_link(True)
    linked = reader.linked_at
    reader.wait_for(sender.acknowledged, 10.0)
    first = list(dict.fromkeys(reader.numbers))
    lost = len(sender.acknowledged - set(first))
    return Found(
        sent=len(sender.acknowledged),
        lost=lost,
        lost_s=round(lost / (arguments.per_s * arguments.speed), 2),
        duplicates=sum(count - 1 for count in Counter(reader.numbers).values()),
        out_of_order=moved(first),
        waited_for_link_s=round(linked - began, 1),
        caught_up_s=round(reader.heard_at - linked, 2),
        most_waiting=most_waiting,
        written_mb=round(done / 1e6, 1),
        memory_mb=round(memory, 1),
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="how long the site is cut off")
    parser.add_argument("--per-s", type=float, default=10.0, help="results a second")
    parser.add_argument("--speed", type=float, default=30.0, help="how many times as fast they are sent")
    parser.add_argument(
        "--runs", nargs="+", type=Run.parse, metavar="RUN",
        default=[Run("strict"), Run("strict", True), Run("balanced"), Run("balanced", True)],
    )  # fmt: skip
    parser.add_argument("--restart-s", nargs=2, type=int, default=(), metavar="N", help="of the bridge")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    chance = random.Random(arguments.seed)
    print(
        f"{arguments.minutes:g} minutes at {arguments.per_s:g} results/s, {arguments.speed:g} times as fast; "
        f"{len(os.sched_getaffinity(0))} cpus, seed {arguments.seed}\n\n"
        f"{'broker of the site':<32} {'sent':>6} {'lost':>5} {'as s':>5} {'twice':>6} {'disorder':>8} "
        f"{'link s':>7} {'caught up s':>11} {'waiting':>8} {'written MB':>10} {'memory MB':>9}"
    )
    rows = []
    for run in arguments.runs:
        one = perform(run, arguments, chance)
        print(
            f"{run!s:<32} {one.sent:>6} {one.lost:>5} {one.lost_s:>5} {one.duplicates:>6} "
            f"{one.out_of_order:>8} {one.waited_for_link_s:>7} {one.caught_up_s:>11} {one.most_waiting:>8} "
            f"{one.written_mb:>10} {one.memory_mb:>9}",
            flush=True,
        )
        rows.append({"run": str(run), "most_lost": _most_lost(run), **asdict(one)})
    wrong = [row for row in rows if row["most_lost"] is not None and row["lost"] > row["most_lost"]]
    for row in wrong:
        print(f"failed: {row['run']} lost {row['lost']}", file=sys.stderr)
    print(
        json.dumps(
            {
                "benchmark": "site_cut",
                "machine": platform.machine(),
                "minutes": arguments.minutes,
                "per_s": arguments.per_s,
                "speed": arguments.speed,
                "seed": arguments.seed,
                "runs": rows,
                "passed": not wrong,
            }
        )
    )
    return int(bool(wrong))


def _most_lost(run: Run) -> int | None:
    """None: what it accepted since it saved, as its profile says."""
    if not run.is_killed:
        return 0
    return 1 if run.profile == "strict" and run.save_s is None else None
