"""Right tool calls for sentences said to Home Assistant, over HTTP, by a head, a decoder, and llama.cpp.

    python benchmarks/quality/calls.py assist --head HEAD [--bundle BUNDLE] [--gguf FILE] [--most 60]

A node answers 500 sentences from held-aside templates with the head that ``calls.py train`` made: once
always, and once only where the head is sure enough for ``--max-error``. With ``--bundle``, a decoder of the
node and, with ``--gguf``, llama.cpp's server answer the first ``--most`` of these sentences in turns, since
each takes seconds. All get the same messages and the same tools. The first request of each, which reads the
tools, isn't counted. Several calls in one answer are wrong. A call that is written as a text isn't one for a
client; ``right_in_text`` and ``name_right_in_text`` count those. ``together`` is the head where it is sure,
and the decoder for the rest. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any, Final

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.household import load_household
from benchmarks.lib.household_tools import instruction, is_call_right, is_name_right, make_tools
from benchmarks.lib.http_latency import free_port
from benchmarks.lib.llama_server import find_server, running, version_of
from benchmarks.lib.served import NODE, node
from edgeslm.cli.demo.broker import start_broker
from edgeslm.client import Client
from edgeslm.hardware.board import usable_cores

TOKEN: Final = "token-of-the-benchmark"
TIMEOUT_S: Final = 600.0
PROMPT_TOKENS: Final = 12_288
"""Context of llama.cpp's server; the tools take about half of it."""
HEAD, SURE, DECODER, LLAMA = "head", "sure", "decoder", "llama.cpp"

Row = Mapping[str, Any]


@dataclass(slots=True)
class Calls:
    """The calls of one side, by sentence, None where it made none, and the milliseconds of each. ``texts``
    are calls that it wrote as a text instead, which a client doesn't take for a call."""

    calls: list[Mapping[str, Any] | None] = field(default_factory=list)
    texts: list[Mapping[str, Any] | None] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    first_ms: float = 0.0

    def figures(self, rows: Sequence[Row]) -> dict[str, Any]:
        pairs = [(call, row["fields"]) for call, row in zip(self.calls, rows, strict=False)]
        right = [is_call_right(*pair) for pair in pairs]
        made = sum(call is not None for call, _ in pairs)
        return {
            "sentences": len(pairs),
            "right": round(mean(right), 4),
            "name_right": round(mean(is_name_right(*pair) for pair in pairs), 4),
            "right_in_text": sum(
                is_call_right(text, row["fields"]) for text, row in zip(self.texts, rows, strict=False)
            ),
            "name_right_in_text": sum(
                is_name_right(text, row["fields"]) for text, row in zip(self.texts, rows, strict=False)
            ),
            "called": round(made / len(pairs), 4),
            "right_of_called": round(sum(right) / made, 4) if made else None,
            "ms": round(median(self.ms), 2),
            "mean_ms": round(mean(self.ms), 2),
            "first_ms": round(self.first_ms, 1),
        }


