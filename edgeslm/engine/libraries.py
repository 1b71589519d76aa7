"""Inference libraries: which distributions provide them, and whether they load.

Importing a library that uses instructions which the CPU lacks kills the process, so a child process tests the
import.
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
"""Maps each module to the distributions that provide it, one for the CPU and one with CUDA; only one of the
two is installed."""
TIMEOUT_S: Final = 120
"""Time limit of an import, in seconds."""


def installed(module: str) -> str:
    """Returns the name and version of the installed distribution that provides a module, as ``NAME VERSION``.

    :raises PackageNotFoundError: no distribution that provides the module is installed.
    """
    for name in LIBRARIES[module]:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    raise PackageNotFoundError(module)


def import_in_child(module: str) -> bool:
    """Imports a library in a child process, with its telemetry off.

    :return: whether the library was built with CUDA; always false for onnxruntime, which doesn't report this.
        Whether a GPU and a driver are present is only known after loading a model.
    :raises JobError: the import fails or hangs.
    """
    return bool(run_job("edgeslm.engine.libraries", module, timeout_s=TIMEOUT_S, memory_bytes=None))


# --- in the child ----------------------------------------------------------------------------------


def _import(module: str, progress: Progress) -> bool:
    library = importlib.import_module(module)
    return module == GENAI and bool(library.is_cuda_available())


if __name__ == "__main__":
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import
    serve(_import)
