"""How many nodes and requests/s does a broker or a pool carry, and which way of balancing fits?

    python benchmarks/fleet/capacity.py COMMAND ...

    broker     simulated nodes on one real broker, by rate: latency, losses, processor time
    pool       nodes of two speeds, by shared subscription and by ``edgeslm dispatch``
    compare    the simulation against small fleets on a real broker
    simulate   10 to 10,000 nodes, 1 to 100,000 requests/s, three ways of balancing, failing nodes

Each command prints tables, then one JSON line. ``COMMAND --help`` lists its options.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.lib.commands import run_subcommand

COMMANDS: Final = {
    "broker": "fleet_capacity broker",
    "pool": "pool_capacity",
    "compare": "fleet_capacity compare",
    "simulate": "fleet_capacity simulate",
}

if __name__ == "__main__":
    run_subcommand(__doc__, COMMANDS)
