"""``edgeslm-export evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeslm_export.progress import Bar
from edgeslm_export.screen import print_json, print_table
from edgeslm_export.starter import default_folder

from edgeslm.bundle import load_bundle
from edgeslm.errors import EdgeslmError, ExportError

SUMMARY = "the report card of a bundle"
EXAMPLE = "edgeslm-export evaluate learned/spam held-aside.jsonl --encoder minilm-l6-int8"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("bundle", type=Path, metavar="BUNDLE")
    command.add_argument(
        "data", type=Path, nargs="?", metavar="DATA", help="labelled rows, for a learned head"
    )
    command.add_argument(
        "--encoder", type=Path, metavar="BUNDLE", help="a head's encoder (default: looked for nearby)"
    )
    command.add_argument("--threads", type=int, help="threads of the inference (default: one a core)")


def run(options: argparse.Namespace) -> None:
    """Shows the report card."""
    from edgeslm_export.evaluate import evaluate_bundle
    from edgeslm_export.rows import load_rows

    rows = load_rows(options.data) if options.data else None
    encoder = options.encoder or _find_encoder(options.bundle)
    with Bar() as bar:
        report = evaluate_bundle(
            options.bundle,
            rows=rows,
            encoder=encoder,
            threads=options.threads,
            on_progress=bar,
            debug=options.debug,
        )
    if not options.json:
        print_table(report)
    print_json({"bundle": str(options.bundle), **report})


def _find_encoder(head: Path) -> Path | None:
    """The encoder bundle of a head, looked for beside the head and among the starter's."""
    section = load_bundle(head).manifest.head
    if section is None:
        return None
    for folder in (head.resolve().parent, head.resolve().parent.parent, default_folder()):
        for manifest in sorted(folder.glob("*/manifest.json")):
            try:
                if load_bundle(manifest.parent).digest == section.encoder:
                    return manifest.parent
            except EdgeslmError:
                continue
    raise ExportError(f"The encoder that {head} was learned on isn't near it; name it with --encoder BUNDLE.")
