"""How good are the answers? One command for each question, each with its table and one JSON line last.

    python benchmarks/quality.py COMMAND ... [--json]

    quantization   what a bundle lost to four bits, beside llama.cpp (divergence.py)
    trec, sms      a task taught from so many rows, over several draws, with calibration (teaching.py)
    house          intents and slots of sentences said to Home Assistant (skills.py)
    logs           hosts and failed attempts in the log lines of fail2ban's tests (skills.py)
    flips          wrong labels found among TREC's rows, and what dropping them is worth (flips.py)
    distill        a student of a teacher's labels, beside one of hand labels (distilling.py)
    cascade        messages/s and accuracy over MQTT: the decoder alone, and behind a head (cascading.py)
    drift          when a stream of other messages is noticed, and that one of the same isn't (drifting.py)

What is tested with is never learned from. ``COMMAND --help`` says more.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Final

COMMANDS: Final = {
    "quantization": ("divergence", False),
    "trec": ("teaching", True),
    "sms": ("teaching", True),
    "house": ("skills", True),
    "logs": ("skills", True),
    "flips": ("flips", False),
    "distill": ("distilling", False),
    "cascade": ("cascading", False),
    "drift": ("drifting", False),
}
"""The module of each command, and whether the command's name is its first argument."""


def main(argv: Sequence[str] | None = None) -> None:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    if arguments[0] not in COMMANDS:
        sys.exit(f"quality.py: no command {arguments[0]!r}; there are: {', '.join(COMMANDS)}")
    module, takes_name = COMMANDS[arguments[0]]
    importlib.import_module(module).main(arguments if takes_name else arguments[1:])


if __name__ == "__main__":
    main()
