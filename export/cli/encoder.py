"""Command ``edgeslm-export encoder``."""

from __future__ import annotations

import argparse

from edgeslm_export.cli.arguments import add_questions, add_source, questions_of
from edgeslm_export.cli.progress import Bar
from edgeslm_export.cli.screen import print_bundle
from edgeslm_export.graph.encoder_recipe import DEFAULT_RECIPE, RECIPES

SUMMARY = "an embedding model to an encoder bundle, through optimum; optionally trained for search"
EXAMPLE = "edgeslm-export encoder sentence-transformers/all-MiniLM-L6-v2 minilm-l6-int8"


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_source(command)
    recipes = "; ".join(f"{name}: {recipe.summary}" for name, recipe in RECIPES.items())
    command.add_argument(
        "--recipe", choices=list(RECIPES), default=DEFAULT_RECIPE, help=f"{recipes} (default: %(default)s)"
    )
    add_questions(
        command,
        'JSON lines {"text", "question", "answer"}, as for the command reader, to train it for search by '
        "questions (default: no training)",
    )


def run(options: argparse.Namespace) -> None:
    """Makes an encoder bundle and prints its measurements."""
    from edgeslm_export.bundle.writer import check_absent
    from edgeslm_export.models.encoder import export_encoder
    from edgeslm_export.sources.hub import resolve_source
    from edgeslm_export.train.retriever import export_retriever
    from edgeslm_export.train.spec import Budget

    check_absent(options.out)
    rows = questions_of(options)
    with Bar() as bar:
        origin = resolve_source(options.src, "encoder", bar.say)
        if rows:
            budget = Budget(
                seconds=60 * options.minutes, announce=bar.say, on_progress=bar, debug=options.debug
            )
            manifest, measured = export_retriever(origin, rows, options.out, options.recipe, budget)
        else:
            manifest, measured = export_encoder(
                origin, options.out, bar.say, options.recipe, on_progress=bar, debug=options.debug
            )
    print_bundle(options, manifest, measured)
