"""Labelled rows: reads a JSON Lines or CSV file and reports all faulty rows at once, by number.

A row with the time ``at`` is a correction, written by ``edgeslm feedback``: it replaces rows with the same
text. A correction with a sender ``by`` came over MQTT; it is left out unless somebody has ``accepted`` it.
"""

from __future__ import annotations

import csv
import hashlib
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
"""Maximum number of characters of a column's name that an error message shows: in a file that isn't CSV, the
first line may be the whole file."""
_FIELDS = ("text", "label")
_TIME = "at"
_GROUP = "group"
_A_TIME = "2026-03-04T05:06:07+00:00"
_NO_FIELDS_IN_CSV = ' Rows with fields are written as JSON lines, {"text": ..., "fields": {...}} each.'
_SEPARATORS = (";", "\t")
"""Separators that spreadsheets write instead of commas."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """``number`` is the number of the line in the file that has the row, from 1. A CSV row of several lines
    has the number of its last line.

    ``at`` is the time of a correction; ``replaced`` are the line numbers of the rows that the correction
    replaces.
    """

    number: int
    text: str
    label: str
    at: datetime | None = None
    replaced: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class FieldsRow:
    """A row for extraction: like ``LabelledRow``, with the ``fields`` that should be found in the text.

    Rows with the same ``group``, such as texts of one template, are never on both sides of a test.
    """

    number: int
    text: str
    fields: Mapping[str, Any]
    at: datetime | None = None
    replaced: tuple[int, ...] = ()
    group: str = ""


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """A text with a question. ``answer`` is the answer's span in ``text``, [start, end) in characters; None
    if the text has no answer."""

    number: int
    text: str
    heading: str = ""
    source: str = ""
    question: str | None = None
    answer: tuple[int, int] | None = None


Answer = TypeVar("Answer", LabelledRow, FieldsRow)


def load_rows(file: Path, labels: Collection[str] = ()) -> list[LabelledRow]:
    """Rows ``{"text": ..., "label": ...}`` of a ``.csv`` or JSON Lines file; labels are stripped of spaces.

    :param labels: the allowed labels; if empty, all are allowed.
    :return: the rows, where the latest correction of a text replaces all other rows with that text.
    :raises ExportError: rows are faulty; the message lists the first faulty rows by number, each with its
        fault.
    """
    rows = _check_rows(file, _read_rows(file), lambda row: _label_problem(row, labels))
    return _apply_corrections([_labelled_row(*row) for row in rows])


def load_answers(file: Path) -> list[LabelledRow] | list[FieldsRow]:
    """Rows that all have a ``label``, or all have ``fields`` (JSON Lines only); the first row decides.

    :return: as ``load_rows``.
    :raises ExportError: as ``load_rows``, and if some rows have a label and others have fields.
    """
    found = list(_read_rows(file))
    first = next((value for _, value in found if isinstance(value, dict)), {})
    if "fields" in first:
        return _apply_corrections([_fields_row(*row) for row in _check_rows(file, found, _fields_problem)])
    rows = _check_rows(file, found, lambda row: _label_problem(row, (), "fields"))
    return _apply_corrections([_labelled_row(*row) for row in rows])


def load_texts(file: Path) -> list[str]:
    """Texts of rows ``{"text": ...}`` of ``.csv`` or JSON Lines; other keys are ignored.

    :raises ExportError: as ``load_rows``.
    """
    rows = _check_rows(file, _read_rows(file, ("text",)), lambda row: _text_problem(row, "text"))
    return [str(row["text"]) for _, row in rows]


def load_questions(file: Path) -> list[QuestionRow]:
    """Rows ``{"text": ..., "question": ..., "answer": words of the text, or null}``, JSON Lines.

    Optional keys are the ``heading`` above the text, its ``source``, and ``start``, the index of the answer's
    first character, if the answer occurs several times in the text. A text without a question serves as a
    negative for other questions.

    :raises ExportError: as ``load_rows``, and for an answer that isn't in its text.
    """
    return [_question_row(*row) for row in _check_rows(file, _read_rows(file, ("text",)), _question_problem)]


def count_waiting(file: Path) -> int:
    """Number of corrections that came over MQTT and that nobody has accepted or refused."""
    rows = [row for _, row in _read_rows(file) if isinstance(row, dict)]
    return sum(_is_left_out(row) and row.get("accepted") is None for row in rows)


def _is_left_out(row: Mapping[str, Any]) -> bool:
    """Whether a row is a correction that came over MQTT and wasn't accepted."""
    return bool(row.get(_TIME)) and "by" in row and row.get("accepted") is not True


