"""Two fast and two slow nodes as a pool: shared subscription, dispatcher, and a queue of RabbitMQ.

    python benchmarks/robustness/brokers.py pool [--service-ms 50,50,200,200] [--seconds 20] [--kills 6]

The first two are those of ``fleet/capacity.py pool`` on the loopback interface: real daemons and mosquitto.
The third is what an AMQP client would do instead: consumers that take one message at a time (prefetch 1) from
one quorum queue, work for the given time and acknowledge. They need pika (``pip install pika``), which
nothing else uses. Then the consumers are killed in turns under the same load: connections are cut with a
message in hand. Prints the share of the sum of the nodes' rates by their given times, then one JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks.lib.machine import processor
from benchmarks.lib.pool_capacity import WAYS, Bench
from benchmarks.lib.real_brokers import RabbitMQ
from benchmarks.lib.reporting import print_card, print_verdict, work_folder

QUEUE: Final = "pool"
BACK_S: Final = 1.0
"""How long a killed consumer is away."""
SETTLE_S: Final = 120.0


class Consumer(threading.Thread):
    """Takes one message at a time; ``done`` counts what was acknowledged, by message."""

    def __init__(self, pika: Any, port: int, service_s: float, done: Counter[str]) -> None:
        super().__init__(daemon=True)
        self._pika = pika
        self._port = port
        self._service_s = service_s
        self._done = done
        self._ended = threading.Event()
        self._connection: Any = None

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                self._consume()
            except (self._pika.exceptions.AMQPError, OSError, ValueError):
                self._ended.wait(BACK_S)

    def cut(self) -> None:
        """Ends the connection as a crash does."""
        with contextlib.suppress(AttributeError, OSError):
            sock = self._connection._impl._transport._sock
            sock.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        self._ended.set()

    def _consume(self) -> None:
        self._connection = connect(self._pika, self._port)
        channel = self._connection.channel()
        channel.basic_qos(prefetch_count=1)
        for method, _, body in channel.consume(QUEUE, inactivity_timeout=0.2):
            if self._ended.is_set():
                break
            if method is None:
                continue
            time.sleep(self._service_s)
            channel.basic_ack(method.delivery_tag)
            self._done[body.decode()] += 1
        self._connection.close()


def connect(pika: Any, port: int) -> Any:
    return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port, heartbeat=10))


def run_queue(
    pika: Any, port: int, services_s: Sequence[float], count: int, kills: int, seconds: float
) -> dict[str, Any]:
    """``count`` messages that wait in the queue from the start, and ``kills`` spread over ``seconds``."""
    publisher = connect(pika, port)
    channel = publisher.channel()
    channel.confirm_delivery()
    channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": -1})
    persistent = pika.BasicProperties(delivery_mode=2)
    for number in range(count):
        channel.basic_publish("", QUEUE, str(number).encode(), persistent)
    publisher.close()
    done: Counter[str] = Counter()
    consumers = [Consumer(pika, port, one, done) for one in services_s]
    began_at = time.monotonic()
    for one in consumers:
        one.start()
    for number in range(kills):
        time.sleep(seconds / (kills + 1))
        consumers[number % len(consumers)].cut()
    while len(done) < count and time.monotonic() - began_at < seconds + SETTLE_S:
        time.sleep(0.01)
    took_s = time.monotonic() - began_at
    for one in consumers:
        one.end()
    for one in consumers:
        one.join(5.0)
    return {
        "per_s": count / took_s,
        "lost": count - len(done),
        "twice": sum(done.values()) - len(done),
        "kills": kills,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    times = lambda text: tuple(float(one) for one in text.split(","))  # noqa: E731
    parser.add_argument("--service-ms", type=times, default=(50.0, 50.0, 200.0, 200.0))
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--profile", choices=["strict", "balanced"], default="balanced")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    arguments.flat, arguments.loads = True, []
    try:
        pika = importlib.import_module("pika")
    except ImportError:
        raise SystemExit("pika is missing: pip install pika") from None
    card = print_card(processor=processor(), service_ms=arguments.service_ms, seed=arguments.seed)
    services_s = [one / 1000 for one in arguments.service_ms]
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(work_folder(None, "edgeslm-pool-"))
        measure_daemons(arguments, folder, found)
        (folder / "rabbitmq").mkdir()
        rabbit = RabbitMQ(folder / "rabbitmq")
        stack.callback(rabbit.close)
        rabbit.start()
        could = sum(1 / one for one in services_s)
        for name, kills in (("queue", 0), ("queue, kills", arguments.kills)):
            count = round(could * arguments.seconds)
            row = run_queue(pika, rabbit.amqp_port, services_s, count, kills, arguments.seconds)
            found[name] = row
    for row in found.values():
        row["of_sum"] = row["per_s"] / could
    print(f"\n{'way':<14}{'requests/s':>11}{'of sum':>8}{'lost':>6}{'twice':>7}")
    for name, row in found.items():
        last = f"{row.get('lost', 0):>6}{row.get('twice', 0):>7}"
        print(f"{name:<14}{row['per_s']:>11.1f}{row['of_sum']:>8.3f}{last}")
    wrong = [f"{name}: {row['lost']} messages are lost" for name, row in found.items() if row.get("lost")]
    return print_verdict(card, {"found": found}, wrong)


def measure_daemons(arguments: argparse.Namespace, folder: Path, found: dict[str, Any]) -> None:
    """Shared subscription and dispatcher, at the rate of the nodes asked alone."""
    (folder / "daemons").mkdir()
    with ExitStack() as stack:
        bench = Bench(arguments, folder / "daemons", stack)
        could = 0.0
        for way in WAYS:
            with bench.crowd(way):
                could = could or sum(bench.alone())
                found[way] = bench.pool(way, could)
