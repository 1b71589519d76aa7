"""What is lost when processes are killed, networks cut, clocks stepped or disks full?

    python benchmarks/robustness/chaos.py COMMAND ...

    load         daemon, engine, broker and network fail under load: requests lost or answered twice
    broker       mosquitto is killed under load, by profile: acknowledged messages that it forgets
    update       a node is killed while its model is replaced: does it come back with a whole bundle?
    collection   ``edgeslm knowledge add`` is killed: does the collection open, and is each document whole?

Each command prints one JSON line last. ``COMMAND --help`` lists its options.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.lib.commands import run_subcommand

COMMANDS: Final = {
    "load": "chaos_load",
    "broker": "broker_kills",
    "update": "update_kills",
    "collection": "knowledge_kills",
}

if __name__ == "__main__":
    run_subcommand(__doc__, COMMANDS)
