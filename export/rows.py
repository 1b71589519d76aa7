"""Labelled rows from a file: JSON lines or CSV. All problems at once, each with its row number.

Knows no task and no model: which labels are allowed is told by the caller.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeslm.errors import ExportError

_MOST_SHOWN = 10
_FIELDS = ("text", "label")


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """``number`` is the line of the file it stands on (of a CSV, the line it ends on), from 1."""

    number: int
    text: str
    label: str


def load_rows(file: Path, labels: Collection[str] = ()) -> list[LabelledRow]:
    """Rows ``{"text": ..., "label": ...}`` of ``.csv`` or JSON lines.

    :param labels: the labels that are allowed; none given: any.
    :raises ExportError: every problem found, one sentence a line, each with its row.
    """
    try:
        content = file.read_text("utf-8-sig")
    except OSError as error:
        raise ExportError(f"{file} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ExportError(f"{file}: row {line} is not UTF-8; save the file as UTF-8.") from None
    found = _csv_rows(content, file) if file.suffix.lower() == ".csv" else _json_rows(content)
    rows: list[LabelledRow] = []
    problems: list[str] = []
    for number, value in found:
        problem = value if isinstance(value, str) else _problem(value, labels)
        if problem:
            problems.append(f"Row {number} {problem}.")
        elif isinstance(value, dict):
            rows.append(LabelledRow(number, value["text"], value["label"]))
    if problems:
        more = len(problems) - _MOST_SHOWN
        shown = problems[:_MOST_SHOWN] + ([f"{more} more rows have problems."] if more > 0 else [])
        raise ExportError(f"{file} has rows that can't be used:\n" + "\n".join(shown))
    if not rows:
        raise ExportError(f'{file} has no rows; write one {{"text": ..., "label": ...}} a line.')
    return rows


def _json_rows(content: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Row number with a row, or with what is wrong."""
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            yield number, f"is not JSON ({error})"
            continue
        yield number, value if isinstance(value, dict) else "is not a JSON object"


def _csv_rows(content: str, file: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    reader = csv.DictReader(content.splitlines(keepends=True), strict=True)
    try:
        missing = [field for field in _FIELDS if field not in (reader.fieldnames or ())]
        if missing:
            raise ExportError(
                f"{file} has no column {' and no column '.join(missing)}; name them in its first line."
            )
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        yield reader.line_num, f"is not CSV ({error})"


def _problem(row: dict[str, Any], labels: Collection[str]) -> str | None:
    """What is wrong with a row, as the end of a sentence that begins with its number."""
    for field in _FIELDS:
        value = row.get(field)
        if value is None:
            return f"has no {field}"
        if not isinstance(value, str):
            return f"has a {field} that is no string"
        if not value.strip():
            return f"has an empty {field}"
    if labels and row["label"] not in labels:
        return f"has the label {row['label']!r}, which is none of {', '.join(labels)}"
    return None
