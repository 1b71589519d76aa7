"""Throughput and latency of a pool: shared subscription against ``edgeslm dispatch``.

    python benchmarks/fleet/capacity.py pool [--service-ms 50,50,200,200] [--seconds 30] [--loads 0.35 0.7]
        [--flat]

Each node is a real daemon with an engine that takes a given time, in a network namespace of its own (veth
pairs on a bridge; needs root); ``--flat`` runs them on the loopback interface. The broker is a real mosquitto
with shipped settings. First each node is measured alone; the sum is the capacity of the pool. Then, for
shared subscription and dispatcher: throughput under overload, and latency of Poisson arrivals at a share of
the capacity, counted from the time at which a request was due. Prints a table, then one JSON line; status 1
if the dispatcher reaches less than 0.9 of the capacity, or more than half of the other's p99.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.lib.fleet_load import RateClient, poisson
from benchmarks.lib.machine import processor
from benchmarks.lib.namespaces import Namespaces
from benchmarks.lib.reporting import print_card, print_verdict
from benchmarks.lib.shipped import ShippedBroker
from benchmarks.lib.simulated_nodes import TASK, Crowd, Plan
from edgeslm.protocol.codec import Topics, encode_request

WAYS: Final = ("share", "dispatcher")
REPLY: Final = f"edgeslm/v1/sender/res/{TASK}"
IN_FLIGHT: Final = 48
"""More than the pool has at a time: something always waits."""
ALONE: Final = 4
"""Requests under way at a node that is asked alone."""
LEAST_OF_SUM: Final = 0.9
MOST_OF_P99: Final = 0.5


def payloads(count: int) -> list[bytes]:
    return [encode_request(f"Message {number}: spindle 3 smells of burnt oil") for number in range(count)]


@contextmanager
def dispatcher(port: int, pool: str, folder: Path) -> Iterator[None]:
    file = folder / "dispatch.json"
    settings = {
        "pool": pool,
        "broker": {"url": f"mqtt://127.0.0.1:{port}"},
        "limits": {"sender_queue": 256},
        "state_dir": str(folder / "dispatcher"),
        "log_level": "warning",
    }
    file.write_text(json.dumps(settings))
    process = subprocess.Popen([sys.executable, "-m", "edgeslm", "dispatch", str(file)])
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


class Bench:
    """One broker and one sender; the nodes of each way are started and ended."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, stack: ExitStack) -> None:
        self.arguments = arguments
        self.folder = folder
        self.nodes = len(arguments.service_ms)
        self._namespaces = None if arguments.flat else stack.enter_context(Namespaces(self.nodes))
        self.host = self._namespaces.host if self._namespaces else "127.0.0.1"
        broker = ShippedBroker(arguments.profile, folder)
        if self._namespaces:
            with (folder / "mosquitto.conf").open("a") as settings:
                settings.write(f"listener {broker.port} {self.host}\n")
        broker.start()
        stack.callback(broker.end)
        self.port = broker.port
        self.client = RateClient(self.port, REPLY)
        stack.callback(self.client.close)

    @contextmanager
    def crowd(self, way: str) -> Iterator[None]:
        """The nodes, each a process in its namespace."""
        with ExitStack() as stack:
            crowds = []
            for number in range(self.nodes):
                plan = Plan(
                    f"mqtt://{self.host}:{self.port}",
                    nodes=1,
                    service_ms=self.arguments.service_ms,
                    pool=f"by-{way}",
                    by=way,
                    first=number + 1,
                )
                command = self._namespaces.command(number) if self._namespaces else ()
                crowds.append(Crowd(plan, self.folder / way, command=command))
            for crowd in crowds:
                stack.enter_context(crowd)
            if way == "dispatcher":
                stack.enter_context(dispatcher(self.port, f"by-{way}", self.folder))
                self.client.wait_for(f"edgeslm/v1/pool/by-{way}/info", b'"node-4": "online"')
            yield

    def alone(self) -> list[float]:
        """Answers a second of each node that is asked alone."""
        found = []
        for number, service_ms in enumerate(self.arguments.service_ms):
            topic = Topics(f"node-{number + 1}").request(TASK)
            count = max(20, round(self.arguments.seconds / 4 * 1000 / service_ms))
            run = self.client.run(topic, payloads(count), ALONE)
            found.append(count / run.seconds)
        return found

    def pool(self, way: str, could: float) -> dict[str, Any]:
        arguments = self.arguments
        topic = Topics(f"pool/by-{way}").request(TASK)
        self.client.run(topic, payloads(round(could * 3)), IN_FLIGHT)  # by then the speeds are known
        count = round(could * arguments.seconds)
        run = self.client.run(topic, payloads(count), IN_FLIGHT)
        found: dict[str, Any] = {
            "per_s": count / run.seconds,
            "of_sum": count / run.seconds / could,
            "loads": {},
        }
        chance = random.Random(arguments.seed)
        for load in arguments.loads:
            time.sleep(1.0)
            planned = poisson(load * could, arguments.seconds, lambda _: topic, chance)
            offered = self.client.offer(planned, arguments.seconds, settle_s=60.0).figures()
            keys = ("answered_per_s", "p50_ms", "p99_ms", "lost", "errors", "duplicates", "by_service_ms")
            found["loads"][f"{load:g}"] = {key: offered[key] for key in keys}
        return found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgeslm-pool-")))
        bench = Bench(arguments, folder, stack)
        for way in WAYS:
            with bench.crowd(way):
                if "alone_per_s" not in found:
                    found["alone_per_s"] = [round(one, 2) for one in bench.alone()]
                    found["sum_per_s"] = round(sum(found["alone_per_s"]), 2)
                    print(f"asked alone: {found['alone_per_s']} a second, {found['sum_per_s']} in all")
                    print(f"\n{'way':<12}{'pool/s':>8}{'of sum':>8}{'load':>7}{'p50 ms':>9}{'p99 ms':>9}")
                row = found[way] = bench.pool(way, found["sum_per_s"])
                for load, one in row["loads"].items():
                    head = f"{way:<12}{row['per_s']:>8.1f}{row['of_sum']:>8.3f}"
                    print(f"{head}{load:>7}{one['p50_ms']:>9.0f}{one['p99_ms']:>9.0f}", flush=True)
    ratios = {
        load: round(one["p99_ms"] / found["share"]["loads"][load]["p99_ms"], 3)
        for load, one in found["dispatcher"]["loads"].items()
    }
    return {**found, "p99_ratios": ratios}


