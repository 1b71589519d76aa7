"""What is lost when nodes, dispatchers or the network of a site fail?

    python benchmarks/fleet/failures.py COMMAND ...

    pool   nodes and dispatchers are killed, cut off or slowed down: requests lost or answered twice
    site   a site is cut off from its hub: results lost, and the time to catch up

Each command prints a table, then one JSON line. ``COMMAND --help`` lists its options.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.lib.commands import run_subcommand

COMMANDS: Final = {
    "pool": "pool_failures",
    "site": "site_cut",
}

if __name__ == "__main__":
    run_subcommand(__doc__, COMMANDS)
