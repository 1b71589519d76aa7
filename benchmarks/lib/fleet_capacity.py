"""Nodes and requests a second that one broker carries, on real brokers and in a simulation.

    python benchmarks/fleet/capacity.py broker [--nodes 200] [--rates 0 250 1000] [--seconds 15]
                                               [--service-ms 30] [--way topics|share|dispatcher] [--thin]
                                               [--processes 2]
    python benchmarks/fleet/capacity.py compare [--seconds 20] [--absences]
    python benchmarks/fleet/capacity.py simulate [--requests 60000] [--charts FOLDER]

``broker``: simulated nodes (real daemons whose engines take a given time) on a real mosquitto with shipped
settings, and Poisson arrivals at a rate. With ``topics`` the client draws a node for each request; with
``share`` and ``dispatcher`` it sends to the pool. Nodes of ``--thin`` only answer, which leaves the machine
to the broker. All share the processors of this machine, so the processor time of each part and of everything
else is listed. A rate holds if nothing is lost or refused and 99 % are answered within a second.

``compare``: small fleets at a real broker, and the simulation (``lib/fleet_model.py``) with the same requests
at the same times.

``simulate``: 10 to 10,000 nodes, 1 to 100,000 requests/s, three ways, failing nodes
(``lib/fleet_curves.py``).

``--broker-us``, ``--dispatcher-us``, ``--hop-us`` and the like set the costs of the simulation.

Prints tables, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.lib import fleet_curves
from benchmarks.lib import fleet_figures as figures
from benchmarks.lib.fleet_broker import Case, carry
from benchmarks.lib.fleet_load import LATE_S
from benchmarks.lib.fleet_model import WAYS, Costs, Fleet, Setup
from benchmarks.lib.machine import processor
from benchmarks.lib.simulated_nodes import open_many_files

Command = tuple[Callable[[argparse.Namespace], dict[str, Any]], Callable[[argparse.ArgumentParser], None]]
"""What it does, and what adds its options."""

COSTS: Final = ("broker", "dispatcher", "dispatcher_node", "dispatcher_wait", "hop")
"""Costs of the simulation that are options, in microseconds."""

COMPARED = (
    # name, nodes, service times in ms, ways, loads as a share of what the way can do, thin
    ("4 daemons, 50 and 200 ms", 4, (50.0, 200.0), WAYS, (0.5, 0.8), False),
    ("20 daemons, 100 ms", 20, (100.0,), WAYS, (0.5, 0.8), False),
    ("200 thin nodes, 100 ms", 200, (100.0,), ("share", "topics"), (0.5, 0.8), True),
    ("50 thin nodes, 100 ms", 50, (100.0,), ("dispatcher",), (0.5, 0.8), True),
)


def told(title: str, rows: Iterable[dict[str, Any]], columns: figures.Columns) -> list[dict[str, Any]]:
    """The rows, each printed when it is there."""
    print(f"\n{title}\n{figures.head(columns)}", flush=True)
    kept = []
    for row in rows:
        print(figures.line(row, columns), flush=True)
        kept.append(row)
    return kept


def broker(args: argparse.Namespace) -> dict[str, Any]:
    case = Case(
        args.nodes,
        tuple(args.rates),
        args.seconds,
        tuple(args.service_ms),
        args.way,
        args.processes,
        args.profile,
        args.journal,
        args.thin,
        folder=args.folder,
        seed=args.seed,
    )
    title = f"{case.nodes} {'thin nodes' if case.thin else 'daemons'}, way {case.way}, {case.profile}"
    return {"rows": told(title, (figures.carried(row) for row, _ in carry(case)), figures.CARRIED)}


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Each case at a real broker, then the same requests, at the same times, in the simulation."""
    costs = costs_of(args)

    def rows() -> Iterable[dict[str, Any]]:
        for name, nodes, service_ms, ways, loads, thin in COMPARED:
            services_s = tuple(one / 1000 for one in service_ms)
            for way in (one for one in ways if one in args.ways):
                bound = Setup(way, nodes, 1.0, services_s).bound  # type: ignore[arg-type]
                rates = tuple(round(load * bound, 1) for load in loads)
                case = Case(nodes, rates, args.seconds, service_ms, way, 1, thin=thin, folder=args.folder)
                for real, trace in carry(case):
                    setup = Setup(way, nodes, 1.0, services_s, args.seconds, costs, warm_up=0)  # type: ignore[arg-type]
                    yield side_by_side(f"{name}, {way}", real, Fleet(setup, trace).run().figures())

    if not args.absences:
        return {"rows": told("Real broker and simulation", rows(), figures.COMPARED)}
    return {"rows": told("Nodes that freeze, and go on", absent(args, costs), figures.ABSENT)}


def absent(args: argparse.Namespace, costs: Costs) -> Iterable[dict[str, Any]]:
    """Ten nodes, of which two freeze for 12 s one after the other; their connections stay."""
    seconds = 40.0
    away = ((5.0, 0, 12.0), (22.0, 4, 12.0))
    for way in args.ways:
        case = Case(10, (50.0,), seconds, (100.0,), way, 10, absences=away, folder=args.folder)
        for real, trace in carry(case):
            setup = Setup(way, 10, 1.0, (0.1,), seconds, costs, absences=away, warm_up=0, late_s=LATE_S)
            simulated = Fleet(setup, trace).run().figures()
            row = side_by_side(f"10 daemons, 100 ms, two freeze, {way}", real, simulated)
            yield {
                **row,
                "real_late_percent": real["late_percent"],
                "late_percent": simulated["late_percent"],
            }


