"""What does a node add to the engine: latency, memory, processor time?

    python benchmarks/speed/node.py COMMAND ...

    latency   milliseconds and memory that bus and daemon add to the engine; time to the first result
    parts     memory of console, metrics, Home Assistant discovery and tracing; page load of the console
    limits    memory by part in a control group; models that take turns; deadlines with little processor time
    http      latency of the HTTP API beside MQTT, and memory of its process
    teaching  latency of requests while a head is taught in the console, and memory of the training
    power     latency, tokens/s and processor time of each ``power``, and a node at rest

Each command prints a table, then one JSON line. ``COMMAND --help`` lists its options.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.lib.commands import run_subcommand

COMMANDS: Final = {
    "latency": "daemon",
    "parts": "extras",
    "limits": "limits",
    "power": "power",
    "http": "http_latency",
    "teaching": "teaching_beside",
}

if __name__ == "__main__":
    run_subcommand(__doc__, COMMANDS)
