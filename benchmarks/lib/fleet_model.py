"""Discrete-event simulation of a fleet: clients, brokers, a dispatcher, nodes that fail and return.

Costs are parameters, measured elsewhere. A broker and a dispatcher are one thread each and process one
message after the other. A node computes one request at a time, in the order of arrival. Ways of balancing:

- ``share``: the broker deals requests round the members of a shared subscription, as mosquitto 2.0 does,
  regardless of load and of failed members: their persistent sessions keep their share.
- ``topics``: each client has a node, by a hash of its name; ``senders`` None draws a node for each request.
- ``dispatcher``: one process sends each request to the node that is expected to finish it first
  (``fleet_dispatcher.py``). It learns of a failure by the last will, ``notice_s`` later, or by missing
  answers.

The network is a delay; packets are never lost and queues have no limits. simpy runs the clock; a request
costs four events and more, so large fleets are simulated as one of ``cells`` independent ones.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
import simpy

from benchmarks.lib.fleet_dispatcher import Dispatcher

Way = Literal["share", "topics", "dispatcher"]
WAYS: Final[tuple[Way, ...]] = ("share", "topics", "dispatcher")
FULL: Final = 0.7
"""How busy one thread of a broker or dispatcher may be in the mean, before there has to be another."""
TICK_S: Final = 0.25
"""How often a dispatcher looks for nodes that are late."""
MOST_NODES: Final = 1000
"""Simulated in one cell: more of them only take longer to count."""
REPEATS_S: Final = (5.0, 10.0, 20.0, 30.0)
"""How long ``edgeslm.client`` waits before it sends again, each time."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured, in seconds: what the broker works on a message in and out, a dispatcher on a request and its
    result together, and the more for each node of its pool; how long a message is on its way where nothing
    waits, and how much longer through a dispatcher, which gathers what comes for a moment."""

    broker_s: float = 0.00004
    dispatcher_s: float = 0.00047
    dispatcher_node_s: float = 0.0000021
    dispatcher_wait_s: float = 0.003
    hop_s: float = 0.0007

    def of_dispatcher(self, nodes: float) -> float:
        return self.dispatcher_s + nodes * self.dispatcher_node_s


@dataclass(frozen=True, slots=True)
class Setup:
    """One simulation. ``services_s`` go round the nodes; ``is_random`` draws each service time from an
    exponential distribution. ``deaths_per_min`` is the share of the nodes that die in a minute, each gone for
    ``gone_s``."""

    way: Way
    nodes: int
    rate: float
    services_s: tuple[float, ...] = (0.03,)
    seconds: float = 60.0
    costs: Costs = Costs()
    senders: int | None = None
    is_random: bool = False
    health_s: float = 30.0
    own_rate: float = 0.0
    """Requests a second that nodes get beside the pool's, by their own topics, unseen by the dispatcher."""
    deaths_per_min: float = 0.0
    absences: tuple[tuple[float, int, float], ...] = ()
    """Nodes that are gone at a given time: when, which, for how long."""
    gone_s: float = 120.0
    notice_s: float = 45.0
    """One and a half keep-alives: so long a broker waits for a silent client (MQTT 5 section 3.1.2.10)."""
    repeats: bool = False
    """Whether senders of ``share`` send again, which another member gets."""
    patience_s: float = 60.0
    late_s: float = 10.0
    warm_up: float = 0.1
    """Share of the time whose requests aren't counted."""
    seed: int = 1

    @property
    def capacity(self) -> float:
        """Requests a second of all nodes together."""
        return sum(1 / one for one in self.services)

    @property
    def bound(self) -> float:
        """Requests a second from which on queues grow without end: who is blind waits for the slowest."""
        blind = self.nodes / max(self.services)
        return self.capacity if self.way == "dispatcher" else blind

    @property
    def services(self) -> list[float]:
        return [self.services_s[number % len(self.services_s)] for number in range(self.nodes)]


