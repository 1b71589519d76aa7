"""How good are summaries, and does the text support each sentence?

    python benchmarks/quality/summaries.py COMMAND ...

    measure   ROUGE-L and supported sentences of package descriptions, long texts and windows of log lines
    train     trains the adapter for ``measure --adapter`` on the other half of the packages

``COMMAND --help`` lists its options.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.lib.commands import run_subcommand

COMMANDS: Final = {
    "measure": "summary_quality",
    "train": "summary_training",
}

if __name__ == "__main__":
    run_subcommand(__doc__, COMMANDS)
