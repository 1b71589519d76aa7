"""Thread spinning: the session options for each ``power`` setting, i.e. how threads wait for work.

Between two operators of a model, threads are idle for a few microseconds. If idle threads sleep at once,
inference loses a third of its speed to wake-ups; if they spin, they take CPU time from other processes. Both
onnxruntime and onnxruntime-genai have session options for spinning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from edgeslm.engine.calls import Power

WAITING: Final[Mapping[Power, Mapping[str, str]]] = {
    "performance": {},  # onnxruntime's default: 45 ms of spinning after each request
    "balanced": {"session.intra_op.spin_duration_us": "1000"},
    "idle": {"session.intra_op.allow_spinning": "0"},
}
"""Maps each power setting to session configuration entries; their values are strings, as onnxruntime-genai
requires."""


def set_waiting(options: Any, power: Power) -> None:
    """Applies the entries of ``WAITING`` to the ``SessionOptions`` of plain onnxruntime."""
    for key, value in WAITING[power].items():
        options.add_session_config_entry(key, value)
