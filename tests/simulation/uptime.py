"""A node that runs for months without a crash: whether what it holds grows."""

from __future__ import annotations

import gc
import random
import resource
import sys
import tempfile
from contextlib import ExitStack
from contextvars import Context
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Final
from unittest import mock

from edgeslm.node import daemon
from edgeslm.update import updater
from tests.simulation import apps
from tests.simulation.apps import Ask
from tests.simulation.faults import Fault, draw
from tests.simulation.setup import Setup
from tests.simulation.world import World, memory

DAY_S: Final = 86400.0
MESSAGES_A_DAY: Final = 400
"""Requests; there are half as many messages for routes."""
FAULTS_A_DAY: Final = 2
KINDS: Final = {
    *("cut_node", "cut_app", "cut_all", "partition", "flap", "close_early", "refuse_subscription", "reload"),
    *("refuse_result", "broker_stop", "engine", "disk_full", "clock", "slow_network", "replace", "names"),
}
"""Faults that end no node."""
STOPS: Final = (0, 1)
"""Reloads during which the node is stopped."""
MOST_GROWTH: Final = 1.2
PARTS: Final = 8
FILLED_AFTER_DAYS: Final = 7.0
"""Until then, what a node keeps for days fills, so growth says nothing."""
HEALTH_EVERY_S: Final = 300.0
PAUSES_S: Final = ((daemon, "KEEP_AFTER_S", 20.0), (updater, "LOOK_EVERY_S", 60.0), (apps, "AGAIN_S", 60.0))
"""Longer pauses of loops that mostly find nothing to do, so that a year takes minutes."""
_NOT_HELD: Final = (ModuleType, type, FunctionType, FrameType, CodeType, Context)


class LongWorld(World):
    """A world whose node isn't killed."""

    def _send(self, ask: Ask) -> None:
        is_known = ask.cancels is None or ask.cancels in self.ledger.asks
        if is_known and not ask.is_poison and "kill" not in ask.engine:
            super()._send(ask)


def held(root: object) -> tuple[int, int]:
    """Number and bytes of the product's objects that can be reached from ``root``."""
    seen, waiting, size = {id(root)}, [root], 0
    while waiting:
        one = waiting.pop()
        size += sys.getsizeof(one)
        for other in gc.get_referents(one):
            is_ours = not isinstance(other, _NOT_HELD) and not type(other).__module__.startswith("tests.")
            if is_ours and id(other) not in seen:
                seen.add(id(other))
                waiting.append(other)
    return len(seen), size


def faults_of(seed: int, days: float) -> list[Fault]:
    chance = random.Random(f"{seed} uptime")
    drawn = draw(chance, count=round(days * FAULTS_A_DAY * 4), within_s=days * DAY_S)
    return [
        one
        for one in drawn
        if one.kind in KINDS and (one.kind != "reload" or int(one.amount * 1000) % 5 not in STOPS)
    ]


def run(seed: int, days: float) -> int:
    """Simulates a node for some days and prints what it holds.

    :return: 1 if an invariant was violated, or if what the node holds grew in the second half of a run of at
        least twice ``FILLED_AFTER_DAYS``; else 0.
    """
    faults = faults_of(seed, days)
    setup = Setup(saves_at_once=True, has_names=True)
    with ExitStack() as stack:
        for module, name, pause_s in PAUSES_S:
            stack.enter_context(mock.patch.object(module, name, pause_s))
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=memory(), prefix="edgeslm-simulation-"))
        world = LongWorld(seed, faults, Path(folder), traced=False, setup=setup)
        world.check_every_s = 60.0
        world.node.waits = daemon.Waits(health_every_s=HEALTH_EVERY_S)
        figures: list[tuple[int, int]] = []

        def measure(day: float) -> None:
            node = world.node.daemon
            if node is None:
                return
            gc.collect()
            figures.append(held(node))
            file = node.database.file
            resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(
                f"day {day:.1f}: {figures[-1][0]} objects of {figures[-1][1] // 1024} KiB, a journal of "
                f"{file.stat().st_size // 1024} KiB, process {world.node.boots} of the node; "
                f"{resident} MiB with the simulation",
                flush=True,
            )

        for part in range(1, PARTS + 1):
            day = days * part / PARTS
            world.loop.call_at(1000.0 + day * DAY_S, measure, day)
        outcome = world.run(within_s=days * DAY_S, asks=round(days * MESSAGES_A_DAY))
    half = figures[PARTS // 2 - 1][0] if len(figures) == PARTS else 0
    if half and days / 2 >= FILLED_AFTER_DAYS and figures[-1][0] > MOST_GROWTH * half:
        world.ledger.violation("growth", f"{half} objects became {figures[-1][0]}")
    for one in outcome.violations[:20]:
        print(one)
    print(
        f"{days:.0f} days in {outcome.processor_s:.0f} s of a processor: {outcome.asks} messages, "
        f"{len(faults)} faults, {outcome.steps} steps, {len(outcome.violations)} violations."
    )
    return 1 if outcome.violations else 0
