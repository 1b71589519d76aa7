"""Labels in one pass beside labels one by one: is it the same label, and how far are probabilities apart?

    python benchmarks/agreement.py --bundle DIR [--messages 1000] [--threads 2] [--json]

Real messages, half of them questions of TREC's test and half SMS, each with labels that begin alike, which
takes branches: by the graph that ``edgeslm prepare`` lays out, against the walk along the
tree of their tokens, on the same weights. Quantized products round otherwise for one row than for many, and
so do sums over a prompt that is read in other pieces: so the walk is also held against itself with nothing in
its cache, which is what any such change comes to. Margins are between the walk's two likeliest labels.

The cost card first, then tables, then one JSON line; ``--json`` prints that line alone. Some minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from cards import Say, run_benchmark
from edgeslm_export.sources.wheel_data import Packages
from labelled import SETS
from ours import prompt_of

from edgeslm.bundle.manifest import load_bundle, short_digest
from edgeslm.engine.calls import Score
from edgeslm.engine.prepack.prepare import graph_of, prepare
from edgeslm.engine.worker.decoder import Decoder
from edgeslm.engine.worker.prepared import CACHE, find_prepared

WANTED: Final = 0.995
"""Share of messages with the same label."""
SEED: Final = 23
LABELS: Final[Mapping[str, tuple[str, ...]]] = {
    "trec": (
        "about a person",
        "about a place",
        "about a number",
        "about a thing",
        "asking for a meaning",
        "asking for a short form",
    ),
    "sms": ("private message", "private appointment", "business offer", "business news", "business warning"),
}
PASS: Final = "one pass"
WALK: Final = "one by one"
ANEW: Final = "one by one, nothing cached"
ANEW_MESSAGES: Final = 100
"""Of each set: a prompt that is read whole takes many times as long."""

Probabilities = npt.NDArray[np.float64]
"""[messages, labels]"""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of one way with another, over so many ``messages``; ``apart`` is the largest difference of a message's
    probabilities, ``margins`` those of the messages whose label differs."""

    same: float
    apart: npt.NDArray[np.float64]
    margins: Sequence[float]

    def figures(self) -> dict[str, Any]:
        return {
            "messages": len(self.apart),
            "same": round(self.same, 4),
            "apart": {
                name: round(float(np.quantile(self.apart, share)), 4)
                for name, share in (("median", 0.5), ("p99", 0.99), ("most", 1.0))
            },
            "margins_of_others": [round(margin, 3) for margin in sorted(self.margins)],
        }


def agreement(found: Probabilities, wanted: Probabilities) -> Agreement:
    differs = found.argmax(axis=1) != wanted.argmax(axis=1)
    ordered = np.sort(wanted, axis=1)
    margins = ordered[:, -1] - ordered[:, -2]
    return Agreement(
        same=float(1 - differs.mean()),
        apart=np.abs(found - wanted).max(axis=1),
        margins=[float(margin) for margin in margins[differs]],
    )


def joined(parts: Sequence[Agreement]) -> Agreement:
    """Of several sets of messages together."""
    apart = np.concatenate([part.apart for part in parts])
    margins = [margin for part in parts for margin in part.margins]
    return Agreement(1 - len(margins) / len(apart), apart, margins)


def table(found: Mapping[str, Agreement]) -> str:
    lines = [
        f"{'':<28}{'messages':>9}{'same':>8}{'apart: median':>15}{'p99':>8}{'most':>8}  margins of others"
    ]
    for name, one in found.items():
        row = one.figures()
        apart = row["apart"]
        margins = ", ".join(f"{margin:.3f}" for margin in row["margins_of_others"][:8]) or "none"
        lines.append(
            f"{name:<28}{row['messages']:>9}{row['same']:>8.1%}{apart['median']:>15.4f}{apart['p99']:>8.4f}"
            f"{apart['most']:>8.4f}  {margins}"
        )
    return "\n".join(lines)


def messages(name: str, count: int, packages: Packages) -> list[str]:
    """Drawn from the test of the set, or from all of it where it has none."""
    labelled = SETS[name](packages)
    rows = labelled.test or labelled.rows
    return [row["text"] for row in random.Random(SEED).sample(list(rows), min(count, len(rows)))]


def calls(name: str, texts: Sequence[str]) -> Iterator[Score]:
    instruction = f"What is the message? Answer with one of: {', '.join(LABELS[name])}."
    return (Score(prompt_of(instruction, text), LABELS[name]) for text in texts)


def ask(decoder: Decoder, asked: Iterator[Score], *, anew: bool = False) -> Probabilities:
    found = []
    for call in asked:
        if anew:
            decoder.forget()
        found.append(decoder.score(call).probabilities)
    return np.array(found)


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    bundle, packages = load_bundle(args.bundle), Packages(say)
    texts = {name: messages(name, args.messages // len(LABELS), packages) for name in LABELS}
    graph = graph_of(bundle, adapters=False)
    with tempfile.TemporaryDirectory(prefix="agreement-") as place:
        asyncio.run(prepare(bundle, graph, Path(place)))
        prepared = find_prepared(bundle, graph, Path(place) / CACHE)
        if prepared is None or prepared.score is None:
            raise ValueError(f"{args.bundle} has no graph that takes all labels in one pass.")
        one_pass = Decoder(args.bundle, args.threads, prepared=prepared)
        walk = Decoder(args.bundle, args.threads, prepared=replace(prepared, score=None))
        by_pass, itself = [], []
        for name, own in texts.items():
            one_by_one = ask(walk, calls(name, own))
            by_pass.append(agreement(ask(one_pass, calls(name, own)), one_by_one))
            again = ask(walk, calls(name, own[:ANEW_MESSAGES]), anew=True)
            itself.append(agreement(again, one_by_one[:ANEW_MESSAGES]))
            say(f"\n{name}\n{table({PASS: by_pass[-1], ANEW: itself[-1]})}")
        one_pass.close()
        walk.close()
    rows = {PASS: joined(by_pass), ANEW: joined(itself)}
    if not rows[PASS].apart.any():
        raise ValueError("Both ways gave the same to the bit: nothing was scored in one pass.")
    say(f"\nall, beside {WALK} (wanted of {PASS}: {WANTED:.1%} the same)\n{table(rows)}\n")
    sets = dict(zip(texts, by_pass, strict=True))
    return {
        "wanted": WANTED,
        "one_pass": rows[PASS].figures(),
        "itself": rows[ANEW].figures(),
        "sets": [{"name": name, **one.figures()} for name, one in sets.items()],
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--messages", type=int, default=1000, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    name = f"{args.bundle.name} {short_digest(load_bundle(args.bundle).digest)}"
    run_benchmark("agreement", args, measure, bundle=name)


if __name__ == "__main__":
    main()
