"""Labelled rows: every problem with its row number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from edgeslm_export.rows import load_rows, load_texts
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.errors import ExportError


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
        ('{"text": "a", "label": 3}', r"Row 2 has a label that is no string\."),
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
    with pytest.raises(ExportError, match="has no column text; name them in its first line"):
        load_texts(table)
