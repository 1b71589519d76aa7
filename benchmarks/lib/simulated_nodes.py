"""Many nodes on one broker in few processes: real daemons whose engines take a given time.

    python benchmarks/lib/simulated_nodes.py --broker URL [--nodes 4] [--service-ms 50,50,200,200]
                                         [--processes 1] [--pool NAME [--by share|dispatcher]] [--first 1]
                                         [--journal full|none] [--keepalive-s 30] [--folder DIR]

Each node is what ``edgeslm run`` runs, down to its own connection and network thread: ``state``, ``info`` and
``health`` are what a real node says, requests take the real way. Only the engine is ``fake_node``'s, one call
at a time. The nodes are ``node-1`` and so on; service times go round. The task is ``triage``, a classify. The
line ``ready`` is printed when all are online; SIGTERM drains them. To a process of its own (``--processes``)
SIGUSR1 says to be ten times as slow, SIGUSR2 as fast as before.

As a library: :class:`Crowd`, which starts and kills such processes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlsplit

sys.path.append(str(Path(__file__).resolve().parents[2]))

import yaml

from benchmarks.lib.fake_engine import write_bundle
from benchmarks.lib.fake_node import TimedEngine
from benchmarks.lib.thin_nodes import Profile, ThinNodes
from edgeslm.config.loader import Config, parse_config
from edgeslm.node.daemon import Daemon, make_service
from edgeslm.protocol.codec import encode_document, encode_state

TASK: Final = "triage"
LABELS = {"normal": "all is well", "warning": "look at it this shift", "critical": "stop now"}
SLOWER: Final = 10.0
START_EVERY_S = 0.02
"""Nodes of one process start one after the other: their health comes spread over its interval too."""
START_S = 120.0
STOP_S = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Nodes ``first`` to ``first + nodes - 1``; ``service_ms`` go round them, beginning with ``node-1``."""

    broker: str
    nodes: int = 4
    service_ms: tuple[float, ...] = (30.0,)
    pool: str | None = None
    by: str = "share"
    journal: str = "full"
    keepalive_s: int = 30
    first: int = 1
    thin: bool = False
    """As ``thin_nodes`` has them: for measuring a broker, not nodes."""

    @property
    def names(self) -> list[str]:
        return [f"node-{number}" for number in range(self.first, self.first + self.nodes)]

    @property
    def services_s(self) -> list[float]:
        """Of each node, in the order of the names."""
        numbers = range(self.first - 1, self.first - 1 + self.nodes)
        return [self.service_ms[number % len(self.service_ms)] / 1000 for number in numbers]

    def parts(self, processes: int) -> list[Plan]:
        """The same nodes, as evenly as can be over so many processes."""
        found, first = [], self.first
        for left in range(min(processes, self.nodes), 0, -1):
            nodes = -(-(self.first + self.nodes - first) // left)
            found.append(replace(self, first=first, nodes=nodes))
            first += nodes
        return found

    def config(self, name: str, bundle: Path, state_dir: Path) -> Config:
        settings = {
            "node": name,
            "broker": {"url": self.broker, "keepalive_s": self.keepalive_s},
            "models": {"small": {"bundle": str(bundle)}},
            "tasks": {TASK: {"kind": "classify", "model": "small", "labels": LABELS}},
            **({"pool": {"name": self.pool, "tasks": [TASK], "by": self.by}} if self.pool else {}),
            "journal": {"keep": self.journal},
            "log_level": "error",
            "prepare": "never",
            "state_dir": str(state_dir),
        }
        return parse_config(yaml.safe_dump(settings))


class Node:
    """A daemon with an engine that takes its time."""

    def __init__(self, config: Config, service_s: float) -> None:
        self._service_s = service_s
        self._engine: TimedEngine | None = None
        self.daemon = Daemon(config, make_service(config, self._make_engine))

    def _make_engine(self, bundle: Any, hardware: Any, adapters: Any) -> TimedEngine:
        self._engine = TimedEngine(bundle.path, self._service_s)
        return self._engine

    def slow_down(self, factor: float) -> None:
        if self._engine is not None:
            self._engine.service_s = self._service_s * factor


async def serve(plan: Plan, folder: Path, stop: asyncio.Event) -> None:
    """Runs the nodes of a plan in this loop until ``stop``; what a node has to remember is in ``folder``."""
    bundle = folder / "bundle"
    if not bundle.exists():
        write_bundle(bundle)
    nodes = [
        Node(plan.config(name, bundle, folder / name), service_s)
        for name, service_s in zip(plan.names, plan.services_s, strict=True)
    ]
    loop = asyncio.get_running_loop()
    for number, factor in ((signal.SIGUSR1, SLOWER), (signal.SIGUSR2, 1.0)):
        loop.add_signal_handler(number, _slow_down, nodes, factor)
    stopped = asyncio.create_task(stop.wait())
    running = []
    for node in nodes:
        running.append(asyncio.create_task(node.daemon.run()))
        await asyncio.sleep(START_EVERY_S)
    try:
        async with asyncio.timeout(START_S):
            while any(node.daemon.health()["state"] == "starting" for node in nodes):
                await asyncio.wait([stopped, *running], timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
                for task in running:
                    if task.done():
                        task.result()  # why it can't be
        print("ready", flush=True)
        await asyncio.wait([stopped, *running], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        for node in nodes:
            node.daemon.request_stop()
        await asyncio.gather(*running)


def _slow_down(nodes: Sequence[Node], factor: float) -> None:
    for node in nodes:
        node.slow_down(factor)


def serve_thin(plan: Plan, folder: Path, stop: asyncio.Event) -> None:
    """The same with ``thin_nodes``: what they retain is what real nodes of this plan would."""
    bundle = write_bundle(folder / "bundle") if not (folder / "bundle").exists() else folder / "bundle"
    profiles = []
    for name, service_s in zip(plan.names, plan.services_s, strict=True):
        daemon = Node(plan.config(name, bundle, folder / name), service_s).daemon
        topics = daemon.topics
        retained = {
            topics.state: encode_state("online", daemon.boot_id),
            topics.info: encode_document(daemon.info()),
            topics.health: encode_document({**daemon.health(), "state": "online"}),
        }
        shared = (f"$share/{plan.pool}/{topics.prefix}/v1/pool/{plan.pool}/req/{TASK}",)
        filters = (topics.requests_filter, *(shared if plan.pool and plan.by == "share" else ()))
        profiles.append(Profile(name, service_s, filters, topics.state, retained))
    port = urlsplit(plan.broker).port or 1883
    nodes = ThinNodes(port, profiles, plan.keepalive_s)
    nodes.serve(stop.is_set, lambda: print("ready", flush=True))


class Crowd:
    """The nodes of a plan in processes of their own; ends with the ``with`` statement.

    :param folder: where nodes keep what they remember; one that is started again finds it.
    :param command: what goes before the command, such as ``ip netns exec NAME``, or a profiler.
    """

    def __init__(self, plan: Plan, folder: Path, processes: int = 1, command: Sequence[str] = ()) -> None:
        self.parts = plan.parts(processes)
        self._folder = folder
        self._command = command
        self._processes: list[subprocess.Popen[str] | None] = [None] * len(self.parts)

    @property
    def pids(self) -> list[int]:
        """Of those that run."""
        return [one.pid for one in self._processes if one is not None]

    def start(self, number: int) -> None:
        """Starts the process of ``parts[number]``."""
        folder = self._folder / f"nodes-{self.parts[number].first}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plan.json").write_text(json.dumps(asdict(self.parts[number])))
        own = [sys.executable, str(Path(__file__).resolve()), "--serve", str(folder)]
        self._processes[number] = subprocess.Popen(
            [*self._command, *own],
            stdin=subprocess.PIPE,  # its end is the end of the nodes, whatever happens to us
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait(self, number: int) -> None:
        """Returns when its nodes are online. :raises SystemExit: they aren't."""
        process = self._processes[number]
        if process is None or process.stdout is None or process.stdout.readline() != "ready\n":
            raise SystemExit(f"the simulated nodes from node-{self.parts[number].first} on didn't start")

    def signal(self, number: int, what: int) -> None:
        process = self._processes[number]
        if process is not None:
            process.send_signal(what)

    def kill(self, number: int) -> None:
        """By SIGKILL: its nodes' connections break, and the broker says that they are offline."""
        process, self._processes[number] = self._processes[number], None
        if process is not None:
            process.kill()
            process.communicate()

    def stop(self) -> None:
        """Drains all. :raises SystemExit: one ended badly."""
        running = [process for process in self._processes if process is not None]
        self._processes = [None] * len(self.parts)
        for process in running:
            process.terminate()
        for process in running:
            process.communicate(timeout=STOP_S)
        if any(process.returncode for process in running):
            raise SystemExit("simulated nodes ended badly")

    def __enter__(self) -> Crowd:
        for number in range(len(self.parts)):
            self.start(number)
        try:
            for number in range(len(self.parts)):
                self.wait(number)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
        else:
            self._end()

    def _end(self) -> None:
        for number in range(len(self.parts)):
            self.kill(number)


def open_many_files() -> None:
    """As many as this process may: a node takes ten, the broker one for each."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve_until_told(plan: Plan, folder: Path, *, with_parent: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if with_parent:
        loop.add_reader(sys.stdin.fileno(), stop.set)  # nothing is ever written there: it is the end
    if plan.thin:
        await asyncio.to_thread(serve_thin, plan, folder, stop)
    else:
        await serve(plan, folder, stop)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--broker", default="mqtt://127.0.0.1", help="(default: %(default)s)")
    parser.add_argument("--nodes", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--service-ms", type=_times, default=(30.0,), help="commas between (default: 30)")
    parser.add_argument("--processes", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--pool", help="the pool that all of them join")
    parser.add_argument("--by", choices=("share", "dispatcher"), default="share", help="(default: share)")
    parser.add_argument("--journal", choices=("full", "none"), default="full", help="(default: full)")
    parser.add_argument("--keepalive-s", type=int, default=30, help="(default: %(default)s)")
    parser.add_argument("--first", type=int, default=1, help="number of the first node (default: 1)")
    parser.add_argument("--thin", action="store_true", help="only answer, to measure a broker (thin_nodes)")
    parser.add_argument("--folder", type=Path, help="where they keep what they remember (default: nowhere)")
    args = parser.parse_args(argv)
    if min(args.nodes, args.processes, args.first) < 1 or min(args.service_ms) < 0:
        parser.error("--nodes, --processes and --first must be at least 1, --service-ms at least 0")
    return args


def _times(text: str) -> tuple[float, ...]:
    return tuple(float(one) for one in text.split(","))


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    open_many_files()
    if args.serve:
        fields = json.loads((args.serve / "plan.json").read_text())
        fields["service_ms"] = tuple(fields["service_ms"])
        asyncio.run(_serve_until_told(Plan(**fields), args.serve, with_parent=True))
        return
    with contextlib.ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        plan = Plan(
            args.broker,
            args.nodes,
            args.service_ms,
            args.pool,
            args.by,
            args.journal,
            args.keepalive_s,
            args.first,
            args.thin,
        )
        if args.processes == 1:
            asyncio.run(_serve_until_told(plan, folder, with_parent=False))
            return
        told = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: told.set())
        with Crowd(plan, folder, args.processes):
            print("ready", flush=True)
            told.wait()


if __name__ == "__main__":
    main(sys.argv[1:])
