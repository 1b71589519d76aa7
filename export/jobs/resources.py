"""Resource check: refuses an export that needs more disk or memory than is free.

Estimates are low on purpose: an export that is refused would certainly have failed.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from edgeslm.errors import ExportError

_FOLDER_BYTES_A_WEIGHT = 2
_GGUF_BYTES_A_WEIGHT = 6
LIBRARIES_BYTES = 700_000_000
_PROBE_SIZE, _PROBES = 1024, 5


def available_memory() -> int:
    """Available memory and swap in bytes; in a container, at most the memory that the container's limit
    leaves.

    Reads ``MemAvailable`` and ``SwapFree`` of /proc/meminfo, and ``memory.max`` and ``memory.current`` of
    cgroup v2.
    """
    fields: dict[str, int] = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        key, _, value = line.partition(":")
        fields[key] = int(value.split()[0]) * 1024
    available = fields.get("MemAvailable", 0) + fields.get("SwapFree", 0)
    try:
        group = Path("/sys/fs/cgroup") / Path("/proc/self/cgroup").read_text().split("::", 1)[
            1
        ].strip().lstrip("/")
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, IndexError, ValueError):
        return available
    return available if limit == "max" else min(available, max(0, int(limit) - used))


def bytes_a_weight(*, gguf: bool) -> int:
    """Peak memory of an export, in bytes a weight.

    A checkpoint folder is read layer by layer. All quantized codes, which take a byte a weight, are in memory
    when the graph is written. transformers dequantizes a whole GGUF file at once.
    """
    return _GGUF_BYTES_A_WEIGHT if gguf else _FOLDER_BYTES_A_WEIGHT


def matmul_gflops() -> float:
    """Measured speed of this machine at multiplying float32 matrices on all cores, in GFLOP/s; the best of
    several runs of some milliseconds each."""
    import numpy as np

    matrix = np.ones((_PROBE_SIZE, _PROBE_SIZE), np.float32)
    best = float("inf")
    for _ in range(_PROBES):
        start = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - start)
    return 2e-9 * _PROBE_SIZE**3 / best


def check_resources(weights: int, disk_bytes: int, folder: Path, memory_a_weight: int) -> None:
    """:param weights: number of parameters. :param disk_bytes: bytes to be written below ``folder``.

    :raises ExportError: too little disk or memory; the message says how much is free and how much is needed.
    """
    free = shutil.disk_usage(folder).free
    if free < disk_bytes:
        raise ExportError(
            f"{folder} has {_gigabytes(free)} free and the export needs about {_gigabytes(disk_bytes)}; "
            "free some space or write to another disk."
        )
    need = LIBRARIES_BYTES + weights * memory_a_weight
    have = available_memory()
    if have < need:
        raise ExportError(
            f"This machine has {_gigabytes(have)} of memory available and exporting {weights / 1e9:.2f} "
            f"billion weights needs about {_gigabytes(need)}; use a larger machine "
            "or a smaller model."
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
