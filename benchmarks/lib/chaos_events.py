"""Plan of a chaos run, and the thread that carries it out."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.lib.chaos_proxy import Proxy
from benchmarks.lib.chaos_senders import TOPICS, Ledger, Sender, Watcher
from benchmarks.lib.chaos_surroundings import Clock, Disk
from benchmarks.lib.chaos_victims import NodeUnderTest
from benchmarks.lib.real_brokers import RealBroker

QUIET_S = 180.0
"""After so long without any news, what is missing counts as lost; longer than anything is frozen."""
DAY_S = 24 * 3600
SETTLE_S = 3.0
"""For a broker to save what it could not while its disk was full."""
LEAST_IN_FLIGHT = 16


@dataclass(frozen=True, slots=True)
class Event:
    """One kill: after how many results, and after which further pause."""

    after: int
    kind: str
    pause_s: float


@dataclass(slots=True)
class Happened:
    kind: str
    at: float
    in_flight: int


@dataclass
class Stage:
    """All that takes part in a run."""

    ledger: Ledger
    broker: RealBroker
    node: NodeUnderTest
    node_network: Proxy
    sender_network: Proxy
    watcher: Watcher
    repeating: bool
    clocks: Mapping[str, Clock]
    disks: Mapping[str, Disk]
    freeze_s: tuple[float, float]
    mqtt5: bool = True
    senders: list[Sender] = field(default_factory=list)

    def node_is_connected(self) -> bool:
        """Only then is nothing lost with a killed broker: what mosquitto has acknowledged and not saved yet,
        a connected node has received. Senders that repeat don't need that."""
        state = self.watcher.latest(TOPICS.state) or {}
        return state.get("state") in ("starting", "online")

    def send(self, number: int) -> None:
        self.senders[number % len(self.senders)].send(number)


def make_plan(count: int, wanted: Mapping[str, int], dice: random.Random) -> list[Event]:
    """When what happens. Points are numbers of results, so a slow machine sees the same run; none is in the
    first or last twentieth, where too little is in flight."""
    kinds = [kind for kind, times in wanted.items() for _ in range(times)]
    points = sorted(dice.randrange(count // 20, count - count // 20 + 1) for _ in kinds)
    dice.shuffle(kinds)
    return [Event(point, kind, dice.uniform(0, 1.0)) for point, kind in zip(points, kinds, strict=True)]


class Chaos(threading.Thread):
    """Carries a plan out. ``error`` is what stopped it, if something did."""

    def __init__(self, stage: Stage, plan: Sequence[Event], dice: random.Random) -> None:
        super().__init__(name="chaos", daemon=True)
        self._stage = stage
        self._plan = plan
        self._dice = dice
        self.happened: list[Happened] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for event in self._plan:
                self._wait_for(event)
                self._do(event.kind)
        except BaseException as error:
            self.error = error

    def _wait_for(self, event: Event) -> None:
        """The pause is there because results come in bursts: a kill must not come just when they do."""
        ledger = self._stage.ledger
        is_time = partial(self._is_time, event)
        while True:
            if not ledger.wait_while_news(is_time, QUIET_S):
                raise SystemExit(
                    f"{ledger.answered} results, {ledger.in_flight} in flight, then nothing for {QUIET_S:g} s"
                )
            time.sleep(event.pause_s)
            if is_time():
                return

    def _is_time(self, event: Event) -> bool:
        stage = self._stage
        needs_node = event.kind in ("broker", "freeze") and not stage.repeating
        return (
            stage.ledger.answered >= event.after
            and stage.ledger.in_flight >= LEAST_IN_FLIGHT
            and (stage.node_is_connected() or not needs_node)
        )

    def _do(self, kind: str) -> None:
        stage, dice = self._stage, self._dice
        how = kind
        in_flight, at = stage.ledger.in_flight, time.monotonic()
        if kind == "daemon":
            stage.node.kill()
            time.sleep(dice.uniform(0, 0.3))
            stage.node.start()
        elif kind == "worker":
            while not stage.node.kill_worker():
                time.sleep(0.01)  # the daemon is just starting it
                in_flight, at = stage.ledger.in_flight, time.monotonic()
        elif kind == "freeze":
            how = self._freeze()
        elif kind == "clock":
            how = self._step_clocks()
        elif kind == "disk":
            how = self._fill_disks()
        elif kind == "broker":
            stage.broker.kill()
            time.sleep(dice.uniform(0, 0.3))
            stage.broker.start()
        else:
            how = self._break_network()
        self.happened.append(Happened(how, at, in_flight))
        print(f"{how:<26} {in_flight:>4} in flight   after {stage.ledger.answered} results", flush=True)

    def _freeze(self) -> str:
        stage, seconds = self._stage, self._dice.uniform(*self._stage.freeze_s)
        if self._dice.random() < 0.5:
            stage.node.freeze_daemon(seconds)
            return "daemon frozen"
        while not stage.node.freeze_worker(seconds):
            time.sleep(0.01)
        return "worker frozen"

    def _step_clocks(self) -> str:
        """By a day there or back, so that no session of a week ends."""
        clocks = self._stage.clocks
        whose = self._dice.choice([*([name] for name in clocks), list(clocks)])
        for name in whose:
            shift_s = self._dice.choice([one for one in (-DAY_S, 0, DAY_S) if one != clocks[name].shift_s])
            clocks[name].step(shift_s)
        return "clock " + ", ".join(f"{name} {clocks[name].shift_s / DAY_S:+.0f} d" for name in whose)

    def _fill_disks(self) -> str:
        whose = self._dice.choice(list(self._stage.disks))
        self._stage.disks[whose].fill()
        time.sleep(self._dice.uniform(1.0, 5.0))
        self._stage.disks[whose].empty()
        time.sleep(SETTLE_S)
        return f"disk full, {whose}"

    def _break_network(self) -> str:
        dice = self._dice
        whose, proxies = dice.choice(
            [
                ("node", [self._stage.node_network]),
                ("senders", [self._stage.sender_network]),
                ("all", [self._stage.node_network, self._stage.sender_network]),
            ]
        )
        if dice.random() < 0.5:
            for proxy in proxies:
                proxy.cut()
            return f"network reset, {whose}"
        for proxy in proxies:
            proxy.close()
        time.sleep(dice.uniform(0.3, 5.0))  # shorter and longer than what the keep-alives bear
        for proxy in proxies:
            if dice.random() < 0.5:
                proxy.cut()
            proxy.open()
        return f"network silent, {whose}"
