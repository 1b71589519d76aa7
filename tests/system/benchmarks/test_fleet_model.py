"""benchmarks/lib/fleet_model.py against closed formulas, and what each way must lose and must not."""

from __future__ import annotations

import math
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from tests.support.benchmarks.scripts import load_scripts


@pytest.fixture(scope="module")
def model() -> ModuleType:
    return load_scripts("fleet_dispatcher", "fleet_model")["fleet_model"]


@pytest.fixture(scope="module")
def free(model: ModuleType) -> Any:
    """Nothing costs anything but the nodes' time."""
    return model.Costs(
        broker_s=0.0, dispatcher_s=0.0, dispatcher_node_s=0.0, dispatcher_wait_s=0.0, hop_s=0.0
    )


@pytest.mark.parametrize("load", [0.3, 0.7])
@pytest.mark.parametrize(("is_random", "share"), [(True, 1.0), (False, 0.5)], ids=["M/M/1", "M/D/1"])
@pytest.mark.parametrize("way", ["share", "topics", "dispatcher"])
def test_one_node_waits_as_pollaczek_and_khinchine_say(
    model: ModuleType, free: Any, way: str, load: float, is_random: bool, share: float
) -> None:
    service_s = 0.03
    setup = model.Setup(way, 1, load / service_s, (service_s,), 2000.0, free, is_random=is_random)
    mean_s = model.Fleet(setup).run().latencies_s.mean()
    assert mean_s == pytest.approx(service_s * (1 + share * load / (1 - load)), rel=0.06)


def test_a_broker_that_is_busy_is_a_queue_too(model: ModuleType) -> None:
    costs = model.Costs(broker_s=0.001, dispatcher_s=0.0, hop_s=0.0)
    setup = model.Setup("topics", 200, 350.0, (0.0001,), 60.0, costs)
    mean_s = model.Fleet(setup).run().latencies_s.mean()
    one_way_s = 0.001 * (1 + 0.5 * 0.7 / 0.3)  # M/D/1 at 700 messages a second
    assert mean_s == pytest.approx(2 * one_way_s + 0.0001, rel=0.25)


@pytest.mark.parametrize("way", ["share", "topics"])
def test_who_is_blind_is_bound_by_the_slowest(model: ModuleType, free: Any, way: str) -> None:
    setup = model.Setup(way, 4, 0.0, (0.05, 0.05, 0.2, 0.2), 60.0, free)
    assert setup.bound == pytest.approx(20)
    assert setup.capacity == pytest.approx(50)
    below, above = (model.Fleet(replace(setup, rate=rate)).run() for rate in (16, 30))
    assert below.latencies_s.max() < 5
    assert below.lost == 0
    # Two of four nodes get 7.5 requests a second and do 5: what they lack waits.
    assert above.lost + above.late > 100
    assert above.utilisations.max() > 0.98


def test_the_dispatcher_has_all_that_its_nodes_can_do(model: ModuleType, free: Any) -> None:
    setup = model.Setup("dispatcher", 4, 45.0, (0.05, 0.05, 0.2, 0.2), 60.0, free)
    outcome = model.Fleet(setup).run()
    assert setup.bound == pytest.approx(50)
    assert outcome.lost == 0
    assert outcome.latencies_s.max() < 2
    assert (outcome.utilisations / setup.services).sum() == pytest.approx(45, rel=0.08)


def test_round_robin_over_equal_nodes_hardly_waits(model: ModuleType, free: Any) -> None:
    """Each node's arrivals are every hundredth of the fleet's, which come almost like a clock."""
    share, topics = (
        model.Fleet(model.Setup(way, 100, 2300.0, (0.03,), 20.0, free)).run() for way in ("share", "topics")
    )
    assert share.latencies_s.mean() < 0.0305
    assert topics.latencies_s.mean() == pytest.approx(0.03 * (1 + 0.5 * 0.69 / 0.31), rel=0.1)


