"""``edgeslm-export reader``."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeslm_export.commands import add_source, positive
from edgeslm_export.progress import Bar
from edgeslm_export.screen import print_bundle

from edgeslm.errors import ExportError

SUMMARY = "a cross-encoder, which tells whether a passage answers a question, or an encoder taught to"
GOES_ON = True
EXAMPLE = "edgeslm-export reader sentence-transformers/all-MiniLM-L6-v2 reader --questions questions.jsonl"


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_source(command)
    command.add_argument(
        "--questions",
        type=Path,
        metavar="DATA",
        help='JSON lines {"text", "question", "answer"} to teach an encoder with: the words of the text that '
        'answer, or null; a text may have a "heading" and a "source" (default: SRC is a cross-encoder, '
        "taught already)",
    )
    command.add_argument(
        "--minutes", type=positive, default=0.0, help="that the teaching may take (default: no limit)"
    )


def run(options: argparse.Namespace) -> None:
    """Teaches a reader and shows what was measured."""
    from edgeslm_export.hub import resolve_source
    from edgeslm_export.lesson import Effort
    from edgeslm_export.package import check_absent
    from edgeslm_export.reader import export_cross_encoder, export_reader
    from edgeslm_export.rows import load_questions

    check_absent(options.out)
    if options.minutes and not options.questions:
        raise ExportError("--minutes bounds the teaching, which takes --questions: name these too.")
    rows = load_questions(options.questions) if options.questions else []
    with Bar() as bar:
        origin = resolve_source(options.src, "encoder" if rows else "reader", bar.say)
        effort = Effort(seconds=60 * options.minutes, announce=bar.say, on_progress=bar, debug=options.debug)
        if rows:
            manifest, figures = export_reader(origin, rows, options.out, effort)
        else:
            manifest, figures = export_cross_encoder(origin, options.out, effort)
    print_bundle(options, manifest, figures)
