"""Cases of the package fitz-gov: contexts that answer a question, contradict each other, or lack the answer.

    python benchmarks/quality/documents.py cases [--tier tier0_sanity|tier1_core] [--mode quote|compose]

The contexts of a case are the documents of a collection of its own, searched like any other. Forbidden claims
are the package's patterns, searched in the answers; a declined case claims nothing. Tier 0 is the measure,
tier 1 is for development. No code of the package is run.

Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeslm_export.evaluate.report_card import load_encoder
from edgeslm_export.sources.wheel_data import Package, Packages

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.grounded import AskTask, answer_task, share, with_engine
from benchmarks.lib.paths import STARTER
from benchmarks.lib.second_look import search_twice
from edgeslm.bundle.manifest import load_bundle
from edgeslm.cli.embedding import Embedding
from edgeslm.engine.worker.encoder import Encoder
from edgeslm.knowledge.documents.passages import Document, split
from edgeslm.knowledge.index.collection import Collection, DocumentOrigin
from edgeslm.knowledge.index.queries import EncoderTag, Found
from edgeslm.knowledge.index.rerank import DEPTH

FITZ_GOV: Final = Package(
    requirement="fitz-gov==4.1.0",
    wheel="fitz_gov-4.1.0-py3-none-any.whl",
    wheel_sha256="5ad53b20774a41ce2c6d8f0a360fb406bbfe52bbb522449121eaae803b1a671a",
    bytes=3_254_362,
    folder="fitz_gov/data/",
    member="fitz_gov/data/tier0_sanity/abstention.json",
    member_sha256="ec7552049632836525f6e8e8b5724385521eb5f1dfaa52eb151b01ed459ca349",
)
TIERS: Final = ("tier0_sanity", "tier1_core")
MOST_TOKENS: Final = 64
SEED: Final = 7


@dataclass(frozen=True, slots=True)
class Case:
    """``mode`` is what should be done: ``trustworthy``, ``disputed`` or ``abstain``."""

    id: str
    question: str
    contexts: Sequence[str]
    mode: str
    forbidden: Sequence[str]


def load_cases(tier: str, packages: Packages) -> list[Case]:
    with packages.unpacked(FITZ_GOV) as unpacked:
        files = sorted((unpacked.path / FITZ_GOV.folder / tier).glob("*.json"))
        return [parse_case(row) for file in files for row in json.loads(file.read_text("utf-8"))["cases"]]


def draw_cases(tier: str, packages: Packages, most: int | None) -> list[Case]:
    cases = load_cases(tier, packages)
    random.Random(SEED).shuffle(cases)
    return cases[:most]


def parse_case(row: dict[str, Any]) -> Case:
    return Case(
        row["id"],
        row["query"],
        tuple(row["contexts"]),
        row["expected_mode"],
        tuple(row.get("forbidden_claims") or ()),
    )


def search_case(case: Case, embedding: Embedding, folder: Path, reader: Encoder | None = None) -> list[Found]:
    file = folder / f"{case.id}.sqlite"
    with Collection(file, writes=True) as collection:
        collection.use_encoder(EncoderTag(embedding.bundle.digest, str(embedding.bundle.path)))
        for number, text in enumerate(case.contexts, 1):
            document = Document(f"context-{number}", "", text)
            collection.put(document, split(document), DocumentOrigin(str(number), 0, 0.0), embed=embedding)
        found = search_twice(collection, case.question, embedding, DEPTH, reader)
    file.unlink()
    return found


def claims_forbidden(case: Case, text: str) -> bool:
    return any(re.search(pattern, text, re.IGNORECASE) for pattern in case.forbidden)


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    cases = draw_cases(args.tier, Packages(say, folder=args.packages), args.most)
    reader = load_encoder(args.reader) if args.reader else None
    with tempfile.TemporaryDirectory(prefix="cases-") as name, Embedding(args.encoder) as embedding:
        found = {case.id: search_case(case, embedding, Path(name), reader) for case in cases}

    async def work(ask: AskTask) -> list[Any]:
        outcomes = []
        for case in cases:
            keys = {"mode": args.mode, "max_tokens": MOST_TOKENS}
            keys |= {} if args.threshold is None else {"threshold": args.threshold}
            task = answer_task({case.question: found[case.id]}, **keys)
            outcomes.append(await ask(task, case.question))
        return outcomes

    outcomes = with_engine(args.decoder, work)
    by_mode: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    forbidden = []
    for case, outcome in zip(cases, outcomes, strict=True):
        what = "answered" if outcome.status == "ok" else "declined"
        what = "contradiction" if outcome.result.get("conflict") else what
        by_mode[case.mode]["cases"] += 1
        by_mode[case.mode][what] += 1
        if outcome.status == "ok":
            forbidden.append(claims_forbidden(case, outcome.result["text"]))
        if args.rows:
            say(f"{case.id} {case.mode} {what} {outcome.result['confidence']:.2f} {case.question}")
            say(f"    {outcome.result['text'][:160]!r}")
    for mode, counts in by_mode.items():
        say(f"{mode:>22}  " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    trustworthy = by_mode["trustworthy"]
    return {
        "modes": {mode: dict(counts) for mode, counts in by_mode.items()},
        "forbidden_of_answers": share(forbidden),
        "trustworthy_answered": round(trustworthy["answered"] / max(1, trustworthy["cases"]), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tier", choices=TIERS, default=TIERS[0])
    parser.add_argument("--mode", choices=("quote", "compose"), default="quote")
    parser.add_argument("--most", type=int, help="so many cases of the tier, drawn by a seed")
    parser.add_argument("--threshold", type=float, help="the task's own if left out")
    parser.add_argument("--decoder", type=Path, default=STARTER / "smollm2-135m-int4")
    parser.add_argument("--encoder", type=Path, default=STARTER / "minilm-l6-int8")
    parser.add_argument("--reader", type=Path, help="reads the passages found with the question")
    parser.add_argument("--from", dest="packages", type=Path, help="take the wheel from this folder")
    parser.add_argument("--rows", action="store_true", help="also print each case")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    about = {"reader": load_bundle(args.reader).digest} if args.reader else {}
    run_benchmark("grounded_cases", args, measure, tier=args.tier, mode=args.mode, **about)