def test_what_a_dead_member_gets_is_lost_unless_it_is_sent_elsewhere(model: ModuleType, free: Any) -> None:
    setup = model.Setup("share", 20, 30.0, (0.3,), 300.0, free, deaths_per_min=0.2, gone_s=120.0)
    share, repeated, dispatcher = (
        model.Fleet(one).run()
        for one in (setup, replace(setup, repeats=True), replace(setup, way="dispatcher"))
    )
    assert min(one.deaths for one in (share, repeated, dispatcher)) > 5
    assert share.lost > 0.05 * share.asked
    assert share.runs < share.asked
    assert repeated.lost < share.lost / 20
    assert repeated.runs > share.runs
    assert dispatcher.lost == 0
    assert dispatcher.late == 0


def test_a_node_that_is_back_does_what_it_was_given(model: ModuleType, free: Any) -> None:
    setup = model.Setup("topics", 5, 5.0, (0.1,), 600.0, free, deaths_per_min=1.0, gone_s=5.0)
    outcome = model.Fleet(setup).run()
    assert outcome.deaths > 10
    assert outcome.lost == 0
    assert outcome.runs == outcome.asked


def test_a_request_to_a_node_that_is_away_waits_or_goes_elsewhere(model: ModuleType, free: Any) -> None:
    """One node is gone from second 1 to 6, without a word; a request comes at second 2, and a later one."""
    trace = [(2.0, 0), (9.0, 0)]
    setup = model.Setup("topics", 2, 1.0, (0.1,), 12.0, free, absences=((1.0, 0, 5.0),), warm_up=0)
    there = model.Fleet(setup, trace).run().latencies_s
    assert list(there) == pytest.approx([4.1, 0.1])
    elsewhere = model.Fleet(replace(setup, way="dispatcher"), trace).run().latencies_s
    assert elsewhere[0] == pytest.approx(2.1, abs=2 * model.TICK_S)  # the least patience, then the other node
    assert elsewhere[1] == pytest.approx(0.1)


def test_cells_are_as_many_as_broker_and_dispatcher_need(model: ModuleType) -> None:
    costs = model.Costs(
        broker_s=0.00005, dispatcher_s=0.001, dispatcher_node_s=0.0, dispatcher_wait_s=0.0, hop_s=0.0
    )
    assert model.cells_of("topics", 100, 6999.0, costs) == (1, 0)
    assert model.cells_of("topics", 100, 7001.0, costs) == (2, 0)
    assert model.cells_of("dispatcher", 1000, 6999.0, costs) == (2, 10)
    cell, count = model.cell_of(model.Setup("dispatcher", 1000, 6999.0, costs=costs, senders=5000))
    assert (count, cell.nodes, cell.rate, cell.senders) == (10, 100, 699.9, 500)
    dear = replace(costs, dispatcher_node_s=0.00001)
    brokers, dispatchers = model.cells_of("dispatcher", 1000, 6999.0, dear)
    assert brokers == 2
    assert 6999 / dispatchers * dear.of_dispatcher(1000 / dispatchers) <= model.FULL
    assert 6999 / (dispatchers - 1) * dear.of_dispatcher(1000 / (dispatchers - 1)) > model.FULL
    _, many = model.cell_of(model.Setup("share", 10_000, 10.0, costs=costs))
    assert many == math.ceil(10_000 / model.MOST_NODES)


def test_old_news_cost_the_dispatcher_little(model: ModuleType, free: Any) -> None:
    alone = model.Setup("dispatcher", 20, 400.0, (0.03,), 60.0, free)
    beside = replace(alone, rate=320.0, own_rate=80.0)
    alone_p99, beside_p99, blind_p99 = (
        model.Fleet(one).run().figures()["p99_ms"] for one in (alone, beside, replace(beside, way="topics"))
    )
    assert alone_p99 < beside_p99 < blind_p99
