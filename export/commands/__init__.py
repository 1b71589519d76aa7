"""One module a command of ``edgeslm-export``: its summary, an example, its arguments and what it runs.

Each has ``SUMMARY``, ``EXAMPLE``, ``add_arguments(parser)`` and ``run(options)``, and imports what does the
work inside ``run``, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def positive(text: str) -> float:
    """An argparse type: a number above 0 that isn't infinite. ``nan`` is none."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return number


def whole(text: str) -> int:
    """An argparse type: a whole number above 0."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return number


def add_source(command: argparse.ArgumentParser) -> None:
    """SRC and OUT, as every command has them that makes a bundle of a model."""
    command.add_argument(
        "src", metavar="SRC", help="hub id (owner/name or owner/name@revision), folder or .gguf file"
    )
    command.add_argument("out", type=Path, metavar="OUT", help="the bundle folder to make")
