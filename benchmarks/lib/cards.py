"""Frame of a benchmark: the machine and versions first, then the figures, one JSON line last."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from benchmarks.lib.machine import processor
from edgeslm.errors import EdgeslmError

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


Say = Callable[[str], None]
Measure = Callable[[argparse.Namespace, Say], dict[str, Any]]
"""Figures of a run; what it says meanwhile is for people."""


def run_benchmark(name: str, args: argparse.Namespace, measure: Measure, **about: Any) -> None:
    """Prints the card, what is measured and the JSON line; ends with a sentence where it fails."""
    say: Say = (lambda text: None) if args.json else (lambda text: print(text, flush=True))
    card = print_card(say, **about)
    try:
        figures = measure(args, say)
    except (EdgeslmError, RuntimeError, ValueError) as error:
        sys.exit(str(error))
    for key, value in figures.items():
        if not isinstance(value, list):  # a table of its own
            say(f"{key:>22}  {value}")
    print(json.dumps({"benchmark": name, **card, **figures}))
