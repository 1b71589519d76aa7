"""Fuzzes all targets in turn: for code coverage by atheris, then for the work of growing inputs.

    python -m tests.integration.fuzz.drive [--minutes 60] [--seed N] [--targets NAME...] [--found FOLDER]
                               [--corpus FOLDER]

Prints the inputs and findings of each target, JSON last. Exit status 1 if there is a finding; its file
becomes a test when it is moved to ``tests/integration/fuzz/corpus``. Inputs that reached new branches are
kept in ``--corpus`` between runs. atheris has wheels for Linux on x86-64 only; elsewhere only work is
tested.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.fuzz.targets import TARGETS, seeds_of
from tests.integration.fuzz.worker import LONGEST_BYTES
from tests.support.paths import ROOT

TURN_S = 60.0
MOST_S = 20
"""Timeout of one input."""
HAS_ATHERIS = importlib.util.find_spec("atheris") is not None


@dataclass(slots=True)
class Tally:
    """A target's results so far."""

    inputs: int = 0
    grown: int = 0
    findings: set[str] = field(default_factory=set)


class Drive:
    """:param found: folder for findings. :param corpus: folder with a folder for each target."""

    def __init__(self, names: Sequence[str], seed: int, found: Path, corpus: Path) -> None:
        self._names = names
        self._chance = random.Random(seed)
        self._found = found
        self._corpus = corpus
        self.tallies = {name: Tally() for name in names}

    def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        turn_s = min(TURN_S, seconds / len(self._names))
        while time.monotonic() < until:
            for name in self._names:
                left = min(turn_s, until - time.monotonic())
                if left > 0.2:
                    self.turn(name, left)

    def turn(self, name: str, seconds: float) -> None:
        """Fuzzes one target, half of the time in each way, if both are available."""
        tally, folder = self.tallies[name], name.replace(" ", "-")
        found, corpus = self._found / folder, self._corpus / folder
        for made in (found, corpus):
            made.mkdir(parents=True, exist_ok=True)
        if HAS_ATHERIS:
            tally.inputs += self._cover(name, found, corpus, seconds / 2)
            seconds /= 2
        tally.grown += self._work(name, found, corpus, seconds)
        texts = {file.name for file in found.iterdir() if file.suffix == ".txt"}
        for new in sorted(texts - tally.findings):
            print(f"{name}: {found / new}\n{(found / new).read_text()[:2000]}", flush=True)
        tally.findings |= texts

    def _cover(self, name: str, found: Path, corpus: Path, seconds: float) -> int:
        seeds = found / ".seeds"
        seeds.mkdir(exist_ok=True)
        for number, seed in enumerate(seeds_of(name)):
            (seeds / str(number)).write_bytes(seed)
        options = [
            f"-max_total_time={max(1, int(seconds))}",
            f"-seed={self._chance.randrange(1, 2**31)}",
            f"-max_len={LONGEST_BYTES}",
            f"-timeout={MOST_S}",
            f"-artifact_prefix={found}/",
            "-print_final_stats=1",
        ]
        done = self._child(["cover", str(found), name, "--", *options, str(corpus), str(seeds)], seconds + 60)
        if done.returncode:
            for artifact in [
                file for file in found.iterdir() if file.name.startswith(("timeout-", "oom-", "crash-"))
            ]:
                self._note(found, artifact.name.partition("-")[0], artifact.read_bytes(), done.stderr[-2000:])
                artifact.unlink()
        units = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
        return int(units[1]) if units else 0

    def _work(self, name: str, found: Path, corpus: Path, seconds: float) -> int:
        seed = str(self._chance.randrange(2**31))
        order = ["work", str(found), name, "--seconds", str(seconds), "--seed", seed, str(corpus)]
        done = self._child(order, seconds + 3 * MOST_S)
        current = found / "current"
        if done.returncode and current.exists():
            self._note(found, "hang", current.read_bytes(), done.stderr[-2000:])
        elif done.returncode:
            self._note(found, "end", seed.encode(), done.stderr[-2000:])
        current.unlink(missing_ok=True)
        said = done.stdout.strip().rpartition("\n")[2]
        return int(json.loads(said)["inputs"]) if said.startswith("{") else 0

    def _note(self, found: Path, kind: str, data: bytes, words: str) -> None:
        name = f"{found.name}.{kind}-{hashlib.sha256(data).hexdigest()[:10]}"
        (found / name).write_bytes(data)
        (found / f"{name}.txt").write_text(
            f"{kind}: no answer in {MOST_S} s, or the process ended\n{words}\n"
        )

    def _child(self, arguments: Sequence[str], most_s: float) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "tests.integration.fuzz.worker", *arguments]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        try:
            return subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                env=environment,
                timeout=most_s,
            )
        except subprocess.TimeoutExpired as error:
            words = (error.stderr or b"").decode(errors="replace")
            return subprocess.CompletedProcess(command, -9, "", words)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="default: a random one, which is printed")
    parser.add_argument(
        "--targets", nargs="+", choices=sorted(TARGETS), default=list(TARGETS), metavar="NAME"
    )
    parser.add_argument("--found", type=Path, default=ROOT / ".edgeslm/fuzz/found")
    parser.add_argument("--corpus", type=Path, default=ROOT / ".edgeslm/fuzz/corpus")
    arguments = parser.parse_args(argv)
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1, 2**31)
    print(
        f"seed {seed}, {len(arguments.targets)} targets, atheris {'yes' if HAS_ATHERIS else 'no'}", flush=True
    )
    drive = Drive(arguments.targets, seed, arguments.found.resolve(), arguments.corpus.resolve())
    drive.run(60 * arguments.minutes)
    print(f"\n{'target':<20}{'inputs':>10}{'grown':>8}{'findings':>10}")
    for name, tally in drive.tallies.items():
        print(f"{name:<20}{tally.inputs:>10}{tally.grown:>8}{len(tally.findings):>10}")
    tallies = drive.tallies.values()
    figures = {
        "seed": seed,
        "minutes": arguments.minutes,
        "inputs": sum(tally.inputs for tally in tallies),
        "grown": sum(tally.grown for tally in tallies),
        "findings": sum(len(tally.findings) for tally in tallies),
    }
    print(json.dumps(figures))
    return int(figures["findings"] > 0)


if __name__ == "__main__":
    sys.exit(main())
