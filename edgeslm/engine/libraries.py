"""The inference libraries: which distributions brought them, and whether they load.

An instruction that the CPU lacks ends the process that imports them, so that is asked of a child process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Final

GENAI: Final = "onnxruntime_genai"
LIBRARIES: Final[Mapping[str, tuple[str, ...]]] = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    GENAI: ("onnxruntime-genai", "onnxruntime-genai-cuda"),
}
"""Module -> the distributions that bring it: for the CPU, or with CUDA, one in the place of the other."""
TIMEOUT_S: Final = 120
"""Seconds in which one has to load."""


def installed(module: str) -> str:
    """``NAME VERSION`` of the distribution that brought it.

    :raises PackageNotFoundError: none did.
    """
    for name in LIBRARIES[module]:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    raise PackageNotFoundError(module)


def import_in_child(module: str) -> subprocess.CompletedProcess[str]:
    """Imports a library in a process of its own, with its telemetry off. That of onnxruntime-genai says
    ``True`` if it was built with CUDA; whether there is a GPU and a driver shows when a model is loaded.

    :raises subprocess.TimeoutExpired: it hangs.
    """
    asked = f"; print({module}.is_cuda_available())" if module == GENAI else ""
    return subprocess.run(
        [sys.executable, "-P", "-c", f"import {module}{asked}"],
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT_S,
        check=False,
    )
