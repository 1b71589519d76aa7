"""How many requests a second does the bus path carry, without a model?

    python benchmarks/speed/throughput.py [--profile balanced strict] [--in-flight 256 16 1]
                                          [--requests 5000] [--engine parent pipe] [--folder DIR]
                                          [--profile-to FILE]

Starts mosquitto with the shipped settings of a profile, the daemon with an engine that answers at once, and a
minimal client; all share the processors of this machine. Prints requests/s, latency from publish to result,
processor time per 1,000 requests of broker, daemon (event loop and other threads), client and engine, and
bytes written per request: ``handed`` to the kernel by write calls, ``disk`` as dirty pages. On a busy machine
compare processor time, not requests/s. Prints a table, then one JSON line.

The folder is made under --folder (default: the working directory), because a temporary folder may be memory.
"""

from __future__ import annotations

import argparse
import json
import os
import pstats
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

import yaml

from benchmarks.lib.bare_client import BareClient, Run
from benchmarks.lib.bus_path import broker, children, write_bundle
from benchmarks.lib.paths import LIB
from benchmarks.lib.processes import cpu_seconds
from benchmarks.lib.reporting import print_card
from edgeslm.protocol.codec import Topics, encode_request
from edgeslm.telemetry.health import quantiles

NODE = "bench"
TASK = "triage"
REPLY = f"edgeslm/v1/{NODE}/res/bench"
START_S = 30.0
WARM_UP = 500
PROFILE_LINES = 25

