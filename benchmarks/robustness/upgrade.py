"""Is a request lost or run twice when a node changes to the next version and back under load?

    python benchmarks/robustness/upgrade.py [--requests 4000] [--changes 10] [--durability spool]
                                            [--profile balanced]
    python benchmarks/robustness/upgrade.py --old TREE

The old version (commit 8dd6cdd, or the code in TREE) serves at a real mosquitto with a shipped configuration
and the fake engine of its own tree. While at least 16 requests are acknowledged and unanswered, it is ended
by SIGTERM and SIGKILL in turns, and the new version continues with the same state directory and session; then
the old one again. Messages of two routes with windows arrive throughout, and after each change clients repeat
requests that were answered before it. After every second pair of kills the write-ahead log of the journal
ends with half a frame, as after a power cut; with ``--damage`` the journal has lost its header.

At the end the format of the journal is raised: the new version must refuse it with a sentence and leave every
file unchanged. (0.1.0 treats a later format as damage.) Prints a table, then one JSON line; status 1 if a
request has no result, a message of a window is in no digest or in two, an answered request was run again, or
a version ends otherwise than expected.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.lib.chaos_senders import NODE, TOPICS, Ledger, Watcher
from benchmarks.lib.chaos_victims import START_S, Broker, NodeUnderTest, configuration
from benchmarks.lib.fake_engine import write_bundle
from benchmarks.lib.reporting import print_card, print_verdict, work_folder
from benchmarks.lib.upgrade_load import ROUTES, TASKS, Notes, Repeater
from benchmarks.lib.versions import FIRST, NoHistory, Version, this_version, unpack, version_in
from edgeslm.storage.schema import SEALED_FORMAT

QUIET_S: Final = 30.0
LISTEN_S: Final = 2.0
LEAST_IN_FLIGHT: Final = 16
LEAST_ANSWERED: Final = 48
"""Requests that a version answers before the next change."""
REPEATS: Final = 24
"""Answered requests that are repeated after each change."""
NOTE_EVERY: Final = 2
SHIFT_EVERY: Final = 150
JOURNAL: Final = f"journal-{NODE}.sqlite"
LATER: Final = "a later version of edgeslm"


@dataclass
class Stage:
    """All that takes part, and what became of it."""

    node: NodeUnderTest
    versions: tuple[Version, Version]
    ledger: Ledger
    watcher: Watcher
    senders: list[Repeater]
    notes: Notes
    dice: random.Random
    damages: bool
    changes: Counter[str] = field(default_factory=Counter)
    in_flight: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    torn: int = 0
    damaged: int = 0

    @property
    def state(self) -> dict[str, Any]:
        """What the node says of itself, or the broker of it."""
        return self.watcher.latest(TOPICS.state) or {}

    def serves_anew(self, gone: object) -> bool:
        """Whether another node than that of the boot ``gone`` is online."""
        return self.state.get("state") == "online" and self.state.get("boot_id") != gone

    def take(self, version: Version) -> None:
        self.node.use(version.python, version.engine, version.environment)
        self.node.start()


class Change(threading.Thread):
    """The ``number``-th end of one version and start of the other."""

    def __init__(self, stage: Stage, number: int) -> None:
        super().__init__(name="change", daemon=True)
        self._stage = stage
        self._number = number
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._perform()
        except BaseException as error:
            self.error = error

    def _perform(self) -> None:
        stage, number = self._stage, self._number
        ledger = stage.ledger
        before, after = (stage.versions[one % 2] for one in (number, number + 1))
        ledger.wait_for(lambda: ledger.in_flight >= LEAST_IN_FLIGHT, 10)
        time.sleep(stage.dice.uniform(0, 0.2))
        stage.in_flight.append(ledger.in_flight)
        # In either direction there are both ways to end.
        if number // 2 % 2 == 0:
            how = "SIGTERM"
            stage.statuses.append(stage.node.stop())
            if stage.damages and after.name == "new":
                self._damage()
        else:
            how = "SIGKILL"
            stage.node.kill()
            if number // 4 % 2 == 0:
                self._leave_unfinished()
        stage.changes[f"{before.name} to {after.name}, {how}"] += 1
        answered = {sender: sender.answered for sender in stage.senders}
        gone = stage.state.get("boot_id")
        stage.take(after)
        for sender, numbers in answered.items():
            for one in stage.dice.sample(numbers, min(len(numbers), REPEATS // len(stage.senders))):
                sender.repeat(one)
        enough = ledger.answered + LEAST_ANSWERED
        ledger.wait_for(lambda: ledger.answered >= enough or ledger.is_settled, START_S)
        # What was answered may have been on its way before: the next change ends a node that serves.
        stage.watcher.wait_for(lambda: stage.serves_anew(gone), START_S)

    def _leave_unfinished(self) -> None:
        """What a power cut leaves of a write that nobody was told of: a part of a frame."""
        log = self._stage.node.state / f"{JOURNAL}-wal"
        if log.exists() and (content := log.read_bytes()):
            size = int.from_bytes(content[8:12], "big")
            page = (3).to_bytes(4, "big") + (9).to_bytes(4, "big") + content[16:24]
            with log.open("ab") as stream:
                stream.write(page + self._stage.dice.randbytes(8 + size // 2))
            self._stage.torn += 1

    def _damage(self) -> None:
        """Of a closed journal: a log would have its header too, or not, by chance."""
        with (self._stage.node.state / JOURNAL).open("r+b") as stream:
            stream.write(b"no header")
        self._stage.damaged += 1


def run_load(stage: Stage, arguments: argparse.Namespace) -> None:
    """Keeps requests unanswered and sends messages for windows; returns when all has been waited for."""
    ledger = stage.ledger
    ends = [
        round(arguments.requests * (one + 1) / (arguments.changes + 1)) for one in range(arguments.changes)
    ]
    change: Change | None = None
    for number in range(arguments.requests):
        if not ledger.wait_while_news(lambda: ledger.unanswered < arguments.window, QUIET_S):
            break
        stage.senders[number % len(stage.senders)].send(number)
        if number % NOTE_EVERY == 0:
            stage.notes.send()
        if number % SHIFT_EVERY == SHIFT_EVERY - 1:
            stage.notes.end_shift()
        if number in ends:
            _finish(change)
            change = Change(stage, ends.index(number))
            change.start()
    _finish(change)
    ledger.wait_while_news(lambda: ledger.is_settled, QUIET_S)
    ledger.wait_for(lambda: not any(sender.outstanding for sender in stage.senders), QUIET_S)
    notes = stage.notes
    notes.wait_for(lambda: notes.is_acknowledged, QUIET_S)
    notes.fill()
    notes.wait_for(lambda: not notes.lost, QUIET_S)
    time.sleep(LISTEN_S)


def _finish(change: Change | None) -> None:
    if change is not None:
        change.join()
        if change.error is not None:
            raise change.error


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def refusals(version: Version, state: Path, folder: Path, port: int) -> dict[str, dict[str, Any]]:
    """What a version says to a journal of a later format, and which files it touched: of one that was closed,
    and of one that was killed when only its write-ahead log had the format.

    The folders are copies, and nothing listens at ``port``.
    """
    closed, killed = folder / "closed", folder / "killed"
    shutil.copytree(state, folder / "later")
    with closing(sqlite3.connect(folder / "later" / JOURNAL, isolation_level=None)) as later:
        later.execute("PRAGMA locking_mode = EXCLUSIVE")
        later.execute(f"PRAGMA user_version = {SEALED_FORMAT + 1}")
        shutil.copytree(folder / "later", killed)
    shutil.copytree(folder / "later", closed)
    return {one.name: refusal(version, one, port) for one in (closed, killed)}


def refusal(version: Version, state: Path, port: int) -> dict[str, Any]:
    before = digests(state)
    file = state.with_suffix(".yaml")
    bundle = write_bundle(state.with_suffix(".bundle"))
    file.write_text(json.dumps(configuration(bundle, port, state)))
    done = subprocess.run(
        [version.python, str(version.engine), "run", str(file)],
        env={**os.environ, **version.environment},
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    after = digests(state)
    touched = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    said = (done.stdout + done.stderr).rstrip().rpartition("\n")[2]
    return {"status": done.returncode, "said": said.replace(str(state), "STATE"), "touched": touched}


def perform(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    tree = arguments.old.resolve() if arguments.old else unpack(folder / "old")
    versions = version_in(tree), this_version()
    if versions[0].origin() != tree / "edgeslm/__init__.py":
        raise SystemExit(f"the old version would be {versions[0].origin()}")
    broker = Broker(folder / "broker", arguments.profile)
    broker.start()
    node = NodeUnderTest(
        folder / "node",
        broker.port,
        starter=None,
        service_ms=arguments.service_ms,
        crash_every=float("inf"),
        changes=_changes(folder / "node" / "bundle", broker.port, folder / "node", arguments.durability),
    )
    ledger = Ledger()
    watcher = Watcher(broker.port, ledger)
    senders: list[Repeater] = []
    notes = Notes(broker.port)
    stage = Stage(
        *(node, versions, ledger, watcher, senders, notes),
        *(random.Random(arguments.seed), arguments.damage),
    )
    stage.take(versions[0])
    try:
        is_online = lambda: (watcher.latest(TOPICS.state) or {}).get("state") == "online"  # noqa: E731
        if not watcher.wait_for(is_online, START_S):
            raise SystemExit(f"the node did not come online: {node.words.read_text()[-500:]}")
        for number in range(arguments.senders):
            senders.append(Repeater(broker.port, f"s{number}", ledger, mqtt5=number % 2 == 0))
        began = time.monotonic()
        run_load(stage, arguments)
        seconds = time.monotonic() - began
        stage.statuses.append(node.stop())
        counted = figures(stage, seconds)
    finally:
        for sender in senders:
            sender.close()
        notes.close()
        watcher.close()
        node.close()
        broker.stop()
    counted["refusals"] = refusals(versions[1], node.state, folder / "refusals", broker.port)
    return counted


def _changes(bundle: Path, port: int, folder: Path, durability: str) -> dict[str, Any]:
    tasks = configuration(bundle, port, folder / "state")["tasks"]
    return {"tasks": {**tasks, **TASKS}, "routes": ROUTES, "durability": durability}


def figures(stage: Stage, seconds: float) -> dict[str, Any]:
    ledger, notes, node = stage.ledger, stage.notes, stage.node
    entries = ledger.entries.values()
    repeats = sum(sender.repeats for sender in stage.senders)
    again = sum(max(0, len(one.codes) - 1) for one in entries)
    return {
        "acknowledged": ledger.acknowledged,
        "not_acknowledged": len(ledger.entries) - ledger.acknowledged,
        "lost": sum(one.acknowledged_at is not None and not one.is_answered for one in entries),
        "statuses": dict(Counter(code for one in entries for code in one.codes).most_common()),
        "dead": sum(one.is_dead for one in entries),
        "repeats": repeats,
        "repeats_lost": sum(sender.outstanding for sender in stage.senders),
        "duplicates": max(0, again - repeats),
        "run_again": sum(sender.other.total() for sender in stage.senders),
        "notes": len(notes.acknowledged),
        "notes_lost": len(notes.lost),
        "notes_twice": len(notes.twice),
        "notes_dropped": notes.dropped,
        "digests": len(notes.digests),
        "digests_published_again": notes.digests.total() - len(notes.digests),
        "digests_failed": sum(times for code, times in notes.statuses.items() if code != "ok"),
        "changes": dict(stage.changes),
        "least_in_flight": min(stage.in_flight, default=0),
        "unfinished_logs": stage.torn,
        "damaged_headers": stage.damaged,
        "set_aside": len([file for file in node.state.glob("*.damaged*") if file.suffix != ".taken"]),
        "exit_statuses": stage.statuses,
        "ended_by_itself": node.ended,
        "seconds": round(seconds, 1),
    }


def verdict(counted: dict[str, Any], most_duplicates: float) -> list[str]:
    """What is wrong, in sentences."""
    percent = 100 * counted["duplicates"] / max(1, counted["acknowledged"])
    said = [
        (counted["lost"], f"{counted['lost']} requests are lost"),
        (counted["not_acknowledged"], f"{counted['not_acknowledged']} requests were never acknowledged"),
        (counted["repeats_lost"], f"{counted['repeats_lost']} repeats have no answer"),
        (counted["run_again"], f"{counted['run_again']} answered requests were run again"),
        (percent > most_duplicates, f"{percent:.2f} % came twice"),
        (counted["notes_lost"], f"{counted['notes_lost']} messages of windows are lost"),
        (counted["notes_twice"], f"{counted['notes_twice']} messages of windows count twice"),
        (counted["notes_dropped"], f"{counted['notes_dropped']} messages of windows were dropped"),
        (counted["digests_failed"], f"{counted['digests_failed']} digests failed"),
        (any(counted["exit_statuses"]), f"the exit statuses were {counted['exit_statuses']}"),
        *((True, f"the daemon ended: {words}") for words in counted["ended_by_itself"]),
        (
            counted["set_aside"] != counted["damaged_headers"],
            f"{counted['set_aside']} journals were set aside, and {counted['damaged_headers']} were damaged",
        ),
        *(
            (
                one["status"] == 0 or LATER not in one["said"] or one["touched"],
                f"a later format, {how}: {one['said']}, and {one['touched']} were touched",
            )
            for how, one in counted["refusals"].items()
        ),
    ]
    return [sentence for wrong, sentence in said if wrong]


def print_table(counted: dict[str, Any]) -> None:
    print()
    for key, value in counted.items():
        if isinstance(value, dict):
            for name, what in value.items():
                print(f"{key:<26}{name:<28}{what!s:>7}")
        else:
            print(f"{key:<26}{value!s:>7}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--old", type=Path, metavar="TREE", help=f"instead of the code of commit {FIRST}")
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--changes", type=int, default=10)
    parser.add_argument("--durability", choices=["broker", "spool"], default="broker")
    parser.add_argument("--profile", choices=["strict", "balanced"], default="strict")
    parser.add_argument("--damage", action="store_true", help="of the journal, before the new version")
    parser.add_argument("--service-ms", type=float, default=5.0, help="of the fake engine")
    parser.add_argument("--senders", type=int, default=8)
    parser.add_argument("--window", type=int, default=64, help="unanswered requests at a time")
    parser.add_argument("--most-duplicates", type=float, default=1.0, help="percent")
    parser.add_argument("--seed", type=int, help="of everything random; printed if it isn't given")
    parser.add_argument("--keep", type=Path, help="where the files of the run shall stay")
    arguments = parser.parse_args(argv)
    if arguments.seed is None:
        arguments.seed = random.SystemRandom().randrange(2**31)
    card = print_card(
        old=str(arguments.old or FIRST),
        profile=arguments.profile,
        durability=arguments.durability,
        seed=arguments.seed,
    )
    try:
        with work_folder(arguments.keep, "edgeslm-upgrade-") as folder:
            counted = perform(arguments, folder)
    except NoHistory as error:
        parser.error(f"{error}; --old names a folder with the old version")
    print_table(counted)
    wrong = verdict(counted, arguments.most_duplicates)
    return print_verdict(card, counted, wrong)


if __name__ == "__main__":
    sys.exit(main())
