"""Commands of a front door: each is a module of ``benchmarks.lib`` with a ``main``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def run_subcommand(about: str | None, commands: Mapping[str, str], argv: Sequence[str] | None = None) -> None:
    """Runs the command that the arguments name, or prints ``about``.

    :param commands: the module of each command; a second word becomes the first argument of the module
    :raises SystemExit: with the status of the command, or with a sentence where no such command exists
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print((about or "").strip())
        return
    name, *rest = arguments
    if name not in commands:
        sys.exit(f"{Path(sys.argv[0]).name}: no command {name!r}; there are: {', '.join(commands)}")
    module, *first = commands[name].split()
    sys.argv = [f"{sys.argv[0]} {name}", *first, *rest]
    sys.exit(importlib.import_module(f"benchmarks.lib.{module}").main())
