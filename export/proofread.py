"""What was found in labelled rows, shown with their numbers, and dropped where the user agrees.

``audit`` finds; here it is said, asked and done.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final

from edgeslm_export.audit import DROPPABLE, LABELS, Finding, Rows, audit_labels, audit_rows, without
from edgeslm_export.rows import LabelledRow

from edgeslm.errors import ExportError

ASK: Final = "ask"
ALL: Final = "all"
CHOICES: Final = (*DROPPABLE, ALL)
_SHOWN: Final = 10

Judge = Callable[[Sequence[LabelledRow]], tuple[Any, Any, Any]]
"""Rows of which something is known (their places), what is true and how likely each label is."""


def proofread(
    rows: Rows,
    clean: Collection[str],
    say: Callable[[str], None],
    *,
    tested: Collection[str] = (),
    judge: Judge | None = None,
) -> tuple[Rows, list[dict[str, Any]]]:
    """Says what is wrong with rows and drops what ``clean`` names.

    :param clean: kinds of findings, ALL, or ASK for a question each.
    :param tested: texts kept for a test. :param judge: what a model says of rows that it didn't learn from.
    :return: the rows that are left, and the findings for a report, with ``dropped``.
    :raises ExportError: there is nobody to ask, or nothing would be left.
    """
    if ASK in clean and not sys.stdin.isatty():
        raise ExportError(f"Nobody can be asked here: name what --clean drops ({', '.join(CHOICES)}).")
    report: list[dict[str, Any]] = []
    rows = _pass(rows, audit_rows(rows, tested), clean, say, report)
    labelled = [row for row in rows if isinstance(row, LabelledRow)]
    if judge is not None and labelled:
        places, truth, probabilities = judge(labelled)
        found = [
            Finding(finding.kind, tuple(int(places[place]) for place in finding.rows), finding.sentence)
            for finding in audit_labels(truth, probabilities)
        ]
        rows = _pass(rows, found, clean, say, report)
    if not rows:
        raise ExportError("No row is left to learn from.")
    return rows, report


def load_tested(file: Path | None) -> list[str]:
    """Texts of the rows that are kept for a test."""
    from edgeslm_export.rows import load_answers

    return [] if file is None else [row.text for row in load_answers(file)]


def _pass(
    rows: Rows,
    findings: Sequence[Finding],
    clean: Collection[str],
    say: Callable[[str], None],
    report: list[dict[str, Any]],
) -> Rows:
    dropped = []
    for finding in findings:
        numbers = [rows[place].number for place in finding.rows]
        shown = ", ".join(map(str, numbers[:_SHOWN])) + (" ..." if len(numbers) > _SHOWN else "")
        say(f"{finding.sentence}{f': rows {shown}' if numbers else ''}.")
        drops = bool(numbers) and _agrees(finding.kind, clean)
        if drops:
            dropped.append(finding)
            how = "not learned from" if finding.kind == LABELS else "dropped"
            say(f"  {len(numbers)} rows are {how}.")
        elif numbers and not clean:
            say(f"  They stay; --clean {finding.kind} drops them.")
        entry = {"kind": finding.kind, "rows": numbers, "sentence": finding.sentence, "dropped": drops}
        report.append(entry)
    # Rows with a wrong label are tested with all the same: they stay, and are named in the report.
    return without(rows, [finding for finding in dropped if finding.kind != LABELS])


def doubted(report: Sequence[dict[str, Any]]) -> list[int]:
    """Numbers of the rows whose labels the user doesn't want to be learned."""
    return [
        number for found in report if found["kind"] == LABELS and found["dropped"] for number in found["rows"]
    ]


def _agrees(kind: str, clean: Collection[str]) -> bool:
    if ASK in clean:
        sys.stderr.write(f"  Drop them ({kind})? [y/N] ")
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")
    return ALL in clean or kind in clean
