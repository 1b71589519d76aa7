"""When does a node notice that its messages have changed, and is it quiet while they haven't?

    python benchmarks/quality.py drift --method head

Teaches a task from TREC's rows but 2,000 and asks it those, through the daemon over MQTT, looking at
``drift`` in the ``health`` that the node publishes after each 500; then 200 SMS messages, looking after each
50. One JSON line last; ``--json`` prints that alone.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cards import Say, run_benchmark
from edgeslm_export.sources.wheel_data import Packages
from edgeslm_export.starter import ENCODER, default_folder
from labelled import load_sms, load_trec
from served import ask, health, served
from teaching import run_command, write_rows

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
    parser.add_argument("--learned", type=Path, help="a task that was taught with the same rows already")
    parser.add_argument("--from", dest="packages", type=Path, help="take the wheels from this folder")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    run_benchmark("drifting", args, measure, method=args.method)


if __name__ == "__main__":
    main()
