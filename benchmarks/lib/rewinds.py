"""Answers of kept and rewound caches against those of fresh ones.

    python benchmarks/speed/engine.py rewinds [BUNDLE] [--requests 1000] [--threads 2]

Requests of five tasks in random order: labels scored branch by branch, text, and text with a grammar, each
with the task's instruction and a message of random words. One decoder keeps its caches and rewinds them, the
other forgets them before each request. Counts requests whose probabilities or text differ by a bit.
Processors with AVX-512 sum short pieces in another order than long ones, so the largest difference of a
probability is printed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.lib.reporting import print_card
from edgeslm.engine.calls import Generate, Guide, Output, Prompt, Score, Text, Turn
from edgeslm.engine.worker.decoder import Decoder

WORDS: Final = (
    *(
        "pump",
        "valve",
        "belt",
        "motor",
        "spindle",
        "oil",
        "pressure",
        "door",
        "sensor",
        "press",
        "line",
        "hall",
    ),
    *(
        "hot",
        "loud",
        "smells",
        "leaks",
        "stopped",
        "runs",
        "again",
        "since",
        "noon",
        "not",
        "is",
        "the",
        "burnt",
    ),
    *("3", "12", "81", "degrees", "bar", "please", "look", "soon", "now", "nobody", "slow", "fast", "near"),
)
URGENT: Final = "How urgent is this message from a machine operator? Answer with one label and nothing else."
WHAT: Final = "What is this message about? Answer with one of the subjects and nothing else."
BRIEF: Final = "Say in a few words what the message is about. Do not add anything that is not in it."


def call_of(kind: int, message: str) -> Generate | Score:
    """A request of one of five tasks."""
    instruction = (URGENT, WHAT, BRIEF, BRIEF, WHAT)[kind]
    prompt = Prompt((Turn("system", (instruction,)), Turn("user", (Text(message, cut=True),))))
    if kind == 0:
        return Score(prompt, ("normal", "warning", "critical"))
    if kind == 1:
        return Score(prompt, ("pump failure", "pump noise", "pump", "belt failure", "belt noise", "other"))
    if kind == 2:
        return Generate(prompt, 8)
    guide = Guide("regex", "(pump|belt|motor|valve) (is|was) [a-z ]{3,12}")
    return Generate(prompt, 8, guide=guide if kind == 3 else None)


def compare(reused: Decoder, fresh: Decoder, requests: int, seed: int) -> dict[str, Any]:
    """Runs all requests on both decoders. :return: counts, the largest difference of a probability, and the
    milliseconds of a request on either."""
    chosen = random.Random(seed)
    labels = texts = wrong_labels = wrong_texts = 0
    largest, seconds = 0.0, [0.0, 0.0]
    for _ in range(requests):
        message = " ".join(chosen.choices(WORDS, k=chosen.randint(3, 40)))
        call = call_of(chosen.randrange(5), message)
        fresh.forget()
        found = [_timed(decoder, call, seconds, at) for at, decoder in enumerate((reused, fresh))]
        if isinstance(call, Score):
            labels += 1
            wrong_labels += found[0].probabilities != found[1].probabilities
            largest = max(largest, *_apart(found))
        else:
            texts += 1
            wrong_texts += found[0].text != found[1].text
    return {
        "requests": requests,
        "labelled": labels,
        "labelled_otherwise": wrong_labels,
        "largest_difference": largest,
        "written": texts,
        "written_otherwise": wrong_texts,
        "reused_ms": round(1000 * seconds[0] / requests, 1),
        "fresh_ms": round(1000 * seconds[1] / requests, 1),
    }


def _timed(decoder: Decoder, call: Generate | Score, seconds: list[float], at: int) -> Output:
    started = time.perf_counter()
    output = decoder.score(call) if isinstance(call, Score) else decoder.generate(call)
    seconds[at] += time.perf_counter() - started
    return output


def _apart(found: Sequence[Output]) -> list[float]:
    one, other = (output.probabilities for output in found)
    return [abs(a - b) for a, b in zip(one, other, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(".edgeslm/starter/smollm2-135m-int4")
    parser.add_argument("bundle", type=Path, nargs="?", default=default, metavar="BUNDLE")
    parser.add_argument("--requests", type=int, default=1000, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    options = parser.parse_args()
    card = print_card(bundle=options.bundle.name, threads=options.threads)
    reused, fresh = Decoder(options.bundle, options.threads), Decoder(options.bundle, options.threads)
    try:
        figures = compare(reused, fresh, options.requests, options.seed)
    finally:
        reused.close()
        fresh.close()
    print(
        f"{figures['requests']} requests: {figures['labelled_otherwise']} of {figures['labelled']} labelled "
        f"otherwise (at most {figures['largest_difference']:.2g}), {figures['written_otherwise']} of "
        f"{figures['written']} written otherwise; {figures['reused_ms']} ms a request, fresh "
        f"{figures['fresh_ms']} ms"
    )
    print(json.dumps({"benchmark": "rewinds", **card, **figures}))


if __name__ == "__main__":
    main()
