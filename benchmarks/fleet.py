"""Many nodes: what a real broker carries, and what a simulation says of more than this machine can run.

    python benchmarks/fleet.py broker [--nodes 200] [--rates 250 500 1000] [--seconds 15] [--service-ms 30]
                                      [--way topics|share] [--processes 2] [--profile balanced]

``broker``: simulated nodes (``simulated_nodes.py``: real daemons with engines that take a given time) on a
real mosquitto with shipped settings, and a sender at a rate, as Poisson arrivals. Way ``topics``: the sender
draws a node for each request; ``share``: it asks the pool. With ``--thin`` nodes only answer
(``thin_nodes.py``), which leaves the machine to the broker. All share the processors of this machine, so
processor time of broker, nodes, sender and everything else on the machine are told apart. A rate holds if
nothing is lost or refused, and 99 of 100 requests are answered within a second.

A table first, one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fleet_load import RateClient, poisson
from machine import processor
from processes import cpu_seconds
from shipped import ShippedBroker
from simulated_nodes import TASK, Crowd, Plan, open_many_files

from edgeslm.bus.protocol import Topics

POOL: Final = "fleet"
HOLDS_MS: Final = 1000.0
REPLY: Final = "edgeslm/v1/sender/res/triage"


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of processor time so far: of each part, and of all processes of the machine."""

    broker: float
    nodes: float
    sender: float
    machine: float

    @classmethod
    def now(cls, broker: int, nodes: Sequence[int]) -> Spent:
        user, nice, system, _, _, irq, soft, *_ = (
            int(one) for one in Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
        )
        busy = (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")
        return cls(cpu_seconds(broker), sum(map(cpu_seconds, nodes)), cpu_seconds(os.getpid()), busy)

    def cores_since(self, before: Spent, seconds: float) -> dict[str, float]:
        """How many processors each part kept busy; ``others`` is what else ran on the machine."""
        parts = {
            "broker": self.broker - before.broker,
            "nodes": self.nodes - before.nodes,
            "sender": self.sender - before.sender,
        }
        parts["others"] = max(0.0, self.machine - before.machine - sum(parts.values()))
        return {name: round(spent / seconds, 3) for name, spent in parts.items()}


COLUMNS = (
    ("offered_per_s", "offered/s", 10),
    ("answered_per_s", "answered/s", 11),
    ("p50_ms", "p50 ms", 8),
    ("p99_ms", "p99 ms", 8),
    ("way_p50_ms", "way ms", 8),
    ("lost", "lost", 6),
    ("duplicates", "twice", 6),
    ("errors", "errors", 7),
)
PARTS = ("broker", "nodes", "sender", "others")


def head() -> str:
    titles = "".join(f"{title:>{width}}" for _, title, width in COLUMNS)
    return titles + "".join(f"{part:>8}" for part in PARTS) + "   holds"


def row(found: dict[str, Any]) -> str:
    cells = "".join(f"{found[key] if found[key] is not None else '-':>{width}}" for key, _, width in COLUMNS)
    cores = "".join(f"{found['cores'][part]:>8.2f}" for part in PARTS)
    return cells + cores + ("   yes" if found["holds"] else "   no")


def holds(found: dict[str, Any]) -> bool:
    is_whole = not found["lost"] and not found["errors"]
    return is_whole and found["p99_ms"] is not None and found["p99_ms"] <= HOLDS_MS


def carry(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The real broker under each rate in turn."""
    chance = random.Random(args.seed)
    rows = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=args.folder))).resolve()
        broker = ShippedBroker(args.profile, folder)
        broker.start()
        stack.callback(broker.end)
        plan = Plan(
            f"mqtt://127.0.0.1:{broker.port}",
            args.nodes,
            tuple(args.service_ms),
            POOL if args.way == "share" else None,
            journal=args.journal,
            thin=args.thin,
        )
        crowd = stack.enter_context(Crowd(plan, folder / "nodes", args.processes))
        client = RateClient(broker.port, REPLY)
        stack.callback(client.close)
        print(head(), flush=True)
        topics = [Topics(name).request(TASK) for name in plan.names]
        if args.way == "share":
            topics = [f"edgeslm/v1/pool/{POOL}/req/{TASK}"]
        for rate in (0.0, *args.rates):
            planned = poisson(rate, args.seconds, lambda _: chance.choice(topics), chance) if rate else []
            before = Spent.now(broker.pid, crowd.pids)
            marks: list[Spent] = []

            def look(now_s: float, marks: list[Spent] = marks) -> None:
                if not marks and now_s >= args.seconds:
                    marks.append(Spent.now(broker.pid, crowd.pids))

            offered = client.offer(planned, args.seconds, meanwhile=look)
            if not rate:
                client.idle(args.seconds)
            after = marks[0] if marks else Spent.now(broker.pid, crowd.pids)
            found = {"rate": rate, **offered.figures(), "cores": after.cores_since(before, args.seconds)}
            found["holds"] = holds(found) or not rate
            rows.append(found)
            print(row(found), flush=True)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("broker", help="what a real broker carries")
    one.add_argument("--nodes", type=int, default=200)
    one.add_argument("--rates", type=float, nargs="+", default=[250, 500, 750, 1000, 1250])
    one.add_argument("--seconds", type=float, default=15.0, help="of each rate (default: %(default)s)")
    one.add_argument("--service-ms", type=float, nargs="+", default=[30.0])
    one.add_argument("--way", choices=("topics", "share"), default="topics")
    one.add_argument("--processes", type=int, default=2, help="that the nodes share (default: %(default)s)")
    one.add_argument("--profile", choices=("balanced", "strict"), default="balanced")
    one.add_argument("--journal", choices=("full", "none"), default="full")
    one.add_argument("--thin", action="store_true", help="nodes that only answer: the broker's own bound")
    one.add_argument("--folder", type=Path, default=Path(), help="on a disk (default: here)")
    one.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    open_many_files()
    card = {"cpus": len(os.sched_getaffinity(0)), "processor": processor()}
    print("  ".join(f"{key} {value}" for key, value in card.items()))
    rows = carry(args)
    print(json.dumps({"benchmark": f"fleet {args.command}", **card, "rows": rows}))


if __name__ == "__main__":
    main()
