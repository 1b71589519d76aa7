"""Command ``edgeslm-export calibrate``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgeslm_export.cli.arguments import share_of_label
from edgeslm_export.cli.progress import Bar
from edgeslm_export.cli.screen import print_json, print_line

from edgeslm.errors import ExportError

if TYPE_CHECKING:
    from edgeslm.config.loader import Task

SUMMARY = "measure the label bias of an untrained decoder or zero-shot encoder"
EXAMPLE = "edgeslm-export calibrate topic.yaml messages.jsonl bundles/qwen2.5-1.5b"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("task", type=Path, metavar="TASK.yaml", help="one entry of tasks: with its name")
    command.add_argument(
        "texts",
        type=Path,
        nargs="?",
        metavar="UNLABELLED",
        help='JSON lines {"text"}, or CSV with this column',
    )
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help="the model that the task uses")
    command.add_argument(
        "--labelled",
        type=Path,
        metavar="FILE",
        help='instead of UNLABELLED: at least ten rows {"text", "label"}; the bias is kept only if it helps '
        "on rows that it wasn't fitted on",
    )
    command.add_argument(
        "--share",
        type=share_of_label,
        action="append",
        default=[],
        metavar="LABEL=SHARE",
        help="expected share of messages with this label; may be repeated (default: all labels are equally "
        "frequent)",
    )


def run(options: argparse.Namespace) -> None:
    """Prints the key ``calibration`` for the task's section in the configuration."""
    from edgeslm_export.data.rows import load_texts
    from edgeslm_export.train.label_bias import measure_label_bias

    from edgeslm.config.loader import load_task

    name, section = load_task(options.task, "classify", {}, ("learned", "threshold", "calibration"))
    if (options.labelled is None) == (options.texts is None):
        raise ExportError("Name either unlabelled messages or --labelled FILE.")
    if options.labelled is not None:
        _run_labelled(options, name, section)
        return
    texts = load_texts(options.texts)
    with Bar() as bar:
        bias = measure_label_bias(
            name,
            section,
            options.bundle,
            texts,
            dict(options.share),
            on_progress=bar,
            debug=options.debug,
        )
    if options.json:
        print_json({"calibration": bias})
        return
    print_line(f"calibration: {_shown(bias)}")


def _run_labelled(options: argparse.Namespace, name: str, section: Task) -> None:
    from edgeslm_export.data.rows import load_rows
    from edgeslm_export.train.labelled_bias import measure_labelled_bias

    if options.share:
        raise ExportError("--share is for unlabelled messages; leave it out.")
    rows = load_rows(options.labelled, tuple(section.labels or ()))
    with Bar() as bar:
        found = measure_labelled_bias(
            name, section, options.bundle, rows, on_progress=bar, debug=options.debug
        )
        bar.say(f"right without it: {found.right} of {found.rows}; with it: {found.right_with}")
    if options.json:
        figures = {"rows": found.rows, "right": found.right, "right_with": found.right_with}
        print_json({"calibration": found.biases or "none", **figures})
        return
    print_line(f"calibration: {_shown(found.biases) if found.biases else 'none'}")


def _shown(bias: Mapping[str, float]) -> str:
    shares = ", ".join(f"{json.dumps(label, ensure_ascii=False)}: {share}" for label, share in bias.items())
    return f"{{{shares}}}"
