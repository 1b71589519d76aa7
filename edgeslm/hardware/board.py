"""Board facts: CPU, memory, temperature, throttling and clock, read from /proc and /sys.

Functions take the root of the file system; tests pass a folder with another board's files. Containers and old
kernels lack some of the files; the value is then None or empty.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ARM_CORES = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd09"): "Cortex-A73",
    ("0x41", "0xd0a"): "Cortex-A75",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd41"): "Cortex-A78",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd46"): "Cortex-A510",
    ("0x41", "0xd47"): "Cortex-A710",
}
"""Implementer and part number in /proc/cpuinfo -> name of the core."""

_FLAGS = {
    "x86": ("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8"),
    "arm": ("asimd", "asimdhp", "asimddp", "i8mm", "sve"),
}
TIME_ERROR = 5
"""Value that adjtimex(2) returns while the clock is not synchronised."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """``family`` is ``x86``, ``arm`` or empty; ``features`` are the CPU's instruction set extensions that
    int4 and int8 kernels use."""

    family: str
    name: str
    cores: int
    features: frozenset[str]


@dataclass(frozen=True, slots=True)
class BoardMemory:
    """Memory in bytes. ``limit`` is the memory limit of this process's control groups; None without a limit.
    ``available`` is the memory that is still available, within the limit if there is one; ``swap`` is the
    free swap space, as far as the control groups allow it."""

    total: int
    available: int
    limit: int | None
    swap: int = 0


def read_text(file: Path) -> str | None:
    """The text of a kernel file without trailing NULs and whitespace; None if it can't be read."""
    try:
        return file.read_bytes().decode(errors="replace").rstrip("\0\n ")
    except OSError:
        return None


FILLERS = ("default string", "to be filled by o.e.m.", "system product name")
"""Placeholders that PC vendors leave in the DMI."""


def _read_int(file: Path) -> int | None:
    text = read_text(file)
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None


def board_name(root: Path) -> str | None:
    """The model in the device tree (ARM boards), or vendor and product in the DMI (PCs)."""
    if model := read_text(root / "proc/device-tree/model"):
        return model
    dmi = root / "sys/class/dmi/id"
    parts = [read_text(dmi / name) for name in ("sys_vendor", "product_name")]
    names = [part for part in parts if part and part.lower() not in FILLERS]
    return " ".join(names) or None


def read_cpu(root: Path) -> Cpu:
    """The CPU, read from /proc/cpuinfo."""
    text = read_text(root / "proc/cpuinfo") or ""
    values: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            values.setdefault(key.strip(), []).append(value.strip())
    cores = len(values.get("processor", ()))
    if "flags" in values:
        family, flags = "x86", set(values["flags"][0].split())
        name = values.get("model name", ["unknown"])[0]
    elif "Features" in values:
        family, flags = "arm", set(values["Features"][0].split())
        parts = zip(values.get("CPU implementer", ()), values.get("CPU part", ()), strict=False)
        name = (
            " + ".join(dict.fromkeys(ARM_CORES.get(part, f"ARM core {part[1]}") for part in parts)) or "ARM"
        )
    else:
        return Cpu("", "unknown", cores, frozenset())
    return Cpu(family, name, cores, frozenset(flags.intersection(_FLAGS[family])))


def peak_rss_bytes() -> int:
    """Peak resident memory of this process. ``getrusage`` could report the parent's peak, which Linux passes
    on over fork and exec."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def resident_bytes(root: Path, pid: int) -> int:
    """Resident memory of a process; 0 if it has ended."""
    found = re.search(r"VmRSS:\s+(\d+) kB", read_text(root / f"proc/{pid}/status") or "")
    return int(found[1]) * 1024 if found else 0


def read_memory(root: Path) -> BoardMemory | None:
    """Memory according to /proc/meminfo and this process's control groups."""
    text = read_text(root / "proc/meminfo") or ""
    values = {key: int(kilobytes) * 1024 for key, kilobytes in re.findall(r"(?m)^(\w+): +(\d+) kB", text)}
    total, available = values.get("MemTotal"), values.get("MemAvailable")
    if total is None or available is None:
        return None
    limit: int | None = None
    for ceiling, used in _memory_limits(root):
        if ceiling < total:
            limit = min(ceiling, limit) if limit is not None else ceiling
            available = min(available, max(0, ceiling - used))
    swap = min([values.get("SwapFree", 0), *_swap_limits(root)])
    return BoardMemory(total, available, limit, swap)


