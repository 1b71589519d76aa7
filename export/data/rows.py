"""Labelled rows from a file: JSON lines or CSV. All problems at once, each with its row number.

A row with the time ``at`` is a correction, as ``edgeslm feedback`` keeps it, and takes the place of rows with
the same text. Knows no task and no model: which labels are allowed is told by the caller.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from edgeslm.errors import ExportError

_MOST_SHOWN = 10
_LONGEST_SHOWN = 40
"""Characters of a column's name: the first line of what is no CSV may be all of the file."""
_FIELDS = ("text", "label")
_TIME = "at"
_A_TIME = "2026-03-04T05:06:07+00:00"
_NO_FIELDS_IN_CSV = ' Rows with fields are written as JSON lines, {"text": ..., "fields": {...}} each.'
_SEPARATORS = (";", "\t")
"""What spreadsheets put between columns where the comma stands in numbers, or is no choice of theirs."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """``number`` is the line of the file it stands on (of a CSV, the line it ends on), from 1.

    ``at`` is when a correction was said; ``replaced`` are the numbers of the rows whose place it takes.
    """

    number: int
    text: str
    label: str
    at: datetime | None = None
    replaced: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class FieldsRow:
    """The same for extraction: ``fields`` are what should be found in the text."""

    number: int
    text: str
    fields: Mapping[str, Any]
    at: datetime | None = None
    replaced: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """A text, and what is asked of it. ``answer`` is where the words that answer stand in ``text``, from the
    first character to behind the last; None where the text doesn't answer."""

    number: int
    text: str
    heading: str = ""
    source: str = ""
    question: str | None = None
    answer: tuple[int, int] | None = None


Answer = TypeVar("Answer", LabelledRow, FieldsRow)


def load_rows(file: Path, labels: Collection[str] = ()) -> list[LabelledRow]:
    """Rows ``{"text": ..., "label": ...}`` of ``.csv`` or JSON lines, labels without space around them.

    :param labels: the labels that are allowed; none given: any.
    :return: of rows with the same text that a correction is among, the last correction alone.
    :raises ExportError: every problem found, one sentence a line, each with its row.
    """
    rows = _checked(file, _found(file), lambda row: _label_problem(row, labels))
    return _corrected([_labelled(*row) for row in rows])


def load_answers(file: Path) -> list[LabelledRow] | list[FieldsRow]:
    """Rows that all have a ``label``, or all ``fields`` (JSON lines only); the first one says which.

    :return: as ``load_rows``.
    :raises ExportError: as ``load_rows``, and for rows of the other kind.
    """
    found = list(_found(file))
    first = next((value for _, value in found if isinstance(value, dict)), {})
    if "fields" in first:
        return _corrected([_with_fields(*row) for row in _checked(file, found, _fields_problem)])
    rows = _checked(file, found, lambda row: _label_problem(row, (), "fields"))
    return _corrected([_labelled(*row) for row in rows])


def load_texts(file: Path) -> list[str]:
    """Texts of rows ``{"text": ...}``, of ``.csv`` or JSON lines; what else a row has doesn't matter.

    :raises ExportError: as ``load_rows``.
    """
    rows = _checked(file, _found(file, ("text",)), lambda row: _text_problem(row, "text"))
    return [str(row["text"]) for _, row in rows]


def load_questions(file: Path) -> list[QuestionRow]:
    """Rows ``{"text": ..., "question": ..., "answer": words of the text, or null}``, JSON lines.

    A text may have the ``heading`` above it and the ``source`` that it is of; one without a question is only
    among those that other questions are held against. ``start`` is where the answer's words begin, for those
    that stand there several times.

    :raises ExportError: as ``load_rows``, and for an answer that isn't in its text.
    """
    return [_questioned(*row) for row in _checked(file, _found(file, ("text",)), _question_problem)]


def bare_text(text: str) -> str:
    """By which two texts count as the same: without their case and the width of their space."""
    return " ".join(text.split()).casefold()