PROFILES = ("strict", "balanced")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used so far: CPU seconds, those of its first thread, bytes written."""

    cpu_s: float = 0.0
    main_cpu_s: float = 0.0
    handed_bytes: int = 0
    disk_bytes: int = 0

    @classmethod
    def of(cls, pid: int) -> Usage:
        process = Path(f"/proc/{pid}")
        written = parse_io((process / "io").read_text())
        return cls(
            cpu_seconds(pid),
            cpu_seconds(pid, thread=pid),
            written["wchar"],
            # Pages that were dirtied and then dropped with their file never reach the disk.
            written["write_bytes"] - written["cancelled_write_bytes"],
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            self.cpu_s - other.cpu_s,
            self.main_cpu_s - other.main_cpu_s,
            self.handed_bytes - other.handed_bytes,
            self.disk_bytes - other.disk_bytes,
        )


def parse_io(text: str) -> dict[str, int]:
    """The text of ``/proc/PID/io``."""
    return {name: int(value) for name, _, value in (line.partition(": ") for line in text.splitlines())}


def file_system(path: Path, mounts: str) -> str:
    """Kind of the file system that holds ``path``, from the text of ``/proc/mounts``."""
    kinds = {}
    for line in mounts.splitlines():
        _, where, kind, *_ = line.split()
        # Blanks and such are written as octal numbers there.
        kinds[Path(re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), where))] = kind
    return next(kinds[parent] for parent in (path, *path.parents) if parent in kinds)


@contextmanager
def node(port: int, folder: Path, engine: str, profile_to: Path | None) -> Iterator[int]:
    """The daemon with a fake engine; its process id. Ended by SIGTERM, which must give status 0."""
    bundle = write_bundle(folder / "fake")
    labels = {"normal": "all is well", "warning": "look at it this shift", "critical": "stop now"}
    config = {
        "node": NODE,
        "broker": {"url": f"mqtt://127.0.0.1:{port}"},
        "models": {"small": {"bundle": str(bundle)}},
        "tasks": {TASK: {"kind": "classify", "model": "small", "labels": labels}},
        "log_level": "warning",
        "prepare": "never",
        "state_dir": str(folder / "state"),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, str(LIB / "fake_node.py"), str(folder / "config.yaml"), engine]
    process = subprocess.Popen(
        [*command, *([str(profile_to)] if profile_to else [])],
        stdin=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        if (status := process.wait(60)) != 0:
            raise SystemExit(f"the daemon ended with status {status}")


def connect(port: int) -> BareClient:
    give_up_at = time.monotonic() + START_S
    while True:
        try:
            return BareClient(port, REPLY)
        except ConnectionRefusedError:
            if time.monotonic() > give_up_at:
                raise SystemExit(f"the broker didn't start within {START_S:g} s") from None
            time.sleep(0.05)


def payloads(count: int) -> list[bytes]:
    """Requests of which no two are alike."""
    return [encode_request(f"Message {number}: spindle 3 smells of burnt oil") for number in range(count)]


def figures(run: Run, used: Mapping[str, Usage]) -> dict[str, Any]:
    """What one run came to: requests/s, quantiles, and per request what each process used."""
    count = len(run.latencies_s)
    return {
        "requests_per_s": round(count / run.seconds),
        "latency_ms": quantiles(latency * 1000 for latency in run.latencies_s),
        "cpu_s_per_1000": {
            **{name: round(usage.cpu_s / count * 1000, 3) for name, usage in used.items()},
            "daemon_loop": round(used["daemon"].main_cpu_s / count * 1000, 3),
        },
        "written_per_request": {
            name: {
                "handed_bytes": round(used[name].handed_bytes / count),
                "disk_bytes": round(used[name].disk_bytes / count),
            }
            for name in ("broker", "daemon")
        },
    }


COLUMNS = (
    ("profile", 9),
    ("engine", 7),
    ("flight", 7),
    ("req/s", 7),
    ("p50 ms", 8),
    ("p95 ms", 8),
    ("p99 ms", 8),
    ("broker", 8),
    ("daemon", 8),
    ("(loop)", 8),
    ("client", 8),
    ("engine", 8),
    ("broker disk", 12),
    ("daemon disk", 12),
)


def row(profile: str, engine: str, in_flight: int, measured: Mapping[str, Any]) -> str:
    cpu, written = measured["cpu_s_per_1000"], measured["written_per_request"]
    cells = [
        *(profile, engine, in_flight, measured["requests_per_s"]),
        *(f"{measured['latency_ms'][name]:.1f}" for name in ("p50", "p95", "p99")),
        *(f"{cpu[name]:.3f}" for name in ("broker", "daemon", "daemon_loop", "client")),
        f"{cpu['engine']:.3f}" if "engine" in cpu else "",
        *(written[name]["disk_bytes"] for name in ("broker", "daemon")),
    ]
    return "".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, COLUMNS, strict=True))


def measure(client: BareClient, pids: Mapping[str, int], count: int, in_flight: int) -> dict[str, Any]:
    sent = payloads(count)
    before = {name: Usage.of(pid) for name, pid in pids.items()}
    run = client.run(Topics(NODE).request(TASK), sent, in_flight)
    return figures(run, {name: Usage.of(pid) - before[name] for name, pid in pids.items()})


def print_profile(file: Path) -> None:
    """Of the busy threads, the functions that took most of the thread's own CPU time."""
    parts = {part: pstats.Stats(str(part)) for part in sorted(file.parent.glob(f"{file.name}.*"))}
    longest_s = max(stats.get_stats_profile().total_tt for stats in parts.values())
    for stats in parts.values():
        if stats.get_stats_profile().total_tt > longest_s / 20:
            stats.strip_dirs().sort_stats("tottime").print_stats(PROFILE_LINES)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--profile", nargs="+", choices=PROFILES, default=["balanced", "strict"])
    parser.add_argument("--engine", nargs="+", choices=("parent", "pipe"), default=["parent", "pipe"])
    parser.add_argument("--in-flight", type=int, nargs="+", default=[256, 16, 1])
    parser.add_argument("--requests", type=int, default=5000, help="a run; a tenth with one in flight")
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to be measured")
    parser.add_argument("--profile-to", type=Path, help="run the daemon under cProfile, which slows it")
    arguments = parser.parse_args(argv)
    if min(arguments.in_flight) < 1 or max(arguments.in_flight) > 256:
        parser.error("--in-flight must be from 1 to 256, what the broker's settings allow")
    if arguments.requests < 10:
        parser.error("--requests must be at least 10")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    mounts = Path("/proc/mounts").read_text()
    card = print_card(
        **{"paho-mqtt": version("paho-mqtt"), "file_system": file_system(arguments.folder.resolve(), mounts)}
    )
    print("CPU seconds per 1,000 requests; bytes written to disk per request\n")
    print("".join(f"{name:>{width}}" for name, width in COLUMNS))
    runs = []
    for profile in arguments.profile:
        for engine in arguments.engine:
            with ExitStack() as stack:
                folder = Path(
                    stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.folder))
                ).resolve()
                broker_pid, port = stack.enter_context(broker(profile, folder))
                client = connect(port)
                stack.callback(client.close)
                node_pid = stack.enter_context(node(port, folder, engine, arguments.profile_to))
                client.wait_for(Topics(NODE).state, b'"online"')
                pids = {"broker": broker_pid, "daemon": node_pid, "client": os.getpid()}
                if engine == "pipe":
                    (pids["engine"],) = children(node_pid)
                client.run(Topics(NODE).request(TASK), payloads(WARM_UP), 16)
                for in_flight in arguments.in_flight:
                    count = arguments.requests if in_flight > 1 else arguments.requests // 10
                    measured = measure(client, pids, count, in_flight)
                    runs.append({"profile": profile, "engine": engine, "in_flight": in_flight, **measured})
                    print(row(profile, engine, in_flight, measured), flush=True)
    if arguments.profile_to:
        print_profile(arguments.profile_to)
    print(json.dumps({**card, "runs": runs}))


if __name__ == "__main__":
    main()
