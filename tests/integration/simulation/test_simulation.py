"""The simulation of delivery: a few dozen seeds, and whether a wrong change of the code would be found."""

from __future__ import annotations

import importlib
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgeslm.node.in_flight import Admission, InFlight
from tests.simulation import mutations, places, seeds, uptime
from tests.simulation.faults import Fault
from tests.simulation.setup import Setup
from tests.simulation.world import World, play
from tests.support.paths import ROOT

WORKERS = 4


@pytest.mark.parametrize("share", range(WORKERS))
def test_no_seed_violates_an_invariant(share: int) -> None:
    crashes = 0
    for seed in range(share, 28, WORKERS):
        outcome = seeds.outcome_of(seed)
        assert not outcome.violations, f"make simulate ARGS='nodes {seed}'"
        crashes += outcome.crashes
    assert crashes > 20, "nodes crash while they hold messages"


@pytest.mark.parametrize("share", range(WORKERS))
def test_no_seed_of_a_pool_violates_an_invariant(share: int) -> None:
    crashes = 0
    for seed in range(share, 40, WORKERS):
        outcome = seeds.outcome_of(seed, scene=seeds.POOLS)
        assert not outcome.violations, f"make simulate ARGS='pools {seed}'"
        crashes += outcome.crashes
    assert crashes > 20, "nodes and dispatchers crash while messages are unfinished"


@pytest.mark.parametrize("scene", [seeds.NODES, seeds.POOLS])
def test_a_seed_has_the_same_course_each_time(scene: seeds.Scene) -> None:
    first, second = (seeds.outcome_of(3, scene=scene, traced=True).trace for _ in range(2))
    assert len(first) > 100
    assert [without_folder(line) for line in first] == [without_folder(line) for line in second]


def without_folder(line: str) -> str:
    return re.sub(r"edgeslm-simulation-\w+", "", line)


def test_a_wrong_change_is_found_and_told_with_few_faults(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    admit = Admission.admit

    def acknowledge_early(self: Admission, held: InFlight, *work: Any) -> Any:
        started = admit(self, held, *work)
        self.acknowledger.acknowledge(held)
        return started

    monkeypatch.setattr(Admission, "admit", acknowledge_early)
    assert seeds.outcome_of(2).violations[0].invariant == "acknowledged early"
    seeds.report(2)
    said = capsys.readouterr().out
    assert "seed 2 with 0 of 60 faults: acknowledged early" in said
    assert "VIOLATION acknowledged early" in said


def test_a_refused_subscription_is_tried_again_on_the_same_connection() -> None:
    assert not play(0, [Fault(0.0, "refuse_subscription", 4.0)]).violations


def test_the_spool_is_read_on_after_other_messages_took_its_room(tmp_path: Path) -> None:
    setup = Setup(durability="spool", queue=1, journal_bytes=1 << 16, saves_at_once=True)
    faults = [Fault(at, "cut_node", 0.0) for at in range(2, 30)]
    assert not World(0, faults, tmp_path, traced=False, setup=setup).run(within_s=10.0, asks=160).violations


CUTS = [Fault(2.0 + 1.5 * number, "cut", 0.0) for number in range(14)]
"""The connection to the clients of a pool, cut again and again."""


def test_a_dispatcher_keeps_the_pool_while_requests_use_up_the_receive_maximum() -> None:
    for seed in range(4):
        assert not seeds.POOLS.play(seed, CUTS, traced=False, place=None).violations


def test_a_dispatcher_holds_a_redelivered_request_once() -> None:
    hangs = [Fault(0.3, "engine", 0.99)] * 12
    for seed in (5, 6, 10, 13):
        assert not seeds.POOLS.play(seed, [*hangs, *CUTS], traced=False, place=None).violations


@pytest.mark.parametrize("seed", range(3))
def test_a_broker_that_closes_early_costs_no_result_and_no_subscription(seed: int) -> None:
    faults = [Fault(at, "close_early", 2.5) for at in (0.0, *(0.3 + 4 * number for number in range(7)))]
    assert not play(seed, faults).violations


@pytest.mark.parametrize("seed", [1, 3, 4, 7])
def test_a_bad_disk_changes_nothing_that_is_sent_and_ends_no_node(seed: int) -> None:
    bad = [Fault(2.0 * number, "bad_pages", 1.5) for number in range(1, 14)]
    kills = [Fault(2.0 * number + 0.5, "kill", 5) for number in range(1, 14)]
    assert not play(seed, sorted([*bad, *kills], key=lambda fault: fault.at)).violations


def test_a_node_that_nobody_kills_serves_for_half_a_day() -> None:
    assert uptime.run(0, 0.5) == 0


def test_the_fewest_faults_are_those_that_are_needed() -> None:
    faults = [Fault(float(at), "kill", 1) for at in range(20)]
    needed = {faults[3], faults[17]}
    assert seeds.fewest(faults, lambda some: needed <= set(some)) == [faults[3], faults[17]]


def test_nodes_are_killed_at_places_of_the_product_that_runs() -> None:
    for module in {*places.MODULES, *places.POOL_MODULES}:
        running = importlib.import_module(f"edgeslm.{module.replace('/', '.')}")
        assert str(places.file_of(module)) == running.__file__


def test_what_can_not_be_reached_is_named_as_it_is_in_the_code() -> None:
    modules = places.MODULES
    hidden = sum(len(places.found_in(one)) - len(places.places_of(one)) for one in modules)
    assert hidden == len(places.UNREACHABLE)


@pytest.mark.parametrize("patch", mutations.patches(), ids=lambda patch: patch.stem)
def test_a_mutation_still_applies(patch: Any) -> None:
    subprocess.run(["git", "apply", "--check", str(patch)], cwd=ROOT, check=True)
