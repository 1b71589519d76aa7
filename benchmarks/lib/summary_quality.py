"""Summaries of package descriptions, of texts beyond the context, and of windows of log lines.

    python benchmarks/quality/summaries.py measure [--model BUNDLE] [--rows 500] [--half test]
                                                   [--only long windows]

- **descriptions**: a task for a synopsis of one line, on package descriptions; ROUGE-L against the
  maintainer's synopsis, beside the first sentence of the text. ``supported`` is the share of sentences that
  the text supports, of the model's output (``raw``) and of the result of the task. The instruction was chosen
  on the other half of the packages (``--half development``), on which ``summaries.py train`` trains an
  ``--adapter``.
- **long**: chapters of the Debian FAQ as one text; the number of its sections that a sentence of the summary
  comes from.
- **windows**: log lines through a route with a window, over a real broker: are the counts exact, and does the
  text of each point fit all messages that it names? A pattern made of the text alone decides that.

Prints a table, then one JSON line. ``--threads`` as in a configuration.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Final

from edgeslm_export.jobs.optimum_env import cache_folder

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.descriptions import Description, load_descriptions
from benchmarks.lib.grounded_questions import documents
from benchmarks.lib.load import until_online
from benchmarks.lib.log_lines import load_lines
from benchmarks.lib.paths import STARTER
from benchmarks.lib.rouge import rouge_l
from benchmarks.lib.served import NODE, served
from edgeslm.client import Client
from edgeslm.config.loader import parse_config
from edgeslm.knowledge.documents.passages import Document
from edgeslm.knowledge.documents.sentences import split_sentences
from edgeslm.knowledge.readers.plain_text import read_plain_text
from edgeslm.messages import Request, Result
from edgeslm.serving.service import Service
from edgeslm.tasks.support import Evidence

BUNDLE: Final = STARTER / "smollm2-135m-int4"
PARTS: Final = ("descriptions", "long", "windows")
LINES: Final = 500
SYNOPSIS: Final[dict[str, Any]] = {
    "kind": "summarize",
    "instruction": "Say in a few words what this software is.",
    "max_tokens": 28,
    "stop": ["\n"],
}


async def ask_all(service: Service, task: str, texts: Sequence[str]) -> list[Result]:
    results = []
    for number, text in enumerate(texts):
        result = await service.submit(Request(task, text, str(number), "", received_at=time.monotonic()))
        if result.error is not None:
            raise RuntimeError(f"{task}: {result.error.code}: {result.error.message}")
        results.append(result)
    return results


def serve(args: argparse.Namespace, tasks: Mapping[str, Any]) -> Service:
    parts = {
        "node": "bench",
        "broker": {"url": "mqtt://localhost"},
        "models": {"small": {"bundle": str(args.model), "threads": args.threads}},
        "tasks": {name: {"model": "small", **task} for name, task in tasks.items()},
        "limits": {"request_timeout_s": 3600},
        "prepare": "never",
        "state_dir": args.state,
    }
    return Service(parse_config(json.dumps(parts)))


# --- descriptions -----------------------------------------------------------------------------------------


def measure_descriptions(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    rows = load_descriptions(args.cache, is_test=args.half == "test")[: args.rows]
    adapter = {} if args.adapter is None else {"adapter": str(args.adapter)}
    task = {**SYNOPSIS, **adapter}
    service = serve(args, {"synopsis": task, "raw": {**task, "grounded": False}})
    return asyncio.run(_measure_descriptions(service, rows, args.raw, say))


def flat(text: str) -> str:
    """A text without the line ends that its list has put in: as a route's template would hand it over."""
    return " ".join(text.split())


async def _measure_descriptions(
    service: Service, rows: Sequence[Description], raw_rows: int, say: Say
) -> dict[str, Any]:
    await service.start()
    try:
        began = time.monotonic()
        results = await ask_all(service, "synopsis", [flat(one.text) for one in rows])
        seconds = time.monotonic() - began
        raw = await ask_all(service, "raw", [flat(one.text) for one in rows[:raw_rows]])
    finally:
        await service.stop()
    bodies = [dict(result.result or {}) for result in results]
    for row, body in list(zip(rows, bodies, strict=True))[:8]:
        say(f"{row.package:>22}  {body['text'][:70]!r} for {row.synopsis[:60]!r}")
    written = [str((result.result or {})["text"]) for result in raw]
    return {
        "rows": len(rows),
        "rouge_l": round(
            mean(rouge_l(b["text"], row.synopsis) for b, row in zip(bodies, rows, strict=True)), 4
        ),
        "rouge_l_first_sentence": round(
            mean(rouge_l(first_sentence(row.text), row.synopsis) for row in rows), 4
        ),
        "rouge_l_raw": round(
            mean(rouge_l(text, row.synopsis) for text, row in zip(written, rows, strict=False)), 4
        ),
        "supported": supported_share([b["text"] for b in bodies], [row.text for row in rows]),
        "supported_raw": supported_share(written, [row.text for row in rows]),
        "extractive": round(mean(bool(b["extractive"]) for b in bodies), 3),
        "seconds_each": round(seconds / len(rows), 3),
    }


def first_sentence(text: str) -> str:
    start, end = split_sentences(text)[0]
    return text[start:end]


def supported_share(summaries: Sequence[str], texts: Sequence[str]) -> float:
    """Of all sentences of the summaries."""
    checked = [
        bool(Evidence([text]).support(summary[start:end]))
        for summary, text in zip(summaries, texts, strict=False)
        for start, end in split_sentences(summary)
    ]
    return round(mean(checked), 4) if checked else 1.0


