"""Do memory, descriptors or threads grow over 100,000 requests?

    python benchmarks/robustness/soak.py [--requests 100000] [--starter DIR [--real 3000]] [--cuts 20]
                                         [--folder DIR]

Starts mosquitto with the shipped profile ``balanced``, and the daemon behind a proxy that cuts its connection
now and then: first with a fake engine, then with the real models of ``--starter``. Messages have 20 bytes to
60 kB; some are invalid, some are cancelled, some are repeated. The journal is small enough to be full after
the warm-up, which is the first tenth. The processes are measured after each tenth, when all is answered.
Prints tables, then one JSON line; status 1 if resident memory of the daemon or an engine grew by 2 % or more
after the warm-up, if a descriptor or thread is left over, or if a request was lost.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

import yaml

from benchmarks.lib.bus_path import broker, children, write_bundle
from benchmarks.lib.chaos_proxy import Proxy
from benchmarks.lib.paths import LIB
from benchmarks.lib.reporting import print_card
from benchmarks.lib.soak_load import NODE, TOPICS, Load
from edgeslm.protocol.codec import parse_state

MOST_GROWTH = 0.02
REAL_FILLERS = 6000
"""The daemon's memory is level after some thousand requests, of whatever engine: 55.5 MB after 8,000."""
START_S = 120.0
COLUMNS = ("resident", "pss", "anonymous", "descriptors", "threads")


@dataclass(frozen=True, slots=True)
class Look:
    """One process at one time; bytes, and numbers of descriptors and threads."""

    resident: int
    pss: int
    anonymous: int
    descriptors: int
    threads: int

    @classmethod
    def at(cls, pid: int) -> Look:
        process = Path(f"/proc/{pid}")
        fields = dict(
            line.split(":", 1) for line in (process / "smaps_rollup").read_text().splitlines() if ":" in line
        )
        resident, pss, anonymous = (
            int(fields[name].split()[0]) * 1024 for name in ("Rss", "Pss", "Anonymous")
        )
        descriptors = len(list((process / "fd").iterdir()))
        return cls(resident, pss, anonymous, descriptors, len(list((process / "task").iterdir())))


def configuration(url: str, folder: Path, starter: Path | None) -> dict[str, Any]:
    """Two models with ``starter``, else one that only a fake engine loads."""
    models = {
        "small": {"bundle": str(starter / "smollm2-135m-int4" if starter else write_bundle(folder / "fake"))}
    }
    labels = {"normal": "all is well", "warning": "look at it this shift", "critical": "stop now"}
    schema = {"type": "object", "properties": {"machine": {"type": "string"}}, "required": ["machine"]}
    tasks: dict[str, Any] = {
        "triage": {"kind": "classify", "model": "small", "labels": labels},
        "say": {"kind": "generate", "model": "small", "max_tokens": 4},
        "tell": {"kind": "generate", "model": "small", "max_tokens": 64},
        "fields": {"kind": "extract", "model": "small", "schema": schema, "max_tokens": 16},
    }
    if starter:
        models["encoder"] = {"bundle": str(starter / "minilm-l6-int8")}
        tasks["vector"] = {"kind": "embed", "model": "encoder", "overflow": "head"}
    return {
        "node": NODE,
        "broker": {"url": url},
        "models": models,
        "tasks": tasks,
        # So that both are full when the warm-up ends.
        "limits": {"repeat_window_s": 20, "journal_bytes": 131_072 if starter else 1_048_576},
        "prepare": "never",
        "state_dir": str(folder / "state"),
        "log_level": "error",
    }


