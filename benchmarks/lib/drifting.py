"""Drift: number of messages until a node reports that its messages have changed; false positives.

    python benchmarks/quality/training.py drift --method head

Trains a task on TREC's rows except 2,000, sends it those through the daemon over MQTT, and reads ``drift`` in
the node's ``health`` after each 500; then 200 SMS messages, reading after each 50. Prints one JSON line last;
``--json`` prints that line alone.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeslm_export.sources.wheel_data import Packages
from edgeslm_export.starter import ENCODER, default_folder

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.labelled import load_sms, load_trec
from benchmarks.lib.served import ask, health, served
from benchmarks.lib.teaching import run_command, write_rows

SAME = 2000
OTHER = 200


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    packages = Packages(say, folder=args.packages)
    trec, sms = load_trec(packages), load_sms(packages)
    rows = list(trec.rows)
    random.Random(0).shuffle(rows)
    same, learned_from = rows[:SAME], rows[SAME:]
    other = random.Random(0).sample(list(sms.rows), OTHER)
    with tempfile.TemporaryDirectory(prefix="drifting-") as name:
        work = Path(name)
        (work / "task.yaml").write_text("name: trec\nkind: classify\n")
        write_rows(work / "rows.jsonl", learned_from)
        out = args.learned or work / "out"
        if args.learned is None:
            run_command("tune", work / "task.yaml", work / "rows.jsonl", out, "--method", args.method)
        parts = {
            "models": {"minilm": {"bundle": str(default_folder() / ENCODER)}},
            "tasks": {"trec": {"learned": str(out.resolve()), "overflow": "head"}},
        }
        with served(parts) as (url, _):
            quiet = watch(url, [row["text"] for row in same], 500, say, until_moved=False)
            noticed = watch(url, [row["text"] for row in other], 50, say, until_moved=True)
    return {
        "learned_from": len(learned_from),
        "same": {"messages": len(same), "moved": any(look["moved"] for look in quiet), "last": quiet[-1]},
        "other": {"noticed_after": 50 * len(noticed) if noticed[-1]["moved"] else None, "last": noticed[-1]},
    }


def watch(url: str, texts: Sequence[str], every: int, say: Say, *, until_moved: bool) -> list[dict[str, Any]]:
    """What ``health`` says of the task after each ``every`` messages."""
    looks = []
    for at in range(0, len(texts), every):
        ask(url, "trec", texts[at : at + every], 8)
        looks.append(health(url)["drift"]["trec"])
        say(f"  {at + every:>6} messages  {looks[-1]}")
        if until_moved and looks[-1]["moved"]:
            break
    return looks


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", choices=("head", "encoder"), default="head")
    parser.add_argument("--learned", type=Path, help="a task that was trained with the same rows already")
    parser.add_argument("--from", dest="packages", type=Path, help="take the wheels from this folder")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    run_benchmark("drifting", args, measure, method=args.method)
