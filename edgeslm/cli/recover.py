"""``edgeslm recover``: returns messages of a damaged journal to the node."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edgeslm.cli.screen import say

SUMMARY = "return messages of a damaged journal to the node"
EXAMPLE = "edgeslm recover config.yaml"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", type=Path, metavar="CONFIG", help="of the node, which must be stopped")
    command.add_argument(
        "files",
        type=Path,
        nargs="*",
        metavar="FILE",
        help="journals that were set aside (default: all of this node, journal-NODE.damaged-1 and so on)",
    )
    command.add_argument("--dry-run", action="store_true", help="say what would be fed back")
    command.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from edgeslm.config.loader import load_config
    from edgeslm.errors import EdgeslmError, JournalError
    from edgeslm.storage.database import journal_of
    from edgeslm.storage.recovery import feed_back
    from edgeslm.storage.set_aside import copies

    journal = journal_of(load_config(arguments.config))
    for file in arguments.files:
        if file.absolute() == journal.file.absolute():
            raise EdgeslmError(f"{file} is the node's own journal; name one that was set aside")
    try:
        journal.open()
    except JournalError as error:
        if "is in use" not in str(error):
            raise
        raise EdgeslmError(
            f"{journal.file} is in use: the node runs. Stop it, recover, and start it again; requests wait "
            "at the broker meanwhile. Nothing was fed back."
        ) from None
    told = {}
    try:
        for file in arguments.files or copies(journal.file):
            try:
                told[str(file)] = feed_back(journal, file, dry_run=arguments.dry_run)
            except OSError as error:
                raise EdgeslmError(f"{file} can't be read or marked as fed back ({error.strerror})") from None
    finally:
        journal.close()
    if arguments.json:
        files = {
            file: {
                "fed": {"waiting": one.fed["spool"], "windows": one.fed["windows"]},
                "known": one.known,
                "unreadable": one.unreadable,
                "other_key": one.sealed,
            }
            for file, one in told.items()
        }
        say(json.dumps({"dry_run": arguments.dry_run, "files": files}))
        return 0
    for file, one in told.items():
        say(
            f"{file}: {one.fed['spool']} waiting messages and {one.fed['windows']} of windows "
            f"{'would be' if arguments.dry_run else 'are'} fed back; "
            f"{one.known} the node had already, {one.unreadable} pages or rows can't be read"
            + (f", {one.sealed} are encrypted with another key" if one.sealed else "")
        )
    if not told:
        say("no journal of this node was set aside")
    return 0
