"""Requests lost or answered twice when daemon, engine, broker or network fail under load.

    python benchmarks/robustness/chaos.py load --requests 10000 --daemon-kills 50 --broker-kills 10 --cuts 20
    python benchmarks/robustness/chaos.py load --requests 5000 --freezes 6 --clock-steps 10 --full-disks 6
    python benchmarks/robustness/chaos.py load --starter .edgeslm/starter --requests 500 --worker-kills 10
    python benchmarks/robustness/chaos.py load --profile balanced --repeat --requests 2000 --broker-kills 10

Clients of MQTT 3.1.1 and 5 and the node each connect to a real mosquitto with a shipped configuration through
a proxy that can reset connections or block them. At random points (``--seed``), while at least 16 requests
are acknowledged and unanswered, a process is killed with SIGKILL and restarted, the network is cut, daemon or
engine is stopped for 20 to 90 s, the clock of node or broker is stepped by a day, or a disk is full for some
seconds. The engine is a fake one that takes some milliseconds and crashes now and then, or with ``--starter``
the real one.

A request counts as sent once the broker has acknowledged it. At the end all results are waited for. Then the
node must take as many requests at a time as before, ``health`` must show empty queues, and the broker may
hold no unacknowledged message. Prints a table, then one JSON line; status 1 on one lost request, too many
duplicates or a stuck slot.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.lib.chaos_events import QUIET_S, Chaos, Event, Stage, make_plan
from benchmarks.lib.chaos_proxy import Proxy
from benchmarks.lib.chaos_senders import DROPPED, TOPICS, Ledger, Sender, Watcher, make_client, start_client
from benchmarks.lib.chaos_surroundings import Clock, Disk
from benchmarks.lib.chaos_victims import CLIENT_ID, Broker, NodeUnderTest
from benchmarks.lib.real_brokers import RealBroker
from benchmarks.lib.reporting import print_card, print_verdict, work_folder

SIDES = ("node", "broker")
"""Whose clock and disk there are."""
BUSY_S = 0.3
"""How long senders wait that were told that the node is busy: its disk is full."""
LISTEN_S = 2.0
"""How long to listen for results that come twice, after the last that was expected."""
KILLED = "ended unexpectedly (signal 9)"
"""What a daemon may end with: its engine was killed while it was being loaded."""
WINDOW_OF_NODE = 256
"""The node's default for limits.queue, and so its Receive Maximum."""


def run_load(stage: Stage, chaos: Chaos, count: int, window: int) -> None:
    """Keeps ``window`` requests unanswered until ``count`` are sent and nothing more is to be killed; returns
    when all results have been waited for."""
    ledger = stage.ledger
    repeating = threading.Event()

    def repeat() -> None:
        while not repeating.wait(0.25):
            for sender in stage.senders:
                sender.repeat_late()

    repeater = threading.Thread(target=repeat, name="repeater", daemon=True)
    repeater.start()
    chaos.start()
    try:
        for number in itertools.count():
            if number >= count and not chaos.is_alive():
                break
            if not ledger.wait_while_news(lambda: ledger.unanswered < window, QUIET_S):
                break
            if chaos.error is not None:
                raise chaos.error
            while time.monotonic() - ledger.busy_at < BUSY_S and chaos.is_alive():
                time.sleep(BUSY_S / 10)
            stage.send(number)
        chaos.join()
        if chaos.error is not None:
            raise chaos.error
        ledger.wait_while_news(lambda: ledger.is_settled, QUIET_S)
        time.sleep(LISTEN_S)
    finally:
        repeating.set()
        repeater.join()


