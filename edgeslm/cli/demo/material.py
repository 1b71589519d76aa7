"""Demo data: real messages from the starter folder, and a few written for the demo.

The SMS come from a public spam collection. The sshd lines come from fail2ban's test logs, where a comment
before each line names the host. Documents and questions were written for the demo,
notes of operators for benchmarks.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeslm.errors import EdgeslmError

SEED = 7
TAUGHT = 200
A_FEW = 10
"""Number of labelled messages of each label that the demo teaches."""
HELD_ASIDE = 500


@dataclass(frozen=True, slots=True)
class Extent:
    """Number of messages of each kind, and the timeout of each request in seconds."""

    sms: int = HELD_ASIDE
    untaught: int = 100
    logins: int = 6
    questions: int = 5
    request_timeout_s: float = 120.0


SHORT = Extent(sms=20, untaught=5, logins=2, questions=2, request_timeout_s=1200.0)
"""Extent of the demo for boards on which the full demo would take hours."""


@dataclass(frozen=True, slots=True)
class LabelledMessage:
    """A message and its expected result."""

    text: str
    label: str


def load_sms(data: Path, taught: int = TAUGHT) -> tuple[list[LabelledMessage], list[LabelledMessage]]:
    """Loads two lists of SMS, with ``taught`` messages for training and :data:`HELD_ASIDE` messages for the
    test."""
    file = data / "sms-spam.csv"
    labels: dict[str, str] = {}
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                # Some quotation marks are missing in the file: such a row holds many messages, each after
                # its label.
                label = "spam" if row["spam"] == "1" else "ham"
                first, *others = re.split(r"\n(ham|spam)\t", row["text"] or "")
                labels[first] = label
                labels |= dict(zip(others[1::2], others[::2], strict=True))
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise EdgeslmError(f"{file}: can't be read ({error}); make the starter folder again") from None
    rows = [LabelledMessage(text, label) for text, label in labels.items() if text.strip()]
    random.Random(SEED).shuffle(rows)
    return rows[:taught], rows[taught : taught + HELD_ASIDE]


def a_few_of_each(rows: Sequence[LabelledMessage]) -> list[LabelledMessage]:
    """The first :data:`A_FEW` messages of each label."""
    labels = dict.fromkeys(row.label for row in rows)
    return [one for label in labels for one in [row for row in rows if row.label == label][:A_FEW]]


def load_logins(data: Path, count: int) -> list[LabelledMessage]:
    """Loads up to ``count`` sshd log lines. The expected result of a line is the remote host's name or
    address, as the line spells it. The list is empty if the starter folder has no log."""
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
    lines = [LabelledMessage(line, host) for line, host in rows.items() if _digest(line) not in CHOSEN_ON]
    random.Random(SEED).shuffle(lines)
    return lines[:count]


def _digest(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()[:8]


CHOSEN_ON = frozenset(
    {
        *("015b0333", "0732972b", "08f6c818", "0c41d142", "0d4856bc", "10306161", "1e509355", "2457c97a"),
        *("2b38fb14", "3549897f", "3bea7dee", "3d542c49", "5c3eb825", "5e2d6e22", "6d7bcc7e", "6f02e4b8"),
        *("750d1a37", "81783fce", "8f8e9223", "99298be8", "a17f05f2", "ae301fed", "b8aad106", "cfc352bd"),
        *("d8de17af", "dfdabc91", "e2838eb1", "e7165282", "f2835c8b", "fb86c658"),
    }
)
"""First 8 hex digits of the SHA-256 of each log line that was used to choose the prompt's instruction and
few-shot examples.

The demo doesn't use these lines.
"""

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
"""Few-shot examples for the decoder; none of them is in the log."""

NOTES_TAUGHT: Sequence[LabelledMessage] = tuple(
    LabelledMessage(text, label)
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


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the passage that answers it, and words that the answer must contain."""

    text: str
    context: str
    gold: str


_MANUAL = (
    "The compressor switches on at 6 bar and off at 9 bar.",
    "Condensate is drained every Friday.",
    "The dryer stands behind the workshop.",
    "Its filter lasts 2000 hours.",
    "The safety valve was tested in March by the inspector.",
    "In a power failure the diesel pump starts by itself.",
    "Its tank is filled by the night watchman.",
    "The spare key hangs in the porter's office.",
    "Hose couplings are blue for air and yellow for gas.",
    "Leaks are reported to Ms. Novak.",
)

MANUAL: Mapping[str, str] = {
    "compressor.md": "# Compressor\n\n" + "\n".join(_MANUAL[:4]) + "\n",
    "emergencies.md": "# Emergencies\n\n" + "\n".join(_MANUAL[4:8]) + "\n",
    "hoses.md": "# Hoses\n\n" + "\n".join(_MANUAL[8:]) + "\n",
}
"""Documents by file name, in which the answers to the questions are."""

# Written before any model was run on them, and never changed.
QUESTIONS: Sequence[Question] = tuple(
    Question(text, " ".join(_MANUAL[first : first + 3]), gold)
    for text, first, gold in (
        ("At what pressure does the compressor switch off?", 0, "9 bar"),
        ("When is condensate drained?", 0, "every Friday"),
        ("Where does the dryer stand?", 1, "behind the workshop"),
        ("How long does the filter last?", 2, "2000 hours"),
        ("Who tested the safety valve?", 3, "the inspector"),
        ("What happens in a power failure?", 4, "diesel pump starts"),
        ("Who fills the tank?", 5, "night watchman"),
        ("Where is the spare key?", 6, "porter's office"),
        ("What colour are the couplings for gas?", 7, "yellow"),
        ("To whom are leaks reported?", 7, "Novak"),
    )
)
