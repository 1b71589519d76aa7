"""A node within limits: memory by part, models that take turns, deadlines with little processor time.

    python benchmarks/speed/node.py limits --bundle DIR --encoder DIR [--memory-mb 3400] [--context 8192]
    python benchmarks/speed/node.py limits --bundle DIR --other DIR --memory-mb 700
    python benchmarks/speed/node.py limits --bundle DIR --cores 0.3 [--deadline-s 2 10]

Runs a broker, and a node in a control group of its own without swap. First short requests, then one that
fills the context, then, with a second model, requests for both in turn (``keep_alive_s``), then requests with
deadlines. Prints what became of each, the memory of each process, the group's largest usage, and the number
of processes that the kernel killed. Needs root.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.cgroup import ControlGroup, control_group
from benchmarks.lib.load import Answered, Ask, answer_all, until_online
from benchmarks.lib.processes import memory_of, processes_of
from benchmarks.lib.served import NODE, health, node
from edgeslm.bundle.manifest import load_bundle
from edgeslm.cli.demo.broker import start_broker
from edgeslm.client import Client

_LABELS: Final = {"normal": "all is well", "warning": "look at it this shift", "critical": "stop now"}
_MESSAGES: Final = ("Spindle 3 smells of burnt oil", "Shift handed over, all fine", "Batch 1182 finished")
_TRIAL_WORDS: Final = 100


def configuration(args: argparse.Namespace) -> dict[str, Any]:
    models: dict[str, Any] = {
        "small": {"bundle": str(args.bundle.resolve()), "threads": args.threads or "auto"}
    }
    tasks: dict[str, Any] = {
        "triage": {"kind": "classify", "model": "small", "labels": _LABELS},
        "say": {"kind": "generate", "model": "small", "max_tokens": 4},
    }
    if args.encoder is not None:
        models["encoder"] = {"bundle": str(args.encoder.resolve())}
        tasks["vector"] = {"kind": "embed", "model": "encoder"}
    if args.other is not None:
        models["small"]["keep_alive_s"] = 3600
        models["other"] = {"bundle": str(args.other.resolve()), "keep_alive_s": 3600}
        tasks["again"] = {"kind": "classify", "model": "other", "labels": _LABELS}
    return {"models": models, "tasks": tasks, "limits": {"request_timeout_s": 1800}}


async def _ask(url: str, asks: Sequence[Ask], in_flight: int = 1) -> list[Answered]:
    async with Client(url, NODE) as client:
        await until_online(client)
        return (await answer_all(client, asks, in_flight))[0]


def _codes(answers: Sequence[Answered]) -> dict[str, int]:
    results = (one.result for one in answers)
    return dict(Counter(one.status if one.error is None else one.error.code for one in results))


def _errors(answers: Sequence[Answered]) -> list[str]:
    """One message of each error."""
    errors = [one.result.error for one in answers if one.result.error is not None]
    return list({error.code: f"{error.code}: {error.message}" for error in errors}.values())


def full_prompt(trials: Sequence[int], tokens: int) -> str:
    """A text that makes a prompt of about ``tokens`` tokens.

    :param trials: tokens of the prompts of ``_TRIAL_WORDS`` words and of twice as many.
    """
    per_word = (trials[1] - trials[0]) / _TRIAL_WORDS
    return _words(int((tokens - trials[0]) / per_word) + _TRIAL_WORDS)


def _words(count: int) -> str:
    return " ".join(f"x{number % 90 + 10}" for number in range(count))


def memory_by_part(folder: Path) -> dict[str, dict[str, float]]:
    """Megabytes (2^20 bytes) of each process of the node: PSS, anonymous, and the peak of resident memory."""
    found = {}
    for pid, kind in processes_of(folder).items():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        name = kind if kind == "daemon" else next(Path(word).name for word in words if Path(word).is_dir())
        memory = memory_of(pid)
        found[name] = {"pss": memory.pss, "anonymous": memory.anonymous, "peak": memory.peak}
    return {name: {key: round(value, 1) for key, value in one.items()} for name, one in found.items()}


def _steps(args: argparse.Namespace, url: str, say: Say) -> Iterator[tuple[str, Any]]:
    short = [Ask("triage", text) for text in _MESSAGES]
    if args.encoder is not None:
        short += [Ask("vector", text) for text in _MESSAGES]
    trials = [Ask("say", _words(count * _TRIAL_WORDS)) for count in (1, 2)]
    answers = asyncio.run(_ask(url, [*short, *trials]))
    yield "short", _codes(answers)
    if args.context:
        tokens = min(args.context, load_bundle(args.bundle).manifest.context_length) - 16
        counts = [one.result.usage["prompt_tokens"] for one in answers[-2:]]
        (full,) = asyncio.run(_ask(url, [Ask("say", full_prompt(counts, tokens))]))
        yield "full", {**_codes([full]), **full.result.usage, "seconds": round(full.seconds, 1)}
        yield "full_errors", _errors([full])
    if args.other is not None:
        turns = [Ask(task, text) for text in _MESSAGES * args.rounds for task in ("triage", "again")]
        answers = asyncio.run(_ask(url, turns, in_flight=args.clients))
        seconds = sorted(one.seconds for one in answers)
        yield "turns", {**_codes(answers), "seconds": [round(seconds[0], 2), round(seconds[-1], 2)]}
        yield "turns_errors", _errors(answers)
    for limit_s in args.deadline_s:
        options = {"deadline_ms": int(limit_s * 1000)}
        asks = [
            Ask("triage", f"{text} {number}", options) for number, text in enumerate(_MESSAGES * args.rounds)
        ]
        answers = asyncio.run(_ask(url, asks, in_flight=args.clients))
        seconds = sorted(one.seconds for one in answers)
        yield f"deadline_{limit_s:g}_s", {**_codes(answers), "median_s": round(seconds[len(seconds) // 2], 2)}
        yield f"deadline_{limit_s:g}_s_errors", _errors(answers)
    yield "alerts", health(url)["alerts"]


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    memory_bytes = None if args.memory_mb is None else args.memory_mb * 1_000_000
    figures: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(prefix="limits-") as name,
        start_broker(Path(name)) as broker,
        control_group(memory_bytes, args.cores) as group,
        node(broker.url, Path(name), configuration(args), prefix=group.command),
    ):
        for key, value in _steps(args, broker.url, say):
            say(f"{key:>22}  {value}")
            figures[key] = value
        figures["memory_mb"] = memory_by_part(Path(name))
        figures |= _group_figures(group)
    for part, memory in figures["memory_mb"].items():
        say(f"{part:>22}  " + "  ".join(f"{key} {value:.0f} MB" for key, value in memory.items()))
    return figures


def _group_figures(group: ControlGroup) -> dict[str, Any]:
    return {
        "group_peak_mb": round(group.peak_bytes / 2**20, 1),
        "kills": group.kills,
        "throttled_s": round(group.throttled_s, 1),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True, help="decoder")
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--other", type=Path, help="a second decoder, which takes turns with the first")
    parser.add_argument("--memory-mb", type=int, metavar="MB", help="limit of the group (default: none)")
    parser.add_argument(
        "--cores", type=float, metavar="N", help="processor time in cores (default: no limit)"
    )
    parser.add_argument("--threads", type=int, help="of the decoder (default: auto)")
    parser.add_argument("--context", type=int, default=0, metavar="TOKENS", help="fill so much (default: 0)")
    parser.add_argument("--deadline-s", type=float, nargs="*", default=[], metavar="S")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--clients", type=int, default=1, help="requests in flight (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    run_benchmark("limits", args, measure, bundle=args.bundle.name)
