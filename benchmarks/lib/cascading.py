"""Cascade of an encoder before a decoder: requests/s and accuracy over MQTT.

    python benchmarks/quality/training.py cascade trec --learned HEAD --adapter ADAPTER --base BUNDLE

Sends the test of the set through the daemon, once with the decoder and its adapter alone and once with the
cascade (``stages: [learned, small]``) at a given ``--max-error``; ``edgeslm-export tune`` makes both. One run
after the other, several times. Prints one JSON line last; ``--json`` prints that line alone.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from edgeslm_export.sources.wheel_data import Packages

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.labelled import SETS, Row
from benchmarks.lib.served import Asked, ask, served
from edgeslm.bundle.manifest import load_bundle


def configuration(args: argparse.Namespace) -> dict[str, Any]:
    models = {"small": {"bundle": str(args.base.resolve())}}
    manifest = load_bundle(args.learned).manifest
    if manifest.head is not None and manifest.head.encoder is not None:
        models["encoder"] = {"bundle": str(args.encoder.resolve())}
    adapter, learned = str(args.adapter.resolve()), str(args.learned.resolve())
    return {
        "models": models,
        "tasks": {
            "decoder": {"learned": adapter, "model": "small", "overflow": "head"},
            "cascade": {
                "kind": "classify",
                "learned": learned,
                "adapter": adapter,
                "stages": ["learned", "small"],
                "overflow": "head",
                **({"max_error": args.max_error} if args.max_error else {"threshold": args.threshold}),
            },
        },
    }


def judged(asked: Asked, rows: Sequence[Row]) -> dict[str, Any]:
    results = [dict(result.result or {}) for result in asked.results]
    right = [result["label"] == row["label"] for result, row in zip(results, rows, strict=True)]
    stages = Counter(result["stage"] for result in results)
    return {
        "accuracy": round(sum(right) / len(right), 4),
        "messages_per_s": round(len(right) / asked.seconds, 1),
        "stages": {stage: round(count / len(right), 4) for stage, count in stages.items()},
    }


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    labelled = SETS[args.set](Packages(say, folder=args.packages))
    rows = list(labelled.test) or labelled.draw(args.rows, args.seed)[1]
    rows = random.Random(0).sample(rows, min(len(rows), args.messages))
    texts = [row["text"] for row in rows]
    found: dict[str, list[dict[str, Any]]] = {"decoder": [], "cascade": []}
    with served(configuration(args)) as (url, _):
        for number in range(args.rounds):
            for task in found if number % 2 == 0 else reversed(found):
                found[task].append(judged(ask(url, task, texts, args.in_flight), rows))
                say(f"  {task:>8}  {found[task][-1]}")
    speeds = {task: median(run["messages_per_s"] for run in runs) for task, runs in found.items()}
    return {
        "messages": len(rows),
        **{task: {**runs[0], "messages_per_s": speeds[task]} for task, runs in found.items()},
        "times_faster": round(speeds["cascade"] / speeds["decoder"], 1),
        "accuracy_gained": round(found["cascade"][0]["accuracy"] - found["decoder"][0]["accuracy"], 4),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--learned", type=Path, required=True, help="what tune wrote with an encoder")
    parser.add_argument("--adapter", type=Path, required=True, help="what tune wrote with --method lora")
    parser.add_argument("--base", type=Path, required=True, help="the decoder's bundle")
    parser.add_argument("--encoder", type=Path, help="the encoder's bundle, of a head that names one")
    parser.add_argument("--max-error", type=float, default=0.02, help="of the head (default: %(default)s)")
    parser.add_argument("--threshold", type=float, default=0.9, help="with --max-error 0")
    parser.add_argument("--messages", type=int, default=500, help="at most (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=1000, help="that were learned from, of sms")
    parser.add_argument("--seed", type=int, default=0, help="of the draw that was learned from, of sms")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--from", dest="packages", type=Path, help="take the wheels from this folder")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    run_benchmark("cascading", args, measure, set=args.set, max_error=args.max_error)