def cells_of(way: Way, nodes: int, rate: float, costs: Costs) -> tuple[int, int]:
    """How many brokers and dispatchers so many nodes and requests a second need, none of them busier than
    :data:`FULL`."""
    passages = 4 if way == "dispatcher" else 2
    brokers = max(1, math.ceil(rate * passages * costs.broker_s / FULL))
    if way != "dispatcher":
        return brokers, 0
    dispatchers = 1
    while rate / dispatchers * costs.of_dispatcher(nodes / dispatchers) > FULL and dispatchers < nodes:
        dispatchers += 1
    return brokers, dispatchers


def cell_of(setup: Setup, most_nodes: int = MOST_NODES) -> tuple[Setup, int]:
    """One of the cells that a fleet is parted into, and how many there are: each a broker, or a share of one,
    a dispatcher where there is one, and as many nodes as the others, at most ``most_nodes``. By cells chosen
    at random Poisson arrivals stay Poisson arrivals, so one cell stands for all."""
    count = max(
        *cells_of(setup.way, setup.nodes, setup.rate, setup.costs), math.ceil(setup.nodes / most_nodes)
    )
    count = min(setup.nodes, count)
    return replace(
        setup,
        nodes=max(1, round(setup.nodes / count)),
        rate=setup.rate / count,
        own_rate=setup.own_rate / count,
        senders=None if setup.senders is None else max(1, round(setup.senders / count)),
    ), count


@dataclass(slots=True, eq=False)
class Ask:
    """A request: when it was sent, and when it was answered first. ``home`` is the node that its sender would
    choose; one that ``is_own`` came beside the pool."""

    at: float
    home: int
    is_own: bool = False
    answered_at: float | None = None
    runs: int = 0


@dataclass(slots=True, eq=False)
class Member:
    """A node. What it holds when it dies waits in its session until it is back, as does what comes meanwhile.
    ``life`` counts its lives: what a former one began is not done."""

    number: int
    service_s: float
    waiting: deque[Ask] = field(default_factory=deque)
    current: Ask | None = None
    is_up: bool = True
    life: int = 0
    busy_s: float = 0.0
    known: set[Ask] = field(default_factory=set)
    """Where senders repeat: what it has had. A node doesn't run a repeat again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the requests of the pool came to, those of the beginning left out. ``late`` were
    answered after ``late_s``, ``lost`` not within the sender's patience; ``runs`` counts what nodes did for
    them all."""

    asked: int
    latencies_s: np.ndarray[Any, np.dtype[np.float64]]
    late: int
    lost: int
    runs: int
    utilisations: np.ndarray[Any, np.dtype[np.float64]]
    deaths: int

    def figures(self) -> dict[str, Any]:
        known = self.latencies_s
        mean = float(self.utilisations.mean())
        return {
            "asked": self.asked,
            "mean_ms": _ms(known.mean()) if known.size else None,
            "p50_ms": _ms(np.quantile(known, 0.5)) if known.size else None,
            "p99_ms": _ms(np.quantile(known, 0.99)) if known.size else None,
            "late_percent": round(100 * self.late / max(1, self.asked), 3),
            "lost_percent": round(100 * self.lost / max(1, self.asked), 3),
            "runs_per_request": round(self.runs / max(1, self.asked), 4),
            "utilisation": round(mean, 3),
            "max_to_mean": round(float(self.utilisations.max()) / mean, 2) if mean else None,
            "deaths": self.deaths,
        }


def _ms(seconds: float) -> float:
    return round(float(seconds) * 1000, 1)


