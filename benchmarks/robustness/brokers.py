"""Which brokers keep the delivery guarantees, and what do the others lose?

    python benchmarks/robustness/brokers.py COMMAND ...

    conformance  what a node needs of a broker, a yes or no by test and broker
    chaos        broker and node are killed under load, by broker: requests lost
    cluster      one node of a RabbitMQ cluster is killed under load: requests lost
    pool         fast and slow nodes: shared subscription, dispatcher, queue of RabbitMQ

Each command prints one JSON line last. ``COMMAND --help`` lists its options.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.lib.commands import run_subcommand

COMMANDS: Final = {
    "conformance": "broker_conformance",
    "chaos": "broker_chaos",
    "cluster": "broker_cluster",
    "pool": "amqp_pool",
}

if __name__ == "__main__":
    run_subcommand(__doc__, COMMANDS)
