"""Extract tasks learned by an encoder, for tests: their bundles and the engine's answers."""

from __future__ import annotations

from typing import Any

from edgeslm.bundle.manifest import Bundle
from tests.support.taught import head_bundle

POINTED: dict[str, Any] = {
    "task": "fields",
    "kind": "extract",
    "labels": [],
    "output_schema": {
        "type": "object",
        "properties": {
            "machine": {"type": "string"},
            "celsius": {"type": "number"},
            "state": {"enum": ["on", "off"]},
        },
        "required": ["machine"],
    },
    "fields": [
        {"name": "machine", "optional": False, "longest": 20},
        {"name": "celsius", "optional": True, "longest": 20},
        {"name": "state", "optional": True, "values": ["on", "off"]},
    ],
    "rows": 9,
}
"""The section ``learned``: a required text, an optional number, and one of two values."""

RISK = [
    {"threshold": 0.0, "error": 0.2, "coverage": 1.0},
    {"threshold": 0.6, "error": 0.05, "coverage": 0.7},
]


def fitted(**changes: Any) -> dict[str, Any]:
    """A calibration of fields that halves the head's probabilities."""
    knots = {"margins": [0.0, 1.0], "confidences": [0.0, 0.5]}
    return {"scale": [], "bias": [], **knots, "rows": 50, **changes}


def pointer_bundle(**learned: Any) -> Bundle:
    """A bundle without a folder, enough for a task."""
    return head_bundle(**{**POINTED, **learned})


def at(message: str, text: str, share: float = 1.0, nth: int = 0) -> tuple[int, int, float]:
    """The span of the ``nth`` occurrence of ``text``, as an engine returns it."""
    start = message.index(text)
    for _ in range(nth):
        start = message.index(text, start + 1)
    return start, start + len(text), share
