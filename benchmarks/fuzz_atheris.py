"""``fuzz.py`` with payloads that a coverage-guided fuzzer finds: atheris, which watches the branches taken.

    python benchmarks/fuzz_atheris.py [--seconds 60] [--seed N] [--corpus FOLDER]

It begins with payloads of ``payloads.py`` and keeps what reaches new code, in ``--corpus`` if that is named.
Ends with status 1 on the first foreign exception, with the payload as libFuzzer prints it. One JSON line
last.
atheris has wheels for Linux on x86-64 only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SEPARATOR = b"\xfe\xfe"
"""Between payload, Response Topic and Correlation Data; no UTF-8 text holds it."""
SEEDS = 500
LONGEST_BYTES = 8192


def fuzz(arguments: Sequence[str]) -> None:
    """In a process of its own: libFuzzer ends it. ``arguments`` are those of libFuzzer."""
    import atheris

    with atheris.instrument_imports(include=["edgeslm.bus", "edgeslm.topics", "edgeslm.messages", "json"]):
        from fuzz import try_case
    from payloads import Case

    def one(data: bytes) -> None:
        payload, topic, correlation, *_ = [*data.split(SEPARATOR, 2), b"", b""]
        response_topic = topic.decode(errors="replace") if SEPARATOR in data else None
        try_case(Case("atheris", payload, response_topic, correlation or None))

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def write_seeds(folder: Path, seed: int) -> None:
    from payloads import Payloads

    payloads = Payloads(seed)
    for number in range(SEEDS):
        case = payloads.make(number)
        parts = [case.payload[:LONGEST_BYTES]]
        if case.response_topic is not None:
            parts += [case.response_topic.encode(errors="replace")[:1000], case.correlation or b""]
        (folder / f"seed-{number}").write_bytes(SEPARATOR.join(parts))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, help="default: a random one, which is printed")
    parser.add_argument("--corpus", type=Path, help="folder of what was found to reach new code")
    arguments = parser.parse_args(argv)
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1, 2**31)
    with tempfile.TemporaryDirectory(prefix="edgeslm-fuzz-") as work:
        seeds, corpus = Path(work) / "seeds", arguments.corpus or Path(work) / "corpus"
        for folder in (seeds, corpus):
            folder.mkdir(parents=True, exist_ok=True)
        write_seeds(seeds, seed)
        options = [f"-max_total_time={arguments.seconds}", f"-seed={seed}", f"-max_len={LONGEST_BYTES}"]
        options += ["-print_final_stats=1", "-timeout=10", f"-artifact_prefix={work}/"]
        command = [sys.executable, __file__, "child", *options, str(corpus.resolve()), str(seeds)]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", env=environment)
        kept = len(list(corpus.iterdir()))
    said = done.stderr
    if done.returncode:
        print(said[-8000:], file=sys.stderr)
    units = re.search(r"stat::number_of_executed_units:\s*(\d+)", said)
    covered = re.findall(r"cov: (\d+) ft: (\d+)", said)
    figures = {
        "seed": seed,
        "seconds": arguments.seconds,
        "payloads": int(units[1]) if units else 0,
        "branches": int(covered[-1][0]) if covered else 0,
        "features": int(covered[-1][1]) if covered else 0,
        "corpus": kept,
        "defects": int(done.returncode != 0),
    }
    print(json.dumps(figures))
    return int(done.returncode != 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        fuzz(sys.argv[2:])
    sys.exit(main())
