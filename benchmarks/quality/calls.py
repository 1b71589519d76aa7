"""How often does a sentence said to Home Assistant become the right tool call?

    python benchmarks/quality/calls.py COMMAND ...

    train       trains the head that `assist` measures, without the templates that it is measured on
    assist      right calls and ms each: trained head, decoder, llama.cpp's server with the same decoder

The sentences are from templates that are in no training row. Each command prints one JSON line last.
``COMMAND --help`` lists its options.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.lib.commands import run_subcommand

COMMANDS: Final = {
    "train": "assist_training",
    "assist": "assist_calls",
}

if __name__ == "__main__":
    run_subcommand(__doc__, COMMANDS)
