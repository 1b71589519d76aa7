"""How often is the right section found, and an answer from it right, declined or unsupported?

    python benchmarks/quality/documents.py COMMAND ...

    search      shares of questions whose right section is first, or among the first three or five
    languages   the same shares for German and Spanish questions
    questions   125 questions to Debian's manuals: right section, verbatim quotes, false positives, risk curve
    check       checks the offsets of the answers, and counts the questions
    cases       contexts of the package fitz-gov that support an answer, contradict each other or lack one
    gate        fits the confidence threshold on the development half; prints ``grounding.GATE``
    decoder-reader  whether a decoder tells the passage that answers from another
    reader      writes the rows that ``edgeslm-export reader`` trains on

Choose settings on the half ``development`` alone; report the half ``test``. Each command but ``reader``
prints one JSON line last. ``COMMAND --help`` lists its options.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.lib.commands import run_subcommand

COMMANDS: Final = {
    "search": "retrieval",
    "languages": "languages",
    "questions": "grounded",
    "check": "grounded_questions",
    "cases": "grounded_cases",
    "gate": "grounded_gate",
    "reader": "reader_questions",
    "decoder-reader": "decoder_reader",
}

if __name__ == "__main__":
    run_subcommand(__doc__, COMMANDS)
