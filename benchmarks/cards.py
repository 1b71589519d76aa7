"""The card at the head of a benchmark about teaching: what it ran on."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from machine import processor

_LIBRARIES = ("edgeslm", "onnxruntime", "onnxruntime-genai", "torch", "transformers")


def print_card(say: Callable[[str], None], **about: Any) -> dict[str, Any]:
    """Says what the run is about, the machine and the versions. :return: the same for the JSON line."""
    card = {
        **about,
        "threads": len(os.sched_getaffinity(0)),
        "processor": processor(),
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
    }
    for key, value in card.items():
        say(f"{key:>22}  {value}")
    return card
