"""Fuzzing process of ``fuzz.drive``: fuzzes for coverage with atheris, or for the work of growing inputs.

    python -m tests.integration.fuzz.worker cover FOUND TARGET... -- LIBFUZZER-ARGUMENTS
    python -m tests.integration.fuzz.worker work FOUND TARGET --seconds S --seed N CORPUS

A finding is a file in FOUND, named after its kind; the same exception from the same line is one finding. An
input that hangs or exhausts memory ends the process and stays in ``FOUND/current``.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import resource
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.integration.fuzz.work import (
    Growth,
    Run,
    TooMuchWork,
    check_cpu,
    check_lines,
    each_growth,
    random_growth,
)

WATCHED = ["edgeslm", "tests.integration.fuzz", "json", "html.parser", "tarfile", "csv", "paho"]
LONGEST_BYTES = 4096
"""Longest input in coverage fuzzing."""
COVER_MB = 1024
"""Memory limit in coverage fuzzing, beyond what the process has at its start."""
MEMORY_BYTES = 2_000_000_000
"""Limit of address space, beyond what the process has at its start."""
MOST_BYTES = 300_000_000
"""Most memory that one input may take."""
MOST_CPU_S = 8.0
"""If the largest input is expected to take at most this time, its memory is checked too."""


class TooMuchMemory(AssertionError):
    """An input took more than ``MOST_BYTES``."""


def name_of(kind: str, target: str, what: str) -> str:
    return f"{target.replace(' ', '-')}.{kind}-{hashlib.sha256(what.encode()).hexdigest()[:10]}"


def where(error: BaseException) -> str:
    """An exception's type and the innermost line of this project in its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/edgeslm/" in frame.filename or "/benchmarks/" in frame.filename]
    last = (ours or frames)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"


def guarded(run: Run, target: str, found: Path) -> Run:
    """Wraps ``run``: writes each defect down once instead of raising it."""
    seen: set[str] = set()

    def guarded_run(data: bytes) -> None:
        try:
            run(data)
        except Exception as error:
            place = where(error)
            if place in seen:
                return
            seen.add(place)
            name = name_of("input", target, place)
            (found / name).write_bytes(data)
            (found / f"{name}.txt").write_text(f"{place}\n{''.join(traceback.format_exception(error))}")

    return guarded_run


def cover(found: Path, names: Sequence[str], arguments: Sequence[str]) -> None:
    """Fuzzes with libFuzzer, which ends the process. An input's first byte chooses among several targets."""
    import atheris

    with atheris.instrument_imports(include=WATCHED):
        from tests.integration.fuzz.targets import TARGETS, seeds_of

        runs = [guarded(TARGETS[name].make(), name, found) for name in names]
        for name, run in zip(names, runs, strict=True):
            for seed in seeds_of(name):
                run(seed)  # triggers lazy imports

    def one(data: bytes) -> None:
        if len(runs) == 1:
            runs[0](data)
        elif data:
            runs[data[0] % len(runs)](data[1:])

    # libFuzzer checks the peak RSS, which Linux inherits from the parent.
    inherited_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    atheris.Setup([sys.argv[0], f"-rss_limit_mb={inherited_mb + COVER_MB}", *arguments], one)
    atheris.Fuzz()


def check_growth(run: Run, growth: Growth, largest: int) -> None:
    """Checks lines, time and memory. :raises TooMuchWork: or what the target raises, such as MemoryError."""
    for times in (8, 24, 64):  # finds exponential growth, in case longer inputs are refused
        run(growth.of(len(growth.data) + times * growth.unit))
    check_lines(run, growth)
    if check_cpu(run, growth, largest) < MOST_CPU_S:
        check_memory(run, growth.of(largest))


