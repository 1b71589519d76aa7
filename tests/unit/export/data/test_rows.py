"""Labelled rows: every problem with its row number."""

from __future__ import annotations

import csv
import json
import subprocess
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from edgeslm_export.data.audit import audit_rows
from edgeslm_export.data.rows import (
    FieldsRow,
    LabelledRow,
    QuestionRow,
    bare_text,
    count_waiting,
    equal_texts,
    load_answers,
    load_questions,
    load_rows,
    load_texts,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.errors import ExportError
from edgeslm.storage.feedback_store import Correction, FeedbackStore
from tests.support.paths import ROOT


def _jsonl(folder: Path, *lines: str) -> Path:
    file = folder / "data.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_json_lines_and_csv_are_read_alike(tmp_path: Path) -> None:
    lines = _jsonl(
        tmp_path, '{"text": "a, \\"b\\"", "label": "x"}', "", '{"label": "y", "text": "ü\\u2028", "id": 7}'
    )
    table = tmp_path / "data.csv"
    table.write_text('id,label,text\n1,x,"a, ""b"""\n7,y,ü\u2028\n', "utf-8-sig")
    one, two = load_rows(lines), load_rows(table)
    assert [(row.text, row.label) for row in one] == [('a, "b"', "x"), ("ü\u2028", "y")]
    assert [(row.text, row.label) for row in two] == [(row.text, row.label) for row in one]
    assert [row.number for row in one] == [1, 3]


def test_a_csv_text_may_have_several_lines(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_text('text,label\n"a\nb",x\nc,\n')
    with pytest.raises(ExportError, match=r"Row 4 has an empty label\."):
        load_rows(file)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", r"Row 2 is not JSON"),
        ("[1]", r"Row 2 is not a JSON object\."),
        ('{"label": "x"}', r"Row 2 has no text\."),
        ('{"text": "a", "label": 3}', r"Row 2 has a label that is not a string\."),
        ('{"text": "  ", "label": "x"}', r"Row 2 has an empty text\."),
        ('{"text": "a", "label": "z"}', r"Row 2 has the label 'z', which is none of x, y\."),
    ],
)
def test_each_problem_names_its_row(tmp_path: Path, line: str, sentence: str) -> None:
    good = '{"text": "a", "label": "x"}'
    with pytest.raises(ExportError, match=sentence):
        load_rows(_jsonl(tmp_path, good, line, good), ("x", "y"))


def test_all_problems_come_at_once_up_to_ten(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        load_rows(_jsonl(tmp_path, *["{"] * 13))
    lines = str(caught.value).splitlines()
    assert len(lines) == 12
    assert lines[-1] == "3 more rows have problems."


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "has no rows"), (b"\n\n", "has no rows"), (b'{"text": "a"}\n\xff', "row 2 is not UTF-8")],
)
def test_a_file_without_rows(tmp_path: Path, content: bytes, sentence: str) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(content)
    with pytest.raises(ExportError, match=sentence):
        load_rows(file)


def test_missing_files_and_columns(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="No such file"):
        load_rows(tmp_path / "none.jsonl")
    (tmp_path / "data.csv").write_text("spam,text\n0,hi\n")
    with pytest.raises(ExportError, match=r"has no column label.* fields are written as JSON lines"):
        load_rows(tmp_path / "data.csv")


@settings(max_examples=40)
@given(content=st.binary(max_size=80), suffix=st.sampled_from([".jsonl", ".csv"]))
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"data{suffix}"
    file.write_bytes(content)
    try:
        load_rows(file)
    except ExportError as error:
        assert str(file) in str(error)


