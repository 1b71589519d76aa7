"""Accuracy without training: zero-shot encoders and decoders on five sets, with and without ten labels.

    python benchmarks/quality/zero_shot.py labels BUNDLE... [--gguf FILE] [--sets trec sms] [--part test]

The labels have meanings (``lib/untaught.py``); decoders get the prompts of a node. ``unlabelled`` is the
accuracy after ``edgeslm-export calibrate`` with up to 64 further texts. ``ten labels`` is the mean accuracy
after ``calibrate --labelled`` with ten random development rows, over several draws; ``worst`` is the lowest
gain of a draw, and ``kept`` the share of draws with a bias. Figures are of ``--part``; on the development
part, without the rows of the draw. With ``--gguf`` llama.cpp gets the first bundle's tokens and scores the
labels in the same way; ``written`` is the label that it writes by itself, greedily. Kinds of models of which
no bundle is named are told as not measured. Prints a table for each bundle, then one JSON line; ``--json``
prints that line alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from benchmarks.lib.untaught import FIVE, SETS, TEXTS, Untaught, load_untaught
from edgeslm.bundle.calibration import FEWEST_LABELLED, without_bias
from edgeslm.bundle.manifest import load_bundle
from edgeslm.config.loader import Task as TaskSection
from edgeslm.engine.calls import Call, Output, Score
from edgeslm.engine.worker.label_bias import fit_bias
from edgeslm.engine.worker.labels import Branch, make_tree
from edgeslm.engine.worker.prompt import ChatTokenizer

Scores = Sequence[dict[str, float]]
KINDS: Final = ("decoder", "gliclass", "nli")
"""Kinds of models that label texts without training."""
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


def accuracy(scores: Scores, truth: Sequence[str], bias: Mapping[str, float] | None = None) -> float:
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


def measure_set(
    args: argparse.Namespace, bundle: Path, untaught: Untaught, llama: LlamaLabels | None
) -> dict[str, Any]:
    rows = {"development": untaught.development, "test": untaught.test}[args.part]
    own = [*untaught.development, *(rows if args.part == "test" else ())]
    texts, truth = [row["text"] for row in rows], [row["label"] for row in rows]
    asked = [*(row["text"] for row in own), *untaught.unlabelled]
    report = examine_bundle(bundle, exam_of(untaught, asked), threads=args.threads)
    every = scores_of(report)
    scores = every[len(own) - len(rows) : len(own)]
    figures: dict[str, Any] = {"set": untaught.name, "texts": len(texts), "labels": len(untaught.meanings)}
    figures["plain"] = accuracy(scores, truth)
    shares = label_shares(list(untaught.meanings), untaught.expected)
    figures["unlabelled"] = accuracy(scores, truth, label_bias(every[len(own) :], shares))
    learned = (every[: len(untaught.development)], [row["label"] for row in untaught.development])
    judged = (scores, truth) if args.part == "test" else None
    drawn = draws(learned, judged, tuple(untaught.meanings), args.labelled, args.draws)
    figures |= {"ten labels": drawn.mean, "worst": drawn.worst, "kept": drawn.kept}
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


@dataclass(frozen=True, slots=True)
class Draws:
    """``mean`` accuracy after calibration on each draw of a few labelled rows; ``worst``, the lowest
    difference to the accuracy without it; and the share of draws whose bias was ``kept``."""

    mean: float
    worst: float
    kept: float


def draws(
    learned: tuple[Scores, Sequence[str]],
    judged: tuple[Scores, Sequence[str]] | None,
    labels: Sequence[str],
    count: int,
    times: int,
) -> Draws:
    """:param learned: scores and labels to draw ``count`` from, ``times`` times.
    :param judged: those that the accuracy is measured on; None: those that aren't drawn."""
    right: list[float] = []
    gains: list[float] = []
    kept, every = 0, range(len(learned[1]))
    for seed in range(times):
        chosen = random.Random(seed).sample(every, min(count, len(every)))
        scores, truth = [learned[0][at] for at in chosen], [learned[1][at] for at in chosen]
        bias = fit_bias(scores, truth, labels).biases
        kept += bias is not None
        left = sorted(set(every) - set(chosen))
        others = ([learned[0][at] for at in left], [learned[1][at] for at in left])
        right.append(accuracy(*(judged or others), bias))
        gains.append(right[-1] - accuracy(*(judged or others)))
    return Draws(round(mean(right), 4), round(min(gains), 4), kept / times)


def lines_of(bundle: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    names = [name for name in rows[0] if name not in ("set", "texts", "labels")]
    lines = [
        "",
        bundle,
        f"{'set':>10} {'labels':>6} {'texts':>5} " + " ".join(f"{name:>17}" for name in names),
    ]
    lines += [
        f"{row['set']:>10} {row['labels']:6} {row['texts']:5} "
        + " ".join(f"{row[name]:17}" for name in names)
        for row in rows
    ]
    means = " ".join(f"{mean(row[name] for row in rows):17.4f}" for name in names)
    return [*lines, f"{'mean':>10} {'':>12} {means}"]


def kind_of(bundle: Path) -> str:
    """``decoder``, or the kind of a zero-shot encoder."""
    manifest = load_bundle(bundle).manifest
    return manifest.zero_shot.kind if manifest.zero_shot is not None else manifest.kind


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    packages = Packages(say, folder=args.packages)
    kinds = {bundle.name: kind_of(bundle) for bundle in args.bundles}
    first = args.bundles[0]
    llama = LlamaLabels(args.gguf, first, args.threads, writes=args.write) if args.gguf else None
    sets = [load_untaught(name, packages, args.texts) for name in args.sets]
    found = {}
    for bundle in args.bundles:
        rows = [measure_set(args, bundle, one, llama if bundle == first else None) for one in sets]
        found[bundle.name] = {"kind": kinds[bundle.name], "sets": rows}
        say("\n".join(lines_of(f"{bundle.name} ({kinds[bundle.name]})", rows)))
    if llama is not None:
        llama.close()
    absent = [kind for kind in KINDS if kind not in kinds.values()]
    for kind in absent:
        say(f"{kind:>10}: not measured, since no bundle of this kind is named")
    return {"bundles": found, "not_measured": absent}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "bundles", type=Path, nargs="+", metavar="BUNDLE", help="of a decoder or zero-shot encoder"
    )
    parser.add_argument("--gguf", type=Path, help="the first bundle's model for llama.cpp")
    parser.add_argument("--write", action="store_true", help="let llama.cpp also write the label")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(FIVE))
    parser.add_argument("--part", choices=("development", "test"), default="development")
    parser.add_argument("--texts", type=int, default=TEXTS, help="of each part (default: %(default)s)")
    parser.add_argument("--labelled", type=int, default=FEWEST_LABELLED, help="(default: %(default)s)")
    parser.add_argument("--draws", type=int, default=20, help="of labelled rows (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="(default: all)")
    parser.add_argument("--from", dest="packages", type=Path, help="take the wheels from this folder")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    run_benchmark("zero-shot", args, measure, part=args.part, labelled=args.labelled, draws=args.draws)
