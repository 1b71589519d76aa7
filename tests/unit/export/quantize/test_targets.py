"""The search for the smallest bundle that reaches a goal, with a builder that is made up."""

from __future__ import annotations

import re

import pytest
from edgeslm_export.quantize.bit_allocation import Placement, Unit, place
from edgeslm_export.quantize.formats import Format
from edgeslm_export.quantize.targets import (
    MOST_ATTEMPTS,
    BitSearch,
    Candidate,
    Goal,
    formats_in_use,
    likely_formats,
)
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import ExportError

FOUR, EIGHT = Format(4, 32), Format(8, 64)
UNITS = [
    Unit({f"layer.{number}": (64, 64)}, {FOUR: 0.01 * (1 + number % 7), EIGHT: 0.0001})
    for number in range(40)
]
SMALLEST = sum(unit.bytes(FOUR) for unit in UNITS)
OVERHEAD = 5_000


class FakeBuilder:
    """What is built diverges ``factor`` times the estimate and ``floor``, whatever the weights, and takes
    ``extra`` bytes more than thought."""

    def __init__(self, factor: float, extra: int = 0, floor: float = 0.0) -> None:
        self.factor, self.extra, self.floor = factor, extra, floor

    def __call__(self, placement: Placement) -> Candidate:
        kl = self.floor + placement.loss * self.factor
        return Candidate(placement, kl, placement.bytes + OVERHEAD + self.extra)


def _searched(goal: Goal, builder: FakeBuilder) -> BitSearch:
    search = BitSearch(UNITS, goal, OVERHEAD)
    while (placement := search.propose()) is not None:
        search.attempts.append(builder(placement))
    assert 1 <= len(search.attempts) <= MOST_ATTEMPTS
    return search


@given(st.floats(0.2, 5), st.floats(0.05, 1))
def test_the_estimate_is_corrected_by_what_was_built(factor: float, max_kl: float) -> None:
    search = _searched(Goal(max_kl=max_kl), FakeBuilder(factor))
    best = search.best()
    assert best.kl <= max_kl
    everything_small = sum(unit.loss[FOUR] for unit in UNITS) * factor
    if everything_small > 0.9 * max_kl:  # then it isn't much better, and so not much larger, than asked for
        assert best.kl > 0.7 * max_kl - factor * max(unit.loss[FOUR] for unit in UNITS)
    else:
        assert best.placement.bytes == SMALLEST


def test_two_attempts_tell_what_no_bits_of_the_weights_take_away() -> None:
    best = _searched(Goal(max_kl=0.3), FakeBuilder(1.0, floor=0.2)).best()
    assert 0.9 * 0.3 <= best.kl <= 0.3


def test_a_good_first_attempt_is_the_last_one() -> None:
    assert len(_searched(Goal(max_kl=0.5), FakeBuilder(1.0)).attempts) == 1


@pytest.mark.parametrize("extra", [0, 3_000, -3_000])
def test_a_size_is_kept_although_the_estimate_of_it_is_off(extra: int) -> None:
    most = SMALLEST + OVERHEAD + 20_000
    best = _searched(Goal(max_bytes=most), FakeBuilder(1.0, extra)).best()
    assert best.size <= most
    assert best.placement.bytes > SMALLEST


def test_bytes_that_are_left_are_used_where_no_divergence_is_asked_for() -> None:
    most = SMALLEST + OVERHEAD + 20_000
    best = _searched(Goal(max_bytes=most), FakeBuilder(1.0)).best()
    assert most - best.size < EIGHT.bytes(64, 64) - FOUR.bytes(64, 64)


def test_both_limits_hold_together_or_the_gate_says_which_does_not() -> None:
    most = SMALLEST + OVERHEAD + 20_000
    goal = Goal(max_kl=1.0, max_bytes=most)
    best = _searched(goal, FakeBuilder(1.0)).best()
    goal.check(best.kl, best.size)
    goal = Goal(max_kl=0.01, max_bytes=most)
    best = _searched(goal, FakeBuilder(1.0)).best()
    with pytest.raises(ExportError, match=r"allows 0\.01 "):
        goal.check(best.kl, best.size)


