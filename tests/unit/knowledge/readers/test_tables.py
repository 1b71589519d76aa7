"""Tables and lists of objects as text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.documents.passages import split
from edgeslm.knowledge.readers.tables import read_json, read_json_lines, read_table


def rows(text: str) -> list[tuple[str, str]]:
    return [(passage.heading[0], passage.text) for passage in split(read_table(text, "a.csv"))]


def test_a_row_is_a_passage_with_the_names_of_its_columns() -> None:
    text = 'part,"in stock",price\r\nvalve,4,"1,20"\r\n"pump, ""big""",,3\r\n\r\nhose,1,\r\n'
    assert rows(text) == [
        ("row 2", "part: valve; in stock: 4; price: 1,20"),
        ("row 3", 'part: pump, "big"; price: 3'),
        ("row 5", "part: hose; in stock: 1"),
    ]


def test_a_long_row_is_parted_and_keeps_its_heading() -> None:
    found = rows("part,use\nvalve," + "It is closed by hand. " * 60)
    assert len(found) > 1
    assert {heading for heading, _ in found} == {"row 2"}


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_told_by_the_rows(separator: str) -> None:
    table = "\n".join(separator.join(row) for row in (("part", "note"), ("valve", "a. b"), ("pump", "c")))
    assert rows(table)[0] == ("row 2", "part: valve; note: a. b")


def test_a_table_without_names_has_numbers() -> None:
    assert rows("4,valve\n2,pump\n") == [
        ("row 1", "column 1: 4; column 2: valve"),
        ("row 2", "column 1: 2; column 2: pump"),
    ]


def test_years_are_names_and_cells_without_a_name_stay() -> None:
    assert rows("part,2025,2026,\nvalve,1,2,3,4\n") == [("row 2", "part: valve; 2025: 1; 2026: 2; 3; 4")]


def test_a_cell_of_several_lines_is_one_line() -> None:
    assert rows('part,note\nvalve,"a\nb"\n') == [("row 2", "part: valve; note: a b")]


def test_too_many_columns_are_refused() -> None:
    with pytest.raises(KnowledgeError, match=r"a\.csv has 1,000,000 columns; at most 1,000 are read\."):
        read_table("a," * 999_999 + "a\n", "a.csv")


def test_a_cell_without_end_is_refused() -> None:
    with pytest.raises(KnowledgeError, match=r"a\.csv can't be read as CSV"):
        read_table('a,b\n"' + "x,\n" * 100_000, "a.csv")


def test_names_in_every_row_are_bounded() -> None:
    document = read_table("n" * 1000 + ",b\n1,2\n", "a.csv")
    assert document.text == "n" * 80 + ": 1; b: 2"


def test_json_lines() -> None:
    text = (
        '{"part": "valve", "size": {"mm": 4, "unit": null}, "for": ["pump", "hose"]}\n\n'
        '{"part": "hose", "ok": true}\n'
    )
    document = read_json_lines(text, "a.jsonl")
    assert document.text == "part: valve; size.mm: 4; for: pump, hose\npart: hose; ok: true"
    assert [heading.title for heading in document.headings] == ["line 1", "line 3"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([{"a": 1}, {"a": 2}], "a: 1\na: 2"),
        ({"version": 1, "rows": [{"a": 1}, {"a": 2}]}, "a: 1\na: 2"),
        ({"a": 1, "b": {"c": "x\ny"}}, "a: 1; b.c: x y"),
        ([{"a": [{"b": 1}, {"b": 2}]}], "a.1.b: 1; a.2.b: 2"),
        (["one", 2, None], "one\n2"),
    ],
)
def test_json(value: Any, text: str) -> None:
    assert read_json(json.dumps(value), "a.json").text == text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", r"a\.json can't be read as JSON: "),
        ("[" * 100_000, r"a\.json is nested too deep\."),
        ('{"a": ' * 30 + "1" + "}" * 30, r"a\.json is nested too deep; at most 20 levels"),
        (json.dumps({str(number): 1 for number in range(1001)}), r"an object of more than 1,000 values"),
        ("1" * 5000, r"a\.json can't be read as JSON: "),
    ],
)
def test_json_that_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(KnowledgeError, match=sentence):
        read_json(text, "a.json")


def test_a_wrong_line_is_named() -> None:
    with pytest.raises(KnowledgeError, match=r"a\.jsonl, line 2, can't be read as JSON"):
        read_json_lines('{"a": 1}\n{\n', "a.jsonl")


@given(st.text(st.sampled_from('a1,;"\n\t |{}[]:'), max_size=100) | st.text(max_size=100))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (read_table, read_json, read_json_lines):
        try:
            document = read(text, "a")
        except KnowledgeError as error:
            assert str(error).startswith("a")
        else:
            split(document)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(st.lists(JSON, max_size=4))
def test_any_json_is_read_or_refused(values: list[Any]) -> None:
    try:
        document = read_json(json.dumps(values), "a.json")
    except KnowledgeError:
        return
    assert len(document.headings) == (document.text.count("\n") + 1 if document.text else 0)


# --- cells ----------------------------------------------------------------------------------------------


def test_the_cells_are_kept_beside_the_text() -> None:
    document = read_table("part,price\nvalve,4\nhose,\n\npump,5\n", "a.csv")
    assert document.table is not None
    assert [(column.name, column.kind.value) for column in document.table.columns] == [
        ("part", "text"),
        ("price", "number"),
    ]
    assert [row.cells for row in document.table.rows] == [("valve", "4"), ("hose", ""), ("pump", "5")]
    assert [row.number for row in document.table.rows] == [2, 3, 5]
    for row in document.table.rows:
        assert document.text[row.start : row.end].startswith(f"part: {row.cells[0]}")


def test_objects_with_other_keys_have_columns_of_their_own() -> None:
    table = read_json('[{"a": 1}, {"b": {"c": true}, "a": 2}, {"d": null}]', "a.json").table
    assert table is not None
    assert [column.name for column in table.columns] == ["a", "b.c"]
    assert [row.cells for row in table.rows] == [("1", ""), ("2", "true")]


def test_cells_without_a_name_are_no_part_of_the_table() -> None:
    table = read_table("part,price\nvalve,4,spare\n", "a.csv").table
    assert table is not None and table.rows[0].cells == ("valve", "4")


def test_a_table_that_is_too_large_is_text_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeslm.knowledge.readers.tables.MAX_CELLS", 6)
    rows = ["a,b", *(f"{n},{n}" for n in range(1, 4))]
    assert read_table("\n".join(rows), "a.csv").table is not None
    large = read_table("\n".join([*rows, "4,4"]), "a.csv")
    assert large.table is None and len(large.headings) == 4
    assert read_json_lines("\n".join(f'{{"x{n}": 1}}' for n in range(9)), "a.jsonl").table is None


def test_a_table_that_is_almost_empty_is_text_alone() -> None:
    """Empty cells are no work: rows of one cell below a thousand columns had a thousand each."""
    names = ",".join(f"n{number}" for number in range(500))
    full = ",".join("1" * 500)
    assert read_table(f"{names}\n{full}\n" + "1\n" * 3, "a.csv").table is not None
    document = read_table(f"{names}\n{full}\n" + "1\n" * 20, "a.csv")
    assert document.table is None and document.text.count("n0: 1") == 21