def equal_texts(texts: Sequence[str]) -> list[list[int]]:
    """Places of the texts that count as the same, in the order of their first ones."""
    groups: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        groups.setdefault(bare_text(text), []).append(place)
    return list(groups.values())


def counted(number: int, one: str, many: str) -> str:
    """A number with the words that go with one, or with any other number."""
    return f"{number} {one if number == 1 else many}"


def _corrected(rows: list[Answer]) -> list[Answer]:
    """A correction takes the place of rows with the same text that are none, or were said earlier.

    Of two that were said in the same second the one further down is the later: so they were appended.
    """
    said: dict[int, Answer] = {}
    gone: set[int] = set()
    for places in equal_texts([row.text for row in rows]):
        times = [(at, place) for place in places if (at := rows[place].at) is not None]
        if times and len(places) > 1:
            _, last = max(times)
            others = [place for place in places if place != last]
            said[last] = replace(rows[last], replaced=tuple(rows[place].number for place in others))
            gone.update(others)
    return [said.get(place, row) for place, row in enumerate(rows) if place not in gone]


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
    found: Iterable[tuple[int, dict[str, Any] | str]],
    problem_of: Callable[[dict[str, Any]], str | None],
) -> list[tuple[int, dict[str, Any]]]:
    """The rows in which ``problem_of`` finds nothing. :raises ExportError: there are others, or none."""
    rows = []
    problems: list[str] = []
    for number, value in found:
        problem = value if isinstance(value, str) else problem_of(value)
        if problem:
            problems.append(f"Row {number} {problem}.")
        elif isinstance(value, dict):
            rows.append((number, value))
    refuse_rows(file, problems)
    if not rows:
        raise ExportError(f'{file} has no rows; write one {{"text": ..., "label": ...}} a line.')
    return rows


def refuse_rows(file: Path, problems: list[str]) -> None:
    """:raises ExportError: if there are any, the first ten and how many more."""
    if problems:
        more = len(problems) - _MOST_SHOWN
        rest = [f"{counted(more, 'more row has', 'more rows have')} problems."] if more > 0 else []
        shown = problems[:_MOST_SHOWN] + rest
        raise ExportError(f"{file} has rows that can't be used:\n" + "\n".join(shown))


def _labelled(number: int, row: dict[str, Any]) -> LabelledRow:
    return LabelledRow(number, row["text"], row["label"].strip(), _time(row.get(_TIME)))


def _with_fields(number: int, row: dict[str, Any]) -> FieldsRow:
    return FieldsRow(number, row["text"], row["fields"], _time(row.get(_TIME)))


