"""Command ``edgeslm-export wrap``."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeslm_export.cli.progress import Bar
from edgeslm_export.cli.screen import print_bundle, print_line

SUMMARY = "a ready onnxruntime-genai folder to a decoder bundle, without a conversion"
EXAMPLE = (
    "edgeslm-export wrap microsoft/Phi-3-mini-4k-instruct-onnx:"
    "cpu_and_mobile/cpu-int4-rtn-block-32-acc-level-4 phi3-mini"
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "src",
        metavar="SRC",
        help="folder with genai_config.json, or a hub id, [OWNER/]NAME[@REVISION][:SUBFOLDER]",
    )
    command.add_argument("out", type=Path, metavar="OUT", help="the bundle's folder, which must not exist")


def run(options: argparse.Namespace) -> None:
    """Makes a bundle and prints what it lacks and its measurements."""
    from edgeslm_export.bundle.writer import check_absent
    from edgeslm_export.models.wrap import ReadySource, local_source, wrap_model
    from edgeslm_export.sources.hub import fetch_ready

    check_absent(options.out)
    path = Path(options.src).expanduser()
    with Bar() as bar:
        origin = local_source(path) if path.is_dir() else ReadySource(*fetch_ready(options.src, bar.say))
        bar.say("Running the model once for its golden answers.")
        manifest, measured = wrap_model(origin, options.out)
    print_bundle(options, manifest, measured)
    if options.json:
        return
    for heading, key in (("changed", "changed"), ("lacks", "lacks"), ("left out", "left_out")):
        for number, line in enumerate(measured[key]):
            print_line(f"{'' if number else heading:20} {line}")