def bare_text(text: str) -> str:
    """The text, casefolded and with single spaces. Texts are duplicates if their bare texts are equal."""
    return " ".join(text.split()).casefold()


def equal_texts(texts: Sequence[str], groups: Sequence[str] = ()) -> list[list[int]]:
    """Indices of equal texts (``bare_text``), grouped, in order of first occurrence.

    :param groups: the group of each text, or "": texts of one group stay together, too.
    """
    found: dict[tuple[bool, str], list[int]] = {}
    for index, text in enumerate(texts):
        group = groups[index] if groups else ""
        found.setdefault((bool(group), group or bare_text(text)), []).append(index)
    return list(found.values())


def counted(number: int, one: str, many: str) -> str:
    """``number`` followed by its noun, which is ``one`` if the number is 1, else ``many``."""
    return f"{number} {one if number == 1 else many}"


def _apply_corrections(rows: list[Answer]) -> list[Answer]:
    """The latest correction of a text replaces all other rows with that text.

    If two corrections have the same time, the second in the file counts as the later, since corrections are
    appended.
    """
    said: dict[int, Answer] = {}
    gone: set[int] = set()
    for indices in equal_texts([row.text for row in rows]):
        times = [(at, index) for index in indices if (at := rows[index].at) is not None]
        if times and len(indices) > 1:
            _, last = max(times)
            others = [index for index in indices if index != last]
            said[last] = replace(rows[last], replaced=tuple(rows[index].number for index in others))
            gone.update(others)
    return [said.get(index, row) for index, row in enumerate(rows) if index not in gone]


def _read_rows(file: Path, columns: Sequence[str] = _FIELDS) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Each row's number, with the row or a description of its fault. :param columns: columns that a CSV must
    have."""
    try:
        content = file.read_text("utf-8-sig")
    except OSError as error:
        raise ExportError(f"{file} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ExportError(f"{file}: row {line} is not UTF-8; save the file as UTF-8.") from None
    return _csv_rows(content, file, columns) if file.suffix.lower() == ".csv" else _json_rows(content)


def _check_rows(
    file: Path,
    found: Iterable[tuple[int, dict[str, Any] | str]],
    problem_of: Callable[[dict[str, Any]], str | None],
) -> list[tuple[int, dict[str, Any]]]:
    """Checks all rows with ``problem_of`` and returns them. :raises ExportError: faulty rows, or no rows."""
    rows = []
    problems: list[str] = []
    for number, value in found:
        if isinstance(value, dict) and _is_left_out(value):
            continue
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
    """:raises ExportError: there are problems; the message has the first ten and the number of the others."""
    if problems:
        more = len(problems) - _MOST_SHOWN
        rest = [f"{counted(more, 'more row has', 'more rows have')} problems."] if more > 0 else []
        shown = problems[:_MOST_SHOWN] + rest
        raise ExportError(f"{file} has rows that can't be used:\n" + "\n".join(shown))


def _labelled_row(number: int, row: dict[str, Any]) -> LabelledRow:
    return LabelledRow(number, row["text"], row["label"].strip(), _time(row.get(_TIME)))


def _fields_row(number: int, row: dict[str, Any]) -> FieldsRow:
    group = row.get(_GROUP, "")
    return FieldsRow(number, row["text"], row["fields"], _time(row.get(_TIME)), group=group)


def _json_rows(content: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            # Like messages on a device: no tokenizer takes a lone surrogate.
            if _SURROGATE_ESCAPE.search(line):
                value = _replace_surrogates(value)
        except RecursionError:
            yield number, "is not JSON that can be read (it is nested too deep)"
        except json.JSONDecodeError as error:
            # For example, another file was appended to one that had no line end.
            joined = error.msg == "Extra data" and line.lstrip().startswith("{")
            yield number, "goes on after its end; write a row a line" if joined else f"is not JSON ({error})"
        except ValueError as error:
            yield number, f"is not JSON ({error})"
        else:
            yield number, value if isinstance(value, dict) else "is not a JSON object"


def _replace_surrogates(value: Any) -> Any:
    """Replaces lone surrogates by U+FFFD, as UTF-8 encoders do."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_replace_surrogates(name): _replace_surrogates(item) for name, item in value.items()}
    return [_replace_surrogates(item) for item in value] if isinstance(value, list) else value


