"""``edgeslm-export reader``."""

from __future__ import annotations

import argparse

from edgeslm_export.cli.arguments import add_questions, add_source, questions_of
from edgeslm_export.cli.progress import Bar
from edgeslm_export.cli.screen import print_bundle

SUMMARY = "a cross-encoder, which tells whether a passage answers a question, or an encoder taught to"
GOES_ON = True
EXAMPLE = "edgeslm-export reader sentence-transformers/all-MiniLM-L6-v2 reader --questions questions.jsonl"


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_source(command)
    add_questions(
        command,
        'JSON lines {"text", "question", "answer"} to teach an encoder with: the words of the text that '
        'answer, or null; a text may have a "heading" and a "source" (default: SRC is a cross-encoder, '
        "taught already)",
    )


def run(options: argparse.Namespace) -> None:
    """Teaches a reader and shows what was measured."""
    from edgeslm_export.bundle.writer import check_absent
    from edgeslm_export.sources.hub import resolve_source
    from edgeslm_export.train.reader import export_cross_encoder, export_reader
    from edgeslm_export.train.spec import Budget

    check_absent(options.out)
    rows = questions_of(options)
    with Bar() as bar:
        origin = resolve_source(options.src, "encoder" if rows else "reader", bar.say)
        budget = Budget(seconds=60 * options.minutes, announce=bar.say, on_progress=bar, debug=options.debug)
        if rows:
            manifest, figures = export_reader(origin, rows, options.out, budget)
        else:
            manifest, figures = export_cross_encoder(origin, options.out, budget)
    print_bundle(options, manifest, figures)
