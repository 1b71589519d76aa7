"""What a pipe to engines and collections costs, beside that of another tree: latency and processor time.

    git worktree add ../before COMMIT
    python benchmarks/frames.py ../before [--rounds 30] [--starter DIR]

Both trees take turns, a few calls at a time, each with its own processes, one thread an engine: one text
embedded, 16 at once (as collections are), a search of 2,000 passages by words and vector, and a streamed text
of 32 tokens. Wall time is the median and the least of all calls; processor time is that of parent and child
as the kernel counts it, by the median of the rounds. Table first, one JSON line last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from cards import Say, run_benchmark

ROOT: Final = Path(__file__).resolve().parent.parent
STARTER: Final = ROOT / ".edgeslm/starter"
CALLS: Final = {"embed": 20, "embed 16": 3, "search": 20, "stream": 2}
"""A round."""
TOKENS: Final = 32
PASSAGES: Final = 2000
DIMENSION: Final = 384
TEXT: Final = (
    "The bearing of press four runs hot since the oil was changed, and the night shift has stopped it."
)


def cpu_s(pid: int) -> float:
    """Of all threads that live, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


# --- the side of a tree -----------------------------------------------------------------------------


async def serve(starter: Path) -> None:
    """Answers lines: the name of a work, done a few times; a line of JSON with what it took."""
    from edgeslm.engine.calls import Embed, Generate, Prompt, Text, Turn
    from edgeslm.engine.host.process import EngineProcess
    from edgeslm.knowledge.index.queries import CollectionSpec, Query
    from edgeslm.knowledge.service.process import KnowledgeProcess

    draw = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        tag = fill(Path(folder) / "kb", draw)
        encoder = EngineProcess(starter / "minilm-l6-int8", threads=1)
        decoder = EngineProcess(starter / "smollm2-135m-int4", threads=1)

        async def never(name: str, texts: Sequence[str]) -> Sequence[Sequence[float]]:
            raise NotImplementedError

        knowledge = KnowledgeProcess([CollectionSpec("all", Path(folder) / "kb", tag)], embed=never)
        await asyncio.gather(encoder.start(), decoder.start(), knowledge.start())
        prompt = Prompt((Turn("user", ("Write a story about this: ", Text(TEXT))),))
        generate = Generate(prompt, TOKENS, stream=True)
        texts = tuple(f"{TEXT} {number}" for number in range(16))
        vector = tuple((await encoder.call(Embed((TEXT,)))).vectors[0])
        works: dict[str, tuple[Any, Callable[[], Awaitable[Any]]]] = {
            "embed": (encoder, lambda: encoder.call(Embed((TEXT,)))),
            "embed 16": (encoder, lambda: encoder.call(Embed(texts))),
            "search": (knowledge, lambda: knowledge.search(Query(("all",), TEXT, 5, vector))),
            "stream": (decoder, lambda: decoder.call(generate, lambda text: None)),
        }
        await answer(works)
        await asyncio.gather(encoder.stop(), decoder.stop(), knowledge.stop())


async def answer(works: dict[str, tuple[Any, Callable[[], Awaitable[Any]]]]) -> None:
    loop = asyncio.get_running_loop()
    while name := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        process, work = works[name]
        pids = (os.getpid(), process.pid)
        before, walls = [cpu_s(pid) for pid in pids], []
        for _ in range(CALLS[name]):
            started = time.perf_counter()
            await work()
            walls.append(time.perf_counter() - started)
        cpu = [(cpu_s(pid) - old) / CALLS[name] for pid, old in zip(pids, before, strict=True)]
        print(json.dumps({"walls": walls, "parent": cpu[0], "child": cpu[1]}), flush=True)


def fill(path: Path, draw: random.Random) -> Any:
    from edgeslm.knowledge.documents.passages import Document, Passage
    from edgeslm.knowledge.index.collection import Collection, DocumentOrigin, EncoderTag

    tag = EncoderTag("sha256:0", "x")
    words = TEXT.lower().split() + [f"word{number}" for number in range(3000)]
    with Collection(path, writes=True) as collection:
        collection.use_encoder(tag)
        for number in range(PASSAGES // 50):
            passages = []
            for place in range(50):
                text = " ".join(draw.choices(words, k=150))
                passages.append(
                    Passage(place, (f"Part {place}",), text, place * 2000, place * 2000 + len(text))
                )
            document = Document(f"manual{number}.md", "Manual", "")
            collection.put(
                document, passages, DocumentOrigin(f"{number}", 1, 1.0), embed=lambda texts: unit(texts, draw)
            )
    return tag


def unit(texts: Sequence[str], draw: random.Random) -> list[list[float]]:
    vectors = [[draw.gauss(0, 1) for _ in range(DIMENSION)] for _ in texts]
    return [[number / DIMENSION**0.5 for number in vector] for vector in vectors]


# --- the side that measures -------------------------------------------------------------------------


class Tree:
    def __init__(self, root: Path, starter: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{root}:{ROOT / 'benchmarks'}"}
        command = [sys.executable, str(Path(__file__).resolve()), "--serve", str(starter)]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, cwd=root
        )

    def work(self, name: str) -> dict[str, Any]:
        assert self._child.stdin is not None and self._child.stdout is not None  # noqa: S101  pipes
        self._child.stdin.write(name + "\n")
        self._child.stdin.flush()
        told: dict[str, Any] = json.loads(self._child.stdout.readline())
        return told

    def stop(self) -> None:
        self._child.communicate("\n")


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    trees = {"before": Tree(args.before.resolve(), args.starter), "after": Tree(ROOT, args.starter)}
    works = list(args.works)
    rounds: dict[str, dict[str, list[dict[str, Any]]]] = {
        work: {name: [] for name in trees} for work in works
    }
    for number in range(args.rounds + 1):
        for work in works:
            for name in sorted(trees, reverse=bool(number % 2)):
                told = trees[name].work(work)
                if number:  # the first one warms up
                    rounds[work][name].append(told)
    for tree in trees.values():
        tree.stop()
    figures = {work: {name: summary(told) for name, told in of.items()} for work, of in rounds.items()}
    say(f"  {'ms a call':>10}  {'':>12} {'before':>9} {'after':>9}")
    for work, of in figures.items():
        for figure, old in of["before"].items():
            new = of["after"][figure]
            say(f"  {work:>10}  {figure:>12} {old:9.3f} {new:9.3f}  {100 * (new / old - 1):+6.1f} %")
    return {"rounds": args.rounds, "ms": figures}


def summary(told: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Milliseconds a call."""
    walls = [wall for one in told for wall in one["walls"]]
    figures = {
        "wall p50": statistics.median(walls),
        "wall least": min(walls),
        "CPU": statistics.median(one["parent"] + one["child"] for one in told),
        "CPU least": min(one["parent"] + one["child"] for one in told),
        "CPU parent": statistics.median(one["parent"] for one in told),
    }
    return {name: round(1000 * seconds, 4) for name, seconds in figures.items()}


def main(argv: Sequence[str] | None = None) -> None:
    if sys.argv[1:2] == ["--serve"]:
        asyncio.run(serve(Path(sys.argv[2])))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, help="the other tree")
    parser.add_argument("--rounds", type=int, default=30, help="(default: %(default)s)")
    parser.add_argument("--works", nargs="+", choices=CALLS, default=list(CALLS), help="(default: all)")
    parser.add_argument("--starter", type=Path, default=STARTER, help="starter bundles")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    run_benchmark("frames", parser.parse_args(argv), measure)


if __name__ == "__main__":
    main()
