"""Tables in a collection's file: with their documents, and gone with them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgeslm.knowledge.documents.cells import CellKind
from edgeslm.knowledge.documents.passages import split
from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.table_store import KeptTable, find_cells, passages_of, read_rows, read_tables
from edgeslm.knowledge.index.table_terms import key_of
from edgeslm.knowledge.service.intake import add_files
from tests.knowledge.sheets import PARTS, PRESSES, make_sheets, read
from tests.knowledge.shelf import faults, make_origin

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
        assert presses.columns == table.columns
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
        for name in ("tables", "table_rows", "table_texts"):
            assert db.execute(f"SELECT count(*) FROM {name}").fetchone() == (0,)


def test_a_table_that_expired_is_not_read(tmp_path: Path) -> None:
    with Collection(tmp_path / "log", writes=True) as collection:
        document = read(PRESSES)
        collection.put(document, split(document), make_origin(expires=100.0))
        with collection.reading() as db:
            assert len(tables(db, now=99.0)) == 1
            assert tables(db, now=100.0) == []


# --- files of format 1 ----------------------------------------------------------------------------------


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A collection as it was written before there were tables."""
    with closing(make_sheets(tmp_path, presses_csv=PRESSES, notes_txt="oil the press")) as collection:
        file = collection.file
    with closing(sqlite3.connect(file)) as db:
        for name in ("tables", "table_rows", "table_texts"):
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