def test_an_overhead_that_was_thought_too_large_refuses_nothing() -> None:
    """A bundle of 139,057 bytes was refused for 150,000: the estimate was taken for a bound."""
    most = SMALLEST + OVERHEAD - 1_000
    best = _searched(Goal(max_bytes=most), FakeBuilder(1.0, extra=-2_000)).best()
    assert best.size <= most


def test_too_few_bytes_are_refused_with_what_is_needed_at_least() -> None:
    search = BitSearch(UNITS, Goal(max_bytes=50_000), OVERHEAD)
    first = search.propose()
    assert first is not None  # only a build tells the overhead exactly
    search.attempts.append(FakeBuilder(1.0)(first))
    with pytest.raises(ExportError, match=re.escape(f"{SMALLEST + OVERHEAD:,} bytes")) as refusal:
        search.propose()
    assert "allows 50,000" in str(refusal.value)


def test_a_divergence_out_of_reach_ends_at_the_best_there_is() -> None:
    goal = Goal(max_kl=1e-6)
    best = _searched(goal, FakeBuilder(1.0)).best()
    assert set(best.placement.formats.values()) == {EIGHT}
    with pytest.raises(ExportError, match=r"0\.0040 nats a token.*bytes"):
        goal.check(best.kl, best.size)


@given(st.floats(0.8, 1.2), st.floats(0.02, 0.3))
def test_likely_formats_suffice_where_the_estimates_are_near(factor: float, max_kl: float) -> None:
    likely = likely_formats(UNITS, Goal(max_kl=max_kl), OVERHEAD)
    measured = [Unit(unit.parts, {form: loss * factor for form, loss in unit.loss.items()}) for unit in UNITS]
    few = [
        Unit(unit.parts, {form: unit.loss[form] for name in unit.parts for form in likely[name]})
        for unit in measured
    ]
    best, of_few = place(measured, enough=max_kl), place(few, enough=max_kl)
    assert best is not None and of_few is not None
    assert of_few.bytes <= 1.02 * best.bytes
    assert of_few.loss <= max(max_kl, best.loss)


@pytest.mark.parametrize("goal", [Goal(max_kl=0.1), Goal(max_bytes=SMALLEST + OVERHEAD + 20_000)], ids=str)
def test_most_matrices_have_one_likely_format_the_likeliest_first(goal: Goal) -> None:
    likely = likely_formats(UNITS, goal, OVERHEAD)
    first = _searched(goal, FakeBuilder(1.0)).attempts[0].placement.formats
    assert likely.keys() == first.keys()
    assert sum(forms[0] == first[name] for name, forms in likely.items()) >= 38
    assert sum(map(len, likely.values())) < 1.5 * len(likely)


def test_a_size_below_the_estimate_of_the_smallest_still_has_formats() -> None:
    likely = likely_formats(UNITS, Goal(max_bytes=1_000), OVERHEAD)
    assert all(forms[0] == FOUR for forms in likely.values())


def test_what_is_no_number_passes_no_gate() -> None:
    with pytest.raises(ExportError, match="nan"):
        Goal(max_kl=0.1).check(float("nan"), 1)


def test_the_gate_lets_through_what_reaches_the_goal_to_the_last_byte() -> None:
    Goal().check(None, 10**12)
    Goal(max_kl=0.1, max_bytes=100).check(0.1, 100)
    with pytest.raises(ExportError, match="101 bytes and --max-bytes allows 100"):
        Goal(max_bytes=100).check(None, 101)


def test_the_best_is_the_smallest_that_reaches_the_goal_else_the_nearest() -> None:
    empty = Placement({}, 0, 0.0)
    large, small, bad = Candidate(empty, 0.05, 300), Candidate(empty, 0.09, 200), Candidate(empty, 0.2, 100)
    search = BitSearch([], Goal(max_kl=0.1), 0, [bad, large, small])
    assert search.best() is small
    assert BitSearch([], Goal(max_kl=0.01), 0, [bad, large, small]).best() is large
    assert BitSearch([], Goal(max_kl=0.01, max_bytes=250), 0, [bad, large, small]).best() is small


def test_a_report_counts_the_formats() -> None:
    assert formats_in_use([EIGHT, FOUR, FOUR]) == {"4 bits, groups of 32": 2, "8 bits, groups of 64": 1}
