"""Command ``edgeslm-export plan``."""

from __future__ import annotations

import argparse

from edgeslm_export.cli.screen import print_json, print_line
from edgeslm_export.quantize.recipe import RECIPES

from edgeslm.hardware.board_profiles import THIS, board_names

SUMMARY = "what size, memory and speed to expect on a board, before anything is downloaded"
EXAMPLE = "edgeslm-export plan Qwen/Qwen2.5-0.5B-Instruct --board pi5-8gb"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "src",
        metavar="SRC",
        help="hub id, checkpoint folder, config.json or .gguf file; nothing else is read",
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
        help="tokens in the cache (default: 2048, or what the model has)",
    )


def _tokens(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of tokens")
    return int(text)


def run(options: argparse.Namespace) -> None:
    """Prints the estimates for each recipe."""
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
