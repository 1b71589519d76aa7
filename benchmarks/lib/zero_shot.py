"""Accuracy of untrained decoders on five sets: scored labels, with and without batch calibration.

    python benchmarks/quality/training.py zero-shot BUNDLE [--gguf FILE] [--sets trec sms] [--part test]

The labels have meanings (``lib/untaught.py``); the prompts are those of a node. Batch calibration takes up to
64 further texts without labels, as ``edgeslm-export calibrate`` does. With ``--gguf`` llama.cpp gets the same
tokens and scores the labels in the same way; ``written`` is the label that it writes by itself, greedily.
Prints a table, then one JSON line; ``--json`` prints that line alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Final

import numpy as np
from edgeslm_export.data.rows import LabelledRow
from edgeslm_export.evaluate.report_card import examine_bundle
from edgeslm_export.evaluate.task_eval import Exam, take_exam
from edgeslm_export.sources.wheel_data import Packages
from edgeslm_export.train.label_bias import label_bias, label_shares

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.llama import Engine
from benchmarks.lib.untaught import SETS, TEXTS, Untaught, load_untaught
from edgeslm.bundle.calibration import without_bias
from edgeslm.config.loader import Task as TaskSection
from edgeslm.engine.calls import Call, Output, Score
from edgeslm.engine.worker.labels import Branch, make_tree
from edgeslm.engine.worker.prompt import ChatTokenizer

Scores = Sequence[dict[str, float]]
_ROOM: Final = 2048
_WRITTEN_TOKENS: Final = 8


class LlamaLabels:
    """Scores labels with llama.cpp. :param bundle: its tokenizer and chat template make the prompts."""

    def __init__(self, gguf: Path, bundle: Path, threads: int, *, writes: bool) -> None:
        self._engine = Engine(gguf, threads, _ROOM, flash_attention=True)
        self._chat = ChatTokenizer(bundle)
        self._end_ids = frozenset(_end_ids(bundle))
        self._writes = writes
        self.written: list[str] = []

    async def ask(self, call: Call, on_chunk: Any = None) -> Output:
        if not isinstance(call, Score):
            raise TypeError(type(call).__name__)
        ids = self._chat.encode(call.prompt, _ROOM).ids
        tree = make_tree([self._chat.encode_text(label) for label in call.labels])
        found: dict[int, float] = {}
        self._walk(ids, tree, 0.0, found)
        if self._writes:
            self.written.append(self._write(ids))
        return Output(probabilities=tuple(math.exp(found[number]) for number in range(len(call.labels))))

    def close(self) -> None:
        self._engine.close()

    def _walk(self, ids: Sequence[int], node: Branch, total: float, found: dict[int, float]) -> None:
        shares = node.log_shares(self._engine.logits(ids), self._end_ids)
        for number, path, below in node.edges():
            if below.label is not None:
                found[below.label] = total + float(shares[number])
            else:
                self._walk([*ids, *path], below, total + float(shares[number]), found)

    def _write(self, ids: Sequence[int]) -> str:
        written: list[int] = []
        while len(written) < _WRITTEN_TOKENS:
            token = int(self._engine.logits([*ids, *written]).argmax())
            if token in self._end_ids:
                break
            written.append(token)
        text: str = self._chat.tokenizer.decode(written)
        return text


def _end_ids(bundle: Path) -> Sequence[int]:
    end = json.loads((bundle / "genai_config.json").read_text("utf-8"))["model"]["eos_token_id"]
    return end if isinstance(end, list) else [end]


def exam_of(untaught: Untaught, texts: Sequence[str]) -> Exam:
    section = TaskSection.model_validate(
        {"kind": "classify", "model": "model", "labels": dict(untaught.meanings), "overflow": "head"},
        strict=False,
    )
    any_label = next(iter(untaught.meanings))
    rows = [LabelledRow(number, text, any_label) for number, text in enumerate(texts, 1)]
    return Exam(untaught.name, section, rows, with_answers=True)


def scores_of(report: dict[str, Any]) -> Scores:
    return [answer["scores"] for answer in report["answers"]]


def accuracy(scores: Scores, truth: Sequence[str], bias: dict[str, float] | None = None) -> float:
    """:param bias: what batch calibration removes."""
    hits = 0
    for of, label in zip(scores, truth, strict=True):
        shares = tuple(of.values())
        if bias is not None:
            shares = without_bias(shares, [bias[name] for name in of])
        hits += list(of)[int(np.argmax(shares))] == label
    return round(hits / len(truth), 4)


def first_label(text: str, labels: Sequence[str]) -> str | None:
    """The label that a written answer names first."""
    places = {label: text.lower().find(label.lower()) for label in labels}
    there = {label: place for label, place in places.items() if place >= 0}
    return min(there, key=lambda label: there[label], default=None)


def measure_set(args: argparse.Namespace, untaught: Untaught, llama: LlamaLabels | None) -> dict[str, Any]:
    rows = {"development": untaught.development, "test": untaught.test}[args.part][: args.texts]
    texts, truth = [row["text"] for row in rows], [row["label"] for row in rows]
    figures: dict[str, Any] = {"set": untaught.name, "texts": len(texts), "labels": len(untaught.meanings)}
    report = examine_bundle(
        args.bundle, exam_of(untaught, [*texts, *untaught.unlabelled]), threads=args.threads
    )
    scores = scores_of(report)
    bias = label_bias(scores[len(texts) :], label_shares(list(untaught.meanings), untaught.expected))
    figures["plain"] = accuracy(scores[: len(texts)], truth)
    figures["calibrated"] = accuracy(scores[: len(texts)], truth, bias)
    figures["ms_per_text"] = report["ms_per_row"]
    if llama is not None:
        scores = scores_of(take_exam(exam_of(untaught, texts), llama.ask))
        figures["llama.cpp"] = accuracy(scores, truth)
        if args.write:
            said = [first_label(text, list(untaught.meanings)) for text in llama.written[-len(texts) :]]
            figures["llama.cpp written"] = round(
                sum(a == b for a, b in zip(said, truth, strict=True)) / len(truth), 4
            )
    return figures


def lines_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    names = [name for name in rows[0] if name not in ("set", "texts", "labels")]
    lines = ["", f"{'set':>10} {'labels':>6} {'texts':>5} " + " ".join(f"{name:>17}" for name in names)]
    lines += [
        f"{row['set']:>10} {row['labels']:6} {row['texts']:5} "
        + " ".join(f"{row[name]:17}" for name in names)
        for row in rows
    ]
    means = " ".join(f"{mean(row[name] for row in rows):17.4f}" for name in names)
    return [*lines, f"{'mean':>10} {'':>12} {means}"]


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    packages = Packages(say, folder=args.packages)
    llama = LlamaLabels(args.gguf, args.bundle, args.threads, writes=args.write) if args.gguf else None
    rows = []
    for name in args.sets:
        rows.append(measure_set(args, load_untaught(name, packages), llama))
        say(f"  {rows[-1]}")
    if llama is not None:
        llama.close()
    say("\n".join(lines_of(rows)))
    return {"sets": rows}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, help="a decoder's bundle")
    parser.add_argument("--gguf", type=Path, help="the same model for llama.cpp")
    parser.add_argument("--write", action="store_true", help="let llama.cpp also write the label")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--part", choices=("development", "test"), default="development")
    parser.add_argument("--texts", type=int, default=TEXTS, help="of each set (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="(default: all)")
    parser.add_argument("--from", dest="packages", type=Path, help="take the wheels from this folder")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    run_benchmark("zero-shot", args, measure, bundle=args.bundle.name, part=args.part)
