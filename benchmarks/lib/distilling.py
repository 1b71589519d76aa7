"""Distillation: a student trained on a teacher's labels, its teacher, and a student of hand labels.

    python benchmarks/quality/training.py distill [--teacher-rows 2452] [--minutes 12]
    python benchmarks/quality/training.py distill --untrained BUNDLE [--unlabelled 1000]
    python benchmarks/quality/training.py distill --server http://127.0.0.1:8080/v1 [--unlabelled 1000]

TREC: the decoder's adapter is trained on the first rows; the encoder student is trained on the labels that
the teacher gives to the other questions. With ``--untrained`` the teacher is a decoder's bundle, which gets
the meanings of the labels and is calibrated on unlabelled questions; with ``--server`` it is a model on an
OpenAI-compatible server. Then no label is used to train anything. All are tested on TREC's test through
``edgeslm-export tune``, ``calibrate`` and ``distill``. Prints one JSON line last; ``--json`` prints that line
alone.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeslm_export.sources.wheel_data import Packages
from edgeslm_export.train.spec import SURE

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.labelled import load_trec
from benchmarks.lib.teaching import run_command, write_rows
from benchmarks.lib.untaught import MEANINGS


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    trec = load_trec(Packages(say, folder=args.packages))
    is_untrained = args.untrained is not None or args.server is not None
    learned_from, rest = [] if is_untrained else trec.draw(args.teacher_rows, 0)[0], list(trec.rows)
    if args.unlabelled:
        random.Random(0).shuffle(rest)
    texts = {row["text"] for row in learned_from}
    unlabelled = [row for row in rest if row["text"] not in texts][: args.unlabelled]
    with tempfile.TemporaryDirectory(prefix="distilling-") as name:
        work = Path(name)
        labels = dict(MEANINGS["trec"]) if is_untrained else sorted({row["label"] for row in trec.rows})
        task = f"name: trec\nkind: classify\nlabels: {json.dumps(labels)}\n"
        (work / "task.yaml").write_text(task)
        write_rows(work / "rows.jsonl", learned_from)
        write_rows(work / "unlabelled.jsonl", [{"text": row["text"]} for row in unlabelled])
        write_rows(work / "hand.jsonl", unlabelled)
        write_rows(work / "test.jsonl", trec.test[: args.test])
        teacher = args.untrained or args.teacher or work / "teacher"
        remote: tuple[str | Path, ...] = ()
        if args.server:
            teacher, remote = f"openai:{args.server}", ("--teacher-model", args.model)
        started = time.monotonic()
        if args.untrained:
            found = run_command("calibrate", work / "task.yaml", work / "unlabelled.jsonl", teacher)
            say(f"label bias: {found['calibration']}")
            (work / "task.yaml").write_text(f"{task}calibration: {json.dumps(found['calibration'])}\n")
        elif args.teacher is None and not args.server:
            minutes = ("--minutes", str(args.minutes)) if args.minutes else ()
            command = ("tune", work / "task.yaml", work / "rows.jsonl", teacher, "--method", "lora")
            say(f"teacher: {run_command(*command, *minutes)['accuracy']} expected")
        taught = time.monotonic()
        order = ("distill", work / "task.yaml", work / "unlabelled.jsonl", work / "student")
        options: tuple[str | Path, ...] = ("--teacher", teacher, *remote, "--test", work / "test.jsonl")
        options += ("--sure", str(args.sure))
        options += () if is_untrained else ("--hand", work / "hand.jsonl")
        options += ("--minutes", str(args.minutes)) if is_untrained and args.minutes else ()
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
    parser.add_argument("--untrained", type=Path, metavar="BUNDLE", help="a decoder as the teacher")
    parser.add_argument("--server", metavar="URL", help="an OpenAI-compatible server as the teacher")
    parser.add_argument("--model", default="teacher", help="its model (default: %(default)s)")
    parser.add_argument("--unlabelled", type=int, help="questions for the student (default: all others)")
    parser.add_argument("--test", type=int, help="test questions (default: all)")
    parser.add_argument("--sure", type=float, default=SURE, help="handed to distill (default: %(default)s)")
    parser.add_argument(
        "--minutes", type=float, help="of training the teacher, or an untrained one's student"
    )
    parser.add_argument("--from", dest="packages", type=Path, help="take the wheels from this folder")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    run_benchmark("distilling", args, measure)
