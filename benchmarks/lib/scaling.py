"""Latency of one model by number of labels, input tokens and tasks.

    python benchmarks/speed/engine.py scaling --bundle DIR [--threads 2] [--rounds 3] [--chart FILE]
        [--json]

- labels: 1 to 64, in groups of eight that share a prefix; scored in one pass by the prepared graph, and one
  by one
- input: 32 to 4,096 tokens, none of them cached; time to the first token, split by the profiler into
  attention, which may grow as the square, and the rest
- tasks: 1 to 20, each with an instruction of its own; a label per task in turns, and the share of requests
  whose instruction is in the prefix cache

Figures are medians of the production engine in this process. Prints the machine, tables, then one JSON line;
``--json`` prints that line alone.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.node_times import profiled
from benchmarks.lib.prompts import make_jobs, prompt_of
from benchmarks.lib.scaling_figures import ATTENTION, Curve, chart, table
from benchmarks.lib.turns import CHUNK
from edgeslm.bundle.manifest import Bundle, load_bundle, short_digest
from edgeslm.engine.calls import Call, Generate, Output, Score
from edgeslm.engine.prepack.prepare import graph_of, prepare
from edgeslm.engine.worker.main import Engine
from edgeslm.engine.worker.prepared import CACHE, find_prepared
from edgeslm.engine.worker.prompt import ChatTokenizer

LABELS: Final = (1, 2, 4, 8, 16, 32, 64)
TOKENS: Final = (32, 64, 128, 256, 512, 1024, 2048, 4096)
TASKS: Final = (1, 2, 4, 8, 12, 16, 20)
INSTRUCTION_TOKENS: Final = 200
_PARTS: Final = ("pump", "valve", "motor", "belt", "press", "door", "lamp", "fan")
_FAULTS: Final = ("leaks", "jams", "hums", "smells", "shakes", "stops", "burns", "slips")
ALL_LABELS: Final = tuple(f"{part} {fault}" for part in _PARTS for fault in _FAULTS)
MESSAGES: Final = (
    "Spindle 3 smells of burnt oil",
    "All quiet on line 2 since the morning",
    "The door of press 4 does not close",
    "Water below the second pump again",
)


def run(engine: Engine, call: Call) -> Output:
    return engine.run(call, lambda text: None, lambda: False)


def score_ms(engine: Engine, instruction: str, text: str, labels: Sequence[str]) -> float:
    started = time.perf_counter()
    run(engine, Score(prompt_of(instruction, text), tuple(labels)))
    return 1000 * (time.perf_counter() - started)


def by_labels(engines: dict[str, Engine], counts: Sequence[int], rounds: int) -> list[Curve]:
    """Each way's time for so many labels. The ways take turns; the first round computes the instruction."""
    found: dict[str, list[float]] = {way: [] for way in engines}
    for count in counts:
        labels = ALL_LABELS[:count]
        instruction = f"What happened? Answer with one of: {', '.join(labels)}."
        took: dict[str, list[float]] = {way: [] for way in engines}
        for text in MESSAGES[:1] + MESSAGES * rounds:
            for way, engine in engines.items():
                took[way].append(score_ms(engine, instruction, text, labels))
        for way, ms in took.items():
            found[way].append(median(ms[1:]))
    return [Curve("labels", way, counts, ms) for way, ms in found.items()]


def by_tokens(engine: Engine, chat: ChatTokenizer, counts: Sequence[int], rounds: int) -> Curve:
    """Time to the first new token of prompts that share no beginning."""
    found = []
    for count in counts:
        jobs = make_jobs(
            lambda system, text: chat.encode(prompt_of(system, text), sys.maxsize)[0], count, rounds + 1
        )
        took = [
            run(engine, Generate(prompt_of(j.system, j.text), max_tokens=1)).cost.prefill_ms for j in jobs
        ]
        found.append(median(took[1:]))
    return Curve("tokens of input", "all", counts, found)


