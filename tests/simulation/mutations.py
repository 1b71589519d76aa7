"""Mutations: small wrong changes of the product's code, each a patch, to see whether the seeds find them.

Each mutation is applied to a copy of the package ``edgeslm``, and the seeds run on that copy.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

PATCHES = Path(__file__).parent / "mutations"
CHUNK = 40
"""Seeds that one process runs."""


@dataclass(frozen=True)
class Found:
    """``invariant`` is what found the mutation; empty if none did."""

    patch: str
    invariant: str
    seed: int | None
    seeds: int
    took_s: float


def patches(names: Sequence[str] = ()) -> list[Path]:
    found = sorted(PATCHES.glob("*.patch"))
    return [
        one
        for one in found
        if not names or any(one.stem.startswith(name) or name in one.stem for name in names)
    ]


def copy_of_product(folder: Path) -> None:
    """The packages that a simulation needs."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(ROOT / "edgeslm", folder / "edgeslm", ignore=ignored)
    for name in ("__init__.py", "simulation", "support"):
        source = ROOT / "tests" / name
        if source.is_dir():
            shutil.copytree(source, folder / "tests" / name, ignore=ignored)
        elif source.exists():
            (folder / "tests").mkdir(exist_ok=True)
            shutil.copy(source, folder / "tests" / name)


def apply(patch: Path, folder: Path) -> None:
    """:raises subprocess.CalledProcessError: the patch doesn't apply any more."""
    command = ["git", "apply", "-p1", str(patch)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def find(patch: Path, minutes: float) -> Found:
    """Runs seeds on the changed code until one finds the mutation, or the time is over."""
    began_at = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgeslm-mutation-") as name:
        folder = Path(name)
        copy_of_product(folder)
        apply(patch, folder)
        first = 0
        scene = "pools" if "-pool-" in patch.stem else "nodes"
        while time.monotonic() - began_at < minutes * 60:
            seeds = range(first, first + CHUNK)
            left_s = minutes * 60 - (time.monotonic() - began_at)
            invariant, seed = _first_violation(folder, scene, seeds, left_s)
            first += CHUNK
            if invariant:
                took_s = time.monotonic() - began_at
                return Found(patch.stem, invariant, seed, first if seed is None else seed + 1, took_s)
    return Found(patch.stem, "", None, first, time.monotonic() - began_at)


_RUN = """
import sys
from tests.simulation.seeds import NODES, POOLS, outcome_of
scene = POOLS if sys.argv[3] == "pools" else NODES
for seed in range(int(sys.argv[1]), int(sys.argv[2])):
    try:
        found = outcome_of(seed, scene=scene).violations
    except Exception as error:
        print("found", seed, "exception", type(error).__name__)
        break
    if found:
        print("found", seed, found[0].invariant)
        break
"""


def _first_violation(folder: Path, scene: str, seeds: range, limit_s: float) -> tuple[str, int | None]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-c", _RUN, str(seeds.start), str(seeds.stop), scene]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=max(1.0, limit_s)
        )
    except subprocess.TimeoutExpired:
        return "", None
    said = re.search(r"^found (\d+) (.*)$", done.stdout, re.MULTILINE)
    if said is None:
        if done.returncode:
            raise RuntimeError(f"the changed code can't run: {done.stderr[-500:]}")
        return "", None
    return said[2], int(said[1])


def run(names: Sequence[str], *, minutes: float, processes: int) -> int:
    """Prints a table of the mutations, and by which invariant each was found."""
    chosen = patches(names)
    with ThreadPoolExecutor(processes) as pool:
        found = list(pool.map(lambda patch: _told(find(patch, minutes)), chosen))
    count = sum(bool(one.invariant) for one in found)
    print(f"\n{count} of {len(found)} mutations found.\n")
    print(table(found))
    return 0 if count == len(found) else 1


def _told(found: Found) -> Found:
    print(f"{found.patch}: {found.invariant or 'not found'} ({found.seeds} seeds)", flush=True)
    return found


def table(found: Iterable[Found]) -> str:
    rows = [f"| {one.patch} | {one.invariant or '-'} | {one.seeds} | {one.took_s:.0f} |" for one in found]
    return "\n".join(["| mutation | found by | seeds | s |", "|---|---|---|---|", *rows])
