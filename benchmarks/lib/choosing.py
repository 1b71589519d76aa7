"""Active choice of messages to label, beside messages in random order: labels needed for an accuracy.

    python benchmarks/quality/training.py choose [--set trec] [--most 160] [--seeds 5]

A head is trained on the first labels of each order, ten at a time, and tested on other texts. The figures are
means of the seeds, each with another pool of messages. ``share`` is the number of labels by active choice
that reach the accuracy of ``--most`` labels in random order, as a share of those. Nothing was chosen by these
figures but the method (see ``LOG.md``). Prints one JSON line last; ``--json`` prints that line alone.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from edgeslm_export.sources.wheel_data import Packages
from edgeslm_export.starter import ENCODER, default_folder
from edgeslm_export.train.choice import STRENGTH, choose, vectors_of
from edgeslm_export.train.logistic_head import fit_layer

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.untaught import LOADERS

STEP: Final = 10
POOL: Final = 1500
TESTED: Final = 1000
SETS: Final = ("trec", "sms", "news", "house")


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    packages = Packages(say, folder=args.packages)
    return {name: _measured(name, packages, args, say) for name in args.set or SETS}


def _measured(name: str, packages: Packages, args: argparse.Namespace, say: Say) -> dict[str, Any]:
    rows, test = map(list, LOADERS[name](packages))
    random.Random(0).shuffle(rows)
    if not test:
        rows, test = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    random.Random(1).shuffle(test)
    test = test[:TESTED]
    encoder = args.encoder or default_folder() / ENCODER
    tested = vectors_of([row["text"] for row in test], encoder), np.array([row["label"] for row in test])
    all_vectors = vectors_of([row["text"] for row in rows], encoder)
    curves: dict[str, list[list[float]]] = {"active": [], "random": []}
    for seed in range(args.seeds):
        places = random.Random(seed).sample(range(len(rows)), min(POOL, len(rows)))
        vectors, labels = all_vectors[places], [rows[place]["label"] for place in places]
        orders = {
            "active": active_order(vectors, labels, args.most),
            "random": random.Random(seed).sample(range(len(places)), args.most),
        }
        for how, order in orders.items():
            curves[how].append(_curve(vectors, labels, order, tested, args.most))
    found = {how: [round(float(one), 4) for one in np.mean(each, 0)] for how, each in curves.items()}
    wanted = found["random"][-1]
    needed = next((STEP * (step + 1) for step, one in enumerate(found["active"]) if one >= wanted), None)
    share = None if needed is None else round(needed / args.most, 2)
    for how, curve in found.items():
        say(f"{name:6} {how:7} " + " ".join(f"{one:.3f}" for one in curve))
    say(f"{name:6} {wanted:.3f} of {args.most} random labels is reached with {needed} chosen ones")
    return {**found, "step": STEP, "needed": needed, "share": share, "tested": len(test)}


def active_order(vectors: Any, labels: Sequence[str], most: int) -> list[int]:
    """Places of the texts in the order in which they are shown for labelling."""
    known: dict[int, str] = {}
    while len(known) < most:
        for one in choose(vectors, known, STEP):
            known[one.index] = labels[one.index]
    return list(known)[:most]


def _curve(vectors: Any, labels: Sequence[str], order: Sequence[int], tested: Any, most: int) -> list[float]:
    counts = range(STEP, most + 1, STEP)
    return [head_accuracy(vectors, labels, order[:count], tested) for count in counts]


def head_accuracy(vectors: Any, labels: Sequence[str], order: Sequence[int], tested: Any) -> float:
    """Accuracy of a head on the ``tested`` vectors and labels, trained on the rows at ``order``."""
    chosen = list(order)
    names = sorted({labels[index] for index in chosen})
    if len(names) == 1:
        return float((tested[1] == names[0]).mean())
    truth = np.array([names.index(labels[index]) for index in chosen])
    weight, bias = fit_layer(vectors[chosen], truth, STRENGTH, len(names))
    said = np.array(names)[(tested[0] @ weight.T + bias).argmax(axis=1)]
    return float((said == tested[1]).mean())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", action="append", choices=SETS, help="(default: all)")
    parser.add_argument("--most", type=int, default=160, help="labels (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--encoder", type=Path, help="encoder bundle (default: the starter's)")
    parser.add_argument("--from", dest="packages", type=Path, help="take the wheels from this folder")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    run_benchmark("choosing", parser.parse_args(argv), measure)
