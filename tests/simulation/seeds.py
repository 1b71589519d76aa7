"""Runs many seeds, and makes the faults of a failing seed fewer."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from tests.simulation import pool, world
from tests.simulation.faults import KINDS, OPERATED, Fault, draw, is_operated
from tests.simulation.loop import Place
from tests.simulation.outcome import Outcome

FAULTS = 60
ASKS = 80
WITHIN_S = 30.0
"""Virtual seconds in which the faults of a seed happen."""
LONG_S, EVERY = 120.0, 8
"""Virtual seconds of each eighth seed, in which what is kept for a minute is deleted."""


def length_of(seed: int) -> dict[str, Any]:
    """Length of a seed, and the number of its requests."""
    is_long = seed % EVERY == EVERY - 1
    return {"within_s": LONG_S, "asks": 2 * ASKS} if is_long else {"within_s": WITHIN_S, "asks": ASKS}


@dataclass
class Total:
    """Figures of several seeds. ``failed`` maps each seed with a violation to its first violation."""

    seeds: int = 0
    kills: int = 0
    crashes: int = 0
    asks: int = 0
    forgotten: int = 0
    steps: int = 0
    took_s: float = 0.0
    processor_s: float = 0.0
    failed: dict[int, str] = field(default_factory=dict)
    points: Counter[tuple[str, int]] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.kills += outcome.kills
        self.crashes += outcome.crashes
        self.asks += outcome.asks
        self.forgotten += outcome.forgotten
        self.steps += outcome.steps
        self.processor_s += outcome.processor_s
        self.points += outcome.points
        self.codes += outcome.codes
        if outcome.violations:
            self.failed[outcome.seed] = str(outcome.violations[0])

    def __str__(self) -> str:
        an_hour = self.crashes / self.took_s * 3600 if self.took_s else 0
        an_hour_of_two = 2 * self.crashes / self.processor_s * 3600 if self.processor_s else 0
        codes = ", ".join(f"{count} {code}" for code, count in self.codes.most_common())
        return (
            f"{self.seeds} seeds in {self.took_s:.0f} s: {self.asks} messages, {self.kills} kills, "
            f"{self.crashes} crashes with unfinished messages ({an_hour:,.0f} an hour, "
            f"{an_hour_of_two:,.0f} an hour of two processors), "
            f"{len(self.failed)} seeds with violations; the broker itself forgot {self.forgotten} messages.\n"
            f"Results: {codes}."
        )


class Scene(Protocol):
    """What a seed runs."""

    def faults_of(self, seed: int, count: int) -> list[Fault]: ...

    def play(self, seed: int, faults: Sequence[Fault], *, traced: bool, place: Place | None) -> Outcome:
        """With ``place``, nodes are killed there instead of at drawn places."""


class Nodes:
    """One node with its brokers and senders."""

    def faults_of(self, seed: int, count: int) -> list[Fault]:
        weights = OPERATED if is_operated(seed) else KINDS
        within_s = length_of(seed)["within_s"]
        return draw(random.Random(f"{seed} faults"), count=count, within_s=within_s, weights=weights)

    def play(self, seed: int, faults: Sequence[Fault], *, traced: bool, place: Place | None) -> Outcome:
        return world.play(seed, faults, **length_of(seed), traced=traced, place=place)


class Pools:
    """Two dispatchers and three nodes with their broker and senders."""

    def faults_of(self, seed: int, count: int) -> list[Fault]:
        return pool.draw(seed, count, WITHIN_S)

    def play(self, seed: int, faults: Sequence[Fault], *, traced: bool, place: Place | None) -> Outcome:
        return pool.play(seed, faults, within_s=WITHIN_S, asks=ASKS, traced=traced, place=place)


NODES, POOLS = Nodes(), Pools()


def outcome_of(
    seed: int,
    faults: int = FAULTS,
    *,
    scene: Scene = NODES,
    place: Place | None = None,
    traced: bool = False,
) -> Outcome:
    return scene.play(seed, scene.faults_of(seed, faults), traced=traced, place=place)


def run(
    seeds: Iterable[int],
    *,
    scene: Scene = NODES,
    faults: int = FAULTS,
    processes: int = 1,
    place: Place | None = None,
) -> Total:
    """Runs seeds, prints the violations and the figures."""
    total, began_at = Total(), time.perf_counter()
    play = partial(outcome_of, faults=faults, scene=scene, place=place)
    for outcome in outcomes(seeds, play, processes):
        total.add(outcome)
        if outcome.violations:
            print(f"seed {outcome.seed}: {outcome.violations[0]}", flush=True)
    total.took_s = time.perf_counter() - began_at
    print(total)
    for seed in list(total.failed)[:3] if place is None else ():
        report(seed, faults, scene)
    return total


def outcomes(seeds: Iterable[int], play: Callable[[int], Outcome], processes: int) -> Iterable[Outcome]:
    if processes == 1:
        yield from map(play, seeds)
        return
    with ProcessPoolExecutor(processes) as executor:
        yield from executor.map(play, seeds, chunksize=4)


def report(seed: int, count: int = FAULTS, scene: Scene = NODES) -> None:
    """Prints the invariant, the fewest faults that violate it, and the end of the trace."""
    faults = scene.faults_of(seed, count)
    violations = scene.play(seed, faults, traced=False, place=None).violations
    if not violations:
        print(f"seed {seed}: no violation in this process", file=sys.stderr)
        return
    fewer = shrink(seed, faults, violations[0].invariant, scene)
    last = scene.play(seed, fewer, traced=True, place=None)
    print(f"\nseed {seed} with {len(fewer)} of {len(faults)} faults: {last.violations[0]}")
    print("".join(f"  fault {fault}\n" for fault in fewer), end="")
    at = next((place for place, line in enumerate(last.trace) if "VIOLATION" in line), len(last.trace))
    print("\n".join(last.trace[max(0, at - 40) : at + 1]))


def shrink(seed: int, faults: Sequence[Fault], invariant: str, scene: Scene) -> list[Fault]:
    """The fewest faults found that still violate the invariant (delta debugging)."""

    def fails(some: Sequence[Fault]) -> bool:
        found = scene.play(seed, some, traced=False, place=None).violations
        return any(one.invariant == invariant for one in found)

    return fewest(list(faults), fails)


def fewest(faults: list[Fault], fails: Callable[[Sequence[Fault]], bool]) -> list[Fault]:
    size = len(faults)
    while size >= 1:
        at = 0
        while at < len(faults):
            some = faults[:at] + faults[at + size :]
            if fails(some):
                faults = some
            else:
                at += size
        size //= 2
    return faults


def show(seeds: Iterable[int], count: int, scene: Scene) -> int:
    """Prints what happened in each seed."""
    status = 0
    for seed in seeds:
        outcome = outcome_of(seed, count, scene=scene, traced=True)
        print("\n".join(outcome.trace))
        print(f"seed {seed}: {outcome.crashes} crashes, {len(outcome.violations)} violations")
        status = status or bool(outcome.violations)
    return int(status)