@settings(max_examples=40)
@given(texts=st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_what_is_written_is_read(tmp_path: Path, texts: list[str]) -> None:
    file = _jsonl(tmp_path, *[json.dumps({"text": text, "label": "x"}) for text in texts])
    assert [row.text for row in load_rows(file)] == texts


def test_texts_without_labels_are_read_of_json_lines_and_csv(tmp_path: Path) -> None:
    lines = _jsonl(tmp_path, '{"text": "a"}', "", '{"text": "b", "label": 3}')
    table = tmp_path / "data.csv"
    table.write_text("id,text\n1,a\n2,b\n")
    assert load_texts(lines) == load_texts(table) == ["a", "b"]


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"Row 2 has no text\.\nRow 3 has an empty text\."):
        load_texts(_jsonl(tmp_path, '{"text": "a"}', '{"label": "x"}', '{"text": " "}'))
    table = tmp_path / "data.csv"
    table.write_text("message\na\n")
    sentence = r"has no column text; its first line names 'message' and should name text, in just"
    with pytest.raises(ExportError, match=sentence):
        load_texts(table)


@pytest.mark.parametrize(("problems", "last"), [(11, "1 more row has problems."), (10, "Row 10 is not JSON")])
def test_one_more_row_is_not_many(tmp_path: Path, problems: int, last: str) -> None:
    with pytest.raises(ExportError) as caught:
        load_rows(_jsonl(tmp_path, *["{"] * problems))
    assert str(caught.value).splitlines()[-1].startswith(last)


# --- columns -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ("Text,Label", "its first line names 'Text', 'Label' and should name text and label, in just these"),
        ("text, label", "no column label; its first line names 'text', ' label' and should"),
        ("text;label", "names 'text;label' .* seem to be separated by ';'; separate them by commas"),
        ("text\tlabel", r"seem to be separated by '\\t'; separate them by commas"),
        ("", "no column text and no column label; its first line names none and should"),
        (",".join("abcdefghijkl"), "'a', .*'j' and should"),
        ("x" * 100, "names '" + "x" * 40 + "' and should"),
    ],
)
def test_columns_that_are_missing_are_told_from_those_that_are_there(
    tmp_path: Path, header: str, sentence: str
) -> None:
    file = tmp_path / "data.csv"
    file.write_text(f"{header}\na,b\n" if header else "")
    with pytest.raises(ExportError, match=sentence):
        load_rows(file)


@pytest.mark.parametrize("header", ["text,label,text", "label,text,label", "text,label,id,id"])
def test_a_column_that_is_named_twice_is_refused(tmp_path: Path, header: str) -> None:
    """The last one was read, whatever the first one held."""
    file = tmp_path / "data.csv"
    file.write_text(f"{header}\na,b,c,d\n")
    with pytest.raises(
        ExportError, match=r"names the column '(text|label|id)' twice in its first line; keep"
    ):
        load_rows(file)