def by_part(bundle: Bundle, graph: str, threads: int, counts: Sequence[int]) -> list[Curve]:
    """What attention takes of a prompt, and what the rest does, by the profiler."""
    ids = np.random.default_rng(1).integers(100, 10_000, max(counts)).astype(np.int32)

    def work(generator: Any) -> None:
        for count in (CHUNK, *counts):  # the first warms up
            generator.rewind_to(0)
            for start in range(0, count, CHUNK):
                generator.append_tokens(ids[start : min(start + CHUNK, count)])

    runs = iter(profiled(bundle.path, graph, threads, max(counts) + 1, work))
    next(runs)
    attention, rest = [], []
    for count in counts:
        own = [next(runs) for _ in range(-(-count // CHUNK))]
        took = sum(s for one in own for kind, s in one.nodes.items() if "Attention" in kind)
        attention.append(1000 * took)
        rest.append(1000 * (sum(one.seconds for one in own) - took))
    return [
        Curve("tokens of input", ATTENTION, counts, attention),
        Curve("tokens of input", "the rest", counts, rest),
    ]


def by_tasks(
    engine: Engine, chat: ChatTokenizer, counts: Sequence[int], rounds: int
) -> tuple[Curve, list[float]]:
    """Tasks that are asked in turn. :return: with the share of requests that found their instruction."""
    instructions = [_instruction(chat, number) for number in range(max(counts))]
    labels = ("normal", "warning", "critical")
    cold = median(score_ms(engine, text, MESSAGES[0], labels) for text in instructions)
    found, held = [], []
    for count in counts:
        took = []
        for turn in range(rounds + 1):
            for text in instructions[:count]:
                ms = score_ms(engine, text, MESSAGES[turn % len(MESSAGES)], labels)
                if turn:
                    took.append(ms)
        found.append(median(took))
        held.append(sum(ms < 0.6 * cold for ms in took) / len(took))
    return Curve("tasks that take turns", "a label", counts, found), held


def _instruction(chat: ChatTokenizer, number: int) -> str:
    """Of about ``INSTRUCTION_TOKENS`` tokens."""
    draw = random.Random(number)
    words = [f"Task {number}: sort what is said of the"]
    while len(chat.encode_text(" ".join(words))) < INSTRUCTION_TOKENS:
        words.append(f"{draw.choice(_PARTS)}, which {draw.choice(_FAULTS)},")
    return " ".join(words)


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    bundle = load_bundle(args.bundle)
    graph, chat = graph_of(bundle, adapters=False), ChatTokenizer(args.bundle)
    with tempfile.TemporaryDirectory(prefix="scaling-") as place:
        asyncio.run(prepare(bundle, graph, Path(place)))
        prepared = find_prepared(bundle, graph, Path(place) / CACHE)
        engine = Engine(args.bundle, args.threads, cache=Path(place) / CACHE)
        engines = {"one by one": Engine(args.bundle, args.threads)}
        if prepared is not None and prepared.score is not None:
            engines["one pass"] = engine
        curves = by_labels(engines, args.labels, args.rounds)
        engines.pop("one by one").close()
        curves.append(by_tokens(engine, chat, args.tokens, args.rounds))
        curves += by_part(bundle, graph, args.threads, args.tokens)
        turns, held = by_tasks(engine, chat, args.tasks, args.rounds)
        engine.close()
    curves.append(turns)
    say(f"\n{table(curves)}")
    shares = ", ".join(f"{count}: {share:.0%}" for count, share in zip(args.tasks, held, strict=True))
    say(f"instructions held in the cache, by tasks: {shares}\n")
    if args.chart:
        args.chart.write_text(chart(curves))
    return {
        "curves": [curve.figures() for curve in curves],
        "held": [round(share, 2) for share in held],
        "worse_than_linear": ", ".join(f"{c.of}, {c.name}" for c in curves if not c.is_wanted) or "none",
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    for name, counts in (("labels", LABELS), ("tokens", TOKENS), ("tasks", TASKS)):
        parser.add_argument(f"--{name}", type=int, nargs="+", default=list(counts), metavar="N")
    parser.add_argument("--chart", type=Path, help="an SVG file to write")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    name = f"{args.bundle.name} {short_digest(load_bundle(args.bundle).digest)}"
    run_benchmark("scaling", args, measure, bundle=name, load_before=round(os.getloadavg()[0], 2))
