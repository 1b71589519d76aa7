"""Command ``edgeslm-export encoder``."""

from __future__ import annotations

import argparse

from edgeslm_export.cli.arguments import add_device, add_questions, add_recipe, add_source, questions_of
from edgeslm_export.cli.progress import Bar
from edgeslm_export.cli.screen import print_bundle

from edgeslm.bundle.zero_shot import HYPOTHESIS
from edgeslm.errors import ExportError

SUMMARY = "an embedding model, a zero-shot model or a classifier to a bundle; optionally trained for search"
EXAMPLE = "edgeslm-export encoder sentence-transformers/all-MiniLM-L6-v2 minilm-l6-int8"


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_source(command)
    add_recipe(command)
    command.add_argument(
        "--exporter",
        choices=("torch", "optimum"),
        default="torch",
        help="what writes the graph (default: %(default)s); optimum runs in an environment of its own, which "
        "its first use makes",
    )
    command.add_argument(
        "--hypothesis",
        metavar="TEXT",
        help="of a model of natural-language inference: the sentence whose entailment is asked, with {} for "
        f"the label (default: {HYPOTHESIS!r})",
    )
    command.add_argument(
        "--labels",
        nargs="+",
        default=(),
        metavar="LABEL",
        help="of a classifier: names of its labels, in the order of its outputs (default: its own)",
    )
    add_questions(
        command,
        'JSON lines {"text", "question", "answer"}, as for the command reader, to train it for search by '
        "questions (default: no training)",
    )
    add_device(command)


def run(options: argparse.Namespace) -> None:
    """Makes an encoder bundle and prints its measurements."""
    from edgeslm_export.bundle.writer import check_absent
    from edgeslm_export.jobs.device import choose_device
    from edgeslm_export.models.classifier import export_classifier, read_labels
    from edgeslm_export.models.encoder import export_encoder
    from edgeslm_export.models.zero_shot import export_zero_shot, read_zero_shot
    from edgeslm_export.sources.checkpoint import CLASSIFIERS
    from edgeslm_export.sources.hub import resolve_source
    from edgeslm_export.train.retriever import export_retriever
    from edgeslm_export.train.spec import Budget

    check_absent(options.out)
    rows = questions_of(options)
    with Bar() as bar:
        origin = resolve_source(options.src, "encoder", bar.say)
        zero_shot = read_zero_shot(origin, options.hypothesis)
        if options.labels and (zero_shot is not None or origin.architecture not in CLASSIFIERS):
            raise ExportError("--labels is for classifiers; leave it out.")
        if zero_shot is not None:
            if rows or options.exporter == "optimum":
                raise ExportError("A zero-shot model takes neither --questions nor --exporter optimum.")
            manifest, measured = export_zero_shot(
                origin, zero_shot, options.out, bar.say, options.recipe, on_progress=bar, debug=options.debug
            )
        elif origin.architecture in CLASSIFIERS:
            if rows or options.exporter == "optimum":
                raise ExportError("A classifier takes neither --questions nor --exporter optimum.")
            labels = read_labels(origin.path, options.labels)
            manifest, measured = export_classifier(
                origin, labels, options.out, bar.say, options.recipe, on_progress=bar, debug=options.debug
            )
        elif rows:
            budget = Budget(
                seconds=60 * options.minutes,
                announce=bar.say,
                on_progress=bar,
                debug=options.debug,
                device=choose_device(options.device, bar.say, debug=options.debug),
            )
            manifest, measured = export_retriever(origin, rows, options.out, options.recipe, budget)
        else:
            manifest, measured = export_encoder(
                origin,
                options.out,
                bar.say,
                options.recipe,
                by=options.exporter,
                on_progress=bar,
                debug=options.debug,
            )
    print_bundle(options, manifest, measured)