# --- long texts -------------------------------------------------------------------------------------------


def measure_long(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    document = read_plain_text(documents(cache_folder() / "documents")["debian-faq"], "debian-faq")
    document = Document(document.source, document.title, document.text[: args.characters], document.headings)
    sections = find_sections(document)
    service = serve(args, {"brief": {"kind": "summarize"}})
    return asyncio.run(_measure_long(service, document, sections, say))


def find_sections(document: Document) -> list[tuple[int, int]]:
    """Where the text of each section stands that has any of its own."""
    starts = [heading.body for heading in document.headings if heading.level > 1]
    ends = [heading.start for heading in document.headings[1:]] + [len(document.text)]
    bodies = [heading.body for heading in document.headings]
    return [
        (start, end)
        for start, end in zip(bodies, ends, strict=True)
        if start in starts and len(document.text[start:end].split()) >= 20
    ]


async def _measure_long(
    service: Service, document: Document, sections: Sequence[tuple[int, int]], say: Say
) -> dict[str, Any]:
    begin = sections[0][0]
    text = document.text[begin:]
    await service.start()
    try:
        began = time.monotonic()
        (result,) = await ask_all(service, "brief", [text])
        seconds = time.monotonic() - began
    finally:
        await service.stop()
    body = dict(result.result or {})
    evidence = Evidence(document.text[start:end] for start, end in sections)
    covered = {
        support.sources[0]
        for start, end in split_sentences(body["text"])
        if (support := evidence.support(body["text"][start:end]))
    }
    say(body["text"])
    return {
        "long_characters": len(text),
        "long_prompt_tokens": result.usage["prompt_tokens"],
        "long_summary_words": len(body["text"].split()),
        "long_sections": len(sections),
        "long_covered": round(len(covered) / len(sections), 4),
        "long_sources": len(body["sources"]),
        "long_extractive": body["extractive"],
        "long_seconds": round(seconds, 1),
    }


# --- windows ----------------------------------------------------------------------------------------------


def measure_windows(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    lines = [row["text"] for row in load_lines()]
    random.Random(0).shuffle(lines)
    lines = lines[:LINES]
    parts = {
        "models": {"small": {"bundle": str(args.model), "threads": args.threads}},
        "tasks": {"digest": {"kind": "summarize", "model": "small"}},
        "routes": [
            {
                "from": "logs/+",
                "task": "digest",
                "input": "{{ payload.text }}",
                "to": "digests/logs",
                "window": {"last": len(lines)},
            }
        ],
    }
    with served(parts) as (url, _):
        body = asyncio.run(_gather(url, lines))
    points = body["points"]
    ids = [id for point in points for id in point["ids"]]
    fitting = [all(fits(point["text"], lines[int(id)]) for id in point["ids"]) for point in points]
    for point in points[:8]:
        say(f"{point['count']:>22}  {point['text'][:90]}")
    say(body["text"])
    return {
        "window_messages": body["messages"],
        "window_points": len(points),
        "window_others": body["others"],
        "window_counts_exact": body["messages"] == len(lines)
        and all(point["count"] == len(point["ids"]) for point in points)
        and len(ids) == len(set(ids))
        and len(ids) + body["others"] == len(lines),
        "window_points_fit": round(mean(fitting), 4),
        "window_extractive": body["extractive"],
    }


async def _gather(url: str, lines: Sequence[str]) -> dict[str, Any]:
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    async with Client(url, NODE) as client:
        await until_online(client)
    host, _, port = url.removeprefix("mqtt://").partition(":")
    came: asyncio.Queue[bytes] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    app = mqtt.Client(CallbackAPIVersion.VERSION2)
    app.max_inflight_messages_set(100)

    def take(client: Any, data: Any, message: Any) -> None:
        loop.call_soon_threadsafe(came.put_nowait, bytes(message.payload))

    app.on_message = take
    app.connect(host, int(port))
    app.loop_start()
    app.subscribe("digests/logs", 1)
    await asyncio.sleep(1)
    for number, line in enumerate(lines):
        app.publish("logs/sshd", json.dumps({"id": number, "text": line}), qos=1)
    result = json.loads(await asyncio.wait_for(came.get(), 600))
    app.loop_stop()
    found: dict[str, Any] = result["result"]
    return found


def fits(text: str, message: str) -> bool:
    """Whether a message is what a point says, where ``*`` stands for anything and ``…`` for any end."""
    pattern = re.escape(" ".join(text.split()))
    pattern = pattern.replace(r"\*", ".*").replace("…", ".*")
    return re.fullmatch(pattern, " ".join(message.split()), re.DOTALL) is not None


MEASURES: Final = {"descriptions": measure_descriptions, "long": measure_long, "windows": measure_windows}


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="summaries-") as state:
        args.state = state
        for part in args.only:
            figures |= MEASURES[part](args, say)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, default=BUNDLE, help="decoder bundle (%(default)s)")
    parser.add_argument("--adapter", type=Path, help="made by summaries.py train, for the descriptions")
    parser.add_argument("--rows", type=int, default=500, help="descriptions (%(default)s)")
    parser.add_argument("--raw", type=int, default=100, help="of them also asked without the check")
    parser.add_argument("--characters", type=int, default=1_000_000, help="of the long text, at most")
    parser.add_argument("--half", choices=("development", "test"), default="test")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=cache_folder() / "descriptions")
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    args = parser.parse_args()
    about = {"model": args.model.name, "adapter": args.adapter is not None, "half": args.half}
    run_benchmark("summaries", args, measure, **about)
