"""How fast is the engine, and where does its time go?

    python benchmarks/speed/engine.py COMMAND ...

    llama     prefill, decode and memory of a bundle, against llama.cpp on the same weights
    bundles   prefill and decode of several bundles, against the first
    scaling   latency by number of labels, input tokens and tasks
    token     bytes that a token reads, memory bandwidth, and tokens/s as a share of that bound; a profile
    rewinds   answers of kept and rewound caches against those of fresh ones
    plan      the estimates of ``edgeslm-export plan`` against a full-size model with random weights

Each command prints a table, then one JSON line. ``COMMAND --help`` lists its options.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.lib.commands import run_subcommand

COMMANDS: Final = {
    "llama": "engine_speed",
    "bundles": "bundle_speeds",
    "scaling": "scaling",
    "token": "cost_model",
    "rewinds": "rewinds",
    "plan": "plan",
}

if __name__ == "__main__":
    run_subcommand(__doc__, COMMANDS)
