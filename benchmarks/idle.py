"""What a node that waits takes of a processor: the daemon and its engines, over a minute without requests.

    python benchmarks/idle.py BUNDLE [--seconds 60] [--power balanced] [--json]

Processor time as the kernel counts it for each process, so other work beside it changes little. Each process
first, then one JSON line; ``--json`` prints that alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cards import Say, run_benchmark
from processes import cpu_seconds, processes_of
from served import ask, served

from edgeslm.engine.calls import BALANCED
from edgeslm.engine.worker.waiting import WAITING

_SETTLING_S = 5.0


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    task = {"kind": "classify", "model": "small", "labels": ["good", "bad"]}
    models = {"small": {"bundle": str(args.bundle.resolve())}}
    with served({"models": models, "tasks": {"judge": task}, "power": args.power}) as (url, state_dir):
        ask(url, "judge", ["it is fine"], 1)
        time.sleep(_SETTLING_S)
        processes = processes_of(state_dir.parent)
        before = {pid: cpu_seconds(pid) for pid in processes}
        time.sleep(args.seconds)
        spent = {pid: cpu_seconds(pid) - before[pid] for pid in processes}
    shares: dict[str, float] = {}
    for pid, what in processes.items():
        shares[what] = shares.get(what, 0.0) + 100 * spent[pid] / args.seconds
    for what, percent in shares.items():
        say(f"  {what:>8}  {percent:.2f} % of a core")
    return {
        "power": args.power,
        "seconds": args.seconds,
        "percent": {what: round(percent, 3) for what, percent in shares.items()},
        "percent_in_all": round(sum(shares.values()), 3),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0, help="(default: %(default)s)")
    parser.add_argument("--power", choices=list(WAITING), default=BALANCED, help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    run_benchmark("idle", args, measure)


if __name__ == "__main__":
    main()
