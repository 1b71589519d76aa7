"""Messages that move away from those that a task was taught with."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.bundle.learned_task import DriftReference
from edgeslm.telemetry.drift import EVERY, FEWEST, WINDOW, DriftWatch, excess

LABELS = ("a", "b", "c")
SHARES = (0.6, 0.3, 0.1)
QUANTILES = 51
seeds = st.integers(0, 2**32)

Draw = Callable[[random.Random], float]
DISTANCES: dict[str, Draw] = {
    "normal": lambda chance: chance.gauss(0.5, 0.1),
    "uniform": lambda chance: chance.uniform(0, 2),
    "skewed": lambda chance: chance.expovariate(4),
    "two heaps": lambda chance: chance.choice((0.2, 0.7)) + chance.uniform(0, 0.01),
    "few values": lambda chance: chance.choice((0.1, 0.1, 0.1, 0.5)),
    "one value": lambda chance: 0.25,
}
SURENESS: dict[str, Draw] = {
    "sure": lambda chance: chance.betavariate(9, 1),
    "steps": lambda chance: chance.choice((0.6, 0.8, 0.97, 0.97)),
    "even": lambda chance: chance.uniform(0.3, 1),
}


def quantiles(values: Sequence[float]) -> list[float]:
    """As a bundle has them."""
    ranked = sorted(values)
    last = len(ranked) - 1
    return [ranked[round(last * step / (QUANTILES - 1))] for step in range(QUANTILES)]


class Domain:
    """Where messages come from."""

    def __init__(
        self, distance: Draw | None, confidence: Draw, shares: Sequence[float] = SHARES, seed: int = 0
    ) -> None:
        self._chance = random.Random(seed)
        self._distance, self._confidence, self._shares = distance, confidence, shares

    def reference(self, rows: int = 1000) -> DriftReference:
        chance = random.Random(7)
        distances = [self._distance(chance) for _ in range(rows)] if self._distance else []
        return DriftReference(
            distances=tuple(quantiles(distances)) if distances else (),
            confidences=tuple(quantiles([self._confidence(chance) for _ in range(rows)])),
            labels=tuple(self._shares),
        )

    def watch(self) -> DriftWatch:
        return DriftWatch(self.reference(), LABELS)

    def send(self, watch: DriftWatch, messages: int = WINDOW) -> set[bool]:
        """Whether it had moved, after any of them."""
        moved = set()
        for _ in range(messages):
            (label,) = self._chance.choices(LABELS, self._shares)
            distance = self._distance(self._chance) if self._distance else None
            watch.see(label, self._confidence(self._chance), distance)
            moved.add(watch.moved)
        return moved


def has_moved(watch: DriftWatch) -> bool:
    return watch.moved


def home(seed: int = 0) -> Domain:
    return Domain(DISTANCES["normal"], SURENESS["sure"], seed=seed)


# -- the same messages -----------------------------------------------------------------------------


@given(seeds, st.sampled_from(sorted(DISTANCES)), st.sampled_from(sorted(SURENESS)))
def test_messages_of_the_same_domain_never_move(seed: int, distance: str, confidence: str) -> None:
    domain = Domain(DISTANCES[distance], SURENESS[confidence], seed=seed)
    assert domain.send(domain.watch(), 3 * WINDOW) == {False}


@given(seeds, st.sampled_from([2, 10, 77, 150]))
def test_the_same_labels_never_move_however_many_there_are(seed: int, count: int) -> None:
    """With many labels a window holds few messages of each, so shares differ by chance alone."""
    chance = random.Random(seed)
    labels = [f"label{number}" for number in range(count)]
    reference = DriftReference(confidences=(0.0, 1.0), labels=tuple(1 / count for _ in labels))
    watch = DriftWatch(reference, labels)
    for _ in range(2 * WINDOW):
        watch.see(chance.choice(labels), chance.random(), None)
        assert not watch.moved, watch.figures()


def test_nothing_is_said_of_few_messages() -> None:
    watch = home().watch()
    for _ in range(FEWEST - 1):
        watch.see("c", 0.0, 2.0)
    assert not watch.moved
    assert watch.figures() == {"moved": False, "messages": FEWEST - 1}


# -- other messages --------------------------------------------------------------------------------

SHIFTS = {
    "the texts are less similar": Domain(lambda chance: chance.gauss(0.7, 0.1), SURENESS["sure"], SHARES),
    "the confidence is lower": Domain(DISTANCES["normal"], lambda chance: chance.betavariate(3, 2), SHARES),
    "the labels are distributed differently": Domain(DISTANCES["normal"], SURENESS["sure"], (0.0, 0.1, 0.9)),
}


@pytest.mark.parametrize("reason", SHIFTS)
def test_messages_of_another_domain_have_moved_within_a_window(reason: str) -> None:
    watch = home().watch()
    home().send(watch)
    SHIFTS[reason].send(watch)
    assert watch.moved
    assert watch.reasons == [reason]


@given(seeds, st.floats(0.3, 1.5))
def test_messages_that_lie_farther_move_by_any_chance(seed: int, farther: float) -> None:
    there = Domain(lambda chance: chance.gauss(0.5 + farther, 0.1), SURENESS["sure"], seed=seed)
    watch = home().watch()
    home(seed).send(watch)
    there.send(watch)
    assert watch.moved


def test_it_comes_back() -> None:
    watch = home().watch()
    for number in range(3):
        SHIFTS["the texts are less similar"].send(watch)
        assert has_moved(watch), number
        home(number).send(watch)
        assert not has_moved(watch), number
        assert watch.reasons == []


def test_between_the_limits_it_stays_as_it_was() -> None:
    """A domain at the limit doesn't ring the bell again and again."""

    def nearly(messages: int) -> None:
        """The labels differ by 0.45: between 0.4, where it is back, and 0.5, where it moves."""
        for number in range(messages):
            watch.see("a" if number % 20 < 11 else "b", 1.0, None)

    watch = DriftWatch(DriftReference(confidences=(0.0, 1.0), labels=(1.0, 0.0, 0.0)), LABELS)
    nearly(WINDOW)
    assert not has_moved(watch)
    for _ in range(WINDOW):
        watch.see("b", 1.0, None)
    assert has_moved(watch)
    nearly(WINDOW)
    assert has_moved(watch)
    for _ in range(WINDOW):
        watch.see("a", 1.0, None)
    assert not has_moved(watch)


