"""Command ``edgeslm-export ship``."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeslm_export.cli.screen import print_json, print_line

SUMMARY = "add document collections to a model's bundle"
EXAMPLE = "edgeslm-export ship smollm2-135m-int4 hall-manuals --knowledge manuals.sqlite"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help="isn't changed")
    command.add_argument("out", type=Path, metavar="OUT", help="the bundle folder to make")
    command.add_argument(
        "--knowledge",
        type=Path,
        nargs="+",
        required=True,
        metavar="KB",
        help="collections made by edgeslm knowledge add",
    )


def run(options: argparse.Namespace) -> None:
    """Makes the bundle and prints how to configure its collections."""
    from edgeslm_export.bundle.add_knowledge import ship

    bundle = ship(options.bundle, options.knowledge, options.out)
    if options.json:
        print_json({"bundle": str(options.out), "digest": bundle.digest})
        return
    print_line(f"{options.out}: {bundle.digest}")
    print_line("name its collections in knowledge.NAME.path, where the bundle is on the device")