def test_columns_without_a_name_may_be_several(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_text("text,label,,\na,b,,\n")
    assert load_rows(file) == [LabelledRow(2, "a", "b")]


def test_a_line_separator_in_a_csv_text_ends_no_row(tmp_path: Path) -> None:
    """The text was cut there, and rows after it had wrong numbers."""
    file = tmp_path / "data.csv"
    file.write_text("text,label\none\u2028two\x85three,a\nb,\n")
    with pytest.raises(ExportError, match=r"used:\nRow 3 has an empty label\.$"):
        load_rows(file)


@settings(max_examples=40)
@given(
    rows=st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1)] * 2).filter(
            lambda row: all(map(str.strip, row))
        ),
        min_size=1,
        max_size=5,
    )
)
def test_what_is_written_as_csv_is_read(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    file = tmp_path / "data.csv"
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([("text", "label"), *rows])
    assert [(row.text, row.label) for row in load_rows(file)] == [
        (text, label.strip()) for text, label in rows
    ]


# --- what is mended ----------------------------------------------------------------------------------


def test_half_a_surrogate_pair_becomes_a_replacement_character(tmp_path: Path) -> None:
    """The tokenizer ended the command with a TypeError that named no row."""
    row = '{"text": "cut \\ud800", "label": "\\udfff x"}'
    assert load_rows(_jsonl(tmp_path, row)) == [LabelledRow(1, "cut \ufffd", "\ufffd x")]
    assert load_texts(_jsonl(tmp_path, row)) == ["cut \ufffd"]
    fields = '{"text": "M3", "fields": {"a\\uD83D": ["\\uDE42", {"b": "\\ud800"}, 3]}}'
    (found,) = load_answers(_jsonl(tmp_path, fields))
    assert found == FieldsRow(1, "M3", {"a\ufffd": ["\ufffd", {"b": "\ufffd"}, 3]})


def test_a_whole_surrogate_pair_stays(tmp_path: Path) -> None:
    assert load_texts(_jsonl(tmp_path, '{"text": "\\ud83d\\ude42 \\\\ud800"}')) == ["🙂 \\ud800"]


@settings(max_examples=60)
@given(text=st.text(st.characters(exclude_categories=()), min_size=1).filter(str.strip))
def test_every_text_that_is_read_can_be_written(tmp_path: Path, text: str) -> None:
    row = {"text": text, "fields": {text: [text]}}
    (found,) = load_answers(_jsonl(tmp_path, json.dumps(row)))
    assert isinstance(found, FieldsRow)
    found.text.encode()
    json.dumps(found.fields, ensure_ascii=False).encode()


def test_space_around_a_label_makes_no_other_label(tmp_path: Path) -> None:
    rows = ['{"text": "a", "label": "machine"}', '{"text": "b", "label": " machine\\n"}']
    assert [row.label for row in load_rows(_jsonl(tmp_path, *rows), ("machine",))] == ["machine"] * 2


@pytest.mark.parametrize("deep", ["[" * 100_000, '{"text": ' * 100_000])
def test_what_is_nested_too_deep_is_named(tmp_path: Path, deep: str) -> None:
    with pytest.raises(ExportError, match=r"Row 1 is not JSON"):
        load_rows(_jsonl(tmp_path, deep))


# --- corrections -------------------------------------------------------------------------------------

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
OLD = [
    {"text": "It smells of oil", "label": "normal"},
    {"text": "All is well", "label": "normal"},
    {"text": "it  smells of OIL", "label": "warning"},
]


def _row(text: str, label: str, at: object = None) -> str:
    return json.dumps({"text": text, "label": label} | ({} if at is None else {"at": at}))


def _labels(file: Path) -> list[tuple[int, str, tuple[int, ...]]]:
    return [(row.number, row.label, row.replaced) for row in load_rows(file)]


def test_corrections_of_a_node_are_appended_to_the_rows_and_take_their_place(tmp_path: Path) -> None:
    """They were in conflict with the rows that they correct, and went with them."""
    _jsonl(tmp_path, *map(json.dumps, OLD)).rename(tmp_path / "rows.jsonl")
    store = FeedbackStore(tmp_path)
    store.keep(Correction("triage", "Fire!", "critical"))
    store.keep(Correction("triage", "It smells of oil", "critical"))
    page = (ROOT / "docs/reference/mqtt.md").read_text(encoding="utf-8")
    (command,) = [line for line in page.splitlines() if line.startswith("cat ")]
    subprocess.run(["sh", "-euc", command], check=True, cwd=tmp_path)
    found = load_answers(tmp_path / "all.jsonl")
    assert [(row.number, row.text) for row in found] == [
        (2, "All is well"),
        (4, "Fire!"),
        (5, OLD[0]["text"]),
    ]
    assert [row.label for row in found if isinstance(row, LabelledRow)] == ["normal", "critical", "critical"]
    audited = {finding.kind: finding for finding in audit_rows(found)}
    assert "conflicts" not in audited
    assert audited["corrected"].gone == (1, 3)
    assert audited["corrected"].sentence == "2 rows are replaced by later corrections of the same text"


def test_corrections_of_fields_take_their_place_too(tmp_path: Path) -> None:
    kept = FeedbackStore(tmp_path).keep(Correction("fields", "M3 is hot", fields={"machine": "M3"}))
    old = json.dumps({"text": "M3 is hot", "fields": {"machine": "M4"}})
    (found,) = load_answers(_jsonl(tmp_path, old, kept.read_text()))
    assert isinstance(found, FieldsRow)
    assert (found.fields, found.replaced) == ({"machine": "M3"}, (1,))


def test_the_latest_correction_stays_wherever_it_stands(tmp_path: Path) -> None:
    hour = timedelta(hours=1)
    west = NOON.astimezone(timezone(-3 * hour))
    file = _jsonl(
        tmp_path,
        _row("a", "second", (west + 2 * hour).isoformat()),
        _row("a", "first", (NOON + hour).isoformat()),
        _row("b", "rightly", NOON.isoformat()),
        _row("a", "row"),
    )
    assert _labels(file) == [(1, "second", (2, 4)), (3, "rightly", ())]


def test_of_corrections_in_one_second_the_one_that_was_appended_last_stays(tmp_path: Path) -> None:
    at = NOON.isoformat()
    assert _labels(_jsonl(tmp_path, _row("a", "x", at), _row("a", "y", at))) == [(2, "y", (1,))]


def test_a_time_without_zone_is_utc(tmp_path: Path) -> None:
    rows = [_row("a", "late", "2026-03-04T13:00:00"), _row("a", "early", "2026-03-04T13:30:00+01:00")]
    assert _labels(_jsonl(tmp_path, *rows)) == [(1, "late", (2,))]


def test_rows_without_a_time_are_left_as_they_are(tmp_path: Path) -> None:
    rows = [_row("a", "x"), _row("a", "y"), '{"text": "a", "label": "z", "at": null}']
    assert _labels(_jsonl(tmp_path, *rows)) == [(1, "x", ()), (2, "y", ()), (3, "z", ())]


def test_a_csv_may_have_a_column_of_times(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_text(f"text,label,at\na,x,\na,y,{NOON.isoformat()}\nb,x, \n")
    assert _labels(file) == [(3, "y", (2,)), (4, "x", ())]


@pytest.mark.parametrize("at", ["yesterday", "12:30", 1772625600, True, [], "2026-13-01"])
def test_a_correction_without_its_time_is_named(tmp_path: Path, at: Any) -> None:
    fields = json.dumps({"text": "a", "fields": {"b": 1}, "at": at})
    sentence = r"Row 1 has an at that is not a time \(2026-03-04T05:06:07\+00:00\), as a correction has it"
    for row in (_row("a", "x", at), fields):
        with pytest.raises(ExportError, match=sentence):
            load_answers(_jsonl(tmp_path, row))
    assert load_texts(_jsonl(tmp_path, fields)) == ["a"]  # nothing is corrected there


def test_a_file_without_its_last_line_end_is_told_when_another_was_appended(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"Row 2 goes on after its end; write a row a line\."):
        load_rows(_jsonl(tmp_path, _row("a", "x"), _row("b", "x") + _row("a", "y", NOON.isoformat())))


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "A ", "b", "c"]),
            st.none() | st.datetimes(timezones=st.timezones() | st.just(UTC), allow_imaginary=False),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_of_equal_texts_the_last_correction_stays(
    tmp_path: Path, said: list[tuple[str, datetime | None]]
) -> None:
    times = [None if at is None else at.astimezone(UTC) for _, at in said if at is None or 1 < at.year < 9999]
    said = [(text, at) for (text, _), at in zip(said, times, strict=False)] or [("a", None)]
    rows = [_row(text, f"label {place}", at and at.isoformat()) for place, (text, at) in enumerate(said, 1)]
    found = load_rows(_jsonl(tmp_path, *rows))
    for row in found:
        equal = [at for text, at in said if bare_text(text) == bare_text(row.text)]
        corrections = [at for at in equal if at is not None]
        assert row.at == max(corrections, default=None)
        assert len(row.replaced) == (len(equal) - 1 if corrections else 0)
    assert sorted(number for row in found for number in (row.number, *row.replaced)) == [
        *range(1, len(said) + 1)
    ]


