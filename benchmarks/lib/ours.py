"""Child process of ``engine.py llama``: a bundle behind the decoder of production.

Reads one JSON line for each run, ``{"system": ..., "text": ..., "fresh": n, "tokens": n}``, and answers
with times. ``fresh`` is how many of the prompt's tokens the run before doesn't share: the engine keeps its
cache, so those are the ones it computes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.lib.prompts import prompt_of
from edgeslm.bundle.manifest import load_bundle
from edgeslm.engine.calls import Generate
from edgeslm.engine.prepack.prepare import graph_of
from edgeslm.engine.worker.decoder import Decoder
from edgeslm.engine.worker.prepared import find_prepared


def run(decoder: Decoder, system: str, text: str, fresh: int, count: int) -> dict[str, float]:
    """Milliseconds of the prompt with its first token, and of up to ``count - 1`` more.

    ``first_ms`` also holds the chat template and the tokenizer.
    """
    started = time.perf_counter()
    output = decoder.generate(Generate(prompt_of(system, text), max_tokens=count))
    total_ms = (time.perf_counter() - started) * 1000
    cost = output.cost
    return {
        "prefill_ms": cost.prefill_ms,
        "prefill_tokens": fresh,
        "first_ms": total_ms - cost.decode_ms,
        "decode_ms": cost.decode_ms,
        # The end token is computed like any other, but doesn't count as one of the answer's.
        "decode_tokens": cost.completion_tokens - (output.finish_reason == "length"),
    }


def serve(decoder: Decoder) -> None:
    """Answers each line on standard input with one on standard output."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        times = run(decoder, job["system"], job["text"], job["fresh"], job["tokens"])
        print(json.dumps(times), flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="edgeslm's side of benchmarks/speed/engine.py llama.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--prepared", type=Path, metavar="FOLDER", help="where it was prepared")
    args = parser.parse_args(argv)
    prepared = None
    if args.prepared:
        bundle = load_bundle(args.bundle)
        prepared = find_prepared(bundle, graph_of(bundle, adapters=False), args.prepared)
    serve(Decoder(args.bundle, args.threads, prepared=prepared))


if __name__ == "__main__":
    main()
