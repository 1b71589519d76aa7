"""``edgeslm-export tune``."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeslm_export.progress import Bar
from edgeslm_export.screen import print_json, print_labels, print_line
from edgeslm_export.starter import ENCODER, Maker, default_folder

SUMMARY = "learn a classify task from labelled messages"
EXAMPLE = "edgeslm-export tune spam.yaml messages.jsonl learned/spam --encoder minilm-l6-int8"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("task", type=Path, metavar="TASK.yaml", help="one entry of tasks: with its name")
    command.add_argument(
        "data", type=Path, metavar="DATA", help='JSON lines {"text", "label"}, or CSV with these columns'
    )
    command.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    command.add_argument(
        "--encoder", type=Path, metavar="BUNDLE", help="encoder bundle (default: the starter's)"
    )


def run(options: argparse.Namespace) -> None:
    """Learns a task and shows how often it is right."""
    from edgeslm_export.package import check_absent
    from edgeslm_export.tune import load_task, tune

    check_absent(options.out)
    task = load_task(options.task)
    with Bar() as bar:
        encoder = options.encoder or _encoder_of(task.model, bar, options.debug)
        _, report = tune(task, options.data, options.out, encoder)
    if options.json:
        print_json({"bundle": str(options.out), **report})
        return
    low, high = report["interval"]
    print_line(f"{options.out}: learned {task.name} from {report['rows']} rows on {encoder}")
    print_line(f"accuracy by cross-validation {report['accuracy']:.3f} (95 %: {low:.3f} to {high:.3f})")
    print_line(f"always the commonest label   {report['majority']:.3f}")
    print_line(f"calibration error            {report['calibration_error']:.3f}")
    print_labels(report["labels"])


def _encoder_of(model: str, bar: Bar, debug: bool) -> Path:
    """A task's encoder: its ``model`` when that is a bundle folder, else the starter's, made if missing."""
    if model and (Path(model) / "manifest.json").is_file():
        return Path(model)
    folder = default_folder() / ENCODER
    if not folder.exists():
        bar.say(f"No --encoder was named: making the starter encoder in {folder}.")
    return Maker(bar.say, bar, debug=debug).make_encoder(folder)