# --- questions ---------------------------------------------------------------------------------------


def test_questions_with_the_places_of_their_answers(tmp_path: Path) -> None:
    file = _jsonl(
        tmp_path,
        '{"text": "Oil it weekly.", "question": "how often?", "answer": "weekly", "heading": "Care"}',
        '{"text": "Oil it weekly.", "question": "with what?", "answer": null, "source": "a.md"}',
        '{"text": "3 or 3 bar", "question": "bar?", "answer": "3", "start": 5}',
        '{"text": "Nobody asks about this.", "question": null}',
        '{"text": "Oil it. Daily, that is.", "question": "how often?", "answer": " Daily,"}',
    )
    assert load_questions(file) == [
        QuestionRow(1, "Oil it weekly.", "Care", "", "how often?", (7, 13)),
        QuestionRow(2, "Oil it weekly.", "", "a.md", "with what?", None),
        QuestionRow(3, "3 or 3 bar", "", "", "bar?", (5, 6)),
        QuestionRow(4, "Nobody asks about this."),
        QuestionRow(5, "Oil it. Daily, that is.", "", "", "how often?", (8, 14)),
    ]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"question": "a?", "answer": "b"}, "has no text"),
        ({"text": "b", "question": " ", "answer": "b"}, "has an empty question"),
        ({"text": "b", "question": "a?"}, "has a question without an answer; write null where"),
        ({"text": "b", "question": "a?", "answer": "c"}, "has an answer that isn't in its text"),
        ({"text": "b", "question": "a?", "answer": "b", "start": 1}, "has an answer that isn't in its text"),
        ({"text": "b", "question": "a?", "answer": "b", "start": "0"}, "has a start that is not a place"),
        ({"text": "b", "question": "a?", "answer": 3}, "has an answer that is not a string"),
        ({"text": "b", "answer": "b"}, "has an answer and no question"),
        ({"text": "b", "heading": []}, "has a heading that is not a string"),
    ],
)
def test_what_is_wrong_with_a_question(tmp_path: Path, row: dict[str, Any], sentence: str) -> None:
    file = _jsonl(tmp_path, '{"text": "b", "question": "a?", "answer": "b"}', json.dumps(row))
    with pytest.raises(ExportError, match=f"Row 2 {sentence}"):
        load_questions(file)