def test_nearer_and_surer_is_no_sign() -> None:
    watch = home().watch()
    nearer = Domain(lambda chance: chance.gauss(0.2, 0.05), lambda chance: 1.0)
    assert nearer.send(watch, 3 * WINDOW) == {False}
    assert watch.reasons == []


def test_a_decoder_has_no_distance() -> None:
    domain = Domain(None, SURENESS["sure"])
    watch = domain.watch()
    assert domain.send(watch) == {False}
    assert set(watch.figures()) == {"moved", "messages", "confidence", "labels"}


def test_figures_are_numbers_of_the_last_messages() -> None:
    watch = home().watch()
    home().send(watch, WINDOW + EVERY)
    figures = watch.figures()
    assert set(figures) == {"moved", "messages", "distance", "confidence", "labels"}
    assert figures["messages"] == WINDOW
    assert all(0 <= figures[name] <= 0.3 for name in ("distance", "confidence", "labels"))


# -- the statistic ---------------------------------------------------------------------------------

EVEN = tuple(step / 100 for step in range(101))


@pytest.mark.parametrize(
    ("values", "lead"),
    [
        ([2.0], 1.0),
        ([0.5], 0.5),
        ([-1.0], 0.0),
        ([0.0, 0.25, 0.5, 0.75], 0.0),
        ([0.25, 0.5, 0.75, 1.0], 0.25),
        ([0.9, 0.9, 0.1, 0.1], 0.4),
    ],
)
def test_the_excess_is_the_largest_lead(values: list[float], lead: float) -> None:
    assert excess(values, EVEN) == pytest.approx(lead, abs=1e-6)


@given(st.lists(st.floats(-1, 2), min_size=1, max_size=50))
def test_the_excess_is_that_of_the_definition(values: list[float]) -> None:
    """The supremum over all places of what the reference has below them and the values don't."""

    def below(place: float) -> float:
        return sum(value < place for value in values) / len(values)

    expected = max([0.0, *(min(max(value, 0.0), 1.0) - below(value) for value in values)])
    assert excess(values, EVEN) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.floats(0, 1))
def test_the_excess_rises_with_the_values(values: list[float], farther: float) -> None:
    assert excess([value + farther for value in values], EVEN) >= excess(values, EVEN) - 1e-6


@given(st.lists(st.floats(-5, 5) | st.sampled_from([0.5, 1.0]), min_size=1, max_size=60))
def test_the_excess_is_a_share(values: list[float]) -> None:
    assert 0 <= excess(values, EVEN) <= 1


@given(st.lists(st.floats(-5, 5) | st.sampled_from([0.5, 1.0]), min_size=QUANTILES, max_size=QUANTILES))
def test_values_have_no_excess_over_themselves(values: list[float]) -> None:
    """Repeated ones neither: a confidence may have few steps."""
    assert excess(values, sorted(values)) <= 2 / QUANTILES
