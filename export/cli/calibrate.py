"""Command ``edgeslm-export calibrate``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edgeslm_export.cli.arguments import share_of_label
from edgeslm_export.cli.progress import Bar
from edgeslm_export.cli.screen import print_json, print_line

SUMMARY = "measure an untrained decoder's label bias on unlabelled messages"
EXAMPLE = "edgeslm-export calibrate topic.yaml messages.jsonl bundles/qwen2.5-1.5b"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("task", type=Path, metavar="TASK.yaml", help="one entry of tasks: with its name")
    command.add_argument(
        "texts", type=Path, metavar="UNLABELLED", help='JSON lines {"text"}, or CSV with this column'
    )
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help="the decoder that the task uses")
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
    shares = ", ".join(f"{json.dumps(label, ensure_ascii=False)}: {share}" for label, share in bias.items())
    print_line(f"calibration: {{{shares}}}")
