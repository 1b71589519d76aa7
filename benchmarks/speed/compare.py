"""How many requests a second are served, compared with llama.cpp's server on the same weights?

    python benchmarks/speed/compare.py [--starter .edgeslm/starter] [--llama-server FILE] [--clients 1 4 16]

One broker serves both: a node, and a thin bridge to llama.cpp's server (``lib/llama_bridge.py``). The node
has the starter model by the recipe w8a8-w4, prepared. The server has as many slots as clients, its prompt
cache on, and reads a label by the cheapest way it has: a grammar, and no more tokens than tell the labels
apart. The faster of Q4_0 and Q4_K_M counts. Both get the same prompts, decode greedily, stay loaded and take
turns, mix by mix. Prints a table, then one JSON line; ``--chart`` writes an SVG.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

from edgeslm_export import starter
from edgeslm_export.models.decoder import ExportOrder, export_model
from edgeslm_export.quantize.recipe import find_recipe
from edgeslm_export.sources.corpus import public_corpus
from edgeslm_export.sources.wheel_data import Packages

from benchmarks.lib import llama_server
from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.compare_figures import Turn, chart, memory_ratios, summarize, table
from benchmarks.lib.llama_bridge import CONTEXT, INPUT
from benchmarks.lib.load import Ask, answer_all, until_online
from benchmarks.lib.mixes import DEADLINES_S, MODEL, Messages, make_mixes, tasks
from benchmarks.lib.paths import LIB
from benchmarks.lib.processes import Memory, cpu_seconds, memory_of, processes_of
from benchmarks.lib.served import NODE, node
from benchmarks.lib.texts import fetch_wikitext
from edgeslm.bundle.manifest import load_bundle, short_digest
from edgeslm.cli.demo.broker import start_broker
from edgeslm.client import Client
from edgeslm.config.loader import Task as TaskSection
from edgeslm.engine.calls import Call, Generate, Output, Prompt, Score, Text
from edgeslm.engine.prepack.prepare import graph_of, prepare
from edgeslm.engine.worker.prompt import ChatTokenizer
from edgeslm.messages import Request
from edgeslm.tasks import make_task

BASELINE: Final = "baseline"
RECIPE: Final = "w8a8-w4"
TYPES: Final = ("Q4_0", "Q4_K_M")
SETTLE_S: Final = 0.3
"""Between turns: threads that wait for work spin for a while, and would take the other side's time."""


# -- the baseline's side ------------------------------------------------------------------------------


class _AskedFor(Exception):
    """Carries what a task asks its engine."""

    def __init__(self, call: Call) -> None:
        self.call = call


def baseline_task(name: str, section: Mapping[str, Any], chat: ChatTokenizer) -> dict[str, Any]:
    """What the bridge needs to know of a task: its prompt with places for texts, and the request's body."""

    async def ask(call: Call, on_chunk: Any = None) -> Output:
        raise _AskedFor(call)

    options = {"context": CONTEXT} if section["kind"] == "answer" else {}
    request = Request(name, INPUT, id="", reply_to="", options=options)
    try:
        task = make_task(name, TaskSection.model_validate_json(json.dumps(section)))
        asyncio.run(task.run(request, ask, None))
    except _AskedFor as asked:
        call = asked.call
    body: dict[str, Any] = {"temperature": 0, "cache_prompt": True}
    if isinstance(call, Score):
        labels = call.labels
        body["n_predict"] = tokens_to_tell([chat.encode_text(label) for label in labels])
        body["grammar"] = "root ::= " + " | ".join(json.dumps(label) for label in labels)
        return {"prompt": _text_of(call.prompt, chat), "body": body, "labels": labels}
    if not isinstance(call, Generate):
        raise TypeError(f"{name} doesn't ask a decoder")
    body["n_predict"] = call.max_tokens
    if call.guide is not None:
        body["json_schema"] = section["schema"]
    return {"prompt": _text_of(call.prompt, chat), "body": body, "fields": call.guide is not None}


def _text_of(prompt: Prompt, chat: ChatTokenizer) -> str:
    return chat.render(
        [
            {
                "role": turn.role,
                "content": "".join(part.value if isinstance(part, Text) else part for part in turn.parts),
            }
            for turn in prompt.turns
        ]
    )


def tokens_to_tell(labels: Sequence[Sequence[int]]) -> int:
    """How many tokens tell which of the labels it is; one more than a label has that begins another."""
    return next(
        count
        for count in range(1, max(map(len, labels)) + 2)
        if len({tuple([*label, -1][:count]) for label in labels}) == len(labels)
    )


