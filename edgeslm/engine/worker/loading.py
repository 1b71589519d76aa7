"""Model loading by onnxruntime-genai: its options in one place."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import: device ids and event files otherwise

import onnxruntime_genai as og

from edgeslm.bundle.size_estimate import PREFILL_CHUNK
from edgeslm.engine.calls import BALANCED, Device, Power
from edgeslm.engine.worker.waiting import WAITING
from edgeslm.errors import BundleError, NoMemory


@dataclass(frozen=True, slots=True)
class Loader:
    """What computes models, and how the threads of the CPU wait meanwhile."""

    power: Power = BALANCED
    device: Device = "cpu"

    def load(self, bundle: Path, graph: str, threads: int) -> Any:
        """The runtime's model. It raises RuntimeError and others.

        :param graph: as seen from the bundle: its own, or a prepared one at ``../...``; none: what the
            bundle's configuration for the runtime names.
        :raises BundleError: the installed runtime has no such device.
        """
        if self.device == "cuda" and not og.is_cuda_available():
            raise BundleError(
                f"{bundle}: device: cuda, but the installed onnxruntime-genai computes on the CPU alone; "
                "install onnxruntime-genai-cuda in its place, or leave out device"
            )
        config = og.Config(str(bundle))
        options = {"intra_op_num_threads": threads, **WAITING[self.power]}
        decoder = {"session_options": options, **({"filename": graph} if graph else {})}
        overlay = {"model": {"decoder": decoder}, "search": {"chunk_size": PREFILL_CHUNK}}
        config.overlay(json.dumps(overlay))
        if self.device == "cuda":
            config.clear_providers()
            config.append_provider("cuda")
        return og.Model(config)


PLAIN: Final = Loader()
"""On the CPU, balanced."""


def engine_error(error: Exception) -> Exception:
    """What an error of the runtime is to the sender of a request."""
    if "alloc" in str(error).lower():
        return NoMemory(f"the engine could not allocate memory: {error}")
    return error
