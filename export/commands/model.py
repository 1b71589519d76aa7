"""``edgeslm-export model``."""

from __future__ import annotations

import argparse

from edgeslm_export.commands import add_source
from edgeslm_export.progress import Bar
from edgeslm_export.recipe import DEFAULT_RECIPE, RECIPES
from edgeslm_export.screen import print_bundle

SUMMARY = "a causal language model to a decoder bundle"
EXAMPLE = "edgeslm-export model SmolLM2-135M-Instruct.Q4_1.gguf smollm2-135m-int4"


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_source(command)
    recipes = "; ".join(f"{recipe.name}: {recipe.summary}" for recipe in RECIPES.values())
    command.add_argument(
        "--recipe", choices=list(RECIPES), default=DEFAULT_RECIPE, help=f"{recipes} (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> None:
    """Makes a decoder bundle and shows what was measured."""
    from edgeslm_export.convert import export_model
    from edgeslm_export.hub import resolve_source
    from edgeslm_export.package import check_absent
    from edgeslm_export.recipe import find_recipe

    check_absent(options.out)
    with Bar() as bar:
        origin = resolve_source(options.src, "decoder", bar.say)
        manifest, measured = export_model(
            origin, options.out, find_recipe(options.recipe), on_progress=bar, debug=options.debug
        )
    print_bundle(options, manifest, measured)
