from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.storage.checksum import COVERED, checksum, is_sound
from edgeslm.storage.database import Database
from edgeslm.storage.encryption import Seal
from edgeslm.storage.schema import COLUMNS, TABLES

VALUES = st.one_of(st.none(), st.integers(-(1 << 40), 1 << 40), st.text(max_size=20), st.binary(max_size=20))
ROW = {"key": b"k" * 16, "attempts": 1, "result": b"a result"}


@given(table=st.sampled_from(sorted(COVERED)), data=st.data())
def test_a_flipped_bit_is_found_in_each_column(table: str, data: st.DataObject) -> None:
    row: dict[str, Any] = {name: data.draw(VALUES) for name in COVERED[table]}
    row["crc"] = checksum(table, row, is_sealed=False)
    assert is_sound(table, row, is_sealed=False)
    for name, value in row.items():
        if isinstance(value, bytes) and value:
            bit = data.draw(st.integers(0, 8 * len(value) - 1))
            number = int.from_bytes(value, "big") ^ (1 << bit)
            assert not is_sound(table, {**row, name: number.to_bytes(len(value), "big")}, is_sealed=False)
        elif isinstance(value, int) and name != "crc":
            assert not is_sound(table, {**row, name: value ^ 1}, is_sealed=False)


def test_no_byte_moves_from_one_column_to_the_next() -> None:
    first = {"text": "a", "route": "bc", "topic": "", "received": 1.0, "name": ""}
    second = {**first, "text": "ab", "route": "c"}
    assert checksum("windows", first, is_sealed=False) != checksum("windows", second, is_sealed=False)
    for name in ("name", "text"):
        none, empty = {**first, name: None}, {**first, name: ""}
        assert checksum("windows", none, is_sealed=False) != checksum("windows", empty, is_sealed=False)


def test_an_encrypted_text_is_left_to_its_cipher() -> None:
    row = {**ROW, "crc": checksum("requests", ROW, is_sealed=True)}
    assert is_sound("requests", {**row, "result": b"another"}, is_sealed=True)
    assert not is_sound("requests", {**row, "attempts": 2}, is_sealed=True)


def test_a_row_without_a_checksum_counts_as_sound() -> None:
    assert is_sound("requests", {**ROW, "crc": None}, is_sealed=False)


@pytest.mark.parametrize("altered", range(len(COLUMNS) + 1))
def test_a_file_of_0_1_0_gets_the_column_even_if_the_node_is_killed_in_between(
    tmp_path: Path, altered: int
) -> None:
    file = tmp_path / "journal.sqlite"
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.executescript(TABLES)
        db.execute("PRAGMA user_version = 1")
        db.execute("INSERT INTO session VALUES (3)")
        for table in list(COLUMNS)[:altered]:
            db.execute(f"ALTER TABLE {table} ADD COLUMN crc INTEGER")
        db.execute("INSERT INTO requests (key, at, attempts, result) VALUES (x'01', 1.0, 0, x'02')")
    for _ in range(2):
        with closing(Database(file)) as database:
            database.open()
            assert database.damage is None
            assert database.read("SELECT result, crc FROM requests") == (b"\2", None)
            assert database.read("SELECT epoch FROM session") == (3,)
            for table, names in COLUMNS.items():
                assert database.all_rows(f"SELECT {', '.join(names)} FROM {table}") is not None


def test_encrypting_a_file_keeps_its_checksums_right_and_a_changed_row_unsound(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    names = ("key", "attempts", "result", "crc")
    with closing(Database(file)) as plain:
        plain.open()
        for result in (b"one", b"two"):
            row: dict[str, Any] = {**ROW, "result": result, "at": 1.0}
            row["crc"] = plain.checksum("requests", row)
            marks = ", ".join("?" * len(row))
            plain.write(f"INSERT INTO requests ({', '.join(row)}) VALUES ({marks})", *row.values())
        plain.write("UPDATE requests SET result = x'00' WHERE result = x'74776f'")
    with closing(Database(file, seal=Seal(b"k" * 32))) as sealed:
        sealed.open()
        rows = sealed.all_rows(f"SELECT {', '.join(names)} FROM requests")
        assert [sealed.is_sound("requests", dict(zip(names, row, strict=True))) for row in rows] == [
            True,
            False,
        ]
        assert sealed.damage == "The disk changed 1 answer in the journal; look at this node's disk."
