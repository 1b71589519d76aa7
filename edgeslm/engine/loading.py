"""How onnxruntime-genai loads a bundle's model: its options in one place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import: device ids and event files otherwise

import onnxruntime_genai as og

from edgeslm.arithmetic import PREFILL_CHUNK
from edgeslm.errors import NoMemory

SPIN_US = "1000"
"""How long threads spin for more work after a request: by default 45 ms, which takes the CPU from the bus."""


def load_model(bundle: Path, graph: str, threads: int) -> Any:
    """The runtime's model. It raises RuntimeError and others.

    :param graph: as seen from the bundle: its own, or a prepared one at ``../...``; none: what the bundle's
        configuration for the runtime names.
    """
    config = og.Config(str(bundle))
    options = {
        "intra_op_num_threads": threads,
        "session.intra_op.spin_duration_us": SPIN_US,
    }
    decoder = {"session_options": options, **({"filename": graph} if graph else {})}
    overlay = {"model": {"decoder": decoder}, "search": {"chunk_size": PREFILL_CHUNK}}
    config.overlay(json.dumps(overlay))
    return og.Model(config)


def engine_error(error: Exception) -> Exception:
    """What an error of the runtime is to the sender of a request."""
    if "alloc" in str(error).lower():
        return NoMemory(f"the engine could not allocate memory: {error}")
    return error