def test_rows_of_a_group_stay_together(tmp_path: Path) -> None:
    rows = [{"text": text, "fields": {"a": "b"}, "group": group} for text, group in GROUPED]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = load_answers(tmp_path / "rows.jsonl")
    groups = [row.group for row in read if isinstance(row, FieldsRow)]
    assert groups == ["x", "", "y", "x", ""]
    assert equal_texts([row.text for row in read], groups) == [[0, 3], [1, 4], [2]]
    (tmp_path / "rows.jsonl").write_text(json.dumps({**rows[0], "group": 3}))
    with pytest.raises(ExportError, match="has a group that is not a text"):
        load_answers(tmp_path / "rows.jsonl")


GROUPED = (("a", "x"), ("b", ""), ("c", "y"), ("d", "x"), ("B", ""))


def test_corrections_over_mqtt_are_used_only_once_accepted(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    at = "2026-03-04T05:06:07+00:00"
    rows = [
        {"text": "a", "label": "x"},
        {"text": "a", "label": "y", "at": at, "by": "desk-3"},
        {"text": "b", "label": "y", "at": at, "by": "desk-3", "accepted": True},
        {"text": "c", "label": "y", "at": at, "by": "desk-3", "accepted": False},
        {"text": "d", "label": "y", "by": "an author"},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert [(row.text, row.label) for row in load_rows(file)] == [("a", "x"), ("b", "y"), ("d", "y")]
    assert count_waiting(file) == 1
