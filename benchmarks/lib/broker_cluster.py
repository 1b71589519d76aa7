"""A cluster of three RabbitMQ nodes, one of which is killed again and again under load: requests lost.

    python benchmarks/robustness/brokers.py cluster [--requests 5000] [--broker-kills 10]

The nodes of the cluster run on this machine with ports of their own, each session as a quorum queue of three
members. A real daemon with a fast fake engine and clients of MQTT 3.1.1 and 5 connect through a proxy to the
first node that listens, as through a load balancer; senders repeat a request until it is answered. One node,
drawn at random, is killed by SIGKILL at a time, and is back before the next kill. Prints a table, then one
JSON line; status 1 on a lost request.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.lib import chaos_load
from benchmarks.lib.real_brokers import RabbitMQ, version_of
from benchmarks.lib.reporting import print_card, print_verdict, work_folder

NAMES: Final = ("hare1", "hare2", "hare3")
JOIN_S: Final = 120.0


class Cluster:
    """Three nodes as one broker; :meth:`kill` kills one of them, which :meth:`start` starts again."""

    def __init__(self, folder: Path, dice: random.Random) -> None:
        self.nodes = []
        for name in NAMES:
            (folder / name).mkdir(parents=True)
            self.nodes.append(RabbitMQ(folder / name, name=name, cluster=NAMES, home=folder))
        for node in self.nodes[1:]:  # one port mapper for all
            node.share_mapper(self.nodes[0])
        self.killed: Counter[str] = Counter()
        self.back_s: list[float] = []
        self._dice = dice
        self._down: RabbitMQ | None = None

    @property
    def port(self) -> int:
        return next(node for node in self.nodes if node is not self._down).port

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(node.port for node in self.nodes)

    def start(self) -> None:
        """All, or the one that was killed last."""
        if self._down is not None:
            began_at = time.monotonic()
            self._down.start()
            self.back_s.append(time.monotonic() - began_at)
            self._down = None
            return
        for node in self.nodes:  # together, since each waits for the others
            node.launch()
        for node in self.nodes:
            node.wait()
        give_up_at = time.monotonic() + JOIN_S
        while self.running() < len(NAMES):
            if time.monotonic() > give_up_at:
                raise SystemExit("the nodes of RabbitMQ made no cluster")
            time.sleep(1.0)

    def running(self) -> int:
        """How many nodes of the cluster run, as the first one sees it."""
        said = self.nodes[0].control("cluster_status", "--formatter", "json")
        return len(json.loads(said[said.index("{") :])["running_nodes"])

    def kill(self) -> None:
        self._down = self._dice.choice(self.nodes)
        self.killed[self._down.name] += 1
        self._down.kill()

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()

    def close(self) -> None:
        for node in reversed(self.nodes):
            node.close()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--broker-kills", type=int, default=10)
    parser.add_argument("--service-ms", type=float, default=5.0, help="of the fake engine")
    parser.add_argument("--seed", type=int, help="of everything random; printed if it isn't given")
    parser.add_argument("--keep", type=Path, help="where the files of the run shall stay")
    arguments = parser.parse_args(argv)
    if arguments.seed is None:
        arguments.seed = random.SystemRandom().randrange(2**31)
    card = print_card(rabbitmq=version_of("rabbitmq", {}), nodes=len(NAMES), seed=arguments.seed)
    words = ["--requests", str(arguments.requests), "--broker-kills", str(arguments.broker_kills)]
    words += ["--service-ms", str(arguments.service_ms), "--seed", str(arguments.seed)]
    load = chaos_load.make_parser().parse_args([*words, "--repeat", "--crash-every", "inf"])
    with ExitStack() as stack:
        folder = stack.enter_context(work_folder(arguments.keep, "edgeslm-cluster-"))
        cluster = Cluster(folder / "cluster", random.Random(arguments.seed))
        stack.callback(cluster.close)
        target = chaos_load.Target(cluster, ports=cluster.ports, drops=False)
        counted = chaos_load.perform(load, folder, target)
    counted["killed"] = dict(cluster.killed)
    chaos_load.print_table(counted)
    wrong = [f"{counted['lost']} requests are lost"] if counted["lost"] else []
    if counted["not_acknowledged"]:
        wrong.append(f"{counted['not_acknowledged']} requests were never acknowledged")
    print(
        f"\nof {counted['sent']} requests over {sum(cluster.killed.values())} kills: {counted['lost']} lost"
    )
    return print_verdict(card, counted, wrong)
