"""Command ``edgeslm-export evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgeslm_export.cli.arguments import find_base, share, whole
from edgeslm_export.cli.progress import Bar
from edgeslm_export.cli.screen import print_json, print_table

from edgeslm.bundle.manifest import load_bundle
from edgeslm.errors import ExportError

if TYPE_CHECKING:
    from edgeslm_export.sources.checkpoint import Origin
    from edgeslm_export.sources.corpus import Corpus

SUMMARY = "the report card of a bundle"
EXAMPLE = (
    "edgeslm-export evaluate smollm2-135m held-aside.jsonl --reference HuggingFaceTB/SmolLM2-135M-Instruct"
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("bundle", type=Path, metavar="BUNDLE")
    command.add_argument(
        "data",
        type=Path,
        nargs="?",
        metavar="DATA",
        help='labelled rows: {"text", "label"}, or {"text", "fields"}',
    )
    command.add_argument(
        "--task",
        type=Path,
        metavar="TASK.yaml",
        help="one entry of `tasks:` with its name: a decoder's task (default: derived from DATA)",
    )
    command.add_argument(
        "--reference",
        metavar="SRC",
        help="the float model that a decoder was made from (hub id, folder or .gguf), to compare with",
    )
    command.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="compare on the last fifth of this text too, which an export doesn't calibrate on",
    )
    command.add_argument(
        "--base",
        "--encoder",
        type=Path,
        metavar="BUNDLE",
        help="the encoder or decoder of a learned head or adapter (default: looked for nearby)",
    )
    command.add_argument(
        "--max-error",
        type=share,
        metavar="SHARE",
        help="highest error rate of a learned task's answers: it abstains from uncertain rows",
    )
    command.add_argument(
        "--answers", action="store_true", help="add a learned task's answer to each row to the JSON line"
    )
    command.add_argument("--threads", type=whole, help="inference threads (default: one for each core)")


def run(options: argparse.Namespace) -> None:
    """Prints the report card."""
    from edgeslm_export.evaluate.report_card import Required, check_wanted, evaluate_bundle

    if options.text is not None and options.reference is None:
        raise ExportError(
            "A text (--text) is for comparing with the float model: name it with --reference SRC."
        )
    compared = options.reference is not None
    # Before the reference, which may be a large download.
    check_wanted(load_bundle(options.bundle), options.data, options.task, compared=compared)
    with Bar() as bar:
        wanted = Required(
            data=options.data,
            task=options.task,
            base=options.base or _base_of(options.bundle),
            max_error=options.max_error,
            with_answers=options.answers,
            reference=_origin(options, bar),
            corpora=_corpora(options, bar),
        )
        report = evaluate_bundle(
            options.bundle, wanted, threads=options.threads, on_progress=bar, debug=options.debug
        )
    if not options.json:
        print_table({key: value for key, value in report.items() if key != "answers"})
    print_json({"bundle": str(options.bundle), **report})


def _base_of(path: Path) -> Path | None:
    """The base of a head or adapter; None for other bundles."""
    manifest = load_bundle(path).manifest
    return find_base(path) if manifest.head or manifest.adapter else None


def _origin(options: argparse.Namespace, bar: Bar) -> Origin | None:
    from edgeslm_export.sources.hub import resolve_source

    return resolve_source(options.reference, "decoder", bar.say) if options.reference else None


def _corpora(options: argparse.Namespace, bar: Bar) -> list[Corpus]:
    """The public corpus and the user's own text; only the user's text if the public corpus can't be
    downloaded."""
    from edgeslm_export.sources.corpus import own_corpus, public_corpus
    from edgeslm_export.sources.wheel_data import Packages

    if options.reference is None:
        return []
    own = [own_corpus(options.text)] if options.text else []
    try:
        return [public_corpus(Packages(bar.say, bar, debug=options.debug)), *own]
    except ExportError as error:
        if not own:
            raise ExportError(f"{error} Or name a text of your own with --text.") from None
        bar.say(f"{error} Only {options.text} is measured on.")
        return own
