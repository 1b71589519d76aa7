"""Trains the head that ``calls.py assist`` measures.

    python benchmarks/quality/calls.py train OUT [--minutes 5] [--templates 15]

Writes rows of all templates but the held-aside ones, and runs ``edgeslm-export tune`` on them. Takes a minute
or two more than ``--minutes``. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.household import load_household
from benchmarks.lib.teaching import run_command, write_rows


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    household = load_household(args.templates)
    say(f"{len(household.train)} rows of {household.templates[0]} templates")
    task = {"name": "household", "kind": "extract", "schema": household.schema}
    with tempfile.TemporaryDirectory(prefix="assist-") as name:
        work = Path(name)
        (work / "task.yaml").write_text(yaml.safe_dump(task, sort_keys=False))
        # Sentences of a template are tested together, since what a home hears has other templates.
        rows = [{**row, "group": row["template"]} for row in household.train]
        write_rows(work / "rows.jsonl", rows)
        options = ("--method", "encoder", "--minutes", str(args.minutes))
        started = time.monotonic()
        said = run_command("tune", work / "task.yaml", work / "rows.jsonl", args.out, *options)
    return {
        "rows": len(household.train),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "expected": said["exact"],
        "coverage": said.get("coverage"),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="a new folder for the head")
    parser.add_argument("--minutes", type=float, default=5, help="handed to tune (default: %(default)s)")
    parser.add_argument("--templates", type=int, default=15, help="sentences of each (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    run_benchmark("calls train", args, measure, out=args.out.name)