def _json_rows(content: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            # As a device reads messages: no tokenizer takes half a surrogate pair.
            if _SURROGATE_ESCAPE.search(line):
                value = _mended(value)
        except RecursionError:
            yield number, "is not JSON that can be read (it is nested too deep)"
        except json.JSONDecodeError as error:
            # The last line of a file without a line end, say, to which another file was appended.
            joined = error.msg == "Extra data" and line.lstrip().startswith("{")
            yield number, "goes on after its end; write a row a line" if joined else f"is not JSON ({error})"
        except ValueError as error:
            yield number, f"is not JSON ({error})"
        else:
            yield number, value if isinstance(value, dict) else "is not a JSON object"


def _mended(value: Any) -> Any:
    """Half a surrogate pair becomes U+FFFD, as every UTF-8 encoder would write it."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_mended(name): _mended(item) for name, item in value.items()}
    return [_mended(item) for item in value] if isinstance(value, list) else value


def _csv_rows(content: str, file: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    # Lines end where a file's do: str.splitlines would also cut a text at U+2028 and the like.
    reader = csv.DictReader(io.StringIO(content, newline="\n"), strict=True)
    try:
        _check_header(reader.fieldnames or (), file, columns)
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        yield reader.line_num, f"is not CSV ({error})"


def _check_header(names: Sequence[str], file: Path, columns: Sequence[str]) -> None:
    """:raises ExportError: a column is missing, or its name stands there twice."""
    twice = [name for name, count in Counter(names).items() if count > 1 and name.strip()]
    if twice:
        raise ExportError(f"{file} names the column {twice[0]!r} twice in its first line; keep one of them.")
    missing = [column for column in columns if column not in names]
    if not missing:
        return
    found = ", ".join(repr(name[:_LONGEST_SHOWN]) for name in names[:_MOST_SHOWN]) or "none"
    hint = _NO_FIELDS_IN_CSV if missing == ["label"] else ""
    if separator := next((mark for mark in _SEPARATORS if any(mark in name for name in names)), None):
        hint = f" Its columns seem to be separated by {separator!r}; separate them by commas."
    raise ExportError(
        f"{file} has no column {' and no column '.join(missing)}; its first line names {found} and should "
        f"name {' and '.join(columns)}, in just these letters.{hint}"
    )


def _label_problem(row: dict[str, Any], labels: Collection[str], other: str = "") -> str | None:
    """What is wrong with a row, as the end of a sentence that begins with its number.

    :param other: a key that rows with a label may not have.
    """
    if other and other in row:
        return f"has {other}, and this file's first row has a label; keep rows of one kind in a file"
    for field in _FIELDS:
        if problem := _text_problem(row, field):
            return problem
    label = row["label"].strip()
    if labels and label not in labels:
        return f"has the label {label!r}, which is none of {', '.join(labels)}"
    return _time_problem(row)


def _fields_problem(row: dict[str, Any]) -> str | None:
    if "label" in row:
        return "has a label, and this file's first row has fields; keep rows of one kind in a file"
    if problem := _text_problem(row, "text"):
        return problem
    fields = row.get("fields")
    if not isinstance(fields, dict):
        return "has no fields" if fields is None else "has fields that are no JSON object"
    return _time_problem(row) if fields else "has empty fields"


def _questioned(number: int, row: dict[str, Any]) -> QuestionRow:
    answer, place = row.get("answer"), None
    if answer is not None:
        start = row["text"].index(answer) if row.get("start") is None else row["start"]
        start += len(answer) - len(answer.lstrip())
        answer = answer.strip()
        place = (start, start + len(answer))
    heading, source = row.get("heading") or "", row.get("source") or ""
    return QuestionRow(number, row["text"], heading, source, row.get("question"), place)


def _question_problem(row: dict[str, Any]) -> str | None:
    is_asked = row.get("question") is not None
    for field in ("text", "question") if is_asked else ("text",):
        if problem := _text_problem(row, field):
            return problem
    for field in ("heading", "source", "answer"):
        if not isinstance(row.get(field), str | None):
            return f"has {'an' if field == 'answer' else 'a'} {field} that is no string"
    answer, start = row.get("answer"), row.get("start")
    if start is not None and (type(start) is not int or start < 0):
        return "has a start that is no place in its text"
    if not is_asked:
        return "has an answer and no question" if answer is not None else None
    if "answer" not in row:
        return "has a question without an answer; write null where the text has none"
    if answer is None:
        return None
    stands = answer in row["text"] if start is None else row["text"].startswith(answer, start)
    if not answer.strip() or not stands:
        return "has an answer that isn't in its text, letter by letter"
    return None


def _text_problem(row: dict[str, Any], field: str) -> str | None:
    value = row.get(field)
    if value is None:
        return f"has no {field}"
    if not isinstance(value, str):
        return f"has a {field} that is no string"
    return None if value.strip() else f"has an empty {field}"


def _time_problem(row: dict[str, Any]) -> str | None:
    try:
        _time(row.get(_TIME))
    except ValueError:
        return f"has an {_TIME} that is no time ({_A_TIME}), as a correction has it; rename other data"
    return None


def _time(value: object) -> datetime | None:
    """Of a correction; None for other rows. A time without its zone is UTC.

    :raises ValueError: no time.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError
    if not value.strip():  # of a CSV, in which some rows are corrections
        return None
    time = datetime.fromisoformat(value)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
