"""``edgeslm-export tune``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm_export.commands import positive
from edgeslm_export.progress import Bar
from edgeslm_export.screen import print_columns, print_json, print_labels, print_line
from edgeslm_export.starter import ENCODER, Maker, default_folder

from edgeslm.errors import ExportError

if TYPE_CHECKING:
    from edgeslm_export.ways import Effort, Ground

SUMMARY = "learn a classify task from labelled messages"
EXAMPLE = "edgeslm-export tune spam.yaml messages.jsonl learned/spam --minutes 10"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("task", type=Path, metavar="TASK.yaml", help="one entry of tasks: with its name")
    command.add_argument(
        "data", type=Path, metavar="DATA", help='JSON lines {"text", "label"}, or CSV with these columns'
    )
    command.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    command.add_argument(
        "--encoder",
        metavar="BUNDLE_OR_SRC",
        help="an encoder bundle, which stays as it is, or an encoder's checkpoint (hub id or folder), which "
        "is taught (default: the starter's, both)",
    )
    command.add_argument(
        "--method",
        choices=("auto", "head", "encoder"),
        default="auto",
        help="head: a classifier on the encoder as it is; encoder: the encoder is taught too; auto: the one "
        "that is more often right (default: %(default)s)",
    )
    command.add_argument(
        "--minutes", type=positive, help="most time that teaching an encoder may take (default: as it needs)"
    )


def run(options: argparse.Namespace) -> None:
    """Learns a task and shows how often each way of learning it is right."""
    from edgeslm_export.package import check_absent
    from edgeslm_export.tune import load_task, read_rows, tune
    from edgeslm_export.ways import Effort

    check_absent(options.out)
    task = load_task(options.task)
    read_rows(task, options.data)  # before anything is fetched or made
    with Bar() as bar:
        effort = Effort(
            method=None if options.method == "auto" else options.method,
            seconds=60 * (options.minutes or 0),
            announce=bar.say,
            on_progress=bar,
            debug=options.debug,
        )
        ground = _ground(options.encoder, task.model, effort)
        _, report = tune(task, options.data, options.out, ground, effort)
    if options.json:
        print_json({"bundle": str(options.out), **report})
        return
    how = {"head": "a head on the encoder as it is", "encoder": "an encoder taught for it"}[report["method"]]
    print_line(f"{options.out}: learned {task.name} from {report['learned_from']} rows: {how}")
    _print_methods(report)
    print_line(f"always the commonest label   {report['majority']:.3f}")
    print_labels(report["labels"])


def _print_methods(report: dict[str, Any]) -> None:
    rows = []
    for name, of in report["methods"].items():
        measured = report["measured"][name]
        low, high = of["interval"]
        rows.append(
            (
                name,
                f"{of['accuracy']:.3f}",
                f"{low:.3f} to {high:.3f}",
                str(of["held_out"]),
                f"{of['calibration_error']:.3f}",
                f"{measured['texts_per_s']:.0f}",
                f"{measured['bytes'] / 1e6:.1f} MB",
            )
        )
    print_columns(
        (
            "method",
            "accuracy",
            "95 % interval",
            "rows held out",
            "calibration error",
            "messages/s",
            "encoder",
        ),
        rows,
    )


def _ground(encoder: str | None, model: str, effort: Effort) -> Ground:
    """What is learned on: what was named, else the task's ``model`` when that is a bundle's folder, else the
    starter's encoder, made if it is missing, and its checkpoint where that could be wanted."""
    from edgeslm_export.hub import resolve_source
    from edgeslm_export.ways import HEAD, NEEDS_BUNDLE, Ground

    named = encoder or (model if model and _is_bundle(model) else None)
    if named and _is_bundle(named):
        return Ground(bundle=Path(named))
    if named and effort.method == HEAD:
        raise ExportError(NEEDS_BUNDLE)
    if named:
        return Ground(checkpoint=resolve_source(named, "encoder", effort.announce, memory_a_weight=20))
    maker = Maker(effort.announce, effort.on_progress, debug=effort.debug)
    folder = default_folder() / ENCODER
    if not folder.exists():
        effort.announce(f"No --encoder was named: making the starter encoder in {folder}.")
    bundle = maker.make_encoder(folder)
    checkpoint = None if effort.method == HEAD else maker.encoder_origin()
    return Ground(bundle, checkpoint)


def _is_bundle(folder: str) -> bool:
    return (Path(folder) / "manifest.json").is_file()
