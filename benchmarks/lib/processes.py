"""Figures of the kernel for processes: time, memory, and the processes of a node."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_KB: Final = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Memory:
    """Megabytes (2^20 bytes) of a process that has served; ``peak`` is the most that was resident."""

    pss: float
    anonymous: float
    peak: float

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.pss + other.pss, self.anonymous + other.anonymous, self.peak + other.peak)


def memory_of(pid: int | str = "self") -> Memory:
    process = Path(f"/proc/{pid}")
    return parse_memory((process / "smaps_rollup").read_text(), (process / "status").read_text())


def parse_memory(rollup: str, status: str) -> Memory:
    """From the texts of ``/proc/PID/smaps_rollup`` and ``/proc/PID/status``, whose numbers are kB."""
    kb = {name: int(value) for name, value in _KB.findall(rollup + "\n" + status)}
    return Memory(pss=kb["Pss"] / 1024, anonymous=kb["Anonymous"] / 1024, peak=kb["VmHWM"] / 1024)


def cpu_seconds(pid: int, thread: int | None = None) -> float:
    """User and system time of a process with all its threads, or of one of them."""
    place = f"{pid}" if thread is None else f"{pid}/task/{thread}"
    return parse_cpu_seconds(Path(f"/proc/{place}/stat").read_text())


def parse_cpu_seconds(stat: str) -> float:
    """The same from the text of a ``stat`` file (proc_pid_stat(5): fields 14 and 15)."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def processes_of(folder: Path) -> dict[int, str]:
    """The daemon whose configuration is in ``folder``, and its engines, by what they are."""
    found = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it ended meanwhile
            continue
        is_engine = "edgeslm.engine.worker.main" in words
        if any(str(folder) in word for word in words) and (is_engine or "run" in words):
            found[int(process.name)] = "engine" if is_engine else "daemon"
    return found
