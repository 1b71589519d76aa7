"""Data review: shows the findings of ``audit`` with rows and texts, and drops rows that the user names."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from edgeslm_export.data.audit import (
    DROPPABLE,
    LABELS,
    AuditFinding,
    Rows,
    audit_labels,
    audit_rows,
    long_rows,
    without,
)
from edgeslm_export.data.rows import LabelledRow, counted
from edgeslm_export.jobs.subprocess_job import Announce

from edgeslm.errors import ExportError

ASK: Final = "ask"
ALL: Final = "all"
CHOICES: Final = (*DROPPABLE, ALL)
_SHOWN: Final = 10
"""Rows that are named of a finding."""
_CHARS: Final = 70
"""Characters that are shown of a row's text."""


class HeldOutLabels(Protocol):
    """Predicts held-out labels: returns the indices of the rows with a prediction, the indices of their
    labels and the probability of each label [rows, labels]."""

    def __call__(self, rows: Sequence[LabelledRow], /) -> tuple[Any, Any, Any]: ...


class TokenLengths(Protocol):
    """Counts tokens: returns the number of tokens of each text, and the model's context length."""

    def __call__(self, texts: Sequence[str], /) -> tuple[Sequence[int], int]: ...


def review_rows(
    rows: Rows,
    clean: Collection[str],
    say: Announce,
    *,
    tested: Collection[str] = (),
    held_out: HeldOutLabels | None = None,
    lengths: TokenLengths | None = None,
) -> tuple[Rows, list[dict[str, Any]]]:
    """Reports the findings, and drops the rows of the findings whose kind is in ``clean``. Rows with a label
    error aren't dropped, since validation uses them; ``doubted`` lists those that training leaves out.

    :param clean: kinds of findings, ALL, or ASK to ask about each.
    :param tested: texts of the test set. :param held_out: if given, label errors are searched for too.
    :param lengths: if given, rows that are longer than the model's context are reported too.
    :return: the rows that are left, and the findings as dicts for a report, in which ``dropped`` is whether
        the rows were dropped or, for label errors, excluded from training.
    :raises ExportError: the choice ASK is given without a terminal, or no row is left.
    """
    if ASK in clean and not sys.stdin.isatty():
        raise ExportError(f"Nobody can be asked here: name what --clean drops ({', '.join(CHOICES)}).")
    report: list[dict[str, Any]] = []
    rows = _review_findings(rows, audit_rows(rows, tested), clean, say, report)
    if lengths is not None and rows:
        rows = _review_findings(rows, long_rows(*lengths([row.text for row in rows])), clean, say, report)
    labelled = [row for row in rows if isinstance(row, LabelledRow)]
    if held_out is not None and labelled:
        indices, truth, probabilities = held_out(labelled)
        found = [
            AuditFinding(finding.kind, tuple(int(indices[index]) for index in finding.rows), finding.sentence)
            for finding in audit_labels(truth, probabilities)
        ]
        rows = _review_findings(rows, found, clean, say, report)
    if not rows:
        raise ExportError("No row is left to learn from.")
    return rows, report


def load_tested(file: Path | None) -> list[str]:
    """Texts of the test set."""
    from edgeslm_export.data.rows import load_answers

    return [] if file is None else [row.text for row in load_answers(file)]


def _review_findings(
    rows: Rows,
    findings: Sequence[AuditFinding],
    clean: Collection[str],
    say: Announce,
    report: list[dict[str, Any]],
) -> Rows:
    dropped = []
    for finding in findings:
        numbers = list(finding.gone) or [rows[index].number for index in finding.rows]
        say(f"{finding.sentence}{_where(numbers)}.")
        may_go = bool(numbers) and finding.kind in DROPPABLE
        if may_go:
            _say_texts([rows[index] for index in finding.rows[:_SHOWN]], say)
        one = len(numbers) == 1
        drops = may_go and _agrees(finding.kind, clean, "it" if one else "them")
        if drops:
            dropped.append(finding)
            how = "not learned from" if finding.kind == LABELS else "dropped"
            say(f"  {counted(len(numbers), 'row is', 'rows are')} {how}.")
        elif may_go and not clean:
            stay, what = ("It stays", "it") if one else ("They stay", "them")
            correct = "correct the wrong ones in the file, or " if finding.kind == LABELS else ""
            say(f"  {stay}; {correct}--clean {finding.kind} drops {what}.")
        entry = {"kind": finding.kind, "rows": numbers, "sentence": finding.sentence, "dropped": drops}
        report.append(entry)
    # Rows with a wrong label stay for validation; the caller leaves them out of training (``doubted``).
    return without(rows, [finding for finding in dropped if finding.kind != LABELS])


def _say_texts(rows: Rows, say: Announce) -> None:
    """Tells each row's number, label if it has one, and text, shortened; the file may be a temporary one."""
    for row in rows:
        label = f" ({_shown(row.label)})" if isinstance(row, LabelledRow) else ""
        say(f"  {row.number}{label}: {_shown(row.text)}")


def _shown(text: str) -> str:
    """The beginning of a text in one line, with U+FFFD for characters that could change a terminal."""
    line = " ".join(text.split())
    line = line if len(line) <= _CHARS else f"{line[: _CHARS - 1]}…"
    return "".join(char if char.isprintable() else "\ufffd" for char in line)


def _where(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN])) + (" ..." if len(numbers) > _SHOWN else "")
    return f": {'row' if len(numbers) == 1 else 'rows'} {shown}" if numbers else ""


def doubted(report: Sequence[dict[str, Any]]) -> list[int]:
    """``LabelledRow.number`` of each row whose label is probably wrong and that the user excluded from
    training."""
    return [
        number for found in report if found["kind"] == LABELS and found["dropped"] for number in found["rows"]
    ]


def _agrees(kind: str, clean: Collection[str], what: str) -> bool:
    if ASK in clean:
        sys.stderr.write(f"  Drop {what} ({kind})? [y/N] ")
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")
    return ALL in clean or kind in clean
