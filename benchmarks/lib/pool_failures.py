"""Requests lost or answered twice when nodes and dispatchers of a pool fail.

    python benchmarks/fleet/failures.py pool --requests 5000 --events 40
    python benchmarks/fleet/failures.py pool --requests 400 --events 8 --seed 1

Four real daemons with engines that take 25, 25, 100 and 100 ms, and two ``edgeslm dispatch``, one active and
one standby, each behind a proxy that can reset connections or block them, on a real mosquitto with a shipped
configuration. Clients of both protocol versions keep requests in flight. At random points (``--seed``) a node
or dispatcher is killed with SIGKILL and restarted, or cut off, or a node becomes ten times slower for some
seconds.

A request counts as sent once the broker has acknowledged it. At the end all results are waited for,
``health`` must show empty queues, and the broker may hold no unacknowledged message of a dispatcher. Prints a
table, then one JSON line; status 1 on one lost request or too many duplicates.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.lib.chaos_events import QUIET_S, Event, Happened, make_plan
from benchmarks.lib.chaos_proxy import Proxy
from benchmarks.lib.chaos_senders import KEEPALIVE_S, Ledger, Sender, Watcher, make_client, start_client
from benchmarks.lib.chaos_victims import Broker
from benchmarks.lib.reporting import print_card, print_verdict, work_folder
from benchmarks.lib.simulated_nodes import Crowd, Plan
from edgeslm.protocol.codec import Topics

POOL = "chaos"
TOPICS = Topics(f"pool/{POOL}")
SERVICE_MS = (25.0, 25.0, 100.0, 100.0)
LEASE_S = 3.0
LEAST_IN_FLIGHT = 8
LISTEN_S = 3.0
"""How long to listen for results that come twice, after the last that was expected."""
KINDS = ("node killed", "node cut off", "node slowed", "dispatcher killed", "dispatcher cut off")


class Member:
    """A node of the pool behind a proxy of its own; what it remembers stays between starts."""

    def __init__(self, number: int, port: int, folder: Path) -> None:
        self.network = Proxy(port)
        plan = Plan(
            f"mqtt://127.0.0.1:{self.network.port}",
            nodes=1,
            service_ms=SERVICE_MS,
            pool=POOL,
            by="dispatcher",
            keepalive_s=KEEPALIVE_S,
            first=number,
        )
        self.crowd = Crowd(plan, folder)
        self.crowd.start(0)

    def restart(self, after_s: float) -> None:
        self.crowd.kill(0)
        time.sleep(after_s)
        self.crowd.start(0)
        self.crowd.wait(0)

    def slow_down(self, for_s: float) -> None:
        self.crowd.signal(0, signal.SIGUSR1)
        time.sleep(for_s)
        self.crowd.signal(0, signal.SIGUSR2)


class Dispatcher:
    """``edgeslm dispatch`` behind a proxy of its own."""

    def __init__(self, name: str, port: int, folder: Path, log_level: str) -> None:
        self.network = Proxy(port)
        self._folder = folder / name
        self._folder.mkdir()
        self.words = self._folder / "words.txt"
        url = f"mqtt://127.0.0.1:{self.network.port}"
        settings = {
            "pool": POOL,
            "name": name,
            "broker": {"url": url, "keepalive_s": KEEPALIVE_S},
            "lease_s": LEASE_S,
            "log_level": log_level,
            "limits": {"sender_queue": 256},
            "state_dir": str(self._folder / "state"),
        }
        (self._folder / "dispatch.json").write_text(json.dumps(settings))
        self.start()

    def start(self) -> None:
        with self.words.open("ab") as words:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edgeslm", "dispatch", str(self._folder / "dispatch.json")],
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
            )

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        if self._process.poll() is None:
            self._process.terminate()
        return self._process.wait(60)


class Chaos(threading.Thread):
    """Carries a plan out. ``error`` is what stopped it, if something did."""

    def __init__(
        self,
        ledger: Ledger,
        members: Sequence[Member],
        dispatchers: Sequence[Dispatcher],
        plan: Sequence[Event],
        dice: random.Random,
    ) -> None:
        super().__init__(name="chaos", daemon=True)
        self._ledger = ledger
        self._members = members
        self._dispatchers = dispatchers
        self._plan = plan
        self._dice = dice
        self.happened: list[Happened] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for event in self._plan:
                is_time = partial(self._is_time, event)
                if not self._ledger.wait_while_news(is_time, QUIET_S):
                    raise SystemExit(f"{self._ledger.answered} results, then nothing for {QUIET_S:g} s")
                time.sleep(event.pause_s)
                self.happened.append(Happened(event.kind, time.monotonic(), self._ledger.in_flight))
                said = f"{self._ledger.in_flight:>4} in flight   after {self._ledger.answered} results"
                print(f"{event.kind:<22} {said}", flush=True)
                self._do(event.kind)
        except BaseException as error:
            self.error = error

    def _is_time(self, event: Event) -> bool:
        return self._ledger.answered >= event.after and self._ledger.in_flight >= LEAST_IN_FLIGHT

    def _do(self, kind: str) -> None:
        dice = self._dice
        member, dispatcher = dice.choice(self._members), dice.choice(self._dispatchers)
        if kind == "node killed":
            member.restart(dice.uniform(0, 1.0))
        elif kind == "node slowed":
            member.slow_down(dice.uniform(0.5, 3.0))
        elif kind == "dispatcher killed":
            dispatcher.kill()
            time.sleep(dice.uniform(0, 1.0))
            dispatcher.start()
        else:
            self._break((member if kind == "node cut off" else dispatcher).network)

    def _break(self, network: Proxy) -> None:
        if self._dice.random() < 0.5:
            network.cut()
            return
        network.close()
        time.sleep(self._dice.uniform(0.3, 6.0))  # shorter and longer than what keep-alive and lease bear
        if self._dice.random() < 0.5:
            network.cut()
        network.open()


def run_load(ledger: Ledger, senders: Sequence[Sender], chaos: Chaos, count: int, window: int) -> None:
    """Keeps ``window`` requests unanswered until ``count`` are sent and nothing more is to happen; returns
    when all results have been waited for."""
    chaos.start()
    for number in itertools.count():
        if number >= count and not chaos.is_alive():
            break
        if not ledger.wait_while_news(lambda: ledger.unanswered < window, QUIET_S):
            break
        if chaos.error is not None:
            raise chaos.error
        senders[number % len(senders)].send(number)
    chaos.join()
    if chaos.error is not None:
        raise chaos.error
    ledger.wait_while_news(lambda: ledger.is_settled, QUIET_S)
    time.sleep(LISTEN_S)


def left_in_sessions(port: int) -> dict[str, int]:
    """How many messages the broker holds for the dispatcher: it hands them to whoever has its client id."""
    found = {}
    for name in (f"edgeslm-pool.{POOL}", f"edgeslm-pool.{POOL}.nodes"):
        client = make_client(name, True)
        client.manual_ack_set(True)
        came: list[str] = []
        connected = threading.Event()
        client.on_connect = lambda *_, connected=connected: connected.set()
        client.on_message = lambda client, userdata, message, came=came: came.append(message.topic)
        start_client(client, port, True)
        if not connected.wait(30):
            raise SystemExit("the broker is gone at the end")
        time.sleep(1.0)
        client.disconnect()
        client.loop_stop()
        own = ("/lease", "/state", "/info", "/health")
        found[name] = sum(not topic.endswith(own) for topic in came)
    return found


def perform(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    dice = random.Random(arguments.seed)
    shares = Counter(KINDS[number % len(KINDS)] for number in range(arguments.events))
    plan = make_plan(arguments.requests, shares, dice)
    broker = Broker(folder / "broker", arguments.profile)
    broker.start()
    ledger = Ledger()
    watcher = Watcher(broker.port, ledger, TOPICS)
    dispatchers = [Dispatcher(name, broker.port, folder, arguments.log_level) for name in ("one", "two")]
    members = [Member(number, broker.port, folder) for number in range(1, len(SERVICE_MS) + 1)]
    senders: list[Sender] = []
    try:
        for member in members:
            member.crowd.wait(0)
        is_online = lambda: (watcher.latest(TOPICS.state) or {}).get("state") == "online"  # noqa: E731
        if not watcher.wait_for(is_online, 60):
            raise SystemExit(f"no dispatcher came online: {dispatchers[0].words.read_text()[-500:]}")
        for number in range(arguments.senders):
            mqtt5 = number % 2 == 0
            senders.append(Sender(broker.port, f"s{number}", ledger, mqtt5=mqtt5, topics=TOPICS))
        chaos = Chaos(ledger, members, dispatchers, plan, dice)
        began = time.monotonic()
        run_load(ledger, senders, chaos, arguments.requests, arguments.window)
        counted = figures(ledger, chaos, time.monotonic() - began)
        counted["dispatchers_that_ended"] = sum(one.has_ended for one in dispatchers)
        counted["health"] = settled_health(watcher)
        counted["exit_statuses"] = [one.stop() for one in dispatchers]
        counted["unacknowledged_at_broker"] = left_in_sessions(broker.port)
        return counted
    finally:
        for sender in senders:
            sender.close()
        watcher.close()
        for dispatcher in dispatchers:
            dispatcher.kill()
        for member in members:
            member.crowd.kill(0)
        for proxy in [*(one.network for one in members), *(one.network for one in dispatchers)]:
            proxy.stop()
        broker.stop()


def settled_health(watcher: Watcher) -> dict[str, Any]:
    """The next health of the dispatcher at work: it comes every 30 s."""
    seen = watcher.count(TOPICS.health)
    watcher.wait_for(lambda: watcher.count(TOPICS.health) > seen, QUIET_S)
    health = watcher.latest(TOPICS.health) or {}
    return {key: health.get(key) for key in ("queue", "in_flight", "forwarded", "repeats", "dropped")}


def figures(ledger: Ledger, chaos: Chaos, seconds: float) -> dict[str, Any]:
    entries = ledger.entries
    lost = [number for number, one in entries.items() if one.acknowledged_at and not one.is_answered]
    twice = sum(max(0, len(one.codes) - 1) for one in entries.values())
    after: Counter[str] = Counter()
    for one, end in zip(chaos.happened, [*(one.at for one in chaos.happened[1:]), math.inf], strict=True):
        after[one.kind] += sum(one.at <= at < end for at in ledger.twice_at)
    return {
        "sent": ledger.acknowledged,
        "not_acknowledged": len(entries) - ledger.acknowledged,
        "lost": len(lost),
        "duplicates": twice,
        "duplicates_percent": round(100 * twice / max(1, len(entries)), 2),
        "duplicates_after": dict(after),
        "redelivered_by_broker": ledger.redelivered,
        "statuses": dict(Counter(code for one in entries.values() for code in one.codes).most_common()),
        "dead": sum(one.is_dead for one in entries.values()),
        "events": dict(Counter(one.kind for one in chaos.happened)),
        "events_in_all": len(chaos.happened),
        "seconds": round(seconds, 1),
        "requests_per_s": round(len(entries) / seconds, 1),
    }


def verdict(counted: dict[str, Any], most_duplicates: float) -> list[str]:
    """What is wrong, in sentences."""
    health, left = counted["health"], counted["unacknowledged_at_broker"]
    said = [
        (counted["lost"], f"{counted['lost']} requests are lost"),
        (counted["not_acknowledged"], f"{counted['not_acknowledged']} requests were never acknowledged"),
        (counted["duplicates_percent"] > most_duplicates, f"{counted['duplicates_percent']} % came twice"),
        (counted["dispatchers_that_ended"], "a dispatcher ended by itself"),
        (any(counted["exit_statuses"]), f"dispatchers ended with {counted['exit_statuses']}"),
        (health["queue"] or health["in_flight"], "health says that something still waits"),
        (any(left.values()), f"the broker still holds messages: {left}"),
    ]
    return [sentence for wrong, sentence in said if wrong]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--events", type=int, default=40, help="of all kinds in turns")
    parser.add_argument("--profile", choices=["strict", "balanced"], default="strict")
    parser.add_argument("--senders", type=int, default=8)
    parser.add_argument("--window", type=int, default=32, help="unanswered requests at a time")
    parser.add_argument("--most-duplicates", type=float, default=1.0, help="percent")
    parser.add_argument("--seed", type=int, help="of everything random; printed if it isn't given")
    parser.add_argument("--log-level", default="info", help="of the dispatchers")
    parser.add_argument("--keep", type=Path, help="where the files of the run shall stay")
    arguments = parser.parse_args(argv)
    if arguments.seed is None:
        arguments.seed = random.SystemRandom().randrange(2**31)
    card = print_card(profile=arguments.profile, service_ms=SERVICE_MS, seed=arguments.seed)
    with work_folder(arguments.keep, "edgeslm-dispatch-") as folder:
        counted = perform(arguments, folder)
    print()
    for key, value in counted.items():
        print(f"{key:<26}{value!s}")
    wrong = verdict(counted, arguments.most_duplicates)
    return print_verdict(card, counted, wrong)
