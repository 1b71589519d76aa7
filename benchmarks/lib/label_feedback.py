"""What an untaught task gains by labels that people give in the console, and by corrections over MQTT.

    python benchmarks/quality/zero_shot.py feedback BUNDLE... [--sets sms trec] [--labels 10 25 50]

For each draw, 300 development texts are the node's sample. ``10 labels`` are those that the console and
``edgeslm teach`` ask for first, ten at a time; ``20 % corrected`` means that this share of the wrong answers
is corrected. ``bias`` is the accuracy on the test part with the label bias that a node fits to this, where
messages without a label count as right; ``head`` is that of a head trained on the labels. Figures are means
of the draws; ``lowest`` is the lowest ``bias``. Prints a table for each bundle and set, then one JSON line;
``--json`` prints that line alone.
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Final

import numpy as np
from edgeslm_export.evaluate.report_card import examine_bundle
from edgeslm_export.sources.wheel_data import Packages
from edgeslm_export.starter import ENCODER, default_folder
from edgeslm_export.train.choice import vectors_of

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.choosing import active_order, head_accuracy
from benchmarks.lib.untaught import SETS, Untaught, load_untaught
from benchmarks.lib.zero_shot_labels import Scores, accuracy, exam_of, scores_of
from edgeslm.bundle.calibration import FEWEST_LABELLED
from edgeslm.engine.worker.label_bias import fit_bias
from edgeslm.serving.label_calibration import SAMPLE

TEXTS: Final = 500


def measure_set(args: argparse.Namespace, bundle: Path, untaught: Untaught) -> dict[str, Any]:
    rows, count = [*untaught.development, *untaught.test], len(untaught.development)
    texts, truth = [row["text"] for row in rows], [row["label"] for row in rows]
    vectors = vectors_of(texts, args.encoder)
    scores = scores_of(examine_bundle(bundle, exam_of(untaught, texts), threads=args.threads))
    tested = vectors[count:], np.array(truth[count:])
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(args.draws):
        sample = random.Random(seed).sample(range(count), min(SAMPLE, count))
        most = min(max(args.labels), len(sample))
        order = [sample[at] for at in active_order(vectors[sample], [truth[at] for at in sample], most)]
        wrong = [at for at in sample if _said(scores, at) != truth[at]]
        random.Random(seed).shuffle(wrong)
        known = {f"{most} labels": order[:most] for most in args.labels}
        known |= {f"{share:.0%} corrected": wrong[: round(share * len(wrong))] for share in args.corrected}
        for name, ones in known.items():
            figures = found.setdefault(name, {})
            figures.setdefault("bias", []).append(_fitted(scores, truth, sample, ones, count))
            if ones == order[: len(ones)]:
                head = head_accuracy(vectors, truth, ones, tested)
                figures.setdefault("head", []).append(head)
    ways = {
        name: {"lowest": min(one["bias"]), **{of: round(mean(all_), 4) for of, all_ in one.items()}}
        for name, one in found.items()
    }
    return {"set": untaught.name, "plain": accuracy(scores[count:], truth[count:]), "ways": ways}


def _said(scores: Scores, at: int) -> str:
    return max(scores[at], key=scores[at].__getitem__)


def _fitted(
    scores: Scores, truth: Sequence[str], sample: Sequence[int], known: Collection[int], count: int
) -> float:
    """Accuracy on the rows from ``count`` on, with the bias of a ``sample`` whose labels at ``known`` are
    the right ones."""
    bias = None
    if len(known) >= FEWEST_LABELLED:
        given = [truth[at] if at in known else _said(scores, at) for at in sample]
        bias = fit_bias([scores[at] for at in sample], given, tuple(scores[0])).biases
    return accuracy(scores[count:], truth[count:], bias)


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    packages = Packages(say, folder=args.packages)
    sets = [load_untaught(name, packages, args.texts) for name in args.sets]
    found: dict[str, list[dict[str, Any]]] = {}
    for bundle in args.bundles:
        found[bundle.name] = []
        for one in sets:
            found[bundle.name].append(figures := measure_set(args, bundle, one))
            say(f"\n{bundle.name}, {one.name}: {figures['plain']:.3f} without either")
            for name, of in figures["ways"].items():
                shown = "  ".join(f"{what} {value:.3f}" for what, value in of.items())
                say(f"{name:>15}  {shown}")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="of an untaught model")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["sms", "trec"])
    parser.add_argument("--labels", nargs="+", type=int, default=[10, 25, 50], help="(default: 10 25 50)")
    parser.add_argument(
        "--corrected", nargs="+", type=float, default=[0.2, 0.5, 0.8, 1.0], help="shares of the wrong answers"
    )
    parser.add_argument("--texts", type=int, default=TEXTS, help="of each part (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--encoder", type=Path, default=default_folder() / ENCODER, help="encoder bundle")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="(default: all)")
    parser.add_argument("--from", dest="packages", type=Path, help="take the wheels from this folder")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    run_benchmark("label-feedback", parser.parse_args(argv), measure)
