"""How accurate is a task that was trained on so many rows?

    python benchmarks/quality/training.py COMMAND ...

    trec, sms   accuracy and calibration by number of rows: question types, spam
    house       intents and slots of sentences said to Home Assistant
    logs        hosts and failed logins in the log lines of fail2ban's tests
    fields      untrained decoders: log lines, and sentences said to Home Assistant
    flips       share of wrong labels that are found, and the accuracy without them
    distill     a student trained on a teacher's labels, against one trained on hand labels
    cascade     requests/s and accuracy over MQTT: a decoder alone, and behind an encoder
    choose      labels needed with active choice of messages, against random order
    drift       number of messages until a change of the messages is noticed; false positives

Test rows are never trained on. Each command prints one JSON line last. ``COMMAND --help`` lists its options.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.lib.commands import run_subcommand

COMMANDS: Final = {
    "trec": "teaching trec",
    "sms": "teaching sms",
    "house": "skills house",
    "logs": "skills logs",
    "fields": "untaught_fields",
    "flips": "flips",
    "distill": "distilling",
    "cascade": "cascading",
    "choose": "choosing",
    "drift": "drifting",
}

if __name__ == "__main__":
    run_subcommand(__doc__, COMMANDS)