def _csv_rows(content: str, file: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    # newline="\n": str.splitlines would also split a text at U+2028.
    reader = csv.DictReader(io.StringIO(content, newline="\n"), strict=True)
    try:
        _check_header(reader.fieldnames or (), file, columns)
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        yield reader.line_num, f"is not CSV ({error})"


def _check_header(names: Sequence[str], file: Path, columns: Sequence[str]) -> None:
    """:raises ExportError: a column is missing or named twice."""
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
    """What is wrong with a row, as the end of a sentence that begins with the row's number; None if the row
    is valid.

    :param other: a key that rows with a label must not have.
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
        return "has no fields" if fields is None else "has fields that are not a JSON object"
    if not isinstance(row.get(_GROUP, ""), str):
        return "has a group that is not a text"
    return _time_problem(row) if fields else "has empty fields"


def _question_row(number: int, row: dict[str, Any]) -> QuestionRow:
    answer, span = row.get("answer"), None
    if answer is not None:
        start = row["text"].index(answer) if row.get("start") is None else row["start"]
        start += len(answer) - len(answer.lstrip())
        answer = answer.strip()
        span = (start, start + len(answer))
    heading, source = row.get("heading") or "", row.get("source") or ""
    return QuestionRow(number, row["text"], heading, source, row.get("question"), span)


def _question_problem(row: dict[str, Any]) -> str | None:
    is_asked = row.get("question") is not None
    for field in ("text", "question") if is_asked else ("text",):
        if problem := _text_problem(row, field):
            return problem
    for field in ("heading", "source", "answer"):
        if not isinstance(row.get(field), str | None):
            return f"has {'an' if field == 'answer' else 'a'} {field} that is not a string"
    answer, start = row.get("answer"), row.get("start")
    if start is not None and (type(start) is not int or start < 0):
        return "has a start that is not a place in its text"
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
        return f"has a {field} that is not a string"
    return None if value.strip() else f"has an empty {field}"


def _time_problem(row: dict[str, Any]) -> str | None:
    try:
        _time(row.get(_TIME))
    except ValueError:
        return f"has an {_TIME} that is not a time ({_A_TIME}), as a correction has it; rename other data"
    return None


def _time(value: object) -> datetime | None:
    """The time of a correction; None for other rows. A time without a time zone is taken as UTC.

    :raises ValueError: the value isn't a time.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError
    if not value.strip():  # a CSV in which only some rows are corrections
        return None
    time = datetime.fromisoformat(value)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def digest_rows(rows: Sequence[LabelledRow | FieldsRow]) -> str:
    """SHA-256 of the rows' content, the same for CSV and JSON Lines."""
    content = "\n".join(
        json.dumps([row.text, row.label if isinstance(row, LabelledRow) else dict(row.fields)])
        for row in rows
    )
    return hashlib.sha256(content.encode()).hexdigest()