def check_memory(run: Run, data: bytes) -> None:
    """Checks the peak, since a target could hide a MemoryError. :raises TooMuchMemory: it is too high."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _peak()
    run(data)
    if (taken := _peak() - before) > MOST_BYTES:
        raise TooMuchMemory(f"{taken / 1e6:.0f} MB with {len(data)} bytes")


def _peak() -> int:
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def growth_of(written: bytes) -> Growth:
    """Parses a finding: one of the search for work, or an input on which libFuzzer gave up."""
    try:
        read = json.loads(written)
        return Growth(read["data"].encode("latin-1"), tuple((start, end) for start, end in read["slices"]))
    except (ValueError, KeyError, TypeError):
        return Growth(written, ((0, len(written)),))


def mutated(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """A seed, often with pieces of others inserted, pieces removed, or a byte changed."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((0, 0, 1, 2))):
        at = chance.randrange(len(data) + 1)
        other = chance.choice(seeds)
        begin = chance.randrange(len(other) or 1)
        piece = other[begin : begin + chance.randrange(1, 20)]
        match chance.randrange(3):
            case 0:
                data[at:at] = piece
            case 1:
                del data[at : at + chance.randrange(1, 9)]
            case _:
                data[at : at + len(piece)] = piece
    return bytes(data[: 2 * LONGEST_BYTES]) or b" "


def search_work(
    found: Path, name: str, seconds: float, seed: int, corpus: Path, say: Callable[[str], object] = print
) -> None:
    """Grows random inputs until the time is over; prints their number as JSON."""
    from tests.integration.fuzz.targets import TARGETS, seeds_of

    target = TARGETS[name]
    run, chance = target.make(), random.Random(seed)
    own = seeds_of(name)
    seeds = [*own]
    others = sorted(corpus.iterdir()) if corpus.is_dir() else []
    seeds += [file.read_bytes() for file in others[:500]]
    for data in seeds[:5]:
        run(data)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY_BYTES,) * 2)
    each = each_growth([seed for seed in own if len(seed) <= LONGEST_BYTES], chance)
    count, until, seen = 0, time.monotonic() + seconds, set()
    while time.monotonic() < until:
        data = mutated(own if chance.random() < 0.7 else seeds, chance)
        growth = (next(each, None) if count % 2 else None) or random_growth(data, chance)
        current = json.dumps({"data": growth.data.decode("latin-1"), "slices": growth.slices})
        (found / "current").write_text(current)
        count += 1
        try:
            check_growth(run, growth, target.largest)
        except (TooMuchWork, TooMuchMemory, MemoryError) as error:
            place = where(error) if isinstance(error, MemoryError) else hottest(run, growth)
            if place not in seen:
                seen.add(place)
                file = found / name_of("work", name, place)
                file.write_text(current)
                file.with_name(f"{file.name}.txt").write_text(f"{type(error).__name__} at {place}: {error}\n")
        except Exception as error:
            guarded(_raising(error), name, found)(growth.of(2 * len(growth.data)))
    (found / "current").unlink(missing_ok=True)
    say(json.dumps({"inputs": count}))


def _raising(error: Exception) -> Run:
    def run(data: bytes) -> None:
        raise error

    return run


def hottest(run: Run, growth: Growth) -> str:
    """The project's function that takes most of the time, to tell findings apart."""
    import cProfile
    import pstats

    profile = cProfile.Profile()
    profile.runcall(run, growth.of(8 * len(growth.data)))
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    ours = {key: row[3] for key, row in stats.items() if "/edgeslm/" in key[0]} or {("", 0, "?"): 0.0}
    own = {key: row[2] for key, row in stats.items()}
    leaf = max(own, key=lambda key: own[key])
    callers = [key for key in stats[leaf][4] if "/edgeslm/" in key[0]]
    file, line, function = callers[0] if callers else max(ours, key=lambda key: ours[key])
    return f"{Path(file).name}:{line} {function}"


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def main(arguments: Sequence[str]) -> None:
    kind, found, *rest = arguments
    if kind == "cover":
        split = rest.index("--")
        cover(Path(found), rest[:split], rest[split + 1 :])
    else:
        name, _, seconds, _, seed, corpus = rest
        search_work(Path(found), name, float(seconds), int(seed), Path(corpus))


if __name__ == "__main__":
    main(sys.argv[1:])
