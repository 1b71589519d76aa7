"""Accuracy of a classify task by number of training rows: ``edgeslm-export tune``, then ``evaluate``.

    python benchmarks/quality/training.py trec [--rows 50 1000 all] [--seeds 5] [--method auto]
    python benchmarks/quality/training.py sms --rows 1000

Both commands run as for a user, with the starter's models; ``tune`` never sees the test rows. Each seed draws
other rows, with the label proportions of all; the whole set is one draw. Prints a table of means over the
seeds, lowest and highest in brackets, then one JSON line; ``--json`` prints that line alone. ``answered`` and
``its error`` are of the task with ``--max-error``: it abstains from the rest.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from edgeslm_export.sources.wheel_data import Packages
from edgeslm_export.train.spec import METHODS

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.labelled import SETS, Labelled, Row


def run_command(*arguments: str | Path) -> dict[str, Any]:
    """The JSON line of ``edgeslm-export``. :raises RuntimeError: it failed, with what it said."""
    command = [sys.executable, "-P", "-m", "edgeslm_export", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{arguments[0]} failed: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    return found


def teach(
    labelled: Labelled,
    rows: int | None,
    seed: int,
    options: Sequence[str],
    max_error: float,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Learns from one draw and asks the test, once for all answers and once for those it is sure of.

    :param keep: where the bundle is left.
    """
    learned_from, test = labelled.draw(rows, seed)
    with tempfile.TemporaryDirectory(prefix="teaching-") as name:
        work = Path(name)
        (work / "task.yaml").write_text(f"name: {labelled.name}\nkind: classify\n")
        write_rows(work / "rows.jsonl", learned_from)
        write_rows(work / "test.jsonl", test)
        started = time.monotonic()
        said = run_command("tune", work / "task.yaml", work / "rows.jsonl", work / "out", *options)
        seconds = time.monotonic() - started
        seen = run_command("evaluate", work / "out", work / "test.jsonl")
        careful: dict[str, Any] = {"answered": 0.0, "accuracy_answered": None, "threshold": None}
        if said["coverage"].get(str(max_error)) is not None:
            asked = ("evaluate", work / "out", work / "test.jsonl", "--max-error", str(max_error))
            careful = run_command(*asked)
        if keep is not None:
            shutil.copytree(work / "out", keep)
    return {
        "seed": seed,
        "rows": len(learned_from),
        "test_rows": len(test),
        "method": said["method"],
        "expected": said["accuracy"],
        "minutes": round(seconds / 60, 2),
        "accuracy": seen["accuracy"],
        "calibration_error": seen["calibration_error"],
        "recall": {label: of["recall"] for label, of in seen["labels"].items()},
        "ms_per_text": seen["ms_per_row"],
        "bytes": said["measured"][said["method"]]["bytes"],
        "methods": said["methods"],
        "peak_rss": said.get("peak_rss"),
        "max_error": max_error,
        "answered": careful["answered"],
        "accuracy_answered": careful["accuracy_answered"],
    }


