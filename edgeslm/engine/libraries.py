"""The inference libraries: which distributions brought them, and whether they load.

An instruction that the CPU lacks ends the process that imports them, so that is asked of a child process.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from edgeslm.ipc.job import Progress, run_job, serve

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


def import_in_child(module: str) -> bool:
    """Imports a library in a process of its own, with its telemetry off.

    :return: whether it was built with CUDA, which onnxruntime-genai alone says; whether there is a GPU and a
        driver shows when a model is loaded.
    :raises JobError: it doesn't load, or hangs.
    """
    return bool(run_job("edgeslm.engine.libraries", module, timeout_s=TIMEOUT_S, memory_bytes=None))


# --- in the child ----------------------------------------------------------------------------------


def _import(module: str, progress: Progress) -> bool:
    library = importlib.import_module(module)
    return module == GENAI and bool(library.is_cuda_available())


if __name__ == "__main__":
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import
    serve(_import)