def side_by_side(case: str, real: dict[str, Any], simulated: dict[str, Any]) -> dict[str, Any]:
    return {
        "case": case,
        "rate": real["rate"],
        **{f"real_{key}": real[key] for key in ("p50_ms", "mean_ms", "p99_ms")},
        **{key: simulated[key] for key in ("p50_ms", "mean_ms", "p99_ms")},
        "difference": f"{100 * (simulated['p99_ms'] / real['p99_ms'] - 1):+.0f} %"
        if real["p99_ms"]
        else None,
        "lost": real["lost"],
        "others": real["cores"]["others"],
    }


def simulate(args: argparse.Namespace) -> dict[str, Any]:
    most, costs = args.requests, costs_of(args)
    found = {
        "by_size": told(
            "Nodes of 30 and 120 ms, by size and rate",
            fleet_curves.by_size(costs, most, tuple(args.sizes)),
            figures.SIMULATED,
        ),
        "by_load": told("100 nodes of 30 ms, by load", fleet_curves.by_load(costs, most), figures.SIMULATED),
        "with_deaths": told(
            "5 % of the nodes die a minute; 300 ms, half load",
            fleet_curves.with_deaths(costs, args.seconds, tuple(one for one in args.sizes if one <= 1000)),
            figures.DYING,
        ),
        "with_old_news": told(
            "100 nodes of 30 ms, 0.7 of what they can do, a part of it past the dispatcher",
            fleet_curves.with_old_news(costs, most),
            figures.NEWS,
        ),
    }
    if args.charts:
        charts = {
            "fleet_latency": figures.latency_chart(found["by_size"]),
            "fleet_load": figures.load_chart(found["by_load"]),
            "fleet_deaths": figures.deaths_chart(found["with_deaths"], fleet_curves.POWER_FAILS),
        }
        for name, text in charts.items():
            (args.charts / f"{name}.svg").write_text(text)
    return found


def costs_of(args: argparse.Namespace) -> Costs:
    return Costs(**{f"{name}_s": getattr(args, f"{name}_us") / 1e6 for name in COSTS})


def add_broker_options(parser: argparse.ArgumentParser) -> None:
    default = Case()
    parser.add_argument("--nodes", type=int, default=default.nodes)
    parser.add_argument("--rates", type=float, nargs="+", default=default.rates)
    parser.add_argument("--seconds", type=float, default=default.seconds, help="of each rate")
    parser.add_argument("--service-ms", type=float, nargs="+", default=default.service_ms)
    parser.add_argument("--way", choices=WAYS, default=default.way)
    parser.add_argument("--processes", type=int, default=default.processes, help="that the nodes share")
    parser.add_argument("--profile", choices=("balanced", "strict"), default=default.profile)
    parser.add_argument("--journal", choices=("full", "none"), default=default.journal)
    parser.add_argument("--thin", action="store_true", help="nodes that only answer: the broker's own bound")
    parser.add_argument("--seed", type=int, default=default.seed)
    add_folder(parser)


def add_compare_options(parser: argparse.ArgumentParser) -> None:
    add_costs(parser)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each case")
    parser.add_argument("--absences", action="store_true", help="instead: nodes that freeze for 12 s")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    add_folder(parser)


def add_simulate_options(parser: argparse.ArgumentParser) -> None:
    add_costs(parser)
    parser.add_argument("--requests", type=int, default=60_000, help="of a row, in one cell")
    parser.add_argument("--seconds", type=float, default=300.0, help="of a row with deaths")
    parser.add_argument("--sizes", type=int, nargs="+", default=fleet_curves.SIZES)
    parser.add_argument("--charts", type=Path, help="a folder for SVG files")


def add_costs(parser: argparse.ArgumentParser) -> None:
    for name in COSTS:
        default = getattr(Costs(), f"{name}_s") * 1e6
        parser.add_argument(f"--{name.replace('_', '-')}-us", type=float, default=default)


def add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=Case().folder, help="on a disk (default: here)")


COMMANDS: Final[Mapping[str, Command]] = {
    "broker": (broker, add_broker_options),
    "compare": (compare, add_compare_options),
    "simulate": (simulate, add_simulate_options),
}


def main(argv: Sequence[str] | None = None) -> None:
    name, *rest = sys.argv[1:] if argv is None else argv
    run, add_options = COMMANDS[name]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    args = parser.parse_args(rest)
    open_many_files()
    card = {"cpus": len(os.sched_getaffinity(0)), "processor": processor()}
    print("  ".join(f"{key} {value}" for key, value in card.items()))
    if name != "broker":
        told = {f"{cost}_us": getattr(args, f"{cost}_us") for cost in COSTS}
        card |= told
        print("  ".join(f"{key} {value:g}" for key, value in told.items()))
    print(json.dumps({"benchmark": f"fleet {name}", **card, **run(args)}))