def stuck_slots(stage: Stage) -> dict[str, Any]:
    """What is left behind after all has been answered; every figure must be 0."""
    ledger, watcher = stage.ledger, stage.watcher
    count = len(ledger.entries)
    more = range(count, count + WINDOW_OF_NODE)  # as many as the node takes at a time
    for number in more:
        stage.send(number)
    ledger.wait_while_news(lambda: all(ledger.entries[number].is_answered for number in more), QUIET_S)
    unanswered = sum(not ledger.entries[number].is_answered for number in more)
    # Health comes at once with a new connection, which also brings what was not acknowledged on the old one.
    stage.node_network.cut()
    seen = watcher.count(TOPICS.health)
    watcher.wait_for(lambda: watcher.count(TOPICS.health) > seen, QUIET_S)
    time.sleep(LISTEN_S)
    stage.node_network.cut()
    seen = watcher.count(TOPICS.health)
    watcher.wait_for(lambda: watcher.count(TOPICS.health) > seen, QUIET_S)
    health = watcher.latest(TOPICS.health) or {}
    status = stage.node.stop()
    return {
        "unanswered_after": unanswered,
        "queue": health.get("queue"),
        "in_flight": health.get("in_flight"),
        "unacknowledged_at_broker": left_in_session(stage.broker.port, stage.mqtt5),
        "exit_status": status,
    }


