"""Thread spinning: how an engine's threads wait for work; a node's ``power``, as onnxruntime takes it.

A product's threads part for a few microseconds between two nodes of a graph, so threads that sleep at once
lose a third of the speed to waking up; those that spin take the processor from others meanwhile. Loads no
library: both that compute take these options.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from edgeslm.engine.calls import Power

WAITING: Final[Mapping[Power, Mapping[str, str]]] = {
    "performance": {},  # onnxruntime's own: 45 ms of spinning after each request
    "balanced": {"session.intra_op.spin_duration_us": "1000"},
    "idle": {"session.intra_op.allow_spinning": "0"},
}
"""Entries of a session's configuration; onnxruntime-genai refuses values that are no texts."""


def set_waiting(options: Any, power: Power) -> None:
    """For a session of plain onnxruntime; ``options`` are its ``SessionOptions``."""
    for key, value in WAITING[power].items():
        options.add_session_config_entry(key, value)
