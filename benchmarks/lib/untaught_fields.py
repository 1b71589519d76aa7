"""Fields that an untrained decoder extracts: from sshd log lines, and from sentences said to Home Assistant.

    python benchmarks/quality/training.py fields BUNDLE [--sets sshd house] [--part test] [--errors 10]

``sshd``: whether a line is a failed login, and the client's address (``lib/log_lines.py``). ``house``: the
action, and the names of device, room and floor (``lib/household.py``). A node's prompts and grammar are used,
and texts are words of the message (``verbatim``). Prints a table, then one JSON line; ``--json`` prints that
line alone.
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from edgeslm_export.data.rows import FieldsRow
from edgeslm_export.evaluate.report_card import examine_bundle
from edgeslm_export.evaluate.task_eval import Exam, all_same

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.household import load_household
from benchmarks.lib.log_lines import load_lines
from benchmarks.lib.untaught import MEANINGS, label_of
from edgeslm.config.loader import Task as TaskSection

TEXTS: Final = 200
_ACTIONS: Final = "; ".join(f"{label}: {meaning}" for label, meaning in MEANINGS["house"].items())
SCHEMAS: Final[Mapping[str, Mapping[str, Any]]] = {
    "sshd": {
        "type": "object",
        "properties": {
            "failed": {"type": "boolean", "description": "whether a login or connection attempt was refused"},
            "host": {
                "type": "string",
                "pattern": r"^\S+$",
                "description": "address or name of the client that tried to log in",
            },
        },
        "required": ["failed"],
    },
    "house": {
        "type": "object",
        "properties": {
            "action": {"enum": list(MEANINGS["house"]), "description": _ACTIONS},
            "name": {"type": "string", "description": "name of the one device, timer, scene or person"},
            "area": {"type": "string", "description": "name of the room"},
            "floor": {"type": "string", "description": "name of the floor"},
        },
        "required": ["action"],
    },
}

Rows = Sequence[FieldsRow]


def load_sshd() -> tuple[Rows, Rows]:
    """Every second line for development, the others for the test."""
    lines = [row for row in load_lines() if row["service"] == "sshd"]
    rows = [FieldsRow(number, row["text"], row["fields"]) for number, row in enumerate(lines, 1)]
    return rows[::2], rows[1::2]


def load_house() -> tuple[Rows, Rows]:
    """Sentences of the templates to train on for development, of the others for the test."""
    found = load_household(15)
    return sentences(found.train), sentences(found.test)


def sentences(rows: Sequence[Mapping[str, Any]]) -> Rows:
    found = []
    for row in rows:
        if (action := label_of(row["fields"]["intent"])) is not None:
            slots = {key: row["fields"].get(key) for key in ("name", "area", "floor")}
            said = {key: value for key, value in slots.items() if value and value in row["text"]}
            found.append((row["text"], {"action": action, **said}))
    chosen = random.Random(0).sample(found, min(TEXTS, len(found)))
    return [FieldsRow(number, text, fields) for number, (text, fields) in enumerate(chosen, 1)]


LOADERS: Final = {"sshd": load_sshd, "house": load_house}


def measure_set(args: argparse.Namespace, name: str, say: Say) -> dict[str, Any]:
    rows = LOADERS[name]()[args.part == "test"][: args.texts]
    section = TaskSection.model_validate(
        {"kind": "extract", "model": "model", "verbatim": True, "schema": SCHEMAS[name], "overflow": "head"},
        strict=False,
    )
    exam = Exam(name, section, rows, with_answers=True)
    report = examine_bundle(args.bundle, exam, threads=args.threads)
    answers = [answer["fields"] if answer else None for answer in report["answers"]]
    wrong = [pair for pair in zip(rows, answers, strict=True) if not all_same(pair[1], pair[0].fields)]
    for row, answer in wrong[: args.errors]:
        say(f"  {row.text!r}: {answer}, not {dict(row.fields)}")
    fields = {f"{field} f1": of["f1"] for field, of in report["fields"].items()}
    return {
        "set": name,
        "texts": len(rows),
        "exact": report["exact"],
        "f1": report["f1"],
        **fields,
        "ms_per_text": report["ms_per_row"],
    }


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    rows = []
    for name in args.sets:
        rows.append(measure_set(args, name, say))
        say("  ".join(f"{key} {value}" for key, value in rows[-1].items()))
    return {"sets": rows}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, help="a decoder's bundle")
    parser.add_argument("--sets", nargs="+", choices=LOADERS, default=list(LOADERS))
    parser.add_argument("--part", choices=("development", "test"), default="development")
    parser.add_argument("--texts", type=int, default=TEXTS, help="of each set (default: %(default)s)")
    parser.add_argument("--errors", type=int, default=0, help="show so many wrong answers of each set")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="(default: all)")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    run_benchmark("fields", args, measure, bundle=args.bundle.name, part=args.part)
