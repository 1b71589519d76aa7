"""Fleets of ``capacity.py simulate``: by size and rate, by load, with failing nodes, with stale health.

Each is a list of rows. Large rates are simulated for a shorter time, so that a row is a number of requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from benchmarks.lib.fleet_model import WAYS, Costs, Setup, cell_of, simulate

SIZES: Final = (10, 100, 1000, 10_000)
UNEVEN_S: Final = (0.03, 0.12)
"""Boards of two kinds, as a fast and a slow one label a message: 1 to 4."""
EVEN_S: Final = (0.03,)
SLOW_S: Final = (0.3,)
"""A field of a log line or a short answer: fewer requests, so that minutes can be simulated."""
LOADS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SENDERS_PER_NODE: Final = 100
LONGEST_S: Final = 600.0
POWER_FAILS: Final = "power fails, back in 2 min"
DEATHS: Final = {"process ends, back in 5 s": (0.0, 5.0), POWER_FAILS: (45.0, 120.0)}
"""How long until the broker notices, and until the node is back."""
SHORT_NOTICE_S: Final = 15.0
"""That of a keep-alive of 10 s."""
MOST_DEATHS: Final = 100


def timed(setup: Setup, most: int) -> Setup:
    """The same for as long as ``most`` requests take in one of its cells."""
    cell, _ = cell_of(setup)
    return replace(setup, seconds=min(LONGEST_S, most / (cell.rate + cell.own_rate)))


def by_size(costs: Costs, most: int, sizes: tuple[int, ...] = SIZES) -> Iterator[dict[str, Any]]:
    """Boards of two kinds, from one request a second to 100,000, as far as each way goes."""
    for nodes in sizes:
        for way in WAYS:
            bound = Setup(way, nodes, 1.0, UNEVEN_S).bound
            rates = [10 ** (step / 3) for step in range(16) if 10 ** (step / 3) < 0.85 * bound]
            for rate in [*rates, *(share * bound for share in (0.85, 0.95) if share * bound <= 1e5)]:
                yield simulate(timed(Setup(way, nodes, rate, UNEVEN_S, costs=costs), most))


def by_load(costs: Costs, most: int, nodes: int = 100) -> Iterator[dict[str, Any]]:
    """Boards of one kind, by how busy they are, with requests that take the same and with such that vary;
    ``topics`` twice, the second time by senders."""
    for varies in (False, True):
        for load in LOADS:
            one = Setup("share", nodes, load * nodes / EVEN_S[0], EVEN_S, costs=costs, is_random=varies)
            for way in WAYS:
                found = simulate(timed(replace(one, way=way), most))
                yield {"load": load, "varies": varies, **found}
            found = simulate(timed(replace(one, way="topics", senders=SENDERS_PER_NODE * nodes), most))
            yield {"load": load, "varies": varies, **found, "way": "topics by sender"}


def with_deaths(
    costs: Costs, seconds: float, sizes: tuple[int, ...] = (10, 100, 1000), load: float = 0.5
) -> Iterator[dict[str, Any]]:
    """5 % of the nodes die a minute, at half load; small fleets for longer, since few of them die."""
    for death, (notice_s, gone_s) in DEATHS.items():
        for nodes in sizes:
            one = Setup(
                "topics",
                nodes,
                load * nodes / SLOW_S[0],
                SLOW_S,
                seconds=max(seconds, min(60 * seconds, 60 * MOST_DEATHS / (0.05 * nodes))),
                costs=costs,
                deaths_per_min=0.05,
                gone_s=gone_s,
                notice_s=notice_s,
            )
            ways = {
                "topics": one,
                "share": replace(one, way="share"),
                "share, sent again": replace(one, way="share", repeats=True),
                "dispatcher": replace(one, way="dispatcher"),
            }
            if notice_s > SHORT_NOTICE_S:
                known_soon = replace(one, way="dispatcher", notice_s=SHORT_NOTICE_S)
                ways["dispatcher, keep-alive 10 s"] = known_soon
            for name, setup in ways.items():
                yield {"death": death, **simulate(setup), "way": name}


def with_old_news(costs: Costs, most: int, nodes: int = 100) -> Iterator[dict[str, Any]]:
    """The dispatcher while a part of the load comes past it, known to it by the nodes' health alone."""
    total = 0.7 * nodes / EVEN_S[0]
    for share in (0.0, 0.2, 0.5):
        for health_s in (30.0, 5.0):
            setup = Setup(
                "dispatcher",
                nodes,
                total * (1 - share),
                EVEN_S,
                costs=costs,
                health_s=health_s,
                own_rate=total * share,
            )
            yield {"past_it": share, "health_s": health_s, **simulate(timed(setup, most))}
    share_setup = Setup("share", nodes, total * 0.8, EVEN_S, costs=costs, own_rate=total * 0.2)
    yield {"past_it": 0.2, "health_s": 0.0, **simulate(timed(share_setup, most))}
