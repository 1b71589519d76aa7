"""Placement of bits against every possible one, on small instances."""

from __future__ import annotations

import itertools

import pytest
from edgeslm_export.quantize.bit_allocation import Unit, place
from edgeslm_export.quantize.formats import Format
from hypothesis import given
from hypothesis import strategies as st

FOUR, WIDE, EIGHT = Format(4, 32), Format(4, 128), Format(8, 64)


@st.composite
def a_unit(draw: st.DrawFn, number: int) -> Unit:
    """A unit of one or two matrices; its losses need not even fall with the bytes."""
    rows = draw(st.integers(1, 8))
    parts = {f"{number}.{part}": (rows, 128) for part in range(draw(st.integers(1, 2)))}
    forms = draw(st.lists(st.sampled_from([FOUR, WIDE, EIGHT, Format(8, 32)]), min_size=1, unique=True))
    return Unit(parts, {form: draw(st.integers(0, 100)) / 100 for form in forms})


UNITS = st.integers(1, 4).flatmap(lambda count: st.tuples(*(a_unit(number) for number in range(count))))


def _all(units: tuple[Unit, ...]) -> list[tuple[int, float]]:
    """Bytes and loss of every placement there is."""
    choices = [[(unit.bytes(form), loss) for form, loss in unit.loss.items()] for unit in units]
    return [
        (sum(size for size, _ in chosen), sum(loss for _, loss in chosen))
        for chosen in itertools.product(*choices)
    ]


def _largest_steps(units: tuple[Unit, ...]) -> tuple[int, float]:
    """Bytes and loss between the extremes of any one unit: no step is larger."""
    sizes = [[unit.bytes(form) for form in unit.loss] for unit in units]
    losses = [list(unit.loss.values()) for unit in units]
    return max(max(s) - min(s) for s in sizes), max(max(s) - min(s) for s in losses)


@given(UNITS, st.integers(0, 10_000))
def test_within_a_budget_the_loss_is_one_step_from_the_least(units: tuple[Unit, ...], budget: int) -> None:
    fitting = [loss for size, loss in _all(units) if size <= budget]
    placement = place(units, most_bytes=budget)
    if not fitting:
        assert placement is None
        return
    assert placement is not None
    assert placement.bytes <= budget
    assert min(fitting) - 1e-9 <= placement.loss <= min(fitting) + _largest_steps(units)[1] + 1e-9


@given(UNITS, st.floats(0, 2))
def test_for_a_loss_the_bytes_are_one_step_from_the_fewest(units: tuple[Unit, ...], enough: float) -> None:
    reaching = [size for size, loss in _all(units) if loss <= enough]
    placement = place(units, enough=enough)
    assert placement is not None
    if not reaching:
        assert placement.loss == pytest.approx(min(loss for _, loss in _all(units)))
        return
    assert placement.loss <= enough + 1e-9
    assert min(reaching) <= placement.bytes <= min(reaching) + _largest_steps(units)[0]


@given(UNITS, st.integers(0, 10_000), st.integers(0, 10_000))
def test_more_bytes_never_make_it_worse(units: tuple[Unit, ...], budget: int, more: int) -> None:
    small, large = place(units, most_bytes=budget), place(units, most_bytes=budget + more)
    if small is not None:
        assert large is not None
        assert large.loss <= small.loss + 1e-9


@given(UNITS)
def test_a_placement_says_what_its_formats_are_worth(units: tuple[Unit, ...]) -> None:
    placement = place(units, enough=0.5)
    assert placement is not None
    assert placement.formats.keys() == {name for unit in units for name in unit.parts}
    forms = [{placement.formats[name] for name in unit.parts} for unit in units]
    assert all(len(form) == 1 for form in forms)  # the parts of a unit share it
    chosen = [form.pop() for form in forms]
    assert placement.bytes == sum(unit.bytes(form) for unit, form in zip(units, chosen, strict=True))
    total = sum(unit.loss[form] for unit, form in zip(units, chosen, strict=True))
    assert placement.loss == pytest.approx(total)


def test_bits_go_where_they_take_away_most_a_byte() -> None:
    costly = Unit({"costly": (64, 64)}, {FOUR: 0.5, EIGHT: 0.01})
    cheap = Unit({"cheap": (64, 64)}, {FOUR: 0.1, EIGHT: 0.01})
    large = Unit({"large": (640, 64)}, {FOUR: 0.6, EIGHT: 0.01})
    budget = sum(unit.bytes(FOUR) for unit in (costly, cheap, large))
    budget += EIGHT.bytes(64, 64) - FOUR.bytes(64, 64)
    placement = place([large, cheap, costly], most_bytes=budget)
    assert placement is not None
    assert [name for name, form in placement.formats.items() if form == EIGHT] == ["costly"]


def test_a_format_that_is_larger_and_no_better_is_never_taken() -> None:
    unit = Unit({"a": (8, 128)}, {WIDE: 0.1, FOUR: 0.2, EIGHT: 0.1})
    placement = place([unit])
    assert placement is not None
    assert placement.formats == {"a": WIDE}


def test_what_lies_on_a_grid_already_stays_there() -> None:
    unit = Unit({"a": (8, 128)}, {WIDE: 0.1, FOUR: 0.0, EIGHT: 0.01})
    placement = place([unit])
    assert placement is not None
    assert placement.formats == {"a": FOUR}