def left_in_session(port: int, mqtt5: bool = True) -> int:
    """How many messages the broker holds for the node: it hands them to whoever has the node's client id."""
    client = make_client(CLIENT_ID, mqtt5)
    client.manual_ack_set(True)
    came: list[str] = []
    connected = threading.Event()
    resumed: list[bool] = []

    def on_connect(client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        resumed.append(flags.session_present)
        connected.set()

    client.on_connect = on_connect
    client.on_message = lambda client, userdata, message: came.append(message.topic)
    start_client(client, port, mqtt5)
    if not connected.wait(30) or not resumed[0]:
        raise SystemExit("the broker has no session of the node at the end")
    time.sleep(1.0)
    client.disconnect()
    client.loop_stop()
    return len(came)


@dataclass(frozen=True)
class Target:
    """The broker of a run. ``ports``: where its clients may connect, in this order; by default its own.
    ``drops``: whether it counts dropped messages as mosquitto does."""

    broker: RealBroker
    mqtt5: bool = True
    ports: tuple[int, ...] = ()
    drops: bool = True


def perform(arguments: argparse.Namespace, folder: Path, target: Target | None = None) -> dict[str, Any]:
    dice = random.Random(arguments.seed)
    wanted = {
        "daemon": arguments.daemon_kills,
        "worker": arguments.worker_kills,
        "broker": arguments.broker_kills,
        "network": arguments.cuts,
        "freeze": arguments.freezes,
        "clock": arguments.clock_steps,
        "disk": arguments.full_disks,
    }
    plan = make_plan(arguments.requests, wanted, dice)
    clocks = {name: Clock(folder, name) for name in SIDES} if arguments.clock_steps else {}
    with ExitStack() as stack:
        disks = {}
        for name in SIDES if arguments.full_disks else ():
            disks[name] = Disk(folder / name)
            stack.callback(disks[name].close)
        return run_stage(arguments, folder, plan, dice, clocks, disks, target)


def run_stage(
    arguments: argparse.Namespace,
    folder: Path,
    plan: Sequence[Event],
    dice: random.Random,
    clocks: Mapping[str, Clock],
    disks: Mapping[str, Disk],
    target: Target | None,
) -> dict[str, Any]:
    environment = {name: clock.environment for name, clock in clocks.items()}
    if target is None:
        target = Target(Broker(folder / "broker", arguments.profile, environment.get("broker", {})))
    broker, mqtt5 = target.broker, target.mqtt5
    broker.start()
    ports = target.ports or (broker.port,)
    proxies = [Proxy(*ports), Proxy(*ports), Proxy(*ports)]
    node = NodeUnderTest(
        folder / "node",
        proxies[0].port,
        starter=arguments.starter,
        service_ms=arguments.service_ms,
        crash_every=arguments.crash_every,
        environment=environment.get("node", {}),
    )
    ledger = Ledger()
    watcher = Watcher(proxies[2].port, ledger, mqtt5=mqtt5, drops=target.drops)
    stage = Stage(
        *(ledger, broker, node, proxies[0], proxies[1], watcher, arguments.repeat),
        *(clocks, disks, tuple(arguments.freeze_s), mqtt5),
    )
    node.start()
    try:
        is_online = lambda: (watcher.latest(TOPICS.state) or {}).get("state") == "online"  # noqa: E731
        if not watcher.wait_for(is_online, 60):
            raise SystemExit(f"the node did not come online: {node.words.read_text()[-500:]}")
        repeat_s = arguments.repeat_s if arguments.repeat else None
        for number in range(arguments.senders):
            sender = Sender(
                proxies[1].port,
                f"s{number}",
                ledger,
                mqtt5=mqtt5 and number % 2 == 0,
                repeat_s=repeat_s,
                priorities=arguments.priorities,
            )
            stage.senders.append(sender)
        chaos = Chaos(stage, plan, dice)
        began = time.monotonic()
        run_load(stage, chaos, arguments.requests, arguments.window)
        seconds = time.monotonic() - began
        counted = figures(stage, chaos, seconds)
        counted["stuck"] = stuck_slots(stage)
        counted["dropped_by_broker"] = watcher.latest(DROPPED)
        return counted
    finally:
        for sender in stage.senders:
            sender.close()
        watcher.close()
        node.close()
        for proxy in proxies:
            proxy.stop()
        broker.stop()


def figures(stage: Stage, chaos: Chaos, seconds: float) -> dict[str, Any]:
    entries = stage.ledger.entries
    lost = [n for n, one in entries.items() if one.acknowledged_at is not None and not one.is_answered]
    for number in lost:
        print(f"lost: {story_of(number, stage, chaos)}", file=sys.stderr)
    results = sum(len(one.codes) for one in entries.values())
    twice = sum(max(0, len(one.codes) - 1) for one in entries.values())
    kills: dict[str, dict[str, Any]] = {}
    ends = [one.at for one in chaos.happened[1:]] + [math.inf]
    for one, end in zip(chaos.happened, ends, strict=True):
        row = kills.setdefault(one.kind, {"times": 0, "in_flight": [], "duplicates_after": []})
        row["times"] += 1
        row["in_flight"].append(one.in_flight)
        row["duplicates_after"].append(sum(one.at <= at < end for at in stage.ledger.twice_at))
    return {
        "sent": stage.ledger.acknowledged,
        "not_acknowledged": len(entries) - stage.ledger.acknowledged,
        "unrouted": stage.ledger.unrouted,
        "refused": dict(stage.ledger.refused),
        "repeats": sum(sender.repeats for sender in stage.senders),
        "results": results,
        "lost": len(lost),
        "duplicates": twice,
        "redelivered_by_broker": stage.ledger.redelivered,
        "duplicates_percent": round(100 * twice / max(1, len(entries)), 2),
        "strays": stage.ledger.strays,
        "statuses": dict(Counter(code for one in entries.values() for code in one.codes).most_common()),
        "dead": sum(one.is_dead for one in entries.values()),
        "kills": kills,
        "ended_by_itself": stage.node.ended,
        "seconds": round(seconds, 1),
        "requests_per_s": round(len(entries) / seconds, 1),
    }


def story_of(number: int, stage: Stage, chaos: Chaos) -> str:
    """When it was sent, and what happened just before and after its acknowledgement."""
    entry = stage.ledger.entries[number]
    at = entry.acknowledged_at or math.inf
    near = [f"{one.kind} {1000 * (one.at - at):+.0f} ms" for one in chaos.happened if abs(one.at - at) < 5]
    version_ = "5" if number % len(stage.senders) % 2 == 0 else "3.1.1"
    return (
        f"request {number} of a sender of MQTT {version_}, acknowledged {1000 * (at - entry.sent_at):.0f} ms "
        f"after it was sent; around that: {', '.join(near) or 'nothing'}"
    )


def verdict(counted: dict[str, Any], most_duplicates: float, *, repeating: bool) -> list[str]:
    """What is wrong, in sentences. A broker that forgot the node's session costs a sender a repeat."""
    stuck = counted["stuck"]
    said = [
        (counted["lost"], f"{counted['lost']} requests are lost"),
        (counted["not_acknowledged"], f"{counted['not_acknowledged']} requests were never acknowledged"),
        (
            counted["unrouted"] and not repeating,
            f"{counted['unrouted']} requests found no session of the node",
        ),
        (counted["duplicates_percent"] > most_duplicates, f"{counted['duplicates_percent']} % came twice"),
        *((KILLED not in words, f"the daemon ended: {words}") for words in counted["ended_by_itself"]),
        (stuck["unanswered_after"], f"{stuck['unanswered_after']} of the last requests were not answered"),
        (stuck["queue"] != 0 or stuck["in_flight"] != 0, "health says that something still waits"),
        (stuck["unacknowledged_at_broker"], f"{stuck['unacknowledged_at_broker']} slots are stuck"),
        (stuck["exit_status"], f"the daemon ended with status {stuck['exit_status']}"),
    ]
    return [sentence for wrong, sentence in said if wrong]


def print_table(counted: dict[str, Any]) -> None:
    print()
    for key, value in counted.items():
        if key == "kills":
            for kind, one in value.items():
                then = f"{sum(one['duplicates_after'])} duplicates after"
                print(f"{kind:<24}{one['times']:>7}   least in flight {min(one['in_flight'])}, {then}")
        elif key == "stuck":
            for name, what in value.items():
                print(f"{name:<24}{what!s:>7}   at the end")
        else:
            print(f"{key:<24}{value!s:>7}")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--daemon-kills", type=int, default=0)
    parser.add_argument("--worker-kills", type=int, default=0)
    parser.add_argument("--broker-kills", type=int, default=0)
    parser.add_argument("--cuts", type=int, default=0, help="of the network: resets and silences")
    parser.add_argument("--freezes", type=int, default=0, help="of the daemon or its engine, by SIGSTOP")
    parser.add_argument("--freeze-s", type=float, nargs=2, default=[20.0, 90.0], metavar=("LEAST", "MOST"))
    parser.add_argument("--clock-steps", type=int, default=0, help="by a day, of node, broker or both")
    parser.add_argument("--full-disks", type=int, default=0, help="of node or broker; needs root")
    parser.add_argument("--profile", choices=["strict", "balanced"], default="strict")
    parser.add_argument("--repeat", action="store_true", help="senders repeat until they have the result")
    parser.add_argument("--repeat-s", type=float, default=3.0, help="how long they wait before that")
    parser.add_argument("--starter", type=Path, help="use the real engine with the models of this folder")
    parser.add_argument("--service-ms", type=float, default=12.0, help="of the fake engine")
    parser.add_argument("--crash-every", type=float, default=1000, help="calls to a crash of the fake engine")
    parser.add_argument("--senders", type=int, default=8)
    parser.add_argument("--window", type=int, default=64, help="unanswered requests at a time")
    parser.add_argument("--most-duplicates", type=float, default=1.0, help="percent")
    parser.add_argument("--priorities", action="store_true", help="two of five requests state one")
    parser.add_argument("--seed", type=int, help="of everything random; printed if it isn't given")
    parser.add_argument("--keep", type=Path, help="where the files of the run shall stay")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_parser().parse_args(argv)
    if arguments.seed is None:
        arguments.seed = random.SystemRandom().randrange(2**31)
    card = print_card(
        engine="real" if arguments.starter else "fake",
        profile=arguments.profile,
        repeating=arguments.repeat,
        seed=arguments.seed,
    )
    began = time.monotonic()
    with work_folder(arguments.keep, "edgeslm-chaos-") as folder:
        counted = perform(arguments, folder)
    counted["seconds_in_all"] = round(time.monotonic() - began, 1)
    print_table(counted)
    wrong = verdict(counted, arguments.most_duplicates, repeating=arguments.repeat)
    return print_verdict(card, counted, wrong)
