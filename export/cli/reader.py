"""Command ``edgeslm-export reader``."""

from __future__ import annotations

import argparse

from edgeslm_export.cli.arguments import add_device, add_questions, add_recipe, add_source, questions_of
from edgeslm_export.cli.progress import Bar
from edgeslm_export.cli.screen import print_bundle

SUMMARY = "a cross-encoder, or an encoder to train as one, to a reader bundle"
RESUMES = True
EXAMPLE = "edgeslm-export reader sentence-transformers/all-MiniLM-L6-v2 reader --questions questions.jsonl"


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_source(command)
    add_recipe(command)
    add_questions(
        command,
        'JSON lines {"text", "question", "answer"} to train an encoder on; "answer" is words of the text, or '
        'null; "heading" and "source" are optional (default: SRC is a trained cross-encoder)',
    )
    add_device(command)


def run(options: argparse.Namespace) -> None:
    """Makes a reader bundle and prints its measurements."""
    from edgeslm_export.bundle.writer import check_absent
    from edgeslm_export.jobs.device import Device, choose_device
    from edgeslm_export.sources.hub import resolve_source
    from edgeslm_export.train.reader import export_cross_encoder, export_reader
    from edgeslm_export.train.spec import Budget

    check_absent(options.out)
    rows = questions_of(options)
    with Bar() as bar:
        device = choose_device(options.device, bar.say, debug=options.debug) if rows else Device()
        origin = resolve_source(options.src, "encoder" if rows else "reader", bar.say)
        budget = Budget(
            seconds=60 * options.minutes,
            announce=bar.say,
            on_progress=bar,
            debug=options.debug,
            device=device,
        )
        if rows:
            manifest, figures = export_reader(origin, rows, options.out, budget, options.recipe)
        else:
            manifest, figures = export_cross_encoder(origin, options.out, budget, options.recipe)
    print_bundle(options, manifest, figures)
