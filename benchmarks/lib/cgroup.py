"""Control groups, made by hand: limits of memory and processor time for a program. Needs root."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TOP: Final = Path("/sys/fs/cgroup")
PERIOD_US: Final = 100_000


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """A group in the folders ``memory`` and ``cpu``, which are one folder with version 2."""

    memory: Path
    cpu: Path

    @property
    def is_unified(self) -> bool:
        return self.memory == self.cpu

    def command(self, command: Sequence[str]) -> list[str]:
        """The command line that runs a program in the group."""
        enter = "".join(
            f"echo $$ >{place}/cgroup.procs && " for place in dict.fromkeys((self.memory, self.cpu))
        )
        return ["sh", "-c", f'{enter}exec "$@"', "sh", *command]

    @property
    def peak_bytes(self) -> int:
        """Largest usage, page cache included."""
        name = "memory.peak" if self.is_unified else "memory.max_usage_in_bytes"
        return int((self.memory / name).read_text())

    @property
    def kills(self) -> int:
        """Number of processes that the kernel killed for lack of memory."""
        name = "memory.events" if self.is_unified else "memory.oom_control"
        return _value(self.memory / name, "oom_kill")

    @property
    def throttled_s(self) -> float:
        """Time for which processes had to wait for the next period."""
        if self.is_unified:
            return _value(self.cpu / "cpu.stat", "throttled_usec") / 1e6
        return _value(self.cpu / "cpu.stat", "throttled_time") / 1e9

    def limit(self, memory_bytes: int | None, cores: float | None) -> None:
        """Sets the limits; without swap."""
        if memory_bytes is not None:
            names = (
                ("memory.max",)
                if self.is_unified
                else ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
            )
            for name in names:
                (self.memory / name).write_text(str(memory_bytes))
            if self.is_unified:
                (self.memory / "memory.swap.max").write_text("0")
        if cores is not None:
            quota = int(cores * PERIOD_US)
            if self.is_unified:
                (self.cpu / "cpu.max").write_text(f"{quota} {PERIOD_US}")
            else:
                (self.cpu / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (self.cpu / "cpu.cfs_quota_us").write_text(str(quota))


def _value(file: Path, key: str) -> int:
    found = re.search(rf"(?m)^{key} (\d+)$", file.read_text())
    return int(found[1]) if found else 0


@contextlib.contextmanager
def control_group(memory_bytes: int | None = None, cores: float | None = None) -> Iterator[ControlGroup]:
    """A group with limits; removed at the end, when its processes have ended.

    :raises RuntimeError: it can't be made.
    """
    name = f"edgeslm-bench-{os.getpid()}"
    is_unified = "memory" in _read(TOP / "cgroup.controllers").split()
    memory, cpu = (TOP / name, TOP / name) if is_unified else (TOP / "memory" / name, TOP / "cpu" / name)
    group = ControlGroup(memory, cpu)
    try:
        try:
            for place in dict.fromkeys((memory, cpu)):
                place.mkdir()
            group.limit(memory_bytes, cores)
        except OSError as error:
            raise RuntimeError(f"no control group can be made here: {error}") from None
        yield group
    finally:
        for place in dict.fromkeys((memory, cpu)):
            for _ in range(100):
                with contextlib.suppress(OSError):
                    place.rmdir()
                if not place.exists():
                    break
                time.sleep(0.1)


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""
