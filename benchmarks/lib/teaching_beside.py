"""Latency of requests while a head is taught on the node, beside that without, and memory of the training.

    python benchmarks/speed/node.py teaching STARTER [--rounds 6] [--requests 150] [--json]

The turns alternate: without teaching, then with it. In the latter the console's training runs all the time:
it begins again whenever it ends. Requests are labels by the decoder and vectors by the encoder, one at a
time, with a pause between them. Latencies are in milliseconds, memory is peak RSS in MB.
"""

from __future__ import annotations

import argparse
import http.client
import json
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.http_latency import free_port
from benchmarks.lib.served import NODE, ask, node
from edgeslm.cli.demo.broker import start_broker
from edgeslm.cli.demo.material import load_sms
from edgeslm.client import Client

PAUSE_S: Final = 0.05
LABELS: Final = 60
TASKS: Final = {
    "spam": {"kind": "classify", "model": "small", "labels": ["ham", "spam"]},
    "vector": {"kind": "embed", "model": "encoder"},
}


class Console:
    """The page's actions; the console takes this machine for a proxy that has signed the user in."""

    def __init__(self, port: int) -> None:
        self._port = port
        stream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        stream.request("GET", "/events")
        self._csrf = json.loads(stream.getresponse().readline()[6:])["csrf"]
        stream.close()

    def act(self, action: str, **arguments: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        headers = {"Content-Type": "application/json", "X-Edgeslm-Secret": self._csrf}
        connection.request("POST", "/api/teach", json.dumps({"action": action, **arguments}), headers)
        found: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        return found


def label(console: Console, labels: dict[str, str]) -> None:
    """Labels messages as the page shows them."""
    console.act("open")
    while (state := console.act("state"))["labelled"] < LABELS:
        if (message := state["message"]) is None:
            time.sleep(0.2)
        else:
            console.act("label", message=message["id"], label=labels[message["text"]])


class Training:
    """Trains again and again until it is stopped, and notes the most memory that a job takes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._over = threading.Event()
        self.peak_mb = 0.0
        self.times = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Training:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            if self._console.act("state")["doing"] != "training":
                self._console.act("train")
                self.times += 1
            self.peak_mb = max(self.peak_mb, _job_mb())
            time.sleep(0.1)


def _job_mb() -> float:
    """Peak RSS of the job that runs; 0 if there is none."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"edgeslm_export" in words and b"tune" in words:
                    status = (entry / "status").read_text()
                    return int(status.partition("VmHWM:")[2].split()[0]) / 1000
            except (OSError, IndexError):
                continue
    return 0.0


def turn(client: Client, task: str, texts: Sequence[str]) -> list[float]:
    found = []
    for text in texts:
        began = time.perf_counter()
        client.request(task, text).unwrap()
        found.append(1000 * (time.perf_counter() - began))
        time.sleep(PAUSE_S)
    return found


def figures(times: Sequence[float]) -> dict[str, float]:
    cuts = quantiles(times, n=100, method="inclusive")
    return {"p50_ms": round(cuts[49], 1), "p95_ms": round(cuts[94], 1), "p99_ms": round(cuts[98], 1)}


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    taught, held = load_sms(args.starter / "data")
    labels = {row.text: row.label for row in (*taught, *held)}
    texts = [row.text for row in held][: args.requests]
    times: dict[tuple[str, bool], list[float]] = {(task, on): [] for task in TASKS for on in (False, True)}
    with tempfile.TemporaryDirectory(prefix="teaching-") as place, start_broker(Path(place)) as broker:
        folder, port = Path(place), free_port()
        (folder / "spam.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in labels))
        models = {"small": "smollm2-135m-int4", "encoder": "minilm-l6-int8"}
        console = {
            "listen": f"127.0.0.1:{port}",
            "ingress": True,
            "peers": ["127.0.0.1"],
            "teach": {"messages": str(folder)},
        }
        bundles = {name: {"bundle": str((args.starter / of).resolve())} for name, of in models.items()}
        parts = {"models": bundles, "tasks": TASKS, "console": console}
        with node(broker.url, folder, parts), Client(broker.url, NODE) as client:
            ask(broker.url, "spam", texts[:2], 1)
            page = Console(port)
            label(page, labels)
            jobs = 0
            peak_mb = 0.0
            for number in range(args.rounds):
                for on in (False, True) if number % 2 else (True, False):
                    if on:
                        with Training(page) as training:
                            time.sleep(1)
                            for task in TASKS:
                                times[task, on] += turn(client, task, texts)
                        peak_mb, jobs = max(peak_mb, training.peak_mb), jobs + training.times
                    else:
                        while page.act("state")["doing"]:
                            time.sleep(0.2)
                        for task in TASKS:
                            times[task, on] += turn(client, task, texts)
    rows = []
    say(f"{'task':<8}{'taught':<8}" + "".join(f"{key:>10}" for key in ("p50_ms", "p95_ms", "p99_ms")))
    for (task, on), found in times.items():
        row = figures(found)
        rows.append({"task": task, "teaching": on, "requests": len(found), **row})
        say(f"{task:<8}{'yes' if on else 'no':<8}" + "".join(f"{value:>10g}" for value in row.values()))
    ratios = {task: round(_p99(rows, task, on=True) / _p99(rows, task, on=False), 2) for task in TASKS}
    return {
        "rounds": args.rounds,
        "trainings": jobs,
        "job_mb": round(peak_mb),
        "p99_ratio": ratios,
        "turns": rows,
    }


def _p99(rows: Sequence[dict[str, Any]], task: str, *, on: bool) -> float:
    return next(float(row["p99_ms"]) for row in rows if row["task"] == task and row["teaching"] is on)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("starter", type=Path, help="folder with the starter's models and data")
    parser.add_argument("--rounds", type=int, default=6, help="(default: %(default)s)")
    parser.add_argument("--requests", type=int, default=150, help="of each task in a turn")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    run_benchmark("teaching", parser.parse_args(argv), measure)
