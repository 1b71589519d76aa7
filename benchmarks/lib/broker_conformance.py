"""What edgeslm needs of a broker, by test and broker: each yes or no is from a real exchange.

    python benchmarks/robustness/brokers.py conformance [--brokers mosquitto-strict rabbitmq]
        [--tests kill] [--program mosquitto-2.1=PATH] [--plugin PATH]

Each broker is started in an empty folder with the shipped configuration, or with the settings that keep the
most, and asked with small MQTT clients. ``-`` stands for a test that MQTT 3.1.1 can't express. Brokers whose
program is missing are left out. Prints a table with the reasons below it, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.lib.broker_peer import Refused
from benchmarks.lib.broker_tests import TESTS, Subject
from benchmarks.lib.real_brokers import KINDS, ONLY_311, is_there, make_broker, version_of
from benchmarks.lib.reporting import print_card


def examine(subject: Subject, names: Sequence[str]) -> dict[str, str | None]:
    """Why each answer is no; an empty text for yes, None where MQTT 3.1.1 hasn't it."""
    found: dict[str, str | None] = {}
    for name in names:
        _, test, only_5 = TESTS[name]
        if only_5 and not subject.mqtt5:
            found[name] = None
            continue
        try:
            found[name] = test(subject)
        except (Refused, OSError, ValueError) as error:
            found[name] = str(error) or type(error).__name__
    return found


def print_table(found: dict[str, dict[str, str | None]], versions: dict[str, str]) -> None:
    """In Markdown, for the page on brokers."""
    print("\n| | " + " | ".join(f"{kind} {versions[kind]}".strip() for kind in found) + " |")
    print("|---" * (len(found) + 1) + "|")
    names = next(iter(found.values()), {})
    for name in names:
        cells = ["-" if one[name] is None else "no" if one[name] else "yes" for one in found.values()]
        print(f"| {TESTS[name][0]} | " + " | ".join(cells) + " |")
    print()
    for kind, one in found.items():
        for name, why in one.items():
            if why:
                print(f"{kind:<20}{name:<18}{why}")


def add_broker_arguments(parser: argparse.ArgumentParser) -> None:
    """Which brokers, and where their programs are."""
    parser.add_argument("--brokers", nargs="+", choices=KINDS, help="default: all that are there")
    parser.add_argument("--program", action="append", default=[], metavar="KIND=PATH", help="of a broker")
    parser.add_argument("--plugin", type=Path, help="persist-sqlite of mosquitto 2.1")


def chosen_brokers(arguments: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    """The kinds of broker to use, and their programs."""
    programs = dict(one.split("=", 1) for one in arguments.program)
    if arguments.brokers:
        return arguments.brokers, programs
    there = [one for one in KINDS if is_there(one, programs)]
    print(f"not there: {', '.join(sorted(set(KINDS) - set(there))) or 'none'}", flush=True)
    return there, programs


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_broker_arguments(parser)
    parser.add_argument("--tests", nargs="+", choices=list(TESTS), default=list(TESTS))
    arguments = parser.parse_args(argv)
    card = print_card()
    kinds, programs = chosen_brokers(arguments)
    found: dict[str, dict[str, str | None]] = {}
    versions: dict[str, str] = {}
    for kind in kinds:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgeslm-broker-")))
            broker = make_broker(kind, folder, programs, arguments.plugin)
            stack.callback(getattr(broker, "close", broker.kill))
            broker.start()
            versions[kind] = version_of(kind, programs)
            found[kind] = examine(Subject(broker, kind not in ONLY_311), arguments.tests)
            yes = sum(why == "" for why in found[kind].values())
            print(f"{kind} {versions[kind]}: {yes} of {len(found[kind])}", flush=True)
    print_table(found, versions)
    print(json.dumps({"benchmark": "brokers", **card, "versions": versions, "found": found}))
    return 0
