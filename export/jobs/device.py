"""Compute device: chooses whether torch computes on the CPU or on a GPU.

The choice is made once for a command, in a child process, since the command itself doesn't import torch. The
other children get the name of the chosen device in their task.

Runs in a child process (``python -m edgeslm_export.jobs.device``).
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeslm_export.jobs.subprocess_job import Announce, Reporter, run_module

from edgeslm.errors import ExportError

if TYPE_CHECKING:
    import torch

AUTO: Final = "auto"
CPU: Final = "cpu"
CUDA: Final = "cuda"
CHOICES: Final = (AUTO, CPU, CUDA)
_BFLOAT16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""CPU flags for bfloat16, on x86 and ARM."""
_NO_GPU: Final = (
    "--device cuda: torch finds no GPU here. Install its driver and a torch with CUDA, or take --device cpu."
)


@dataclass(frozen=True, slots=True)
class Device:
    """The device that a command computes on. ``name`` is torch's name for it, ``title`` the GPU's product
    name, and ``free_bytes`` the GPU's free memory. If ``is_demanded``, the user has named the GPU, and
    models aren't moved to the CPU even if they probably don't fit."""

    name: str = CPU
    title: str = ""
    free_bytes: int = 0
    is_demanded: bool = False

    @property
    def is_gpu(self) -> bool:
        return self.name != CPU

    def fitting(self, needed_bytes: float, what: str, announce: Announce) -> str:
        """The name of the device for a step that takes about ``needed_bytes``; if the GPU has less, the CPU,
        which the user is told. :param what: the step, as the subject of a sentence."""
        if not self.is_gpu or self.is_demanded or needed_bytes <= self.free_bytes:
            return self.name
        announce(
            f"{what} takes about {needed_bytes / 1e9:.1f} GB and the GPU has {self.free_bytes / 1e9:.1f} GB "
            "free: the CPU does it."
        )
        return CPU


def choose_device(wanted: str, announce: Announce, *, debug: bool = False) -> Device:
    """The device for one of ``CHOICES``. ``auto`` is the GPU if torch can use one; the user is told its name.

    :raises ExportError: ``cuda`` is wanted and torch finds no GPU.
    """
    if wanted == CPU:
        return Device()
    found = run_module("jobs.device", {}, "the search for a GPU", debug=debug) if _has_driver() else {}
    if not found:
        if wanted == CUDA:
            raise ExportError(_NO_GPU)
        return Device()
    announce(f"On cuda: {found['title']}, {found['free_bytes'] / 1e9:.1f} GB free.")
    return Device(CUDA, found["title"], found["free_bytes"], wanted == CUDA)


def _has_driver() -> bool:
    """Whether this machine has the library that torch reaches a GPU with, or AMD's driver, for which torch
    also says ``cuda``. Without them, torch needn't be imported to know that there is no GPU."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Path("/dev/kfd").exists()
    return True


# --- in a child ------------------------------------------------------------------------------------


def run(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Runs in the child process. :return: ``title`` and ``free_bytes`` of the first GPU; empty if there is
    none."""
    import torch

    if not torch.cuda.is_available():
        return {}
    free_bytes, _ = torch.cuda.mem_get_info()
    return {"title": torch.cuda.get_device_name(), "free_bytes": free_bytes}


def open_device(name: str) -> torch.device:
    """The device ``name``, set to compute float32 in full precision, as the CPU does."""
    import torch

    if name == CUDA:
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return torch.device(name)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 instructions, which are several times as fast; others emulate
    bfloat16."""
    import torch

    if device.type == CUDA:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != CPU:
        return False
    try:
        known = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return not _BFLOAT16_FLAGS.isdisjoint(known.split())


if __name__ == "__main__":
    sys.exit(Reporter().run(run))
