"""``edgeslm purge``: erases messages by id or age from everything that a node stores."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from edgeslm.cli.screen import say

SUMMARY = "erase messages by id or age from everything that a node stores"
EXAMPLE = "edgeslm purge config.yaml --older-than 30d"

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_WORDS = {
    "answers": "answers in the journal",
    "waiting": "messages that waited for an answer",
    "windows": "messages of windows that are not complete",
    "remembered": "remembered messages",
    "corrections": "corrections and labels",
    "samples": "messages kept for teaching",
    "damaged_files": "journals that were set aside as damaged",
}


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "config", type=Path, nargs="?", metavar="CONFIG", help="of the node, which must be stopped"
    )
    command.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help="instead of CONFIG: purge all journals, corrections and samples in it",
    )
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--older-than", type=_age, metavar="AGE", help="messages older than this, such as 30d, 12h or 90min"
    )
    which.add_argument("--id", help="messages with this id; * stands for any text, as in 'panel-7-*'")
    command.add_argument("--dry-run", action="store_true", help="say what would be erased")
    command.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from edgeslm.config.loader import load_config
    from edgeslm.errors import EdgeslmError
    from edgeslm.node.purge import purge
    from edgeslm.storage.database import Database, journal_of
    from edgeslm.storage.erasure_filter import Choice
    from edgeslm.storage.sample_store import SampleStore, samples_of

    if (arguments.config is None) == (arguments.state_dir is None):
        raise EdgeslmError("name the node's configuration, or its --state-dir")
    if arguments.config is not None:
        config = load_config(arguments.config)
        state_dir, journals = config.state_dir, [journal_of(config)]
        collections = [section.path for section in config.knowledge.values()]
        samples = [samples_of(config)]
    else:
        state_dir, collections = arguments.state_dir, []
        journals = [Database(file) for file in sorted(state_dir.glob("journal-*.sqlite"))]
        samples = [SampleStore(file) for file in sorted(state_dir.glob("samples-*.sqlite"))]
    choice = Choice(arguments.older_than, arguments.id)
    erased = purge(state_dir, journals, collections, samples, choice, dry_run=arguments.dry_run)
    if arguments.json:
        say(json.dumps({"dry_run": arguments.dry_run, "erased": erased}))
        return 0
    for place, count in erased.items():
        say(f"{count:7} {_WORDS[place]}")
    say("would be erased" if arguments.dry_run else "are erased")
    return 0


def _age(text: str) -> float:
    """An argparse type: an age such as 30d, converted to seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(s|min|h|d|w)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age: write 30d, 12h, 90min or 45s")
    return float(found[1]) * _UNITS[found[2]]
