"""What a run of a seed found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.simulation.faults import Fault
from tests.simulation.ledger import Violation


@dataclass
class Outcome:
    """``crashes`` counts kills of a node that held an unfinished message and recovered after it."""

    seed: int
    faults: Sequence[Fault]
    violations: list[Violation]
    crashes: int = 0
    kills: int = 0
    asks: int = 0
    results: int = 0
    forgotten: int = 0
    steps: int = 0
    seconds: float = 0.0
    processor_s: float = 0.0
    trace: list[str] = field(default_factory=list)
    points: Counter[tuple[str, int]] = field(default_factory=Counter)
    """File and line -> kills of a node while a task waited there or a statement ran there."""
    codes: Counter[str] = field(default_factory=Counter)
