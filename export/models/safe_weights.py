"""Safetensors conversion: child process that converts PyTorch's weight files, which are pickles.

Runs as ``python -m edgeslm_export.models.safe_weights``, with a task that has the checkpoint folder
``source`` and the file ``out`` (see ``subprocess_job``). The older transformers version in optimum's
environment must not read pickles.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from edgeslm_export.jobs.subprocess_job import Reporter
from edgeslm_export.sources.checkpoint import weight_files

from edgeslm.errors import ExportError


def convert(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Writes all tensors of the checkpoint ``source`` to the one file ``out``.

    :raises ExportError: a file holds anything but tensors, or can't be read.
    """
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    for file in weight_files(Path(task["source"])):
        try:
            tensors |= torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # pickles fail in many ways
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ExportError(f"{file} holds more than weights, or is damaged: {reason}") from None
    # Tied tensors share their memory, which safetensors refuses to write.
    save_file(
        {name: value.clone().contiguous() for name, value in tensors.items() if torch.is_tensor(value)},
        task["out"],
        metadata={"format": "pt"},
    )
    return {}


if __name__ == "__main__":
    sys.exit(Reporter().run(convert))
