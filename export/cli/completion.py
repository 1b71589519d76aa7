"""Command ``edgeslm-export completion``."""

from __future__ import annotations

import argparse

from edgeslm_export.cli.screen import print_line

from edgeslm.cli.completion import SHELLS, SUMMARY, completion

__all__ = ["EXAMPLE", "SUMMARY", "add_arguments", "run"]
EXAMPLE = "edgeslm-export completion bash > ~/.local/share/bash-completion/completions/edgeslm-export"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("shell", choices=SHELLS, help="the shell")


def run(options: argparse.Namespace) -> None:
    print_line(completion(options.program, options.shell))
