"""Kills of broker and node under load, for each broker: requests lost, with and without repeating senders.

    python benchmarks/robustness/brokers.py chaos [--brokers rabbitmq nats] [--requests 1000]
        [--broker-kills 5] [--daemon-kills 5] [--program nanomq=PATH] [--plugin PATH]

The load is that of ``chaos.py load``: clients of MQTT 3.1.1 and 5 (3.1.1 alone where the broker has no 5), a
real daemon with a fake engine, proxies between. Each broker has two runs: senders that repeat a request until
it is answered, and senders that send once. Prints a table, then one JSON line; status 1 on a request that a
repeating sender lost.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks.lib import chaos_load
from benchmarks.lib.broker_conformance import add_broker_arguments, chosen_brokers
from benchmarks.lib.real_brokers import ONLY_311, make_broker, version_of
from benchmarks.lib.reporting import print_card, work_folder

SHOWN = ("sent", "lost", "duplicates", "repeats", "unrouted", "redelivered_by_broker", "seconds")


def load_arguments(arguments: argparse.Namespace, *, repeat: bool) -> argparse.Namespace:
    """Those of ``chaos.py load``."""
    words = ["--requests", str(arguments.requests), "--seed", str(arguments.seed), "--crash-every", "inf"]
    words += ["--broker-kills", str(arguments.broker_kills), "--daemon-kills", str(arguments.daemon_kills)]
    return chaos_load.make_parser().parse_args([*words, *(["--repeat"] if repeat else [])])


def run_once(kind: str, arguments: argparse.Namespace, programs: dict[str, str], *, repeat: bool) -> Any:
    """The figures of one run, or the sentence that ended it."""
    with ExitStack() as stack:
        folder = stack.enter_context(work_folder(None, "edgeslm-chaos-"))
        broker = make_broker(kind, folder / "broker", programs, arguments.plugin)
        stack.callback(getattr(broker, "close", broker.kill))
        target = chaos_load.Target(broker, kind not in ONLY_311, drops=kind.startswith("mosquitto"))
        try:
            return chaos_load.perform(load_arguments(arguments, repeat=repeat), folder, target)
        except SystemExit as error:
            return str(error)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_broker_arguments(parser)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--broker-kills", type=int, default=5)
    parser.add_argument("--daemon-kills", type=int, default=5)
    parser.add_argument("--only-repeating", action="store_true", help="without the run of single sendings")
    parser.add_argument("--seed", type=int, help="of everything random; printed if it isn't given")
    arguments = parser.parse_args(argv)
    if arguments.seed is None:
        arguments.seed = random.SystemRandom().randrange(2**31)
    card = print_card(seed=arguments.seed)
    kinds, programs = chosen_brokers(arguments)
    found: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        name = f"{kind} {version_of(kind, programs)}".strip()
        found[name] = {}
        for repeat in (True,) if arguments.only_repeating else (True, False):
            how = "repeating" if repeat else "once"
            print(f"\n{name}, senders {how}", flush=True)
            found[name][how] = run_once(kind, arguments, programs, repeat=repeat)
    print(f"\n{'broker':<28}{'senders':<11}" + "".join(f"{key:>22}" for key in SHOWN))
    failed = False
    for name, runs in found.items():
        for how, one in runs.items():
            if isinstance(one, str):
                print(f"{name:<28}{how:<11}{one}")
                failed = failed or how == "repeating"
                continue
            failed = failed or (how == "repeating" and one["lost"] > 0)
            print(f"{name:<28}{how:<11}" + "".join(f"{one[key]!s:>22}" for key in SHOWN))
            if one["stuck"]["unanswered_after"] or one["stuck"]["unacknowledged_at_broker"]:
                print(f"{'':<28}at the end: {one['stuck']}", file=sys.stderr)
    print(json.dumps({"benchmark": "broker chaos", **card, "found": found, "passed": not failed}))
    return int(failed)