def _swap_limits(root: Path) -> list[int]:
    """Bytes of swap space that each control group of this process may still use."""
    found = []
    for folder, version in _control_groups(root, "memory"):
        if version == 2:
            limit, other = (
                _read_int(folder / "memory.swap.max"),
                _read_int(folder / "memory.swap.current") or 0,
            )
        else:  # memory and swap together
            limit = _read_int(folder / "memory.memsw.limit_in_bytes")
            other = _read_int(folder / "memory.limit_in_bytes") or 0
        if limit is not None:
            found.append(max(0, limit - other))
    return found


def _memory_limits(root: Path) -> list[tuple[int, int]]:
    """Memory limit and usage in bytes of each control group of this process, for cgroup v2 and v1. The usage
    is without the page cache that the kernel reclaims before it refuses memory.

    ``memory.high`` is a limit, too, since the kernel slows down a group above it until it hardly runs.
    """
    found = []
    for folder, version in _control_groups(root, "memory"):
        limits, usage = ["memory.max", "memory.high"], "memory.current"
        if version == 1:
            limits, usage = ["memory.limit_in_bytes"], "memory.usage_in_bytes"
        for name in limits:
            limit = _read_int(folder / name)
            if limit is not None:
                used = _read_int(folder / usage) or 0
                found.append((limit, max(0, used - _reclaimable(folder, version))))
    return found


def _reclaimable(folder: Path, version: int) -> int:
    """Bytes of a control group's page cache that no process has mapped, such as bundles that were verified.

    Mapped files are in use: they hold libraries and prepacked weights.
    """
    lines = re.findall(r"(?m)^(\w+) (\d+)$", read_text(folder / "memory.stat") or "")
    values = {name: int(value) for name, value in lines}
    prefix, mapped = ("", "file_mapped") if version == 2 else ("total_", "total_mapped_file")
    cached = sum(values.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))
    return max(0, cached - values.get(mapped, 0))


def cpu_quota(root: Path) -> float | None:
    """CPU quota of the control groups, in cores; None without a limit."""
    return min((quota for quota, _ in _cpu_quotas(root)), default=None)


def _cpu_quotas(root: Path) -> list[tuple[float, Path]]:
    """Quota in cores and folder of each control group of this process that has a quota."""
    quotas = []
    for folder, version in _control_groups(root, "cpu"):
        if version == 2:
            quota, _, period = (read_text(folder / "cpu.max") or "max").partition(" ")
        else:
            quota = read_text(folder / "cpu.cfs_quota_us") or "-1"
            period = read_text(folder / "cpu.cfs_period_us") or ""
        if quota.isdecimal() and period.isdecimal() and int(period):
            quotas.append((int(quota) / int(period), folder))
    return quotas


class QuotaUse(NamedTuple):
    """Number of periods of a CPU quota, and of those in which processes had to wait for the next one."""

    cores: float
    periods: int
    throttled: int


def quota_use(root: Path) -> QuotaUse | None:
    """How often the smallest CPU quota of the control groups held this process up; None without a quota."""
    quota = min(_cpu_quotas(root), default=None)
    if quota is None:
        return None
    values = dict(re.findall(r"(?m)^(\w+) (\d+)$", read_text(quota[1] / "cpu.stat") or ""))
    return QuotaUse(quota[0], int(values.get("nr_periods", 0)), int(values.get("nr_throttled", 0)))


