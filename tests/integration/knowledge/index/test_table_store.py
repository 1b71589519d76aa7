"""Tables in a collection's file: with their documents, and gone with them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from edgeslm.bundle.manifest import MANIFEST
from edgeslm.knowledge.documents.cells import CellKind
from edgeslm.knowledge.documents.passages import split
from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.database import FORMAT
from edgeslm.knowledge.index.table_store import KeptTable, find_cells, passages_of, read_rows, read_tables
from edgeslm.knowledge.index.table_terms import key_of
from edgeslm.knowledge.service.intake import add_files
from tests.support.knowledge.collection_samples import faults, make_origin
from tests.support.knowledge.sheets import PARTS, PRESSES, ask, make_sheets, read, take_languages, take_values

VALVE = key_of("valve v12")


@pytest.fixture
def sheets(tmp_path: Path) -> Iterator[Collection]:
    with closing(make_sheets(tmp_path, presses_csv=PRESSES, parts_json=PARTS)) as collection:
        yield collection
        assert faults(collection.file) == []


def tables(db: sqlite3.Connection, sources: str | None = None, now: float = 0.0) -> list[KeptTable]:
    return read_tables(db, sources=sources, since=None, until=None, now=now)


def test_columns_and_rows_are_kept_as_they_were_read(sheets: Collection) -> None:
    with sheets.reading() as db:
        parts, presses = tables(db)
        assert (parts.source, presses.source) == ("parts.json", "presses.csv")
        assert [column.name for column in parts.columns][:3] == ["part", "in_stock", "price_eur"]
        table = read(PRESSES).table
        assert table is not None
        assert [replace(column, decimals=None) for column in presses.columns] == list(table.columns)
        assert tuple(read_rows(db, presses.document)) == table.rows


def test_texts_that_are_all_different_are_told(sheets: Collection) -> None:
    with sheets.reading() as db:
        unique = {column.name for column in tables(db)[0].columns if column.unique}
    assert unique == {"part"}


def test_cells_are_found_by_their_keys(sheets: Collection) -> None:
    with sheets.reading() as db:
        parts, presses = tables(db)
        assert find_cells(db, presses.document, ["north", "ann", "4"]) == {
            "north": {1: {"North"}},
            "ann": {5: {"Ann"}},
        }
        assert find_cells(db, parts.document, [f"key {n}" for n in range(1200)] + [VALVE]) == {
            VALVE: {0: {"Valve V-12"}}
        }


def test_a_rows_passages_are_those_of_the_document(sheets: Collection) -> None:
    with sheets.reading() as db:
        presses = tables(db, "presses.csv")[0]
        first = next(read_rows(db, presses.document))
        ((text, start, end, *_),) = passages_of(db, presses.document, [first])[0]
    assert text.startswith("press: 1; hall: North")
    assert (start, end) == (first.start, first.end)


def test_a_table_changes_and_goes_with_its_document(tmp_path: Path, sheets: Collection) -> None:
    (tmp_path / "files/presses.csv").write_text(PRESSES.replace("North", "West"))
    add_files(sheets, [tmp_path / "files"])
    with sheets.reading() as db:
        document = tables(db, "presses.csv")[0].document
        assert "north" not in find_cells(db, document, ["north", "west"])
    assert sheets.remove("presses.csv") and sheets.remove("parts.json")
    with sheets.reading() as db:
        for name in ("tables", "table_rows", "table_texts", "table_values"):
            assert db.execute(f"SELECT count(*) FROM {name}").fetchone() == (0,)


def test_a_table_that_expired_is_not_read(tmp_path: Path) -> None:
    with Collection(tmp_path / "log", writes=True) as collection:
        document = read(PRESSES)
        collection.put(document, split(document), make_origin(expires=100.0))
        with collection.reading() as db:
            assert len(tables(db, now=99.0)) == 1
            assert tables(db, now=100.0) == []


def test_values_of_cells_are_kept_beside_them(sheets: Collection) -> None:
    with sheets.reading() as db:
        _, presses = tables(db)
        (row, *_) = db.execute(
            "SELECT * FROM table_values WHERE document = ? ORDER BY number", (presses.document,)
        )
    assert [column.decimals for column in presses.columns] == [0, None, None, 2, 1, None, None, None]
    assert row[2:] == (2, 1, 0, "North", 0, "2026-03-01", 0, 7150, 0, 42, 0, "Ann", 0, "ok", 0, 1, 0)


def test_of_a_long_table_few_passages_are_looked_at(tmp_path: Path) -> None:
    text = "part,price\n" + "".join(f"valve {n},{n}\n" for n in range(3000))
    with closing(make_sheets(tmp_path, parts_csv=text)) as collection, collection.reading() as db:
        (parts,) = tables(db)
        (row,) = read_rows(db, parts.document, [2500])
        looks = 0

        def look() -> int:
            nonlocal looks
            looks += 1
            return 0

        db.set_progress_handler(look, 100)
        (((quote, *_),),) = passages_of(db, parts.document, [row])
    assert quote == "part: valve 2498; price: 2498"
    assert looks < 10


# --- files of format 2 ----------------------------------------------------------------------------------


@pytest.fixture
def without_values(tmp_path: Path) -> Path:
    """A collection as it was written before values were kept."""
    with closing(make_sheets(tmp_path, presses_csv=PRESSES, parts_json=PARTS)) as collection:
        file = collection.file
    take_values(file)
    return file


def answers(collection: Collection) -> list[object]:
    return [
        answer and (answer.text, answer.values, answer.citations)
        for question in ("average temperature in hall South", "which part is the heaviest", "parts from Oslo")
        for answer in [ask(collection, question)]
    ]


def test_a_file_without_values_gets_them_when_it_is_opened_to_be_written_to(
    tmp_path: Path, without_values: Path
) -> None:
    with closing(sqlite3.connect(without_values)) as db:
        assert db.execute("SELECT name FROM sqlite_master WHERE name = 'table_values'").fetchall() == []
    with Collection(without_values, writes=True) as collection:
        upgraded = answers(collection)
        with collection.reading() as db:
            assert db.execute("PRAGMA user_version").fetchone()[0] == FORMAT
            assert tables(db)[1].columns[3].decimals == 2
        totals = add_files(collection, [tmp_path / "files"])
        assert (totals.changed, totals.unchanged) == (0, 2)
    assert faults(without_values) == []
    (tmp_path / "new").mkdir()
    with closing(make_sheets(tmp_path / "new", presses_csv=PRESSES, parts_json=PARTS)) as collection:
        assert upgraded == answers(collection) and None not in upgraded


@pytest.mark.parametrize("place", ["alone", "in a bundle"])
def test_a_file_without_values_that_is_only_read_is_asked_all_the_same(
    without_values: Path, place: str
) -> None:
    with Collection(without_values, writes=True) as collection:
        expected = answers(collection)
    take_values(without_values)
    if place == "in a bundle":
        (without_values.parent / MANIFEST).write_text("{}")
    before = without_values.read_bytes()
    with Collection(without_values) as collection:
        assert answers(collection) == answers(collection) == expected
        with collection.reading() as db:
            assert db.execute("PRAGMA query_only").fetchone() == (1,)
            assert db.execute("SELECT * FROM sqlite_temp_master").fetchall() == []
    assert without_values.read_bytes() == before


# --- files of format 1 ----------------------------------------------------------------------------------


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A collection as it was written before there were tables."""
    with closing(make_sheets(tmp_path, presses_csv=PRESSES, notes_txt="oil the press")) as collection:
        file = collection.file
    with closing(sqlite3.connect(file)) as db:
        take_languages(db)
        for name in ("tables", "table_rows", "table_texts", "table_values"):
            db.execute(f"DROP TABLE {name}")
        db.execute("PRAGMA user_version = 1")
    return file


def test_an_old_file_is_read_and_has_no_tables(old: Path) -> None:
    with Collection(old) as collection, collection.reading() as db:
        assert tables(db) == []
        assert db.execute("PRAGMA user_version").fetchone()[0] == 1


def test_an_old_file_gets_its_tables_with_the_next_add_and_keeps_its_passages(
    tmp_path: Path, old: Path
) -> None:
    with Collection(old, writes=True) as collection:
        totals = add_files(collection, [tmp_path / "files"])
        assert (totals.changed, totals.unchanged, totals.passages) == (1, 1, 0)
        with collection.reading() as db:
            ((kind, *_),) = [
                {column.kind for column in table.columns} & {CellKind.DATE} for table in tables(db)
            ]
        assert kind is CellKind.DATE
    assert faults(old) == []
