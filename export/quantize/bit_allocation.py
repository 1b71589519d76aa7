"""Bit allocation: chooses a format for each matrix, spending bytes where they reduce divergence most.

A unit is a matrix, or several that the graph fuses into one. In each format, a unit adds an estimated
divergence and takes a number of bytes. The allocation starts from the smallest formats and repeats the
upgrade that removes most divergence per byte, until the budget is used up or the divergence is low enough.
The result is the greedy solution of a multiple-choice knapsack over each unit's lower convex hull (Sinha and
Zoltners 1979). Pure Python.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeslm_export.quantize.formats import Format


@dataclass(frozen=True, slots=True)
class Unit:
    """``parts`` maps the names of the matrices that share a format to their shapes (rows, columns).

    ``loss`` maps each format to the estimated divergence, in nats a token, that quantizing only this unit
    adds.
    """

    parts: Mapping[str, tuple[int, int]]
    loss: Mapping[Format, float]

    def bytes(self, form: Format) -> int:
        return sum(form.bytes(rows, columns) for rows, columns in self.parts.values())


@dataclass(frozen=True, slots=True)
class Placement:
    """A format for each matrix. ``formats`` are by matrix name, ``bytes`` is the total size of the matrices,
    and ``loss`` the sum of the divergences that the matrices are estimated to add."""

    formats: dict[str, Format]
    bytes: int
    loss: float


def place(
    units: Sequence[Unit], *, most_bytes: float = float("inf"), enough: float = 0.0
) -> Placement | None:
    """The smallest placement whose loss is at most ``enough``. If that placement is larger than
    ``most_bytes``, the placement with the lowest loss that isn't larger.

    :return: the placement; None if all placements are larger than ``most_bytes``.
    """
    ladders = [_ladder(unit) for unit in units]
    chosen = [0] * len(units)
    total = sum(unit.bytes(ladder[0]) for unit, ladder in zip(units, ladders, strict=True))
    loss = sum(unit.loss[ladder[0]] for unit, ladder in zip(units, ladders, strict=True))
    if total > most_bytes:
        return None
    steps = []
    for number, (unit, ladder) in enumerate(zip(units, ladders, strict=True)):
        for rung in range(1, len(ladder)):
            before, after = ladder[rung - 1], ladder[rung]
            cost = unit.bytes(after) - unit.bytes(before)
            gain = unit.loss[before] - unit.loss[after]
            steps.append((gain / cost, number, rung, cost, gain))
    # Steps along a hull get less steep, so sorting keeps the order within a unit; the number breaks ties.
    for _, number, rung, cost, gain in sorted(steps, key=lambda step: (-step[0], step[1], step[2])):
        if loss <= enough:
            break
        if chosen[number] == rung - 1 and total + cost <= most_bytes:
            chosen[number], total, loss = rung, total + cost, loss - gain
    formats = {
        name: ladder[rung]
        for unit, ladder, rung in zip(units, ladders, chosen, strict=True)
        for name in unit.parts
    }
    return Placement(formats, total, max(loss, 0.0))


def _ladder(unit: Unit) -> list[Format]:
    """The formats on the lower convex hull of loss over bytes, the smallest first."""
    hull: list[Format] = []
    for form in sorted(unit.loss, key=lambda form: (unit.bytes(form), unit.loss[form])):
        if hull and unit.loss[form] >= unit.loss[hull[-1]]:
            continue
        while len(hull) > 1 and _slope(unit, hull[-2], hull[-1]) >= _slope(unit, hull[-2], form):
            hull.pop()
        hull.append(form)
    return hull


def _slope(unit: Unit, before: Format, after: Format) -> float:
    return (unit.loss[after] - unit.loss[before]) / (unit.bytes(after) - unit.bytes(before))
