"""Command ``edgeslm-export starter``."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeslm_export.cli.progress import Bar
from edgeslm_export.cli.screen import print_json, print_line
from edgeslm_export.starter import PARTS, Maker, default_folder

RESUMES = True
SUMMARY = "a small model, a small encoder and demo data, from packages"
EXAMPLE = "edgeslm-export starter ~/edgeslm-starter"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "folder", type=Path, nargs="?", metavar="DIR", help=f"where to put them (default: {default_folder()})"
    )
    command.add_argument("--only", action="append", choices=PARTS, help="this part only; may be repeated")
    command.add_argument(
        "--from",
        dest="packages",
        type=Path,
        metavar="FOLDER",
        help="take the wheels from here, not from the index",
    )


def run(options: argparse.Namespace) -> None:
    """Makes the starter folder and prints the paths of its parts."""
    folder = options.folder or default_folder()
    parts = tuple(options.only or PARTS)
    with Bar() as bar:
        made = Maker(bar.say, bar, options.packages, options.debug).make(folder, parts)
    if options.json:
        print_json({name: str(path) for name, path in made.items()})
        return
    for path in made.values():
        print_line(str(path))
