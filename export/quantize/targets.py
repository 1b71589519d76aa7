"""Export targets: limits on divergence and size, and the search for the smallest export that meets them.

Pure Python. This module proposes placements (a format for each matrix); ``decoder`` builds them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeslm_export.quantize.bit_allocation import Placement, Unit, place
from edgeslm_export.quantize.formats import Format

from edgeslm.errors import ExportError

_AIM = 0.97
"""Share of the allowed divergence that the search aims at, since estimates are off by a few percent."""
_NEAR = 0.93
"""The search ends when the divergence is between this share of the allowed divergence and all of it."""
MOST_ATTEMPTS = 4
_LIKELY_LOSSES = (1.0, 0.7, 0.85, 1.2)
"""Estimated losses at which a placement may have the divergence of the goal, as multiples of that divergence;
the likeliest first."""
_LIKELY_SIZES = (1.0, 0.9, 0.95, 1.05, 1.1)
"""Sizes that the estimates may give to the matrices of the best bundle of a given size, as multiples of the
size; the likeliest first."""


@dataclass(frozen=True, slots=True)
class Goal:
    """Limits of an export, which are ``max_kl`` for the divergence in nats a token, and ``max_bytes`` for the
    size of the whole bundle. Infinity means no limit."""

    max_kl: float = float("inf")
    max_bytes: float = float("inf")

    def check(self, kl: float | None, size: int) -> None:
        """:raises ExportError: the export misses the goal; the message gives the size or divergence and its
        limit."""
        if size > self.max_bytes:
            raise ExportError(
                f"The bundle has {size:,} bytes and --max-bytes allows {self.max_bytes:,.0f}; "
                "allow more, or take a smaller model."
            )
        if kl is not None and not kl <= self.max_kl:
            raise ExportError(
                f"The divergence from the float model is {kl:.4f} nats a token, where --max-kl allows "
                f"{self.max_kl:g} ({size:,} bytes); allow more, or take a recipe with more bits."
            )

    def is_met(self, kl: float, size: int) -> bool:
        return kl <= self.max_kl and size <= self.max_bytes

    def check_least(self, least: int) -> None:
        """:param least: bytes of the smallest possible bundle. :raises ExportError: the size ``least``
        exceeds the maximum size."""
        if least > self.max_bytes:
            raise ExportError(
                f"The smallest bundle of this model has some {least:,} bytes and --max-bytes allows "
                f"{self.max_bytes:,.0f}; allow more, or take a smaller model."
            )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A placement that was built, with measured ``kl`` (nats a token) and ``size`` (bytes)."""

    placement: Placement
    kl: float
    size: int


@dataclass(slots=True)
class BitSearch:
    """Proposes placements until one is as small as the goal allows.

    The losses of single matrices don't add up exactly, and rounding activations to int8 adds a loss that
    isn't estimated. So the estimate is corrected: by a factor after the first attempt, later by a line
    through the last two attempts.

    :param overhead: estimated bytes of a bundle besides its matrices; the first attempt gives their exact
        number.
    """

    units: Sequence[Unit]
    goal: Goal
    overhead: int
    attempts: list[Candidate] = field(default_factory=list)

    def propose(self) -> Placement | None:
        """The next placement to build; None if there is nothing better to try.

        :raises ExportError: no placement is small enough.
        """
        if len(self.attempts) >= MOST_ATTEMPTS or self._good_enough():
            return None
        last = self.attempts[-1] if self.attempts else None
        overhead = last.size - last.placement.bytes if last else self.overhead
        least = sum(min(map(unit.bytes, unit.loss)) for unit in self.units)
        room = self.goal.max_bytes - overhead
        if last:
            self.goal.check_least(overhead + least)
        else:
            room = max(room, least)  # the overhead is an estimate: only a build shows that nothing fits
        enough = self._loss_for(self.goal.max_kl * _AIM) if self.goal.max_kl < float("inf") else 0.0
        placement = place(self.units, most_bytes=room, enough=enough)
        seen = [attempt.placement.formats for attempt in self.attempts]
        return None if placement is None or placement.formats in seen else placement

    def _loss_for(self, kl: float) -> float:
        """The estimated loss of a placement whose measured divergence should be ``kl``, judging by earlier
        attempts."""
        points = [(attempt.placement.loss, attempt.kl) for attempt in self.attempts[-2:]]
        if len(points) == 2:
            (one, first), (other, second) = points
            if (slope := (second - first) / (other - one) if other != one else 0.0) > 0:
                return max(0.0, other + (kl - second) / slope)
        if points and points[-1][0] > 0 and points[-1][1] > 0:
            return kl * points[-1][0] / points[-1][1]
        return kl if not points else 0.0

    def _good_enough(self) -> bool:
        if not self.attempts:
            return False
        last = self.attempts[-1]
        if last.size > self.goal.max_bytes:
            return False
        if self.goal.max_kl == float("inf"):
            return True
        return _NEAR * self.goal.max_kl <= last.kl <= self.goal.max_kl

    def best(self) -> Candidate:
        """The smallest attempt that meets the goal. If no attempt meets the goal, the attempt with the lowest
        divergence among those within the size limit, or else among all."""
        reached = [a for a in self.attempts if a.kl <= self.goal.max_kl and a.size <= self.goal.max_bytes]
        if reached:
            return min(reached, key=lambda attempt: attempt.size)
        return min(self.attempts, key=lambda attempt: (attempt.size > self.goal.max_bytes, attempt.kl))


def likely_formats(units: Sequence[Unit], goal: Goal, overhead: int) -> dict[str, list[Format]]:
    """The formats of each matrix in the placements that the search is likely to propose.

    :param units: with losses estimated before calibration. :param overhead: as for ``BitSearch``.
    :return: for each matrix its formats, that of the likeliest placement first.
    """
    placements = []
    if goal.max_kl < float("inf"):
        placements += [place(units, enough=goal.max_kl * loss) for loss in _LIKELY_LOSSES]
    if goal.max_bytes < float("inf"):
        least = sum(min(map(unit.bytes, unit.loss)) for unit in units)
        room = goal.max_bytes - overhead
        by_size = [place(units, most_bytes=max(least, room * size)) for size in _LIKELY_SIZES]
        small_first = placements and placements[0] is not None and placements[0].bytes > room
        placements = by_size + placements if small_first or not placements else placements + by_size
    found: dict[str, list[Format]] = {}
    for placement in placements:
        for name, form in (placement.formats if placement else {}).items():
            if form not in found.setdefault(name, []):
                found[name].append(form)
    return found


def formats_in_use(formats: Sequence[Format]) -> dict[str, int]:
    """Number of matrices by format, for a report, for example ``{"4 bits, groups of 32": 118, ...}``."""
    counts: dict[str, int] = {}
    for form in sorted(formats, key=lambda form: (form.bits, form.group_size)):
        key = f"{form.bits} bits, " + ("by row" if form.by_row else f"groups of {form.group_size}")
        counts[key] = counts.get(key, 0) + 1
    return counts


def weight_groups(formats: Mapping[str, Format]) -> list[dict[str, Any]]:
    """The manifest's list of formats: each matrix whose format isn't the most frequent one, then ``*`` with
    the most frequent format."""
    (common, _), *_ = Counter(formats.values()).most_common()
    named = [(name, form) for name, form in sorted(formats.items()) if form != common]
    return [
        {"group": name, "bits": form.bits, "group_size": form.group_size}
        for name, form in [*named, ("*", common)]
    ]
