"""Work oracle: finds inputs whose cost grows faster than their length.

Twice the length may cost at most 2.5 times as much. Inputs grow by repeating one or two slices, which gives
more lines, deeper brackets or longer words. Cost is the number of executed lines of Python, which is exact;
for C code (mainly ``re``) it is CPU time, the best of five, if it is long enough to measure. A finding needs
three steep steps in a row in lines, or two in time: a single one may come from a fixed part or a limit.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import FrameType
from typing import Any

MARGIN = 2.5
LEAST_LINES = 20_000
MOST_LINES = 5_000_000
"""Counting stops here; reaching it in the third count after a steep step is a finding."""
CPU_S = 0.05
SMALL_BYTES = 1024
"""Length of the first input, at which the slices outweigh the rest."""

Run = Callable[[bytes], None]


class TooMuchWork(AssertionError):
    """The cost of an input grows faster than its length."""


@dataclass(frozen=True, slots=True)
class Growth:
    """An input and its slices to repeat, in order, without overlap."""

    data: bytes
    slices: tuple[tuple[int, int], ...]

    @property
    def unit(self) -> int:
        """Bytes added by each repetition."""
        return sum(end - start for start, end in self.slices)

    def of(self, size: int) -> bytes:
        """The input with its slices repeated equally often, about ``size`` bytes."""
        times = max(1, (size - len(self.data) + self.unit) // self.unit)
        pieces, at = [], 0
        for start, end in self.slices:
            pieces += [self.data[at:start], self.data[start:end] * times]
            at = end
        return b"".join([*pieces, self.data[at:]])


def random_growth(data: bytes, chance: random.Random) -> Growth:
    """Random slices, short ones as often as long ones; some aligned to 512 bytes, as in archives."""
    slices: list[tuple[int, int]] = []
    most = 2 if len(data) > 8 and chance.random() < 0.3 else 1
    for _ in range(most):
        length = min(len(data), int(2 ** chance.uniform(0, 9)))
        start = chance.randrange(len(data) - length + 1)
        if len(data) >= 1024 and chance.random() < 0.3:
            start, length = start // 512 * 512, 512 * chance.randint(1, 3)
        if not any(start < end and start + length > begin for begin, end in slices):
            slices.append((start, min(start + length, len(data))))
    return Growth(data, tuple(sorted(slices)))


def each_growth(seeds: Sequence[bytes], chance: random.Random) -> Iterator[Growth]:
    """All slices of one byte of the seeds, then of two and of three, shuffled."""
    for length in (1, 2, 3):
        places = [(seed, start) for seed in seeds for start in range(len(seed) - length + 1)]
        chance.shuffle(places)
        for seed, start in places:
            if length > 1 or seed[start : start + 1] != seed[start - 1 : start]:  # skips repeated bytes
                yield Growth(seed, ((start, start + length),))


def count_lines(run: Run, data: bytes) -> int:
    """Executed lines of Python, up to ``MOST_LINES``."""
    lines = 0

    class Enough(BaseException):
        pass

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        if event == "line":
            lines += 1
            if lines == MOST_LINES:
                raise Enough
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run(data)
    except Enough:
        pass
    finally:
        sys.settrace(before)
    return lines


def measure_cpu(run: Run, data: bytes) -> float:
    """CPU time in seconds."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        before = time.process_time()
        run(data)
        return time.process_time() - before
    finally:
        if enabled:
            gc.enable()


def check_lines(run: Run, growth: Growth, first: int = SMALL_BYTES) -> None:
    """Checks executed lines. :raises TooMuchWork: they grow too fast."""
    sizes = [max(first, 2 * len(growth.data)) << doubled for doubled in range(4)]
    costs: list[int] = []
    for size in sizes:
        costs.append(count_lines(run, growth.of(size)))
        is_most = bool(costs[1:]) and costs[-2] < costs[-1] == MOST_LINES
        if not _is_steep(costs) and not is_most:
            return
        if is_most and costs[2:]:
            break
    if costs[-1] >= LEAST_LINES:
        raise TooMuchWork(f"lines of {_shown(sizes[: len(costs)], costs)}")


def check_cpu(run: Run, growth: Growth, largest: int) -> float:
    """Checks CPU time.

    :return: estimated seconds for the largest input.
    :raises TooMuchWork: it grows too fast.
    """
    size = max(SMALL_BYTES, 2 * len(growth.data))
    while (first := measure_cpu(run, growth.of(size))) < CPU_S and size < largest:
        size = min(largest, size * (4 if first < CPU_S / 16 else 2))
    expected = first * largest / size
    if first < CPU_S:
        return expected
    sizes = [size, 2 * size, 4 * size]
    small, middle, large = (growth.of(size) for size in sizes)
    if measure_cpu(run, middle) <= MARGIN * first:
        return expected
    turns = 5 if first < 10 * CPU_S else 2  # long times have little noise
    pairs = [(measure_cpu(run, small), measure_cpu(run, middle)) for _ in range(turns)]
    costs = [min(one for one, _ in pairs), min(two for _, two in pairs)]
    if costs[0] < CPU_S / 2 or not _is_steep(costs):
        return expected
    costs.append(min(measure_cpu(run, large) for _ in range(2)))
    if _is_steep(costs):
        raise TooMuchWork(f"seconds of {_shown(sizes, costs)}")
    return expected


def _is_steep(costs: Sequence[float]) -> bool:
    return all(later > MARGIN * earlier for earlier, later in pairwise(costs))


def _shown(sizes: Sequence[int], costs: Sequence[float]) -> str:
    steps = (f"{cost:.3g} with {size} bytes" for size, cost in zip(sizes, costs, strict=True))
    return ", ".join(steps)
