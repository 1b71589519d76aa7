"""Command ``edgeslm-export adapter``."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeslm_export.cli.progress import Bar
from edgeslm_export.cli.screen import print_bundle

SUMMARY = "a PEFT LoRA to an adapter bundle, swappable on its base"
EXAMPLE = "edgeslm-export adapter lora/fields adapters/fields --base smollm2-135m-int4"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "lora",
        type=Path,
        metavar="LORA_DIR",
        help="folder with adapter_config.json and adapter_model.safetensors",
    )
    command.add_argument("out", type=Path, metavar="OUT", help="the bundle folder to make")
    command.add_argument(
        "--base", type=Path, required=True, metavar="BUNDLE", help="the decoder bundle that it is for"
    )


def run(options: argparse.Namespace) -> None:
    """Makes an adapter bundle and prints its measurements."""
    from edgeslm_export.bundle.writer import check_absent
    from edgeslm_export.models.adapter import export_adapter

    check_absent(options.out)
    with Bar() as bar:
        manifest, measured = export_adapter(
            options.lora, options.out, options.base, on_progress=bar, debug=options.debug
        )
    print_bundle(options, manifest, measured)