def write_rows(file: Path, rows: Sequence[Row]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the seeds of one number of rows: means, and the range of the accuracy."""
    accuracies = [run["accuracy"] for run in runs]
    recalls = [[value for value in run["recall"].values() if value is not None] for run in runs]
    return {
        "rows": runs[0]["rows"],
        "seeds": len(runs),
        "accuracy": round(mean(accuracies), 4),
        "lowest": min(accuracies),
        "highest": max(accuracies),
        "expected": round(mean(run["expected"] for run in runs), 4),
        "calibration_error": round(mean(run["calibration_error"] for run in runs), 4),
        "lowest_recall": round(mean(map(min, recalls)), 4),
        "minutes": round(mean(run["minutes"] for run in runs), 2),
        "ms_per_text": round(mean(run["ms_per_text"] for run in runs), 2),
        "answered": round(mean(run["answered"] for run in runs), 4),
        "error_answered": _mean_error(runs),
        "methods": sorted({run["method"] for run in runs}),
    }


def _mean_error(runs: Sequence[dict[str, Any]]) -> float | None:
    """Of the runs that answered anything; each counts by the rows it answered."""
    answered = [run for run in runs if run["accuracy_answered"] is not None]
    weights = [run["answered"] * run["test_rows"] for run in answered]
    wrong = [weight * (1 - run["accuracy_answered"]) for run, weight in zip(answered, weights, strict=True)]
    return round(sum(wrong) / sum(weights), 4) if sum(weights) else None


def lines_of(summaries: Sequence[dict[str, Any]]) -> list[str]:
    heads = f"{'rows':>6} {'accuracy':>26} {'expected':>9} {'calibration':>12} {'lowest recall':>14}"
    lines = [f"{heads} {'answered':>9} {'its error':>10} {'minutes':>8} {'ms a text':>10}  by"]
    for of in summaries:
        accuracy = f"{of['accuracy']:.4f} ({of['lowest']:.4f} to {of['highest']:.4f})"
        figures = f"{of['rows']:6} {accuracy:>26} {of['expected']:9.4f} {of['calibration_error']:12.4f}"
        error = "-" if of["error_answered"] is None else f"{of['error_answered']:.4f}"
        rest = f"{of['lowest_recall']:14.4f} {of['answered']:9.4f} {error:>10}"
        rest += f" {of['minutes']:8.1f} {of['ms_per_text']:10.2f}"
        lines.append(f"{figures} {rest}  {'; '.join(of['methods'])}")
    return lines


def measure(args: argparse.Namespace, labelled: Labelled, say: Say) -> dict[str, Any]:
    options = ["--method", args.method]
    options += ["--minutes", str(args.minutes)] if args.minutes else []
    options += ["--base", str(args.base)] if args.base else []
    options += ["--recall", args.recall] if args.recall else []
    found = []
    for wanted in args.rows:
        rows = None if wanted == "all" else int(wanted)
        seeds = 1 if rows is None else args.seeds
        runs = []
        for seed in range(seeds):
            keep = args.keep and args.keep / f"{labelled.name}-{wanted}-{seed}"
            runs.append(teach(labelled, rows, seed, options, args.max_error, keep))
            say(f"  {runs[-1]['rows']} rows, seed {seed}: {runs[-1]['accuracy']:.4f}, {runs[-1]['method']}")
        found.append({**summary(runs), "runs": runs})
    return {"rows": found}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", choices=SETS)
    parser.add_argument(
        "--rows", nargs="+", default=["50", "1000"], help="numbers or all (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=5, help="draws of each number (default: %(default)s)")
    parser.add_argument("--method", choices=("auto", *METHODS), default="auto")
    parser.add_argument(
        "--base", type=Path, help="a decoder bundle of the starter's model: lora is tried too"
    )
    parser.add_argument("--max-error", type=float, default=0.02, help="(default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="handed to tune")
    parser.add_argument("--recall", metavar="LABEL=SHARE", help="handed to tune")
    parser.add_argument("--keep", type=Path, help="leave the bundles in this folder, for cascade")
    parser.add_argument("--from", dest="packages", type=Path, help="take the wheels from this folder")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    if wrong := [rows for rows in args.rows if rows != "all" and not rows.isdecimal()]:
        parser.error(f"--rows: {wrong[0]!r} is not a number; numbers or 'all'")
    if args.set == "sms" and "all" in args.rows:
        parser.error("--rows: of sms what isn't drawn is the test, so all can't be drawn")

    def measured(args: argparse.Namespace, say: Say) -> dict[str, Any]:
        found = measure(args, SETS[args.set](Packages(say, folder=args.packages)), say)
        say("\n".join(["", *lines_of(found["rows"])]))
        return found

    run_benchmark("teaching", args, measured, set=args.set)
