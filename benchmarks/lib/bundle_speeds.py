"""Prefill and decode of several bundles, as ratios to the first.

    python benchmarks/speed/engine.py bundles BASE BUNDLE... [--rounds 5] [--turns 3] [--threads 2] [--json]

Each round is a process of its own that loads all bundles in random order, ``BASE`` twice: the ratio of
``BASE`` to itself is the error of the method. Bundles take turns, step by step. Speeds of prefill and decode
are ratios to ``BASE``; above 1 is faster. Prints the machine, a table, then one JSON line; ``--json`` prints
that line alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.lib.machine import processor
from benchmarks.lib.turns import (
    KINDS,
    NEW_TOKENS,
    PROMPT_TOKENS,
    fastest_ms,
    in_child,
    load_graph,
    make_generator,
    ratios_to,
    spread,
    take_turns,
)
from edgeslm.bundle.manifest import load_bundle, short_digest
from edgeslm.errors import EdgeslmError

AGAIN: Final = "BASE, loaded again"


def time_round(task: dict[str, Any]) -> dict[str, Any]:
    """Median ratios of the times of one fresh process, and the base's own times."""
    names = list(task["bundles"])
    random.shuffle(names)
    models = {}
    for name in names:
        folder, graph = task["bundles"][name]
        models[name] = load_graph(folder, graph, task["threads"])
    generators = {name: make_generator(model) for name, model in models.items()}
    spent = take_turns(generators, task["turns"])
    generators.clear()
    return {"ratios": ratios_to(task["base"], spent), "ms": fastest_ms(spent[task["base"]])}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    bundles, sizes = {}, {}
    for folder in (options.base, *options.bundles):
        bundle = load_bundle(folder)
        if bundle.manifest.graphs.generate is None:
            raise SystemExit(f"{folder} is a bundle of kind {bundle.manifest.kind}; name decoders.")
        name = f"{folder} {short_digest(bundle.digest)}"
        bundles[name] = [str(folder), bundle.manifest.graphs.generate]
        sizes[name] = sum(file.stat().st_size for file in folder.iterdir())
    base = next(iter(bundles))
    bundles[AGAIN], sizes[AGAIN] = bundles[base], sizes[base]
    task = {"bundles": bundles, "base": base, "threads": options.threads, "turns": options.turns}
    rounds = [in_child(__file__, "time", task) for _ in range(options.rounds)]
    return {
        "base": base,
        "base_ms": {kind: round(min(one["ms"][kind] for one in rounds), 2) for kind in KINDS},
        "bytes": sizes,
        "speeds": {
            name: {kind: spread([1 / one["ratios"][name][kind] for one in rounds]) for kind in KINDS}
            for name in bundles
            if name != base
        },
    }


def table(report: dict[str, Any]) -> str:
    width = max(map(len, report["bytes"]))
    ms = report["base_ms"]
    lines = [
        f"{report['base']}: {ms['prefill']} ms for 128 prompt tokens, {ms['decode']} ms for a new one, "
        f"{report['bytes'][report['base']] / 1e6:.1f} MB",
        f"{'speed to it':{width}}{'MB':>9}{'prefill':>24}{'decode':>24}",
    ]
    for name, kinds in report["speeds"].items():
        shown = [f"{c['median']:.3f} ({c['lowest']:.3f} to {c['highest']:.3f})" for c in kinds.values()]
        lines.append(f"{name:{width}}{report['bytes'][name] / 1e6:9.1f}{shown[0]:>24}{shown[1]:>24}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", type=Path, nargs="?", metavar="BASE")
    parser.add_argument("bundles", type=Path, nargs="*", metavar="BUNDLE")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="prompts a round (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    parser.add_argument("--child", choices=("time",), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(time_round(json.load(sys.stdin))))
        return
    if not options.bundles:
        parser.error("name BASE and one bundle or more")
    card = {
        "machine": f"{platform.machine()}, {processor()}, {os.cpu_count()} CPUs, {options.threads} threads",
        "versions": {name: version(name) for name in ("edgeslm", "onnxruntime", "onnxruntime-genai")},
        "prompt_tokens": PROMPT_TOKENS,
        "new_tokens": NEW_TOKENS,
    }
    try:
        report = measure(options)
    except EdgeslmError as error:
        raise SystemExit(str(error)) from None
    if not options.json:
        print(f"{card['machine']}; {card['versions']}")
        print(table(report))
    print(json.dumps({"benchmark": "speed", **card, **report}))


if __name__ == "__main__":
    main()
