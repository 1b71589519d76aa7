"""Model loading with onnxruntime-genai: options, threads and device."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import; telemetry writes device ids and event files

import onnxruntime_genai as og

from edgeslm.bundle.size_estimate import PREFILL_CHUNK
from edgeslm.engine.calls import BALANCED, Device, Guide, Power
from edgeslm.engine.worker.grammar import grammar_error
from edgeslm.engine.worker.waiting import WAITING
from edgeslm.errors import BundleError, NoMemory


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads models on one device, with one ``power`` setting for idle CPU threads."""

    power: Power = BALANCED
    device: Device = "cpu"

    def load(self, bundle: Path, graph: str, threads: int) -> Any:
        """Loads an onnxruntime-genai model. If the runtime can't load the model, it raises RuntimeError or
        another error.

        :param graph: path of the graph relative to the bundle's folder; a prepacked graph is outside this
            folder (``../...``); empty for the graph that ``genai_config.json`` names.
        :raises BundleError: the installed runtime doesn't support the device.
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
"""Loader for the CPU, with the power setting ``balanced``."""


def engine_error(error: Exception, guide: Guide | None = None) -> Exception:
    """Converts an allocation failure of the runtime to ``NoMemory``, and a failure of a call's grammar to
    ``InvalidRequest``."""
    if guide is not None and (refusal := grammar_error(guide, error)) is not None:
        return refusal
    if "alloc" in str(error).lower():
        return NoMemory(f"the engine could not allocate memory: {error}")
    return error
