"""Labelled rows from a file: JSON lines or CSV. All problems at once, each with its row number.

Knows no task and no model: which labels are allowed is told by the caller.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgeslm.errors import ExportError

_MOST_SHOWN = 10
_FIELDS = ("text", "label")
_NO_FIELDS_IN_CSV = ' Rows with fields are written as JSON lines, {"text": ..., "fields": {...}} each.'


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """``number`` is the line of the file it stands on (of a CSV, the line it ends on), from 1."""

    number: int
    text: str
    label: str


@dataclass(frozen=True, slots=True)
class FieldsRow:
    """The same for extraction: ``fields`` are what should be found in the text."""

    number: int
    text: str
    fields: Mapping[str, Any]


Row = TypeVar("Row")


def load_rows(file: Path, labels: Collection[str] = ()) -> list[LabelledRow]:
    """Rows ``{"text": ..., "label": ...}`` of ``.csv`` or JSON lines.

    :param labels: the labels that are allowed; none given: any.
    :raises ExportError: every problem found, one sentence a line, each with its row.
    """
    return _checked(file, _found(file), lambda row: _label_problem(row, labels), _labelled)


def load_answers(file: Path) -> list[LabelledRow] | list[FieldsRow]:
    """Rows that all have a ``label``, or all ``fields`` (JSON lines only); the first one says which.

    :raises ExportError: as ``load_rows``, and for rows of the other kind.
    """
    found = list(_found(file))
    first = next((value for _, value in found if isinstance(value, dict)), {})
    if "fields" in first:
        return _checked(file, found, _fields_problem, _with_fields)
    return _checked(file, found, lambda row: _label_problem(row, (), "fields"), _labelled)


def load_texts(file: Path) -> list[str]:
    """Texts of rows ``{"text": ...}``, of ``.csv`` or JSON lines; what else a row has doesn't matter.

    :raises ExportError: as ``load_rows``.
    """
    found = _found(file, ("text",))
    return _checked(file, found, lambda row: _text_problem(row, "text"), lambda _, row: str(row["text"]))


def bare_text(text: str) -> str:
    """By which two texts count as the same: without their case and the width of their space."""
    return " ".join(text.split()).casefold()


def equal_texts(texts: Sequence[str]) -> list[list[int]]:
    """Places of the texts that count as the same, in the order of their first ones."""
    groups: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        groups.setdefault(bare_text(text), []).append(place)
    return list(groups.values())


def _found(file: Path, columns: Sequence[str] = _FIELDS) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Row number with a row, or with what is wrong. :param columns: that a CSV must have."""
    try:
        content = file.read_text("utf-8-sig")
    except OSError as error:
        raise ExportError(f"{file} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ExportError(f"{file}: row {line} is not UTF-8; save the file as UTF-8.") from None
    return _csv_rows(content, file, columns) if file.suffix.lower() == ".csv" else _json_rows(content)


def _checked(
    file: Path,
    found: Collection[tuple[int, dict[str, Any] | str]] | Iterator[tuple[int, dict[str, Any] | str]],
    problem_of: Callable[[dict[str, Any]], str | None],
    make: Callable[[int, dict[str, Any]], Row],
) -> list[Row]:
    rows: list[Row] = []
    problems: list[str] = []
    for number, value in found:
        problem = value if isinstance(value, str) else problem_of(value)
        if problem:
            problems.append(f"Row {number} {problem}.")
        elif isinstance(value, dict):
            rows.append(make(number, value))
    refuse_rows(file, problems)
    if not rows:
        raise ExportError(f'{file} has no rows; write one {{"text": ..., "label": ...}} a line.')
    return rows


def refuse_rows(file: Path, problems: list[str]) -> None:
    """:raises ExportError: if there are any, the first ten and how many more."""
    if problems:
        more = len(problems) - _MOST_SHOWN
        shown = problems[:_MOST_SHOWN] + ([f"{more} more rows have problems."] if more > 0 else [])
        raise ExportError(f"{file} has rows that can't be used:\n" + "\n".join(shown))


def _labelled(number: int, row: dict[str, Any]) -> LabelledRow:
    return LabelledRow(number, row["text"], row["label"])


def _with_fields(number: int, row: dict[str, Any]) -> FieldsRow:
    return FieldsRow(number, row["text"], row["fields"])


def _json_rows(content: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            yield number, f"is not JSON ({error})"
            continue
        yield number, value if isinstance(value, dict) else "is not a JSON object"


def _csv_rows(content: str, file: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    reader = csv.DictReader(content.splitlines(keepends=True), strict=True)
    try:
        missing = [field for field in columns if field not in (reader.fieldnames or ())]
        if missing:
            raise ExportError(
                f"{file} has no column {' and no column '.join(missing)}; name them in its first line."
                + (_NO_FIELDS_IN_CSV if missing == ["label"] else "")
            )
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        yield reader.line_num, f"is not CSV ({error})"


def _label_problem(row: dict[str, Any], labels: Collection[str], other: str = "") -> str | None:
    """What is wrong with a row, as the end of a sentence that begins with its number.

    :param other: a key that rows with a label may not have.
    """
    if other and other in row:
        return f"has {other}, and this file's first row has a label; keep rows of one kind in a file"
    for field in _FIELDS:
        if problem := _text_problem(row, field):
            return problem
    if labels and row["label"] not in labels:
        return f"has the label {row['label']!r}, which is none of {', '.join(labels)}"
    return None


def _fields_problem(row: dict[str, Any]) -> str | None:
    if "label" in row:
        return "has a label, and this file's first row has fields; keep rows of one kind in a file"
    if problem := _text_problem(row, "text"):
        return problem
    fields = row.get("fields")
    if not isinstance(fields, dict):
        return "has no fields" if fields is None else "has fields that are no JSON object"
    return None if fields else "has empty fields"


def _text_problem(row: dict[str, Any], field: str) -> str | None:
    value = row.get(field)
    if value is None:
        return f"has no {field}"
    if not isinstance(value, str):
        return f"has a {field} that is no string"
    return None if value.strip() else f"has an empty {field}"
