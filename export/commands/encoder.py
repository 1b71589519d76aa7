"""``edgeslm-export encoder``."""

from __future__ import annotations

import argparse

from edgeslm_export.commands import add_source
from edgeslm_export.encoder_recipe import DEFAULT_RECIPE, RECIPES
from edgeslm_export.progress import Bar
from edgeslm_export.screen import print_bundle

SUMMARY = "an embedding model to an encoder bundle, through optimum"
EXAMPLE = "edgeslm-export encoder sentence-transformers/all-MiniLM-L6-v2 minilm-l6-int8"


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_source(command)
    recipes = "; ".join(f"{name}: {recipe.summary}" for name, recipe in RECIPES.items())
    command.add_argument(
        "--recipe", choices=list(RECIPES), default=DEFAULT_RECIPE, help=f"{recipes} (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> None:
    """Makes an encoder bundle and shows what was measured."""
    from edgeslm_export.encoder import export_encoder
    from edgeslm_export.hub import resolve_source
    from edgeslm_export.package import check_absent

    check_absent(options.out)
    with Bar() as bar:
        origin = resolve_source(options.src, "encoder", bar.say)
        manifest, measured = export_encoder(
            origin, options.out, bar.say, options.recipe, on_progress=bar, debug=options.debug
        )
    print_bundle(options, manifest, measured)
