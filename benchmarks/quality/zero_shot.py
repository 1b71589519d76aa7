"""How accurate are labels without training?

    python benchmarks/quality/zero_shot.py COMMAND ...

    labels     zero-shot encoders and decoders on five sets, with and without ten labels, against llama.cpp
    feedback   an untaught task with labels that people give on the node, or with corrections of errors
    reference  zero-shot bundles against the libraries that they come from

Each command prints one JSON line last. ``COMMAND --help`` lists its options.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.lib.commands import run_subcommand

COMMANDS: Final = {
    "labels": "zero_shot_labels",
    "feedback": "label_feedback",
    "reference": "zero_shot_reference",
}

if __name__ == "__main__":
    run_subcommand(__doc__, COMMANDS)
