"""Faults of a run, drawn from its seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

KINDS: Final = {
    "kill": 30,
    "kill_statement": 25,
    "kill_io": 15,
    "power_cut": 10,
    "broker_kill": 3,
    "broker_stop": 2,
    "cut_node": 8,
    "cut_app": 4,
    "cut_all": 3,
    "partition": 3,
    "flap": 2,
    "close_early": 3,
    "refuse_subscription": 2,
    "refuse_result": 2,
    "stop": 4,
    "engine": 14,
    "disk_full": 2,
    "disk_error": 2,
    "bad_pages": 3,
    "clock": 2,
    "slow_network": 2,
    "kill_place": 30,
    "reload": 8,
    "replace": 2,
    "broken_update": 2,
    "names": 5,
    "bug": 3,
}
"""Kind of a fault and how often it is drawn."""
OPERATED: Final = {**KINDS, "reload": 80, "replace": 20, "broken_update": 20, "names": 10, "stop": 16}
"""The same in a quarter of the seeds, in which an operator changes a lot."""


@dataclass(frozen=True, slots=True)
class Fault:
    """``at`` is in seconds after the start of a run; ``amount`` depends on the kind: a number of steps,
    statements or operations, a time in seconds, or a choice between 0 and 1."""

    at: float
    kind: str
    amount: float

    def __str__(self) -> str:
        return f"{self.at:.3f} {self.kind} {self.amount:.3f}"


def is_operated(seed: int) -> bool:
    return seed % 4 == 1


def draw(
    chance: random.Random, *, count: int, within_s: float, weights: Mapping[str, int] = KINDS
) -> list[Fault]:
    kinds = chance.choices(list(weights), weights=list(weights.values()), k=count)
    faults = []
    for kind in kinds:
        at = chance.uniform(0.3, within_s)
        if kind == "close_early" and chance.random() < 0.3:
            at = 0.0  # while the node's session is new
        if kind in ("kill_place", "kill_io", "kill_statement") and chance.random() < 0.05:
            at = 0.0  # before the node makes its files
        if kind == "kill":
            amount: float = chance.randint(1, 400)
        elif kind == "kill_statement":
            amount = chance.randint(1, 80)
        elif kind in ("kill_io", "power_cut"):
            amount = chance.randint(1, 60)
        elif kind in (
            "broker_kill",
            "broker_stop",
            "partition",
            "flap",
            "close_early",
            "refuse_subscription",
            "refuse_result",
        ):
            amount = chance.uniform(0.05, 4.0)
        elif kind in ("disk_full", "disk_error"):
            amount = chance.uniform(0.1, 6.0)
        elif kind in ("bad_pages", "slow_network"):
            amount = chance.uniform(0.1, 3.0)
        elif kind == "names":
            amount = chance.uniform(0.1, 30.0)
        elif kind == "clock":
            amount = chance.choice((-86400.0, -3600.0, 30.0, 86400.0, 3e8))
        else:
            amount = chance.random()
        faults.append(Fault(round(at, 3), kind, round(amount, 3)))
    return sorted(faults, key=lambda fault: fault.at)
