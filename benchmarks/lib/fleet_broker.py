"""A real broker with simulated nodes at a request rate: throughput, latency, processor time of each part."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.lib.fleet_load import RateClient, poisson
from benchmarks.lib.processes import cpu_seconds
from benchmarks.lib.shipped import ShippedBroker
from benchmarks.lib.simulated_nodes import TASK, Crowd, Plan
from edgeslm.protocol.codec import Topics

POOL: Final = "fleet"
POOL_BASE: Final = f"edgeslm/v1/pool/{POOL}"
HOLDS_MS: Final = 1000.0
Turn = tuple[float, int, signal.Signals]
SETTLE_S: Final = 2.0
"""Until a dispatcher that is online has heard of all nodes."""
REPLY: Final = "edgeslm/v1/sender/res/triage"


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured: ``seconds`` of each rate, in requests a second; a rate of 0 is nodes that wait.

    ``way``: ``topics`` draws a node for each request, ``share`` and ``dispatcher`` ask the pool. ``thin``
    nodes only answer.
    """

    nodes: int = 200
    rates: tuple[float, ...] = (0, 250, 500, 750, 1000, 1250)
    seconds: float = 15.0
    service_ms: tuple[float, ...] = (30.0,)
    way: str = "topics"
    processes: int = 2
    profile: str = "balanced"
    journal: str = "full"
    thin: bool = False
    absences: tuple[tuple[float, int, float], ...] = ()
    """Nodes that are frozen, with their connections: when, which, for how long. Each has a process then."""
    folder: Path = Path()
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of processor time so far: of each part, and of all processes of the machine."""

    broker: float
    nodes: float
    sender: float
    dispatcher: float
    machine: float

    @classmethod
    def now(cls, broker: int, nodes: Sequence[int], dispatcher: int | None) -> Spent:
        user, nice, system, _, _, irq, soft, *_ = (
            int(one) for one in Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
        )
        busy = (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")
        return cls(
            cpu_seconds(broker),
            sum(map(cpu_seconds, nodes)),
            cpu_seconds(os.getpid()),
            cpu_seconds(dispatcher) if dispatcher is not None else 0.0,
            busy,
        )

    def cores_since(self, before: Spent, seconds: float) -> dict[str, float]:
        """How many processors each part kept busy; ``others`` is what else ran on the machine."""
        parts = {
            "broker": self.broker - before.broker,
            "nodes": self.nodes - before.nodes,
            "sender": self.sender - before.sender,
            "dispatcher": self.dispatcher - before.dispatcher,
        }
        parts["others"] = max(0.0, self.machine - before.machine - sum(parts.values()))
        return {name: round(spent / seconds, 3) for name, spent in parts.items()}


@contextmanager
def dispatcher_at(broker: str, folder: Path) -> Iterator[int]:
    """``edgeslm dispatch`` for the pool: its process id."""
    folder.mkdir()
    settings = {"pool": POOL, "broker": {"url": broker}, "state_dir": str(folder), "log_level": "error"}
    (folder / "dispatch.yaml").write_text(yaml.safe_dump(settings))
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeslm", "dispatch", str(folder / "dispatch.yaml")],
        stdin=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(60)


def holds(found: dict[str, Any]) -> bool:
    """Nothing is lost or refused, and 99 of 100 requests are answered within a second."""
    is_whole = not found["lost"] and not found["errors"]
    return is_whole and found["p99_ms"] is not None and found["p99_ms"] <= HOLDS_MS


def carry(case: Case) -> Iterator[tuple[dict[str, Any], list[tuple[float, int]]]]:
    """For each rate what came of it, and the requests: when each was due, to which node (-1: the pool)."""
    chance = random.Random(case.seed)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=case.folder))).resolve()
        broker = ShippedBroker(case.profile, folder)
        broker.start()
        stack.callback(broker.end)
        plan = Plan(
            f"mqtt://127.0.0.1:{broker.port}",
            case.nodes,
            case.service_ms,
            None if case.way == "topics" else POOL,
            "dispatcher" if case.way == "dispatcher" else "share",
            journal=case.journal,
            thin=case.thin,
        )
        crowd = stack.enter_context(Crowd(plan, folder / "nodes", case.processes))
        client = RateClient(broker.port, REPLY)
        stack.callback(client.close)
        topics = [Topics(name).request(TASK) for name in plan.names]
        if case.way != "topics":
            topics = [f"{POOL_BASE}/req/{TASK}"]
        dispatcher = None
        if case.way == "dispatcher":
            dispatcher = stack.enter_context(dispatcher_at(plan.broker, folder / "dispatcher"))
            client.wait_for(f"{POOL_BASE}/state", b'"online"')
            client.idle(SETTLE_S)
        for rate in case.rates:
            planned = poisson(rate, case.seconds, lambda _: chance.choice(topics), chance) if rate else []
            before = Spent.now(broker.pid, crowd.pids, dispatcher)
            marks: list[Spent] = []

            turns = sorted(
                [(at_s, node, signal.SIGSTOP) for at_s, node, _ in case.absences]
                + [(at_s + for_s, node, signal.SIGCONT) for at_s, node, for_s in case.absences]
            )

            def look(now_s: float, marks: list[Spent] = marks, turns: list[Turn] = turns) -> None:
                while turns and now_s >= turns[0][0]:
                    _, node, what = turns.pop(0)
                    crowd.signal(node, what)
                if not marks and now_s >= case.seconds:
                    marks.append(Spent.now(broker.pid, crowd.pids, dispatcher))

            offered = client.offer(planned, case.seconds, meanwhile=look)
            if not rate:
                client.idle(case.seconds)
            after = marks[0] if marks else Spent.now(broker.pid, crowd.pids, dispatcher)
            found = {"rate": rate, **offered.figures(), "cores": after.cores_since(before, case.seconds)}
            numbers = {topic: number if case.way == "topics" else -1 for number, topic in enumerate(topics)}
            trace = [(one.at_s, numbers[one.topic]) for one in planned]
            yield {**found, "holds": holds(found) or not rate}, trace
