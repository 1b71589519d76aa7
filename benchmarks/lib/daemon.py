"""Latency of bus and daemon: what they add to the engine's time, and their memory.

    python benchmarks/speed/node.py latency --bundle DIR [--requests 200] [--clients 1]

Starts mosquitto and the daemon, sends ``classify`` requests with one and with several in flight, and prints
requests/s, the latency from publish to result, the engine's own time as the result states it, and the
difference. Then the resident memory of the parent and the time from process start to the first result. A
table first, one JSON line last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import queue
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import yaml
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks.lib.reporting import print_card
from edgeslm.bundle.manifest import load_bundle
from edgeslm.cli.demo.broker import start_broker
from edgeslm.engine.prepack.prepare import graph_of, prepare
from edgeslm.engine.worker.prepared import CACHE
from edgeslm.messages import Result
from edgeslm.protocol.codec import Topics, encode_request, parse_result, parse_state
from edgeslm.telemetry.health import quantiles

NODE = "bench"
TASK = "triage"
REPLY = f"edgeslm/v1/{NODE}/res/bench"
MESSAGES = (
    "Spindle 3 smells of burnt oil",
    "Shift handed over, all fine",
    "Coolant level is low on lathe 2",
    "The guard of press 4 does not close",
    "Batch 1182 finished",
    "Conveyor belt squeaks again",
    "Pressure at line 7 dropped to 2 bar",
    "Cleaned the filters",
)
TASKS = {
    TASK: {
        "kind": "classify",
        "model": "small",
        "instruction": "How urgent is this message from a machine operator?",
        "labels": {"normal": "all is well", "warning": "look at it this shift", "critical": "stop now"},
    }
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One answered request: milliseconds from publish to result, and what the result says of itself."""

    round_trip_ms: float
    result: Result

    @property
    def engine_ms(self) -> float:
        timings = self.result.timings_ms
        return timings["prefill"] + timings["decode"]

    @property
    def added_ms(self) -> float:
        """Waiting behind other requests is the load's doing, so the queue time is taken out."""
        return self.round_trip_ms - self.engine_ms - self.result.timings_ms["queue"]


