"""Command ``edgeslm-export plan``."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeslm_export.cli.screen import print_json, print_line
from edgeslm_export.quantize.recipe import RECIPES

from edgeslm.errors import ExportError
from edgeslm.hardware.board_profiles import THIS, board_names

SUMMARY = "what size, memory and speed to expect on a board, before anything is downloaded"
EXAMPLE = "edgeslm-export plan Qwen/Qwen2.5-0.5B-Instruct --board pi5-8gb"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "src",
        metavar="SRC",
        nargs="?",
        help="hub id, checkpoint folder, config.json or .gguf file; nothing else is read",
    )
    command.add_argument(
        "--table",
        action="store_true",
        help="instead of SRC: a Markdown table of common models on all known boards",
    )
    command.add_argument(
        "--figures",
        type=Path,
        metavar="FILE",
        help="JSON file with further columns of the table: column to model to measured value",
    )
    command.add_argument(
        "--board",
        default=THIS,
        metavar="NAME",
        help=f"{', '.join(board_names())}, or {THIS}: measure this machine (default: %(default)s)",
    )
    command.add_argument(
        "--recipe", action="append", choices=list(RECIPES), help="only this one; may be repeated"
    )
    command.add_argument(
        "--context",
        type=_tokens,
        metavar="N",
        help="tokens in the cache (default: 2048, or what the model has; with --table 8192)",
    )


def _tokens(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of tokens")
    return int(text)


def run(options: argparse.Namespace) -> None:
    """Prints the estimates for each recipe, or the table of models."""
    if options.table:
        _print_table(options)
        return
    if options.src is None:
        raise ExportError("Name a model (SRC), or ask for --table.")
    from edgeslm_export.models.plan import make_plan, plan_json, plan_lines, read_source

    from edgeslm.bundle.performance import measure_board
    from edgeslm.hardware.board_profiles import load_board

    board = None if options.board == THIS else load_board(options.board)
    shape = read_source(options.src)
    plan = make_plan(options.src, shape, board or measure_board(), options.recipe or (), options.context)
    if options.json:
        print_json(plan_json(plan))
        return
    for line in plan_lines(plan):
        print_line(line)


def _print_table(options: argparse.Namespace) -> None:
    from edgeslm_export.models.choice_table import read_figures, table_lines

    from edgeslm.bundle.catalog import CONTEXT
    from edgeslm.hardware.board_profiles import load_board

    if options.src is not None or options.recipe or options.json:
        raise ExportError("--table takes no SRC, --recipe or --json.")
    figures = {} if options.figures is None else read_figures(options.figures)
    names = board_names() if options.board == THIS else [options.board]
    boards = [load_board(name) for name in names]
    for line in table_lines(boards, figures, context=options.context or CONTEXT):
        print_line(line)