@contextmanager
def node(file: Path, *, fake: bool) -> Iterator[int]:
    """The daemon's process id. Ended by SIGTERM, which must give status 0."""
    fake_node = [str(LIB / "fake_node.py"), str(file), "pipe"]
    process = subprocess.Popen(
        [sys.executable, *(fake_node if fake else ["-m", "edgeslm", "run", str(file)])],
        stdin=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        if (status := process.wait(60)) != 0:
            raise SystemExit(f"the daemon ended with status {status}")


def soak(requests: int, steps: int, cuts: int, folder: Path, starter: Path | None) -> dict[str, Any]:
    """Runs one soak and gives what was seen of it."""
    folder.mkdir()
    with broker("balanced", folder) as (_, port):
        proxy = Proxy(port)
        file = folder / "config.yaml"
        file.write_text(yaml.safe_dump(configuration(f"mqtt://127.0.0.1:{proxy.port}", folder, starter)))
        with node(file, fake=starter is None) as pid:
            load = Load(port, folder, real=starter is not None)
            load.wait_for(lambda message: parse_state(message).state == "online", TOPICS.state, START_S)
            if starter:  # a tenth of the real requests is too few for the daemon
                load.fill(REAL_FILLERS)
            started = time.monotonic()
            looks: list[dict[str, Look]] = []
            for step in range(steps):
                until = requests * (step + 1) // steps
                for cut in range(cuts // steps):
                    load.send_until(load.sent + (until - load.sent) // (cuts // steps - cut + 1))
                    proxy.cut()
                load.send_until(until)
                load.settle()
                workers = sorted(children(pid))
                looks.append(
                    {
                        "daemon": Look.at(pid),
                        **{f"engine {number}": Look.at(one) for number, one in enumerate(workers, 1)},
                    }
                )
                print_row(until, looks, journal_bytes(folder))
            seconds = time.monotonic() - started
            counts = load.counts()
            load.close()
        proxy.stop()
    return {"requests": requests, "cuts": cuts, "seconds": round(seconds), **counts, **judged(looks)}


def journal_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in (folder / "state").glob("journal-*"))


def print_row(until: int, looks: Sequence[dict[str, Look]], journal: int) -> None:
    """A row a process; the growth since the warm-up beside it."""
    if len(looks) == 1:
        print(
            f"{'requests':>9}  {'process':<10}" + "".join(f"{name:>13}" for name in COLUMNS) + "   since then"
        )
    for number, (name, look) in enumerate(looks[-1].items()):
        cells = [f"{value / 1e6:.2f} MB" for value in (look.resident, look.pss, look.anonymous)]
        cells += [str(look.descriptors), str(look.threads)]
        grown = look.resident / looks[0][name].resident - 1 if name in looks[0] else 0.0
        row = "".join(f"{cell:>13}" for cell in cells) + f"{grown:>+12.2%}"
        print(
            f"{until if not number else '':>9}  {name:<10}"
            + row
            + (f"   journal {journal}" if not number else "")
        )
    sys.stdout.flush()


def judged(looks: Sequence[dict[str, Look]]) -> dict[str, Any]:
    """Growth from the end of the warm-up to the end, and what else is not as it was."""
    first, last = looks[0], looks[-1]
    if first.keys() != last.keys():
        return {"processes": list(last), "passed": False}
    growth = {
        column: {
            name: round(getattr(last[name], column) / getattr(first[name], column) - 1, 5) for name in first
        }
        for column in COLUMNS[:3]
    }
    steady = {
        column: all(getattr(last[name], column) <= getattr(first[name], column) for name in first)
        for column in COLUMNS[3:]
    }
    return {
        "growth": growth,
        "resident_mb": {name: round(look.resident / 1e6, 2) for name, look in last.items()},
        "steady": steady,
        "passed": max(growth["resident"].values()) < MOST_GROWTH and all(steady.values()),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=100_000, help="with the fake engine")
    parser.add_argument("--starter", type=Path, help="folder that edgeslm-export starter made")
    parser.add_argument("--real", type=int, default=3000, help="requests with the real engine")
    parser.add_argument("--steps", type=int, default=10, help="looks; the first ends the warm-up")
    parser.add_argument("--cuts", type=int, default=20, help="of the daemon's connection")
    parser.add_argument("--folder", type=Path, default=Path(), help="where work files go")
    arguments = parser.parse_args(argv)
    card = print_card()
    runs: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="edgeslm-soak-", dir=arguments.folder) as work:
        folder = Path(work).resolve()
        if arguments.requests:
            print("\nfake engine")
            runs["fake"] = soak(
                arguments.requests, arguments.steps, arguments.cuts, folder / "fake-engine", None
            )
        if arguments.starter:
            print("\nreal engine")
            starter = arguments.starter.resolve()
            runs["real"] = soak(
                arguments.real, arguments.steps, arguments.cuts, folder / "real-engine", starter
            )
    print(json.dumps({**card, **runs}))
    return int(not all(run["passed"] and not run["lost"] for run in runs.values()))


if __name__ == "__main__":
    sys.exit(main())
