"""Latency of the HTTP API beside MQTT, on one node with one model.

    python benchmarks/speed/node.py http BUNDLE [--rounds 20] [--clients 16] [--json]

The two take turns, and who goes first changes. A turn is one label, and one streamed text up to its first
piece and its end. Each HTTP request uses a kept connection, as OpenAI's client does. Then both ask for labels
with several requests in flight, in turns too. ``api_own_mb`` is memory that no other process shares. Times
are medians in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.load import Ask, answer_all, until_online
from benchmarks.lib.processes import memory_of, processes_of
from benchmarks.lib.served import NODE, node
from edgeslm.bundle.manifest import load_bundle, short_digest
from edgeslm.cli.demo.broker import start_broker
from edgeslm.client import Client

TASKS: Final = {
    "judge": {"kind": "classify", "model": "small", "labels": ["normal", "warning", "critical"]},
    "tell": {"kind": "generate", "model": "small", "max_tokens": 8},
}
TOKEN: Final = "token-of-the-benchmark"
LABELS_IN_FLIGHT: Final = 64


@dataclass(slots=True)
class Times:
    """Milliseconds of one door."""

    label: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        return {
            "label_ms": round(median(self.label), 2),
            "first_piece_ms": round(median(self.first), 2),
            "text_ms": round(median(self.whole), 2),
            "labels_per_s": round(median(self.per_s), 1),
        }


class HttpDoor:
    """Asks over one kept connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _ask(self, model: str, text: str, *, stream: bool) -> http.client.HTTPResponse:
        body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream}
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self._connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = self._connection.getresponse()
        if response.status != 200:
            raise RuntimeError(response.read().decode())
        return response

    def label(self, text: str) -> None:
        json.loads(self._ask("judge", text, stream=False).read())

    def text(self, text: str, note: Callable[[], None]) -> None:
        for line in self._ask("tell", text, stream=True):
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                note()


class MqttDoor:
    """Asks with the client library."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def label(self, text: str) -> None:
        self._client.request("judge", text).unwrap()

    def text(self, text: str, note: Callable[[], None]) -> None:
        with self._client.stream("tell", text) as stream:
            for _ in stream:
                note()


def take_turn(door: HttpDoor | MqttDoor, times: Times, number: int) -> None:
    began = time.perf_counter()
    door.label(f"Spindle {number} smells of burnt oil")
    times.label.append(1000 * (time.perf_counter() - began))
    pieces: list[float] = []
    began = time.perf_counter()
    door.text(f"Describe lathe {number}.", lambda: pieces.append(time.perf_counter()))
    times.first.append(1000 * (pieces[0] - began))
    times.whole.append(1000 * (time.perf_counter() - began))


def labels_over_http(doors: Sequence[HttpDoor]) -> float:
    """Labels per second, a connection for each request in flight."""
    share = LABELS_IN_FLIGHT // len(doors)

    def work(place: int) -> None:
        for number in range(place * share, (place + 1) * share):
            doors[place].label(f"Spindle {number} smells of burnt oil")

    began = time.perf_counter()
    with ThreadPoolExecutor(len(doors)) as pool:
        list(pool.map(work, range(len(doors))))
    return share * len(doors) / (time.perf_counter() - began)


async def labels_over_mqtt(url: str, clients: int) -> float:
    async with Client(url, NODE) as client:
        asks = [Ask("judge", f"Spindle {number} smells of burnt oil") for number in range(LABELS_IN_FLIGHT)]
        await until_online(client)
        await answer_all(client, asks[:1], 1)
        _, seconds = await answer_all(client, asks, clients)
    return LABELS_IN_FLIGHT / seconds


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    times = {"mqtt": Times(), "http": Times()}
    with tempfile.TemporaryDirectory(prefix="http-") as place, start_broker(Path(place)) as broker:
        folder, port = Path(place), free_port()
        (folder / "tokens").write_text(f"bench {TOKEN}\n")
        api = {"listen": f"127.0.0.1:{port}", "tokens": str(folder / "tokens")}
        parts = {"models": {"small": {"bundle": str(args.bundle.resolve())}}, "tasks": TASKS, "api": api}
        with node(broker.url, folder, parts), Client(broker.url, NODE) as client:
            asyncio.run(labels_over_mqtt(broker.url, 1))  # until it is online
            idle = memory_of(_api_process())
            doors: dict[str, HttpDoor | MqttDoor] = {"mqtt": MqttDoor(client), "http": HttpDoor(port)}
            order = list(doors)
            for number in range(args.rounds + 2):
                for name in order:
                    take_turn(doors[name], times[name] if number > 1 else Times(), number)
                order.reverse()
            many = [HttpDoor(port) for _ in range(args.clients)]
            for _ in range(5):
                times["mqtt"].per_s.append(asyncio.run(labels_over_mqtt(broker.url, args.clients)))
                times["http"].per_s.append(labels_over_http(many))
            used = memory_of(_api_process())
            memory = {kind: memory_of(pid) for pid, kind in processes_of(folder).items()}
    first = {name: median(one.first) for name, one in times.items()}
    figures = {name: one.figures() for name, one in times.items()}
    keys = list(figures["mqtt"])
    say(f"{'':<6}" + "".join(f"{key:>16}" for key in keys))
    for name, row in figures.items():
        say(f"{name:<6}" + "".join(f"{row[key]:>16g}" for key in keys))
    return {
        "rounds": args.rounds,
        "clients": args.clients,
        "first_piece_later_ms": round(first["http"] - first["mqtt"], 2),
        "api_pss_mb": round(idle.pss, 1),
        "api_own_mb": round(idle.anonymous, 1),
        "api_own_used_mb": round(used.anonymous, 1),
        "others_pss_mb": round(sum(one.pss for one in memory.values()), 1),
        "doors": [{"door": name, **row} for name, row in figures.items()],
    }


def _api_process() -> int:
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"edgeslm.api.worker" in words:
                return int(process.name)
    raise RuntimeError("the API doesn't run")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--clients", type=int, default=16, help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    name = f"{args.bundle.name} {short_digest(load_bundle(args.bundle).digest)}"
    run_benchmark("http", args, measure, bundle=name)
