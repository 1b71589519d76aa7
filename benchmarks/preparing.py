"""What `edgeslm prepare` saves of memory: an engine's own, and what several share; and what it costs a start.

    python benchmarks/preparing.py BUNDLE [--rounds 5] [--threads 2] [--json]

Prepares the bundle in a folder of its own; then workers are started in turns, plain and prepared, each asked
for one label: time from the start of its process to the answer, with what the kernel says of its memory
after that. Two prepared workers at once show what they share. Medians; one JSON line last, ``--json`` prints
that alone.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from cards import Say, run_benchmark
from processes import memory_of

from edgeslm.bundle.manifest import load_bundle
from edgeslm.engine.calls import Prompt, Score, Text, Turn
from edgeslm.engine.host.process import EngineProcess
from edgeslm.engine.prepack.prepare import prepare
from edgeslm.engine.worker.prepared import CACHE

ASKED = Score(Prompt((Turn("user", (Text("Spindle 3 smells of burnt oil"),)),)), ("fine", "broken"))


async def time_worker(bundle: Path, cache: Path | None, threads: int, beside: int = 0) -> dict[str, float]:
    """:param beside: other workers of the same bundle that run meanwhile."""
    others = [EngineProcess(bundle, threads=threads, cache=cache) for _ in range(beside)]
    for other in others:
        await other.start()
        await other.call(ASKED)
    process = EngineProcess(bundle, threads=threads, cache=cache)
    started = time.perf_counter()
    info = await process.start()
    await process.call(ASKED)
    seconds = time.perf_counter() - started
    if process.pid is None or info.prepared != (cache is not None):
        raise RuntimeError("the worker did not load what it was to load")
    memory = memory_of(process.pid)
    found = {
        "first_answer_s": seconds,
        "load_s": info.load_ms / 1000,
        "pss_mb": memory.pss,
        "anonymous_mb": memory.anonymous,
    }
    for each in (process, *others):
        await each.stop()
    return found


async def take_turns(args: argparse.Namespace, cache: Path, say: Say) -> dict[str, dict[str, float]]:
    ways: dict[str, tuple[Path | None, int]] = {
        "plain": (None, 0),
        "prepared": (cache, 0),
        "plain_of_two": (None, 1),
        "prepared_of_two": (cache, 1),
    }
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for number in range(args.rounds):
        for way in ways if number % 2 == 0 else reversed(ways):
            runs[way].append(await time_worker(args.bundle, ways[way][0], args.threads, ways[way][1]))
    found = {
        way: {key: round(median(run[key] for run in of), 3) for key in of[0]} for way, of in runs.items()
    }
    say(f"{'':>16}" + "".join(f"{key:>16}" for key in found["plain"]))
    for way, figures in found.items():
        say(f"{way:>16}" + "".join(f"{value:16.2f}" for value in figures.values()))
    return found


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    bundle = load_bundle(args.bundle)
    with tempfile.TemporaryDirectory(prefix="preparing-") as name:
        started = time.perf_counter()
        index = asyncio.run(prepare(bundle, bundle.manifest.graphs.generate or "", Path(name)))
        took = time.perf_counter() - started
        workers = asyncio.run(take_turns(args, Path(name) / CACHE, say))
    return {
        "bytes": bundle.weight_bytes,
        "prepared_bytes": sum(file.bytes for file in index.files),
        "prepared_in_s": round(took, 1),
        "workers": workers,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    run_benchmark("preparing", args, measure)


if __name__ == "__main__":
    main()