class Fleet:
    """Runs one :class:`Setup`, once. ``trace`` are requests that were sent elsewhere, to be repeated here:
    when, and to which node where the sender chose one."""

    def __init__(self, setup: Setup, trace: Sequence[tuple[float, int]] | None = None) -> None:
        self._setup = setup
        self._trace = trace
        self._costs = setup.costs
        self._env = simpy.Environment()
        self._chance = random.Random(setup.seed)
        self._members = [Member(number, one) for number, one in enumerate(setup.services)]
        self._asks: list[Ask] = []
        self._turn = 0
        self._broker_free = 0.0
        self._dispatcher_free = 0.0
        self._dispatcher_s = setup.costs.of_dispatcher(setup.nodes)
        self._deaths = 0
        self._dispatcher: Dispatcher[Ask] = Dispatcher(
            setup.services, lambda: self._env.now, self._forward, lambda ask: ask.answered_at is None
        )
        self._homes = _homes(setup, self._chance)

    def run(self) -> Outcome:
        setup = self._setup
        if self._trace is None:
            self._env.process(self._arrivals(setup.rate, self._send))
        for at_s, node in self._trace or ():
            self._after(at_s, self._send, node)
        if setup.own_rate:
            self._env.process(self._arrivals(setup.own_rate, self._send_own))
        if setup.way == "dispatcher" and setup.own_rate:
            self._env.process(self._health())
        for at_s, node, for_s in setup.absences:
            self._after(at_s, self._die, self._members[node])
            self._after(at_s + for_s, self._return, self._members[node])
        if setup.way == "dispatcher" and (setup.deaths_per_min or setup.absences):
            self._env.process(self._ticks())
        if setup.deaths_per_min:
            for member in self._members:
                self._env.process(self._lives(member))
        self._env.run(until=setup.seconds + setup.patience_s)
        return self._outcome()

    def _outcome(self) -> Outcome:
        setup = self._setup
        asks = [ask for ask in self._asks if not ask.is_own and ask.at >= setup.seconds * setup.warm_up]
        took = [ask.answered_at - ask.at for ask in asks if ask.answered_at is not None]
        known = np.array([one for one in took if one <= setup.patience_s])
        return Outcome(
            asked=len(asks),
            latencies_s=known,
            late=int((known > setup.late_s).sum()),
            lost=len(asks) - known.size,
            runs=sum(ask.runs for ask in asks),
            utilisations=np.array([member.busy_s for member in self._members]) / setup.seconds,
            deaths=self._deaths,
        )

    # What happens when

    def _after(self, delay_s: float, call: Callable[..., None], *values: object) -> None:
        event = self._env.timeout(delay_s)
        event.callbacks.append(lambda _: call(*values))

    def _arrivals(self, rate: float, send: Callable[[], None]) -> Generator[simpy.Event, None, None]:
        while True:
            yield self._env.timeout(self._chance.expovariate(rate))
            if self._env.now > self._setup.seconds:
                return
            send()

    def _lives(self, member: Member) -> Generator[simpy.Event, None, None]:
        hazard = self._setup.deaths_per_min / 60
        while True:
            yield self._env.timeout(self._chance.expovariate(hazard))
            self._die(member)
            yield self._env.timeout(self._setup.gone_s)
            self._return(member)

    def _die(self, member: Member) -> None:
        self._deaths += 1
        member.is_up = False
        member.life += 1
        if member.current is not None:
            member.waiting.appendleft(member.current)
            member.current = None
        self._after(self._setup.notice_s, self._notice, member, member.life)

    def _return(self, member: Member) -> None:
        member.is_up = True
        if self._setup.way == "dispatcher":
            self._dispatcher.back(member.number)
        self._begin(member)

    def _health(self) -> Generator[simpy.Event, None, None]:
        """Each node says its queue once in the interval, all at different times."""
        turn = 0
        while True:
            yield self._env.timeout(self._setup.health_s / len(self._members))
            member = self._members[turn % len(self._members)]
            held = len(member.waiting) + (member.current is not None)
            self._dispatcher.hear(member.number, held)
            turn += 1

    def _ticks(self) -> Generator[simpy.Event, None, None]:
        while True:
            yield self._env.timeout(TICK_S)
            self._dispatcher.tick()

    # The way of a request

    def _send(self, node: int | None = None) -> None:
        ask = Ask(self._env.now, self._home() if node is None else node)
        self._asks.append(ask)
        self._route(ask)
        if self._setup.repeats and self._setup.way == "share":
            self._after(REPEATS_S[0], self._repeat, ask, 1)

    def _home(self) -> int:
        """The node of a sender: of a request's way ``topics`` its only one."""
        return self._chance.choice(self._homes) if self._homes else self._chance.randrange(len(self._members))

    def _send_own(self) -> None:
        ask = Ask(self._env.now, self._chance.randrange(len(self._members)), is_own=True)
        self._asks.append(ask)
        self._pass_on(self._arrive, self._members[ask.home], ask)

    def _repeat(self, ask: Ask, times: int) -> None:
        if ask.answered_at is None and self._env.now - ask.at < self._setup.patience_s:
            self._route(ask)
            self._after(REPEATS_S[min(times, len(REPEATS_S) - 1)], self._repeat, ask, times + 1)

    def _route(self, ask: Ask) -> None:
        if self._setup.way == "dispatcher":
            self._pass_on(self._reach_dispatcher, ask)
        elif self._setup.way == "share":
            self._turn += 1
            self._pass_on(self._arrive, self._members[self._turn % len(self._members)], ask)
        else:
            self._pass_on(self._arrive, self._members[ask.home], ask)

    def _pass_on(self, call: Callable[..., None], *values: object) -> None:
        """Through the broker, which takes one message after the other."""
        self._broker_free = max(self._broker_free, self._env.now) + self._costs.broker_s
        self._after(self._broker_free - self._env.now + self._costs.hop_s, call, *values)

    def _reach_dispatcher(self, ask: Ask) -> None:
        self._work_of_dispatcher(self._dispatcher.submit, ask)

    def _work_of_dispatcher(self, call: Callable[..., None], *values: object) -> None:
        """Half of what a request costs is its own, half its result's."""
        self._dispatcher_free = max(self._dispatcher_free, self._env.now) + self._dispatcher_s / 2
        wait_s = self._costs.dispatcher_wait_s
        self._after(self._dispatcher_free - self._env.now + wait_s, call, *values)

    def _forward(self, number: int, ask: Ask) -> None:
        self._pass_on(self._arrive, self._members[number], ask)

    def _notice(self, member: Member, life: int) -> None:
        """The last will is out."""
        if self._setup.way == "dispatcher" and member.life == life and not member.is_up:
            self._dispatcher.gone(member.number)

    def _arrive(self, member: Member, ask: Ask) -> None:
        if self._setup.repeats:
            if ask in member.known:
                return
            member.known.add(ask)
        member.waiting.append(ask)
        self._begin(member)

    def _begin(self, member: Member) -> None:
        while member.is_up and member.current is None and member.waiting:
            ask = member.waiting.popleft()
            if self._env.now - ask.at > self._setup.patience_s:  # its Message Expiry
                continue
            member.current = ask
            service_s = member.service_s
            if self._setup.is_random:
                service_s = self._chance.expovariate(1 / service_s)
            self._after(service_s, self._done, member, member.life, service_s)

    def _done(self, member: Member, life: int, service_s: float) -> None:
        ask = member.current
        if member.life != life or ask is None:
            return
        member.current = None
        ask.runs += 1
        if self._env.now <= self._setup.seconds:
            member.busy_s += service_s
        self._pass_on(self._back, member, ask)
        self._begin(member)

    def _back(self, member: Member, ask: Ask) -> None:
        if self._setup.way == "dispatcher" and not ask.is_own:
            self._work_of_dispatcher(self._settle, member, ask)
        else:
            self._answer(ask)

    def _settle(self, member: Member, ask: Ask) -> None:
        """At the dispatcher: the answer goes on, and the node has room for another."""
        self._pass_on(self._answer, ask)
        self._dispatcher.done(member.number, ask)

    def _answer(self, ask: Ask) -> None:
        if ask.answered_at is None:
            ask.answered_at = self._env.now


def _homes(setup: Setup, chance: random.Random) -> list[int]:
    """The node of each sender."""
    if setup.way != "topics" or setup.senders is None:
        return []
    return [chance.randrange(setup.nodes) for _ in range(setup.senders)]


def simulate(setup: Setup) -> dict[str, Any]:
    """A fleet of any size, by one of its cells: what came of it, and how many brokers it takes."""
    cell, count = cell_of(setup)
    brokers, dispatchers = cells_of(setup.way, setup.nodes, setup.rate, setup.costs)
    return {
        "way": setup.way,
        "nodes": setup.nodes,
        "rate": setup.rate,
        "brokers": brokers,
        "dispatchers": dispatchers,
        "cells": count,
        "seconds": cell.seconds,
        "is_stable": setup.rate + setup.own_rate < setup.bound,
        **Fleet(cell).run().figures(),
    }
