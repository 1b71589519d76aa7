"""Does a rollout in groups stop a bad bundle at the canaries?

    python benchmarks/fleet/rollout.py [--groups 2,2,4] [--json]

Each node is a real ``edgeslm run`` with a real ``edgeslm rollout hawkbit``, at a server with hawkBit's API,
groups and thresholds (``lib/fake_hawkbit.py``). Engines are fake, so the smoke test is left out. Each node
gets requests throughout. Three bundles follow each other: a sound one; one with wrong answers, which the
``checks`` of the task find before it serves; one whose engine crashes under load, which the canary period
finds. Prints one JSON line last; status 1 if the sound bundle is not everywhere, a bad one got beyond the
canaries, or a canary still answers by it.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

import yaml

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.fake_engine import write_bundle
from benchmarks.lib.fake_hawkbit import CLOSED, FakeHawkbit, Rollout
from benchmarks.lib.paths import ROOT
from edgeslm.bundle.manifest import load_bundle
from edgeslm.cli.demo.broker import start_broker
from edgeslm.client import Client
from edgeslm.errors import EdgeslmError
from edgeslm.update.store import Store

MOST_S: Final = 300.0
"""For anything that is waited for."""
TRIAL_S: Final = 6.0
PAUSE_S: Final = 0.2
"""Between two requests to a node."""
WAVES: Final = (
    ("sound", b"weights of version 2", "FINISHED"),
    ("wrong answers", b"wrong weights", "PAUSED"),
    ("crashes on trial", b"crash after 8 calls", "PAUSED"),
)
RUN: Final = """
import sys
sys.path.append(sys.argv[1])
from benchmarks.lib import fake_engine
from edgeslm.update import checks
async def passes(bundle, **how): pass
checks.smoke_test = passes
sys.exit(fake_engine.run(sys.argv[2]))
"""


class Member:
    """A node with its client of the server, and an app that asks it without end."""

    def __init__(self, folder: Path, name: str, url: str, server: str) -> None:
        self.name, self._url = name, url
        self.state = folder / "state"
        self.state.mkdir(parents=True)
        self.answers: Counter[str] = Counter()
        self.model = ""
        self._folder = folder
        self._file = folder / "config.yaml"
        self._file.write_text(
            yaml.safe_dump(
                {
                    "node": name,
                    "broker": {"url": url},
                    "models": {"small": {"bundle": str(write_bundle(folder / "first"))}},
                    "tasks": {
                        "judge": {
                            "kind": "classify",
                            "model": "small",
                            "labels": ["normal", "critical"],
                            "checks": [{"input": "All quiet on line 2", "output": "normal"}],
                        }
                    },
                    "updates": {"trial_s": TRIAL_S},
                    "rollouts": {"url": server, "allow_http": True, "poll_s": 1},
                    "signing": {"unsigned": "accept"},
                    "prepare": "never",
                    "state_dir": str(self.state),
                }
            )
        )

    @contextmanager
    def running(self, stop: threading.Event) -> Iterator[None]:
        commands = [
            [sys.executable, "-c", RUN, str(ROOT), str(self._file)],
            [sys.executable, "-m", "edgeslm", "rollout", "hawkbit", str(self._file)],
        ]
        with ExitStack() as stack:
            words = stack.enter_context((self._folder / "words.txt").open("wb"))
            for command in commands:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, start_new_session=True
                )
                stack.callback(_end, process)
            asker = threading.Thread(target=self._ask, args=(stop,), daemon=True)
            asker.start()
            stack.callback(asker.join, MOST_S)
            stack.callback(stop.set)
            yield

    def _ask(self, stop: threading.Event) -> None:
        with Client(self._url, self.name) as client:
            while client.node_state != "online" and not stop.wait(PAUSE_S):
                pass
            while not stop.wait(PAUSE_S):
                try:
                    result = client.request("judge", "Spindle 3 smells of burnt oil", timeout=MOST_S)
                except EdgeslmError as error:
                    self.answers[type(error).__name__] += 1
                    continue
                self.answers[
                    "ok" if result.status == "ok" else result.error.code if result.error else "?"
                ] += 1
                if result.status == "ok" and result.model is not None:
                    self.model = result.model.partition("@")[2]

    def has(self, digest: str) -> bool:
        return any(one.bundle.digest == digest for one in Store(self.state, self.name).bundles())

    @property
    def words(self) -> str:
        return (self._folder / "words.txt").read_text(errors="replace")[-600:]


def _end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def pack(folder: Path, weights: bytes) -> tuple[Path, str]:
    """An archive of a bundle with these weights, and its digest."""
    bundle = write_bundle(folder / "bundle", weights)
    archive = folder / "small.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(bundle, arcname="small")
    return archive, load_bundle(bundle).digest


def wait(until: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + MOST_S
    while not until():
        if time.monotonic() > give_up_at:
            raise RuntimeError(f"not so after {MOST_S:g} s: {what}")
        time.sleep(0.1)


def settled(rollout: Rollout) -> bool:
    """It goes no further, and what was begun is over."""
    ended = rollout.status in ("FINISHED", "PAUSED")
    return ended and all(action.status in CLOSED for action in rollout.actions.values())


def roll_out(
    server: FakeHawkbit, members: list[Member], groups: list[list[str]], archive: Path, digest: str
) -> dict[str, Any]:
    """What became of one bundle, after every node has answered again."""
    began, downloads = time.monotonic(), len(server.downloads)
    rollout = server.roll_out([server.module("small", archive)], groups)
    wait(lambda: settled(rollout), f"the rollout is over: {rollout.counts()}")
    for member in members:
        seen = member.answers["ok"]
        wait(lambda member=member, seen=seen: member.answers["ok"] > seen + 1, f"{member.name} answers")  # type: ignore[misc]
    why = sorted({line.partition(": ")[2] for one in rollout.actions.values() for line in one.details[-1:]})
    return {
        "status": rollout.status,
        "groups": rollout.counts(),
        "answer_by_it": sum(digest.startswith(one.model) for one in members),
        "have_it": sum(member.has(digest) for member in members),
        "downloads": len({target for target, _ in server.downloads[downloads:]}),
        "seconds": round(time.monotonic() - began, 1),
        "why": [line for line in why if line],
    }


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    sizes = [int(size) for size in args.groups.split(",")]
    names = [f"node-{number}" for number in range(sum(sizes))]
    groups = [names[sum(sizes[:index]) : sum(sizes[: index + 1])] for index in range(len(sizes))]
    waves: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(start_broker(folder))
        server = stack.enter_context(FakeHawkbit())
        stop = threading.Event()
        members = [Member(folder / name, name, broker.url, server.url) for name in names]
        for member in members:
            stack.enter_context(member.running(stop))
        for member in members:
            wait(lambda member=member: member.answers["ok"] > 0, f"{member.name} answers: {member.words}")  # type: ignore[misc]
        before = members[0].model
        for name, weights, status in WAVES:
            archive, digest = pack(folder / name.replace(" ", "-"), weights)
            found = waves[name] = roll_out(server, members, groups, archive, digest)
            say(f"{name:>22}  {found}")
            answers = {member.model for member in members}
            sound = status == "FINISHED"
            reached = len(names) if sound else sizes[0]
            if found["status"] != status or found["downloads"] != reached:
                raise RuntimeError(f"{name}: {found}")
            if found["answer_by_it"] != (len(names) if sound else 0) or (answers == {before}) is sound:
                raise RuntimeError(f"{name}: nodes answer by {answers}, before by {before}")
            if not sound and found["have_it"]:
                raise RuntimeError(f"{name}: it is still on {found['have_it']} nodes")
            before = members[0].model
        stop.set()
        total = sum((member.answers for member in members), Counter[str]())
    return {"nodes": len(names), "sizes": sizes, "waves": list(waves.items()), "requests": dict(total)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--groups", default="2,2,4", help="nodes of each group, the canaries first")
    parser.add_argument("--json", action="store_true")
    run_benchmark("rollout", parser.parse_args(), measure, what="bundles rolled out to nodes in groups")


if __name__ == "__main__":
    main()
