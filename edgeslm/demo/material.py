"""What the demo reads: real messages from the starter folder, and a few of its own.

Real are the SMS (a public spam collection) and the sshd lines (fail2ban's test logs, each preceded by a
comment that says which host it is about). The operator notes and the questions are the demo's own.
"""

from __future__ import annotations

import contextlib
import csv
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeslm.errors import EdgeslmError

SEED = 7
TAUGHT = 200
HELD_ASIDE = 500


@dataclass(frozen=True, slots=True)
class Labelled:
    """A message and what it should come to."""

    text: str
    label: str


def load_sms(data: Path) -> tuple[list[Labelled], list[Labelled]]:
    """:data:`TAUGHT` messages to learn from and :data:`HELD_ASIDE` others to measure on."""
    file = data / "sms-spam.csv"
    labels: dict[str, str] = {}
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                # Whoever made the file lost some quotation marks: there, one row holds many messages, each
                # with its label before it.
                label = "spam" if row["spam"] == "1" else "ham"
                first, *others = re.split(r"\n(ham|spam)\t", row["text"] or "")
                labels[first] = label
                labels |= dict(zip(others[1::2], others[::2], strict=True))
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise EdgeslmError(f"{file}: can't be read ({error}); make the starter folder again") from None
    rows = [Labelled(text, label) for text, label in labels.items() if text.strip()]
    random.Random(SEED).shuffle(rows)
    return rows[:TAUGHT], rows[TAUGHT : TAUGHT + HELD_ASIDE]


def load_logins(data: Path, count: int) -> list[Labelled]:
    """``count`` sshd lines that name the host they are about; none when the starter has no log."""
    file = data / "sshd.log"
    if not file.exists():
        return []
    rows: dict[str, str] = {}
    about: dict[str, object] = {}
    for line in file.read_text("utf-8", errors="replace").splitlines():
        if line.startswith("# failJSON:"):
            with contextlib.suppress(ValueError):
                about = json.loads(line.partition(":")[2])
        elif line and not line.startswith("#"):
            host = about.get("host")
            if about.get("match") and isinstance(host, str) and host in line and len(line) < 200:
                rows[line] = host
            about = {}
    lines = [Labelled(line, host) for line, host in rows.items()]
    random.Random(SEED).shuffle(lines)
    return lines[:count]


LOGIN_EXAMPLES: Sequence[tuple[str, str]] = (
    (
        "Oct  1 10:22:01 gate sshd[812]: Failed password for root from 203.0.113.7 port 4711 ssh2",
        "203.0.113.7",
    ),
    (
        "Mar 30 04:12:59 gate sshd[9931]: Connection closed by invalid user pi 2001:db8::17 [preauth]",
        "2001:db8::17",
    ),
    (
        "Jan  9 23:00:10 gate sshd[77]: error: PAM: Authentication failure for carol from vpn.example.org",
        "vpn.example.org",
    ),
)
"""Shown to the decoder before each line; none of them is in the log."""

NOTES_TAUGHT: Sequence[Labelled] = tuple(
    Labelled(text, label)
    for label, texts in {
        "normal": (
            "shift handed over, all fine",
            "tool changed as planned",
            "batch finished, 480 good parts",
            "cleaned the filters, running again",
            "machine warmed up, first part is good",
            "new material loaded",
            "weekly lubrication done",
            "no problems during the night",
            "calibration passed",
            "operator break, restart at ten",
        ),
        "warning": (
            "belt squeaks now and then",
            "coolant is getting low",
            "slight vibration at high speed",
            "oil a bit warmer than usual",
            "small leak under the pump, put a tray there",
            "the lamp over the table flickers",
            "parts are at the edge of the tolerance",
            "air pressure drops a little at noon",
            "drill sounds dull, change it soon",
            "display shows a service reminder",
        ),
        "critical": (
            "smoke from the cabinet",
            "guard does not close and the press still runs",
            "somebody got his hand caught",
            "hydraulic hose burst, oil everywhere",
            "emergency stop does not work",
            "sparks at the motor",
            "smells of burning plastic",
            "loud bang, spindle blocked",
            "strong gas smell at the furnace",
            "the brake fails, the load is slipping",
        ),
    }.items()
    for text in texts
)

SENSORS: Sequence[tuple[dict[str, object], str]] = (
    ({"machine": "press-4", "oil_c": 46.1, "note": "order finished, all parts good"}, "normal"),
    ({"machine": "lathe-2", "oil_c": 58.9, "note": "coolant nearly empty"}, "warning"),
    ({"machine": "press-1", "oil_c": 91.4, "note": "smoke and a burning smell from the motor"}, "critical"),
    ({"machine": "mill-3", "oil_c": 44.0, "note": ""}, ""),
    ({"machine": "press-4", "oil_c": 47.3, "note": "cleaned and lubricated as planned"}, "normal"),
    ({"machine": "saw-1", "oil_c": 52.2, "note": "the belt squeaks a little"}, "warning"),
    (
        {"machine": "press-2", "oil_c": 70.5, "note": "safety guard is broken, press keeps running"},
        "critical",
    ),
    ({"machine": "lathe-2", "oil_c": 49.7, "note": "handed over to the late shift, no trouble"}, "normal"),
    ({"machine": "mill-3", "oil_c": 61.0, "note": "light vibration since this morning"}, "warning"),
    ({"machine": "press-1", "oil_c": 88.8, "note": "hose burst, hydraulic oil on the floor"}, "critical"),
)
"""Payloads as a machine would publish them, and the label of the note; one has nothing to read."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the passage that answers it, and the words that an answer must hold."""

    text: str
    context: str
    gold: str


_MANUAL = (
    "The press must be oiled every 40 hours with ISO VG 46 oil.",
    "The red button on the left side stops the machine at once.",
    "The hydraulic pressure must stay between 120 and 160 bar.",
    "If the yellow lamp blinks, the filter is blocked and must be replaced.",
    "Spare filters are kept in cabinet 7.",
    "Only trained staff may open the rear door.",
    "The coolant tank holds 85 litres.",
)

QUESTIONS: Sequence[Question] = tuple(
    Question(text, " ".join(_MANUAL[first : first + 3]), gold)
    for text, first, gold in (
        ("How often must the press be oiled?", 0, "40 hours"),
        ("Which oil does the press need?", 0, "ISO VG 46"),
        ("What does the red button do?", 0, "stops the machine"),
        ("What must the hydraulic pressure be?", 1, "120 and 160 bar"),
        ("What does it mean when the yellow lamp blinks?", 2, "filter is blocked"),
        ("Where are the spare filters?", 3, "cabinet 7"),
        ("Who may open the rear door?", 4, "trained staff"),
        ("How much does the coolant tank hold?", 4, "85 litres"),
    )
)