class Server:
    """A server in OpenAI's dialect, asked over one connection."""

    def __init__(self, port: int, model: str, tools: Sequence[Any], choice: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        self._body = {"model": model, "tools": tools, "tool_choice": choice, "max_tokens": 128}
        self.told = Calls()

    def ask(self, text: str) -> None:
        messages = [{"role": "system", "content": instruction()}, {"role": "user", "content": text}]
        body = json.dumps({**self._body, "messages": messages, "temperature": 0, "seed": 1})
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        began = time.perf_counter()
        try:
            self._connection.request("POST", "/v1/chat/completions", body, headers)
            response = self._connection.getresponse()
        except (OSError, http.client.HTTPException):  # a server closes what was idle for some seconds
            self._connection.close()
            self._connection.request("POST", "/v1/chat/completions", body, headers)
            response = self._connection.getresponse()
        answer = response.read()
        took = 1000 * (time.perf_counter() - began)
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {answer.decode(errors='replace')[:400]}")
        message = json.loads(answer)["choices"][0]["message"]
        self.told.calls.append(_call_of(message))
        self.told.texts.append(_call_in_text(message.get("content") or ""))
        self.told.ms.append(took)

    def warm_up(self, text: str) -> None:
        self.ask(text)
        self.told = Calls(first_ms=self.told.ms[0])


def _call_of(message: Mapping[str, Any]) -> dict[str, Any] | None:
    """The call of an answer; None without one. Several calls, and arguments that are no JSON object, are a
    call that is wrong."""
    calls = message.get("tool_calls") or ()
    if not calls:
        return None
    function = calls[0]["function"]
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        arguments = None
    if len(calls) > 1 or not isinstance(arguments, dict):
        arguments = {"wrong": function["arguments"]}
    return {"name": function["name"], "arguments": arguments}


def _call_in_text(text: str) -> dict[str, Any] | None:
    """The call in a text that begins with the JSON of one, perhaps in a block of code."""
    try:
        call, _ = json.JSONDecoder().raw_decode(text.strip().removeprefix("```json").strip())
    except ValueError:
        return None
    is_call = isinstance(call, dict) and isinstance(call.get("arguments"), dict) and "name" in call
    return {"name": call["name"], "arguments": call["arguments"]} if is_call else None


def parts_of(args: argparse.Namespace) -> dict[str, Any]:
    """Models and tasks of the node."""
    tasks: dict[str, Any] = {}
    models: dict[str, Any] = {}
    if args.head is not None:
        models["encoder"] = {"bundle": str(args.head.resolve())}
        learned = {"kind": "generate", "learned": str(args.head.resolve()), "stages": ["learned"]}
        tasks |= {HEAD: learned, SURE: {**learned, "max_error": args.max_error}}
    if args.bundle is not None:
        models["small"] = {"bundle": str(args.bundle.resolve())}
        tasks[DECODER] = {"kind": "generate", "model": "small"}
    return {"models": models, "tasks": tasks}


@contextmanager
def edge_node(folder: Path, parts: Mapping[str, Any]) -> Iterator[int]:
    """A node with the API. :return: the API's port."""
    port = free_port()
    (folder / "tokens").write_text(f"bench {TOKEN}\n")
    api = {"listen": f"127.0.0.1:{port}", "tokens": str(folder / "tokens")}
    more = {"api": api, "limits": {"request_timeout_s": int(TIMEOUT_S)}}
    with start_broker(folder) as broker, node(broker.url, folder, {**parts, **more}):
        with Client(broker.url, NODE) as client:
            give_up_at = time.monotonic() + 60
            while client.node_state != "online" and time.monotonic() < give_up_at:
                time.sleep(0.05)
        yield port


def in_turns(servers: Sequence[Server], rows: Sequence[Row], say: Say) -> None:
    order = list(servers)
    for number, row in enumerate(rows, 1):
        for server in order:
            server.ask(row["text"])
        order.reverse()
        if number % 20 == 0:
            say(f"  {number} sentences")


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    household = load_household(args.templates)
    tools = make_tools(household)
    rows = random.Random(args.seed).sample(household.test, args.sentences)
    some = rows[: args.most]
    say(f"{len(tools)} tools, {len(json.dumps(tools))} characters of JSON")
    told: dict[str, Calls] = {}
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="calls-") as name:
        folder = Path(name)
        with edge_node(folder, parts_of(args)) as port:

            def servers_of(*models: str) -> list[Server]:
                found = [Server(port, model, tools, args.choice) for model in models]
                for server, model in zip(found, models, strict=True):
                    server.warm_up(household.train[0]["text"])
                    told[model] = server.told
                return found

            if args.head is not None:
                in_turns(servers_of(HEAD, SURE), rows, say)
            if args.bundle is not None:
                slow = servers_of(DECODER)
                if args.gguf is None:
                    in_turns(slow, some, say)
                else:
                    server = find_server(args.llama_server)
                    figures["llama_version"] = version_of(server)
                    log, threads = folder / "llama.log", usable_cores()
                    with running(server, args.gguf, 1, threads, log, PROMPT_TOKENS) as (_, llama_port):
                        llama = Server(llama_port, LLAMA, tools, args.choice)
                        llama.warm_up(household.train[0]["text"])
                        told[LLAMA] = llama.told
                        in_turns([*slow, llama], some, say)
    sides = {name: calls.figures(rows) for name, calls in told.items()}
    if {SURE, DECODER} <= told.keys():
        sides["together"] = together(told[SURE], told[DECODER]).figures(rows)
    keys = ("sentences", "right", "name_right", "called", "right_of_called", "ms", "mean_ms", "first_ms")
    say(f"{'':<10}" + "".join(f"{key:>16}" for key in keys))
    for name, of in sides.items():
        say(f"{name:<10}" + "".join(f"{of[key]!s:>16}" for key in keys))
    return {**figures, "tools": len(tools), "sides": [{"side": name, **of} for name, of in sides.items()]}


def together(head: Calls, decoder: Calls) -> Calls:
    """The head where it made a call, and the decoder after it for the rest."""
    found = Calls()
    for number, call in enumerate(decoder.calls):
        is_head = head.calls[number] is not None
        found.calls.append(head.calls[number] if is_head else call)
        found.ms.append(head.ms[number] + (0.0 if is_head else decoder.ms[number]))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--head", type=Path, help="what calls.py train made")
    parser.add_argument("--bundle", type=Path, help="a decoder's bundle")
    parser.add_argument("--gguf", type=Path, help="the same decoder for llama.cpp's server")
    parser.add_argument("--llama-server", type=Path, help="(default: the one on the PATH)")
    parser.add_argument("--sentences", type=int, default=500, help="(default: %(default)s)")
    parser.add_argument("--most", type=int, default=60, help="for decoders (default: %(default)s)")
    parser.add_argument("--max-error", type=float, default=0.02, help="(default: %(default)s)")
    parser.add_argument("--choice", choices=("auto", "required"), default="auto")
    parser.add_argument("--templates", type=int, default=15, help="sentences of each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    if args.head is None and args.bundle is None:
        parser.error("name a --head or a --bundle")
    run_benchmark("calls", args, measure, bundle=args.bundle and args.bundle.name)
