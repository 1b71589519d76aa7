"""Accuracy of a trained extract task on rows that it was not trained on.

    python benchmarks/quality/training.py house [--sentences 15] [--method auto|encoder|lora|qlora]
    python benchmarks/quality/training.py logs [--split line|service] [--max-error 0.05]

``house``: intent and slots of sentences said to Home Assistant, tested on unseen templates
(``lib/household.py``). ``logs``: whether a line is a failed login, and the host (``lib/log_lines.py``); a
fifth of the lines is the test, or half of the services. Both go through ``edgeslm-export tune`` and
``evaluate``. Prints one JSON line last; ``--json`` prints that line alone.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.household import load_household
from benchmarks.lib.log_lines import SCHEMA, load_lines
from benchmarks.lib.teaching import run_command, write_rows

Rows = list[dict[str, Any]]

_CONFIDENCE = ("calibration_error", "threshold", "answered", "accuracy_answered")


def house(args: argparse.Namespace) -> tuple[dict[str, Any], Rows, Rows, dict[str, Any]]:
    """:return: the task, rows to learn from, rows to test with, and what to say of them."""
    found = load_household(args.sentences)
    learned, tested = found.templates
    task = {"name": "house", "kind": "extract", "instruction": "Intent", "schema": found.schema}
    return task, found.train, found.test, {"templates": learned, "templates_tested": tested}


def logs(args: argparse.Namespace) -> tuple[dict[str, Any], Rows, Rows, dict[str, Any]]:
    rows = load_lines()
    choice = random.Random(0)
    if args.split == "service":
        services = sorted({row["service"] for row in rows})
        choice.shuffle(services)
        tested = set(services[: len(services) // 2])
        test = [row for row in rows if row["service"] in tested]
        train = [row for row in rows if row["service"] not in tested]
    else:
        choice.shuffle(rows)
        test, train = rows[: len(rows) // 5], rows[len(rows) // 5 :]
    task = {"name": "logs", "kind": "extract", "instruction": "Attempt", "verbatim": True, "schema": SCHEMA}
    return task, train, test, {"split": args.split}


def balanced(report: dict[str, Any], test: Rows) -> dict[str, Any]:
    """Of ``logs``: how often ``failed`` is right, each of both answers counting the same, and how often the
    host is, of the lines that have one and are told to be failed."""
    answers = [answer["fields"] if answer else {} for answer in report["answers"]]
    wanted = [row["fields"] for row in test]
    pairs = list(zip(answers, wanted, strict=True))
    shares = []
    for truth in (True, False):
        of_truth = [answer.get("failed") is truth for answer, want in pairs if want["failed"] is truth]
        shares.append(sum(of_truth) / max(1, len(of_truth)))
    hosts = [answer.get("host") == want["host"] for answer, want in pairs if "host" in want]
    outside = [
        answer["host"]
        for answer, row in zip(answers, test, strict=True)
        if answer.get("host") and answer["host"] not in row["text"]
    ]
    failed = [answer.get("failed") is want["failed"] for answer, want in pairs]
    return {
        "failed": round(sum(failed) / len(failed), 4),
        "failed_balanced": round(sum(shares) / 2, 4),
        "host": round(sum(hosts) / max(1, len(hosts)), 4),
        "hosts": len(hosts),
        "hosts_not_in_the_line": len(outside),
    }


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    task, train, test, about = {"house": house, "logs": logs}[args.set](args)
    say(f"{len(train)} rows to learn from, {len(test)} to test with; {about}")
    with tempfile.TemporaryDirectory(prefix="skills-") as name:
        work = Path(name)
        (work / "task.yaml").write_text(yaml.safe_dump(task, sort_keys=False))
        for file, rows in (("rows.jsonl", train), ("test.jsonl", test)):
            write_rows(work / file, [{"text": row["text"], "fields": row["fields"]} for row in rows])
        options = ["--method", args.method, *(["--minutes", str(args.minutes)] if args.minutes else [])]
        started = time.monotonic()
        said = run_command("tune", work / "task.yaml", work / "rows.jsonl", work / "out", *options)
        minutes = (time.monotonic() - started) / 60
        careful = ["--max-error", str(args.max_error)] if args.max_error else []
        seen = run_command("evaluate", work / "out", work / "test.jsonl", "--answers", *careful)
    figures: dict[str, Any] = {
        **about,
        "rows": len(train),
        "test_rows": len(test),
        "minutes": round(minutes, 1),
        "method": said["method"],
        "expected": said["exact"],
        "bytes": said["measured"][said["method"]]["bytes"],
        "exact": seen["exact"],
        "exact_interval": seen["exact_interval"],
        "ms_per_row": seen["ms_per_row"],
        **{key: said[key] for key in ("peak_rss", "weight_bytes") if key in said},
        **{key: seen[key] for key in _CONFIDENCE if key in seen},
    }
    if args.set == "logs":
        return figures | balanced(seen, test)
    return figures | {"intent": seen["fields"]["intent"]["accuracy"]} | _slots(seen, test)


def _slots(report: dict[str, Any], test: Rows) -> dict[str, Any]:
    """Rows in which every slot is right, whatever the intent."""

    def without(fields: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if name != "intent"}

    right = [
        answer is not None and without(answer["fields"]) == without(row["fields"])
        for answer, row in zip(report["answers"], test, strict=True)
    ]
    return {"slots": round(sum(right) / len(right), 4)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", choices=("house", "logs"))
    parser.add_argument("--sentences", type=int, default=15, help="of each template (default: %(default)s)")
    parser.add_argument("--split", choices=("line", "service"), default="line")
    parser.add_argument("--method", choices=("auto", "encoder", "lora", "qlora"), default="auto")
    parser.add_argument("--max-error", type=float, help="wanted of what is answered")
    parser.add_argument("--minutes", type=float, help="handed to tune")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    run_benchmark("skills", args, measure, set=args.set)
