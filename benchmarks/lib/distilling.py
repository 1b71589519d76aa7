"""Distillation: a student trained on a teacher's labels, its teacher, and a student of hand labels.

    python benchmarks/quality/training.py distill [--teacher-rows 2452] [--minutes 12]

TREC: the decoder's adapter is trained on the first rows; the encoder student is trained on the labels that
the teacher gives to the other questions. All are tested on TREC's test through ``edgeslm-export tune`` and
``distill``. Prints one JSON line last; ``--json`` prints that line alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeslm_export.sources.wheel_data import Packages

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.labelled import load_trec
from benchmarks.lib.teaching import run_command, write_rows


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    trec = load_trec(Packages(say, folder=args.packages))
    learned_from, rest = trec.draw(args.teacher_rows, 0)[0], trec.rows
    texts = {row["text"] for row in learned_from}
    unlabelled = [row for row in rest if row["text"] not in texts]
    with tempfile.TemporaryDirectory(prefix="distilling-") as name:
        work = Path(name)
        labels = sorted({row["label"] for row in trec.rows})
        (work / "task.yaml").write_text(f"name: trec\nkind: classify\nlabels: {json.dumps(labels)}\n")
        write_rows(work / "rows.jsonl", learned_from)
        write_rows(work / "unlabelled.jsonl", [{"text": row["text"]} for row in unlabelled])
        write_rows(work / "hand.jsonl", unlabelled)
        write_rows(work / "test.jsonl", trec.test)
        teacher = args.teacher or work / "teacher"
        started = time.monotonic()
        if args.teacher is None:
            minutes = ("--minutes", str(args.minutes)) if args.minutes else ()
            command = ("tune", work / "task.yaml", work / "rows.jsonl", teacher, "--method", "lora")
            say(f"teacher: {run_command(*command, *minutes)['accuracy']} expected")
        taught = time.monotonic()
        order = ("distill", work / "task.yaml", work / "unlabelled.jsonl", work / "student")
        options = ("--teacher", teacher, "--test", work / "test.jsonl", "--hand", work / "hand.jsonl")
        said = run_command(*order, *options)
        ended = time.monotonic()
    by_name = {of["who"]: of for of in said["compared"]}
    for of in said["compared"]:
        speed = f"{of['texts_per_s']:8.1f} messages/s"
        say(f"{of['who']:>24}  {of['accuracy']:.4f}  {speed}  {of['bytes']:,} bytes")
    student, master = by_name["student"], by_name["teacher"]
    return {
        "teacher_rows": len(learned_from),
        "unlabelled": len(unlabelled),
        "dropped": said["dropped"],
        "compared": said["compared"],
        "behind_teacher": round(master["accuracy"] - student["accuracy"], 4),
        "speed": round(student["texts_per_s"] / master["texts_per_s"], 1),
        "minutes_teacher": round((taught - started) / 60, 1),
        "minutes_student": round((ended - taught) / 60, 1),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher-rows", type=int, default=2452, help="(default: %(default)s)")
    parser.add_argument("--teacher", type=Path, help="an adapter that was trained with these rows already")
    parser.add_argument("--minutes", type=float, help="of teaching the teacher")
    parser.add_argument("--from", dest="packages", type=Path, help="take the wheels from this folder")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    run_benchmark("distilling", args, measure)