def _control_groups(root: Path, controller: str) -> list[tuple[Path, int]]:
    """Folder and cgroup version of this process's control groups, innermost first."""
    found: list[tuple[Path, int]] = []
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if number == "0":
            top, version = root / "sys/fs/cgroup", 2
        elif controller in controllers.split(","):
            top, version = root / "sys/fs/cgroup" / controller, 1
        else:
            continue
        folder = top / name.lstrip("/")
        while folder != top and top in folder.parents:
            found.append((folder, version))
            folder = folder.parent
        found.append((top, version))
    return found


def temperature_c(root: Path) -> float | None:
    """Temperature of the hottest thermal zone, in degrees Celsius."""
    zones = (root / "sys/class/thermal").glob("thermal_zone*/temp")
    readings = [reading / 1000 for zone in zones if (reading := _read_int(zone)) is not None]
    # Some zones report an impossible constant while their sensor is off.
    return max((reading for reading in readings if -40 < reading < 150), default=None)


class Throttling(NamedTuple):
    """Whether the board had under-voltage, and whether heat or under-voltage slowed the CPU down.

    Fields with ``_now`` are about this moment, others about the time since the boot.
    """

    low_voltage: bool
    low_voltage_now: bool
    slowed: bool
    slowed_now: bool


def throttling(root: Path, firmware: Callable[[], str | None] = lambda: None) -> Throttling:
    """Throttling as the kernel reports it. If the kernel lacks the file with the throttling bits, they are
    read by calling ``firmware``, which returns them in hex."""
    low_voltage = heat = False
    for name in (root / "sys/class/hwmon").glob("hwmon*/name"):
        if read_text(name) == "rpi_volt":
            low_voltage |= _read_int(name.with_name("in0_lcrit_alarm")) == 1
    for count in (root / "sys/devices/system/cpu").glob("cpu*/thermal_throttle/*_throttle_count"):
        heat |= (_read_int(count) or 0) > 0
    # "soc" up to the Pi 4, "soc@107c000000" on the Pi 5.
    files = sorted((root / "sys/devices/platform").glob("soc*/soc*:firmware/get_throttled"))
    text = read_text(files[0]) if files else firmware()
    # Bits 0 and 16: under-voltage; 1-3 and 17-19: capped, throttled, soft limit. The low ones are now, the
    # high ones since the boot.
    bits = int(text, 16) if text is not None and re.fullmatch(r"(0x)?[0-9a-fA-F]+", text) else 0
    return Throttling(
        low_voltage or bool(bits & 0x1_0001),
        bool(bits & 0x1),
        heat or bool(bits & 0xE_000E),
        bool(bits & 0xE),
    )


def ask_firmware() -> str | None:
    """Throttling bits from ``vcgencmd``, in hex; None if ``vcgencmd`` isn't installed or fails."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ("vcgencmd", "get_throttled")
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip().partition("=")[2] or None
    return None


def governor(root: Path) -> str | None:
    """The CPU frequency governor of the first core."""
    return read_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def clock_synchronised() -> bool | None:
    """Whether the clock is synchronised, according to adjtimex(2); None if that call isn't available."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    state = int(adjtimex(ctypes.create_string_buffer(512)))  # modes 0: only reads; struct timex is smaller
    return None if state < 0 else state != TIME_ERROR


def busy_s(root: Path) -> float:
    """CPU seconds that all processes used since the boot, on the cores that this process may run on.

    The value is read from /proc/stat; 0 if that file can't be read.
    """
    text = read_text(root / "proc/stat") or ""
    ticks = 0
    for number in os.sched_getaffinity(0):
        found = re.search(rf"(?m)^cpu{number} +([\d ]+)$", text)
        counts = [int(count) for count in found[1].split()] if found else []
        # user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user
        ticks += sum(counts[:3]) + sum(counts[5:8])
    return ticks / os.sysconf("SC_CLK_TCK")


def usable_cores(root: Path = Path("/")) -> int:
    """Number of cores that this process may run on, or that its CPU quota allows, rounded up. More threads
    than that would use up the quota early in each period, and all of them would wait for the next one."""
    cores, quota = len(os.sched_getaffinity(0)), cpu_quota(root)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))