def quantized(server: Path, gguf: Path | None, kind: str, folder: Path, say: Say) -> Path:
    """The baseline's weights, made once of what the bundle was made of, by the tool beside the server.

    :raises RuntimeError: it isn't there, or it failed.
    """
    file = folder / f"{starter.MODEL}.{kind.lower()}.gguf"
    if file.exists():
        return file
    folder.mkdir(parents=True, exist_ok=True)
    with _source(gguf, say) as source:
        part = file.with_suffix(".part")
        tool = server.with_name("llama-quantize")
        command = [str(tool), "--allow-requantize", str(source), str(part), kind]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise RuntimeError(
                f"{error}; it belongs to the server, or name its file with --weights"
            ) from None
        if done.returncode != 0:
            raise RuntimeError(f"llama.cpp could not make a {kind} file: {done.stderr[-500:]}")
        part.replace(file)
    return file


@contextmanager
def _source(gguf: Path | None, say: Say) -> Iterator[Path]:
    if gguf is not None:
        yield gguf
        return
    with starter.Maker(announce=say).unpacked(starter.SMOLLM2) as files:
        yield files.path / starter.SMOLLM2.member


def faster(
    server: Path, files: Sequence[Path], job: Mapping[str, Any], asks: Sequence[Ask], log: Path
) -> Path:
    """The file with which the server answers these sooner, one after the other, twice in turns."""
    spent = dict.fromkeys(files, 0.0)
    for file in (*files, *reversed(files)):
        with llama_server.running(server, file, 1, job["threads"], log) as (_, port):
            completions = llama_server.Completions(port)
            for turn in range(2):  # the first warms up
                started = time.perf_counter()
                for ask in asks:
                    task = job["tasks"][ask.task]
                    prompt = task["prompt"].replace(CONTEXT, ask.options.get("context", ""))
                    list(completions.complete({"prompt": prompt.replace(INPUT, ask.input), **task["body"]}))
                spent[file] += turn * (time.perf_counter() - started)
    return min(files, key=lambda file: spent[file])


# -- both sides ------------------------------------------------------------------------------------


class Side:
    """A node that is asked, and the processes that work for it, by what they are."""

    def __init__(self, client: Client, processes: Mapping[int, str]) -> None:
        self._client = client
        self._processes = processes

    async def take_turn(self, asks: Sequence[Ask], clients: int, *, stream: bool = False) -> Turn:
        before = {pid: cpu_seconds(pid) for pid in self._processes}
        joules = _joules()
        answers, seconds = await answer_all(self._client, asks, clients, stream=stream)
        spent = {pid: cpu_seconds(pid) - before[pid] for pid in self._processes}
        after = _joules()
        return Turn(
            answers=answers,
            seconds=seconds,
            cpu_s=sum(spent.values()),
            joules=None if joules is None or after is None else after - joules,
        )

    def memory(self) -> Memory:
        """Without the bridge, which is no part of llama.cpp."""
        own = [memory_of(pid) for pid, what in self._processes.items() if what != "bridge"]
        return sum(own[1:], own[0])


def _joules() -> float | None:
    """The processor's own counter, where the kernel shows it."""
    try:
        return int(Path("/sys/class/powercap/intel-rapl:0/energy_uj").read_text()) / 1e6
    except (OSError, ValueError):
        return None


