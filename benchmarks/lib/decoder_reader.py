"""Can a decoder tell which passage answers a question?

    python benchmarks/quality/documents.py decoder-reader BUNDLE [--set handbooks] [--most 60]

Each question of a set's development half with the passage that answers it, and with one that answers another
question to the same document. Prints the share of questions whose own passage gets the higher probability,
and the AUC over all pairs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from edgeslm_export.jobs.optimum_env import cache_folder

from benchmarks.lib.grounded_collection import answering_passages
from benchmarks.lib.reporting import print_card
from edgeslm.engine.calls import Read
from edgeslm.engine.worker.decoder import Decoder
from edgeslm.engine.worker.yes_no import read
from edgeslm.knowledge.index.queries import Found
from edgeslm.knowledge.index.rerank import readable


def pairs_of(answered: Sequence[tuple[str, Found]]) -> list[tuple[str, str, str]]:
    """Question, passage that answers it, passage of the same document that doesn't."""
    found = []
    for number, (question, own) in enumerate(answered):
        rest = [*answered[number + 1 :], *answered[:number]]
        other = next((one for _, one in rest if one.source == own.source and one.text != own.text), None)
        if other is not None:
            right, wrong = readable([own, other])
            found.append((question, right, wrong))
    return found


def auc(right: Sequence[float], wrong: Sequence[float]) -> float:
    """Share of pairs in which the right one is higher; equal ones count half."""
    won = sum((one > other) + (one == other) / 2 for one in right for other in wrong)
    return won / (len(right) * len(wrong))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--set", choices=("manuals", "handbooks"), default="manuals")
    parser.add_argument("--most", type=int, default=60, help="questions (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=cache_folder() / "downloads")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    options = parser.parse_args()
    card = print_card(bundle=options.bundle.name, set=options.set, threads=options.threads)
    pairs = pairs_of(answering_passages("development", options.cache, options.set))[: options.most]
    decoder = Decoder(options.bundle, options.threads)
    try:
        likely = [
            read(decoder, Read(question, (own, other)), lambda: False).probabilities
            for question, own, other in pairs
        ]
    finally:
        decoder.close()
    figures = {
        "questions": len(pairs),
        "own_first": round(sum(own > other for own, other in likely) / len(likely), 3),
        "auc": round(auc([own for own, _ in likely], [other for _, other in likely]), 3),
    }
    print(
        f"{figures['questions']} questions: the answering passage first for {figures['own_first']}, AUC "
        f"{figures['auc']}"
    )
    print(json.dumps({"benchmark": "decoder-reader", **card, **figures}))


if __name__ == "__main__":
    main()
