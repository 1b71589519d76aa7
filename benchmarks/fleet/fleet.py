"""How many nodes and requests a second does one broker carry, and which way of balancing fits?

    python benchmarks/fleet/fleet.py broker [--nodes 200] [--rates 0 250 1000] [--seconds 15]
                                            [--service-ms 30] [--way topics|share|dispatcher] [--thin]
                                            [--processes 2]
    python benchmarks/fleet/fleet.py compare [--seconds 20] [--absences]
    python benchmarks/fleet/fleet.py simulate [--requests 60000] [--charts FOLDER]

``broker``: simulated nodes (real daemons whose engines take a given time) on a real mosquitto with shipped
settings, and Poisson arrivals at a rate. With ``topics`` the client draws a node for each request; with
``share`` and ``dispatcher`` it sends to the pool. Nodes of ``--thin`` only answer, which leaves the machine
to the broker. All share the processors of this machine, so the processor time of each part and of everything
else is listed. A rate holds if nothing is lost or refused and 99 % are answered within a second.

``compare``: small fleets at a real broker, and the simulation (``lib/fleet_model.py``) with the same requests
at the same times.

``simulate``: 10 to 10,000 nodes, 1 to 100,000 requests/s, three ways, failing nodes
(``lib/fleet_curves.py``). ``--broker-us``, ``--dispatcher-us``, ``--hop-us`` and the like, before the
command, set the costs.

Prints tables, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.lib import fleet_curves
from benchmarks.lib import fleet_figures as figures
from benchmarks.lib.fleet_broker import Case, carry
from benchmarks.lib.fleet_load import LATE_S
from benchmarks.lib.fleet_model import WAYS, Costs, Fleet, Setup
from benchmarks.lib.machine import processor
from benchmarks.lib.simulated_nodes import open_many_files

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


def broker(args: argparse.Namespace, costs: Costs) -> dict[str, Any]:
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


def compare(args: argparse.Namespace, costs: Costs) -> dict[str, Any]:
    """Each case at a real broker, then the same requests, at the same times, in the simulation."""

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


def simulate(args: argparse.Namespace, costs: Costs) -> dict[str, Any]:
    most = args.requests
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


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--broker-us", type=float, default=Costs().broker_s * 1e6)
    parser.add_argument("--dispatcher-us", type=float, default=Costs().dispatcher_s * 1e6)
    parser.add_argument("--dispatcher-node-us", type=float, default=Costs().dispatcher_node_s * 1e6)
    parser.add_argument("--dispatcher-wait-us", type=float, default=Costs().dispatcher_wait_s * 1e6)
    parser.add_argument("--hop-us", type=float, default=Costs().hop_s * 1e6)
    commands = parser.add_subparsers(dest="command", required=True)
    one, default = commands.add_parser("broker", help="what a real broker carries"), Case()
    one.set_defaults(run=broker)
    one.add_argument("--nodes", type=int, default=default.nodes)
    one.add_argument("--rates", type=float, nargs="+", default=default.rates)
    one.add_argument("--seconds", type=float, default=default.seconds, help="of each rate")
    one.add_argument("--service-ms", type=float, nargs="+", default=default.service_ms)
    one.add_argument("--way", choices=WAYS, default=default.way)
    one.add_argument("--processes", type=int, default=default.processes, help="that the nodes share")
    one.add_argument("--profile", choices=("balanced", "strict"), default=default.profile)
    one.add_argument("--journal", choices=("full", "none"), default=default.journal)
    one.add_argument("--thin", action="store_true", help="nodes that only answer: the broker's own bound")
    one.add_argument("--seed", type=int, default=default.seed)
    two = commands.add_parser("compare", help="the simulation beside a real broker")
    two.set_defaults(run=compare)
    two.add_argument("--seconds", type=float, default=20.0, help="of each case")
    two.add_argument("--absences", action="store_true", help="instead: nodes that freeze for 12 s")
    two.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    for each in (one, two):
        each.add_argument("--folder", type=Path, default=default.folder, help="on a disk (default: here)")
    three = commands.add_parser("simulate", help="large fleets, and nodes that die")
    three.set_defaults(run=simulate)
    three.add_argument("--requests", type=int, default=60_000, help="of a row, in one cell")
    three.add_argument("--seconds", type=float, default=300.0, help="of a row with deaths")
    three.add_argument("--sizes", type=int, nargs="+", default=fleet_curves.SIZES)
    three.add_argument("--charts", type=Path, help="a folder for SVG files")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    open_many_files()
    told = {
        "broker_us": args.broker_us,
        "dispatcher_us": args.dispatcher_us,
        "dispatcher_node_us": args.dispatcher_node_us,
        "dispatcher_wait_us": args.dispatcher_wait_us,
        "hop_us": args.hop_us,
    }
    costs = Costs(**{f"{name.removesuffix('_us')}_s": value / 1e6 for name, value in told.items()})
    card = {"cpus": len(os.sched_getaffinity(0)), "processor": processor()}
    print("  ".join(f"{key} {value}" for key, value in card.items()))
    if args.command != "broker":
        card |= told
        print("  ".join(f"{key} {value:g}" for key, value in told.items()))
    print(json.dumps({"benchmark": f"fleet {args.command}", **card, **args.run(args, costs)}))


if __name__ == "__main__":
    main()