@contextmanager
def bridged(url: str, job: Mapping[str, Any], file: Path) -> Iterator[int]:
    """The bridge in a process of its own; its id."""
    file.write_text(json.dumps({"url": url, "node": BASELINE, **job}))
    command = [sys.executable, str(LIB / "llama_bridge.py"), str(file)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


@asynccontextmanager
async def asked(url: str, name: str) -> AsyncIterator[Client]:
    async with Client(url, name) as client:
        await until_online(client)
        yield client


async def take_turns(
    url: str,
    own: Mapping[int, str],
    baseline: Mapping[int, str],
    clients: int,
    messages: Messages,
    args: argparse.Namespace,
    say: Say,
) -> dict[str, Any]:
    """All mixes with so many clients, each side in turn."""
    rows = []
    async with asked(url, NODE) as mine, asked(url, BASELINE) as theirs:
        sides = {"edgeslm": Side(mine, own), "llama.cpp": Side(theirs, baseline)}
        for mix in make_mixes(messages):
            if args.mixes and mix.name not in args.mixes:
                continue
            turns: dict[str, list[Turn]] = {side: [] for side in sides}
            count = max(clients, round(mix.requests[clients] * args.share))
            for number in range(args.rounds + 1):
                asks = list(islice(mix.asks, count if number else clients + len(DEADLINES_S)))
                for name in sides if number % 2 else reversed(sides):
                    time.sleep(SETTLE_S)
                    turn = await sides[name].take_turn(asks, clients)
                    if number:  # the first warms up
                        turns[name].append(turn)
            row = {"mix": mix.name, "clients": clients, **summarize(turns)}
            if clients == 1 and mix.is_text:
                asks = list(islice(mix.asks, max(2, count // 2)))
                for name, side in sides.items():
                    row[name]["first_ms"] = (await side.take_turn(asks, 1, stream=True)).first_ms
            rows.append(row)
            say(table([row], head=len(rows) == 1 and clients == args.clients[0]))
        memory = {name: side.memory() for name, side in sides.items()}
    return {"rows": rows, "memory": memory_ratios(memory, clients)}


def own_bundle(folder: Path, say: Say) -> Path:
    """The starter's model by the recipe that reads fastest, made once."""
    bundle = folder / f"smollm2-135m-{RECIPE}"
    if not bundle.exists():
        say(f"Making {bundle}: some minutes.")
        maker = starter.Maker(announce=say)
        export_model(
            maker.model_origin(),
            bundle,
            ExportOrder(find_recipe(RECIPE), corpus=public_corpus(Packages(say))),
        )
    return bundle


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    server = llama_server.find_server(args.llama_server)
    made = args.starter.resolve().parent / "bench"
    bundle = (args.bundle or own_bundle(made, say)).resolve()
    chat = ChatTokenizer(bundle)
    with tempfile.TemporaryDirectory(prefix="compare-") as name:
        folder = Path(name)
        fetch_wikitext(folder, Packages(say))
        article = (folder / "test.raw").read_text("utf-8")[:400_000]
        messages = Messages(args.starter / "data", article, chat.encode_text)
        job = {"threads": args.threads, "tasks": {t: baseline_task(t, s, chat) for t, s in tasks().items()}}
        files = args.weights or [quantized(server, args.gguf, kind, made, say) for kind in TYPES]
        log = folder / "llama.log"
        probe = list(islice(messages.mixed(), 22))
        weights = faster(server, files, job, probe, log) if len(files) > 1 else files[0]
        say(f"{'bundle':>22}  {bundle.name} {short_digest(load_bundle(bundle).digest)}")
        say(f"{'llama.cpp':>22}  {llama_server.version_of(server)}, {weights.name}\n")
        (folder / "state").mkdir()
        made_of = load_bundle(bundle)
        asyncio.run(prepare(made_of, graph_of(made_of, adapters=False), folder / "state"))
        model = {
            "bundle": str(bundle),
            "threads": max(1, args.threads // args.workers),
            "workers": args.workers,
        }
        parts = {"models": {MODEL: model}, "tasks": tasks()}
        found: dict[str, Any] = {"rows": [], "memory": []}
        with start_broker(folder) as broker, node(broker.url, folder, parts):
            asyncio.run(_warm(broker.url))
            own = processes_of(folder)
            for clients in args.clients:
                with llama_server.running(server, weights, clients, args.threads, log) as (pid, port):
                    told = {**job, "port": port, "slots": clients}
                    with bridged(broker.url, told, folder / "job.json") as bridge:
                        baseline = {pid: "server", bridge: "bridge"}
                        part = asyncio.run(
                            take_turns(broker.url, own, baseline, clients, messages, args, say)
                        )
                found["rows"] += part["rows"]
                found["memory"].append(part["memory"])
                say(f"  memory  {part['memory']}")
    if args.chart:
        args.chart.write_text(chart(found["rows"]))
    return {"llama.cpp": llama_server.version_of(server), "weights": weights.name, **found}


async def _warm(url: str) -> None:
    async with asked(url, NODE) as client:
        await answer_all(client, [Ask("few", "All is well.")], 1)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--starter", type=Path, default=Path(".edgeslm/starter"))
    parser.add_argument("--bundle", type=Path, help="a decoder's (default: one is made, and kept)")
    parser.add_argument("--llama-server", type=Path, help="its program (default: on the PATH)")
    parser.add_argument("--weights", type=Path, nargs="+", help="GGUF files to take the faster of")
    parser.add_argument("--gguf", type=Path, help="what the bundle was made of; the starter's is fetched")
    parser.add_argument("--clients", type=int, nargs="+", choices=(1, 4, 16), default=[1, 4, 16])
    parser.add_argument("--mixes", nargs="+", metavar="NAME", help="only these, as the table names them")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default: %(default)s)")
    parser.add_argument("--share", type=float, default=1.0, help="of the requests; less is rougher")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each side")
    parser.add_argument(
        "--workers", type=int, default=1, help="edgeslm's, each with its share of the threads (default: one)"
    )
    parser.add_argument("--chart", type=Path, help="an SVG file to write")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    run_benchmark("compare", args, measure)


if __name__ == "__main__":
    main()
