"""Cost of each ``power``: latency of a label, tokens/s, processor time, and a node at rest.

    python benchmarks/speed/node.py power BUNDLE [--rounds 5] [--seconds 20] [--threads 2] [--json]

One node of each power at one broker; they take turns. A turn is a few labels, each after a pause in which
spinning threads fall asleep, and one text. Processor time is the kernel's count for daemon and engine, pauses
included. Figures are medians; processor time is a mean.

Prints the machine, a table, then one JSON line; ``--json`` prints that line alone.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.load import Ask, answer_all, until_online
from benchmarks.lib.processes import cpu_seconds, processes_of
from benchmarks.lib.served import node
from edgeslm.bundle.manifest import load_bundle, short_digest
from edgeslm.cli.demo.broker import start_broker
from edgeslm.client import Client
from edgeslm.engine.worker.waiting import WAITING
from edgeslm.errors import EdgeslmError

LABELS: Final = 6
"""A turn."""
PAUSE_S: Final = 0.2
NEW_TOKENS: Final = 48
MESSAGES: Final = (
    "Spindle 3 smells of burnt oil",
    "All quiet on line 2",
    "The guard door of press 4 is open",
)
TASKS: Final = {
    "judge": {"kind": "classify", "model": "small", "labels": ["normal", "warning", "critical"]},
    "tell": {"kind": "generate", "model": "small", "max_tokens": NEW_TOKENS},
}


@dataclass(slots=True)
class Seen:
    """Of one node, a value for each turn; ``rest_percent`` of a core while it was not asked."""

    label_ms: list[float] = field(default_factory=list)
    label_cpu_s: list[float] = field(default_factory=list)
    token_cpu_s: list[float] = field(default_factory=list)
    tokens_per_s: list[float] = field(default_factory=list)
    rest_percent: float = 0.0

    def figures(self) -> dict[str, float]:
        return {
            "label_ms": round(median(self.label_ms), 1),
            "label_cpu_s": round(fmean(self.label_cpu_s), 4),
            "tokens_per_s": round(median(self.tokens_per_s), 1),
            "token_cpu_s": round(fmean(self.token_cpu_s), 4),
            "rest_percent": round(self.rest_percent, 2),
        }


def spent(processes: Mapping[int, str]) -> float:
    return sum(cpu_seconds(pid) for pid in processes)


async def take_turn(client: Client, processes: Mapping[int, str], seen: Seen | None, number: int) -> None:
    """:param seen: none: it warms up."""
    before, took = spent(processes), []
    for count in range(LABELS):
        text = MESSAGES[(number + count) % len(MESSAGES)]
        answers, seconds = await answer_all(client, [Ask("judge", text)], 1)
        took.append(seconds)
        await asyncio.sleep(PAUSE_S)
    labels_s = spent(processes) - before
    answers, _ = await answer_all(client, [Ask("tell", f"Describe the day of a lathe, part {number}.")], 1)
    await asyncio.sleep(PAUSE_S)
    result = answers[0].result
    if result.error is not None:
        raise EdgeslmError(f"{result.error.code}: {result.error.message}")
    if seen is not None:
        tokens = result.usage["completion_tokens"]
        seen.label_ms += [1000 * one for one in took]
        seen.label_cpu_s.append(labels_s / LABELS)
        seen.token_cpu_s.append((spent(processes) - before - labels_s) / tokens)
        seen.tokens_per_s.append(1000 * tokens / result.timings_ms["decode"])


@asynccontextmanager
async def clients(url: str, names: Sequence[str]) -> AsyncIterator[dict[str, Client]]:
    async with AsyncExitStack() as stack:
        found = {name: await stack.enter_async_context(Client(url, name)) for name in names}
        for client in found.values():
            await until_online(client)
        yield found


async def take_turns(url: str, folders: Mapping[str, Path], rounds: int) -> dict[str, Seen]:
    """Who goes first changes from round to round; the first one warms up."""
    seen = {name: Seen() for name in folders}
    async with clients(url, list(folders)) as asked:
        order = list(folders)
        for number in range(rounds + 1):
            for name in order:
                await take_turn(
                    asked[name], processes_of(folders[name]), seen[name] if number else None, number
                )
            order = [*order[1:], order[0]]
    return seen


def rest(folders: Mapping[str, Path], seen: Mapping[str, Seen], seconds: float) -> None:
    """Nobody asks any of them."""
    processes = {name: processes_of(folder) for name, folder in folders.items()}
    before = {name: spent(of) for name, of in processes.items()}
    time.sleep(seconds)
    for name, of in processes.items():
        seen[name].rest_percent = 100 * (spent(of) - before[name]) / seconds


def table(figures: Mapping[str, Mapping[str, float]]) -> str:
    heads = {
        "label_ms": "ms a label",
        "label_cpu_s": "CPU s a label",
        "tokens_per_s": "tokens/s",
        "token_cpu_s": "CPU s a token",
        "rest_percent": "% at rest",
    }
    lines = [f"{'power':<12}" + "".join(f"{head:>15}" for head in heads.values())]
    lines += [f"{power:<12}" + "".join(f"{row[key]:>15g}" for key in heads) for power, row in figures.items()]
    return "\n".join(lines)


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    models = {"small": {"bundle": str(args.bundle.resolve()), "threads": args.threads}}
    with tempfile.TemporaryDirectory(prefix="power-") as place, ExitStack() as stack:
        folders: dict[str, Path] = {power: Path(place) / power for power in WAITING}
        broker = stack.enter_context(start_broker(Path(place)))
        for power, folder in folders.items():
            folder.mkdir()
            parts = {"models": models, "tasks": TASKS, "power": power}
            stack.enter_context(node(broker.url, folder, parts, power))
        seen = asyncio.run(take_turns(broker.url, folders, args.rounds))
        rest(folders, seen, args.seconds)
    figures = {power: one.figures() for power, one in seen.items()}
    say(table(figures))
    return {"rounds": args.rounds, "powers": [{"power": power, **row} for power, row in figures.items()]}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="at rest (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    name = f"{args.bundle.name} {short_digest(load_bundle(args.bundle).digest)}"
    run_benchmark("power", args, measure, bundle=name, load_before=round(os.getloadavg()[0], 2))
