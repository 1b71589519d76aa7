"""Runs simulated worlds: seeds, the replay of a seed, or mutations of the product's code.

python -m tests.simulation nodes 0:60              seeds 0 to 59, on all processors
python -m tests.simulation nodes 0:60 --coverage   and the awaits and statements at which nodes were killed
python -m tests.simulation nodes 0:60 --branches   and lines and branches, with coverage.py
python -m tests.simulation nodes 0:9 --at node/pipeline:255
                                                   seeds in which nodes are killed at this line
python -m tests.simulation nodes 17 --trace        one seed, with what happened
python -m tests.simulation pools 0:60              the same with pools: dispatchers and nodes
python -m tests.simulation uptime --days 365       a node that isn't killed for a year
python -m tests.simulation mutations               which changes of the code the seeds find
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import Final

from tests.simulation import branches, coverage, mutations, places, seeds, uptime
from tests.simulation.places import place_at

SCENES: Final[dict[str, seeds.Scene]] = {"nodes": seeds.NODES, "pools": seeds.POOLS}


def seeds_of(text: str) -> range:
    """``17`` or ``0:60``."""
    first, colon, last = text.partition(":")
    return range(int(first), int(last)) if colon else range(int(first), int(first) + 1)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulates delivery.")
    commands = parser.add_subparsers(dest="command", required=True)
    for scene in SCENES:
        command = commands.add_parser(scene, help=f"simulate {scene}, brokers, senders and their faults")
        command.add_argument("seeds", type=seeds_of, help="a seed, or FROM:TO")
        command.add_argument("--faults", type=int, default=seeds.FAULTS, help="faults of a seed")
        command.add_argument("--processes", type=int, default=os.cpu_count() or 1)
        command.add_argument("--trace", action="store_true", help="print what happened")
        command.add_argument("--coverage", action="store_true", help="print where processes were killed")
        command.add_argument("--branches", action="store_true", help="print lines and branches that were run")
        command.add_argument("--at", type=place_at, help="FILE:LINE at which processes are killed")
    changed = commands.add_parser("mutations", help="which changes of the code the seeds find")
    changed.add_argument("names", nargs="*", help="numbers or names of patches; default: all")
    changed.add_argument("--minutes", type=float, default=10.0, help="time limit for each")
    changed.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    long = commands.add_parser("uptime", help="simulate a node for months, and whether what it holds grows")
    long.add_argument("--days", type=float, default=365.0)
    long.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    if chosen.command == "uptime":
        return uptime.run(chosen.seed, chosen.days)
    if chosen.command == "mutations":
        return mutations.run(chosen.names, minutes=chosen.minutes, processes=chosen.processes)
    return play(chosen, SCENES[chosen.command])


def play(chosen: argparse.Namespace, scene: seeds.Scene) -> int:
    if chosen.trace:
        return seeds.show(chosen.seeds, chosen.faults, scene)
    if chosen.branches:
        measured = branches.MODULES if scene is seeds.NODES else branches.POOL_MODULES
        outcome_of = partial(seeds.outcome_of, faults=chosen.faults, scene=scene)
        print(branches.report(chosen.seeds, outcome_of, measured, chosen.processes))
        return 0
    total = seeds.run(
        chosen.seeds, scene=scene, faults=chosen.faults, processes=chosen.processes, place=chosen.at
    )
    if chosen.coverage:
        killed_in = places.MODULES if scene is seeds.NODES else places.POOL_MODULES
        print(coverage.report(total.points, killed_in))
    return 1 if total.failed else 0


if __name__ == "__main__":
    if "PYTHONHASHSEED" not in os.environ:  # sets of strings have the same order in each run
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    sys.exit(main(sys.argv[1:]))
