"""Label errors: share of flipped labels that are found, and the accuracy without them.

    python benchmarks/quality/training.py flips [--share 0.05] [--method head]

Flips a share of the labels of TREC's training rows, lets ``edgeslm-export tune`` search for them, and
compares its list with the flipped ones. The task is trained on the flipped rows, on the rows without the
listed ones (``--clean labels``) and on the original rows, each tested on TREC's test. Prints one JSON line
last; ``--json`` prints that line alone.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeslm_export.sources.wheel_data import Packages

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.labelled import Row, load_trec
from benchmarks.lib.teaching import run_command, write_rows


def flip(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], set[int]]:
    """Rows of which a share has another label, and their numbers in the file (from 1)."""
    choice = random.Random(seed)
    labels = sorted({row["label"] for row in rows})
    chosen = set(choice.sample(range(len(rows)), round(share * len(rows))))
    flipped = [
        {**row, "label": choice.choice([label for label in labels if label != row["label"]])}
        if place in chosen
        else dict(row)
        for place, row in enumerate(rows)
    ]
    return flipped, {place + 1 for place in chosen}


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    trec = load_trec(Packages(say, folder=args.packages))
    flipped, wrong = flip(trec.rows, args.share, args.seed)
    with tempfile.TemporaryDirectory(prefix="flips-") as name:
        work = Path(name)
        (work / "task.yaml").write_text("name: trec\nkind: classify\n")
        write_rows(work / "test.jsonl", trec.test)
        write_rows(work / "flipped.jsonl", flipped)
        write_rows(work / "rows.jsonl", list(trec.rows))

        def learn(rows: str, out: str, *options: str) -> tuple[dict[str, Any], float]:
            command = ("tune", work / "task.yaml", work / rows, work / out, "--method", args.method)
            said = run_command(*command, *options)
            seen = run_command("evaluate", work / out, work / "test.jsonl")
            return said, float(seen["accuracy"])

        said, before = learn("flipped.jsonl", "before")
        listed = [set(found["rows"]) for found in said["findings"] if found["kind"] == "labels"]
        found = set().union(*listed)
        say(f"{len(found)} labels listed, {len(found & wrong)} of {len(wrong)} flipped ones among them")
        _, after = learn("flipped.jsonl", "after", "--clean", "labels")
        _, clean = learn("rows.jsonl", "clean")
    return {
        "flipped": len(wrong),
        "listed": len(found),
        "precision": round(len(found & wrong) / max(1, len(found)), 4),
        "recall": round(len(found & wrong) / len(wrong), 4),
        "accuracy_flipped": before,
        "accuracy_cleaned": after,
        "accuracy_unflipped": clean,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=float, default=0.05, help="of the labels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", choices=("head", "encoder"), default="head")
    parser.add_argument("--from", dest="packages", type=Path, help="take the wheels from this folder")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    run_benchmark("flips", args, measure, share=args.share, method=args.method)