def verdict(found: dict[str, Any]) -> list[str]:
    """What is wrong, in sentences."""
    row = found["dispatcher"]
    said = [(row["of_sum"] < LEAST_OF_SUM, f"the pool does {row['of_sum']:.3f} of the sum")]
    for load, ratio in found["p99_ratios"].items():
        said.append((ratio > MOST_OF_P99, f"at load {load} its p99 is {ratio} of the plain one's"))
        one = row["loads"][load]
        said.append(
            (one["lost"] or one["errors"], f"at load {load} {one['lost']} lost, {one['errors']} errors")
        )
    return [sentence for wrong, sentence in said if wrong]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    times = lambda text: tuple(float(one) for one in text.split(","))  # noqa: E731
    parser.add_argument("--service-ms", type=times, default=(50.0, 50.0, 200.0, 200.0))
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.35, 0.7], help="shares of the sum")
    parser.add_argument("--profile", choices=["strict", "balanced"], default="balanced")
    parser.add_argument("--flat", action="store_true", help="without namespaces")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    card = print_card(
        processor=processor(),
        namespaces=not arguments.flat,
        service_ms=arguments.service_ms,
        profile=arguments.profile,
        seed=arguments.seed,
    )
    found = measure(arguments)
    wrong = verdict(found)
    return print_verdict(card, found, wrong)