class Sender:
    """A client that keeps a number of requests in flight."""

    def __init__(self, port: int) -> None:
        self._topics = Topics(NODE)
        self._results: queue.SimpleQueue[tuple[str, float, Result]] = queue.SimpleQueue()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.max_inflight_messages_set(1000)
        self._client.on_socket_open = _no_delay
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        self._online = threading.Event()
        self._client.subscribe([(REPLY, 1), (self._topics.state, 1)])
        self._client.loop_start()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def wait_online(self) -> None:
        """Until the node's first start has made its session: the broker drops what is sent before."""
        if not self._online.wait(60):
            raise SystemExit("the daemon did not come online")

    def run(self, count: int, in_flight: int) -> tuple[list[Sample], float]:
        """Sends ``count`` requests, ``in_flight`` at a time; the samples and the seconds that it took."""
        sent: dict[str, float] = {}
        samples: list[Sample] = []
        started = time.perf_counter()
        for number in range(min(in_flight, count)):
            self._send(number, sent)
        while len(samples) < count:
            id_, at, result = self._results.get(timeout=120)
            if result.status == "error":
                raise SystemExit(f"a request failed: {result.error}")
            samples.append(Sample((at - sent[id_]) * 1000, result))
            if len(sent) < count:
                self._send(len(sent), sent)
        return samples, time.perf_counter() - started

    def _send(self, number: int, sent: dict[str, float]) -> None:
        id_ = f"{time.monotonic_ns()}-{number}"
        properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ResponseTopic = REPLY
        properties.CorrelationData = id_.encode()
        payload = encode_request(MESSAGES[number % len(MESSAGES)])
        sent[id_] = time.perf_counter()
        self._client.publish(self._topics.request(TASK), payload, qos=1, properties=properties)

    def _on_message(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:
        at = time.perf_counter()
        if message.topic == self._topics.state:
            if parse_state(bytes(message.payload)).state == "online":
                self._online.set()
            return
        correlation: bytes = getattr(message.properties, "CorrelationData", b"")
        self._results.put((correlation.decode(), at, parse_result(bytes(message.payload))))


def _no_delay(client: Any, userdata: Any, sock: Any) -> None:
    # Nagle's algorithm against delayed acknowledgements costs 40 ms a hop.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@contextmanager
def daemon(bundle: Path, port: int, prepared: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """``edgeslm run`` in a process of its own; stopped with SIGTERM, which must end it with status 0."""
    config = {
        "node": NODE,
        "broker": {"url": f"mqtt://127.0.0.1:{port}"},
        "models": {"small": {"bundle": str(bundle.resolve())}},
        "tasks": TASKS,
        "prepare": "never",
        "log_level": "warning",
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(yaml.safe_dump({**config, "state_dir": folder}))
        if prepared is not None:  # as one that was started before finds it
            shutil.copytree(prepared, Path(folder) / CACHE, copy_function=os.link)
        process = subprocess.Popen([sys.executable, "-m", "edgeslm", "run", str(file)])
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            if (status := process.wait(60)) != 0:
                raise SystemExit(f"the daemon ended with status {status}")


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def start_to_first_result(bundle: Path, port: int, sender: Sender, prepared: Path | None) -> float:
    """Seconds from starting the process to the first result; the request waits in the broker's session."""
    started = time.perf_counter()
    with daemon(bundle, port, prepared):
        sender.run(1, 1)
        return time.perf_counter() - started


def summary(samples: Sequence[Sample], seconds: float) -> dict[str, Any]:
    rows = {
        "round_trip_ms": [s.round_trip_ms for s in samples],
        "engine_ms": [s.engine_ms for s in samples],
        "added_ms": [s.added_ms for s in samples],
    }
    return {
        "requests_per_s": round(len(samples) / seconds, 1),
        **{key: quantiles(v) for key, v in rows.items()},
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16], help="requests in flight")
    parser.add_argument("--prepared", action="store_true", help="lay the weights out for this machine first")
    parser.add_argument("--starts", type=int, default=3, help="cold starts to measure")
    arguments = parser.parse_args(argv)

    card = print_card(
        **{"onnxruntime-genai": version("onnxruntime-genai")},
        bundle=arguments.bundle.name,
        prepared=arguments.prepared,
    )
    figures: dict[str, Any] = {"in_flight": {}}
    with tempfile.TemporaryDirectory() as folder, start_broker(Path(folder)) as broker:
        port = broker.port
        sender = Sender(port)
        prepared = None
        if arguments.prepared:
            bundle = load_bundle(arguments.bundle)
            (state := Path(folder) / "state").mkdir()
            asyncio.run(prepare(bundle, graph_of(bundle, adapters=False), state))
            prepared = state / CACHE
        with daemon(arguments.bundle, port, prepared) as process:
            sender.wait_online()
            sender.run(20, 1)  # warms up: prefix, allocator, branch of every message
            print(f"\n{'in flight':>9} {'req/s':>7}   {'':<14}{'p50':>8}{'p95':>8}{'p99':>8}")
            for in_flight in arguments.clients:
                figures["in_flight"][in_flight] = measured = summary(
                    *sender.run(arguments.requests, in_flight)
                )
                for number, name in enumerate(("round_trip_ms", "engine_ms", "added_ms")):
                    lead = f"{in_flight:>9} {measured['requests_per_s']:>7}" if not number else " " * 17
                    print(
                        lead + f"   {name:<14}" + "".join(f"{value:>8}" for value in measured[name].values())
                    )
            figures["parent_resident_mb"] = round(resident_mb(process.pid), 1)
        starts = [
            start_to_first_result(arguments.bundle, port, sender, prepared) for _ in range(arguments.starts)
        ]
        figures["start_to_first_result_s"] = round(statistics.median(starts), 2)
        sender.close()
    print(f"\nparent resident memory      {figures['parent_resident_mb']} MB")
    print(f"start to first result       {figures['start_to_first_result_s']} s (median of {len(starts)})")
    print(json.dumps({**card, **figures}))
