from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import JournalError
from edgeslm.storage.checksum import COVERED, checksum, is_sound, read_checksum
from edgeslm.storage.database import Database
from edgeslm.storage.encryption import Seal
from edgeslm.storage.schema import TABLES
from tests.support.disks import flip

VALUES = st.one_of(st.none(), st.integers(-(1 << 40), 1 << 40), st.text(max_size=20), st.binary(max_size=20))
ROW = {"key": b"k" * 16, "attempts": 1, "result": b"a result"}


@given(table=st.sampled_from(sorted(COVERED)), data=st.data())
def test_a_flipped_bit_is_found_in_each_column(table: str, data: st.DataObject) -> None:
    row: dict[str, Any] = {name: data.draw(VALUES) for name in COVERED[table]}
    crc = checksum(table, row, is_sealed=False)
    assert is_sound(table, row, crc, is_sealed=False)
    for name, value in row.items():
        if isinstance(value, bytes) and value:
            bit = data.draw(st.integers(0, 8 * len(value) - 1))
            number = int.from_bytes(value, "big") ^ (1 << bit)
            changed = {**row, name: number.to_bytes(len(value), "big")}
            assert not is_sound(table, changed, crc, is_sealed=False)
        elif isinstance(value, int):
            assert not is_sound(table, {**row, name: value ^ 1}, crc, is_sealed=False)


def test_no_byte_moves_from_one_column_to_the_next() -> None:
    first = {"text": "a", "route": "bc", "topic": "", "received": 1.0, "name": ""}
    second = {**first, "text": "ab", "route": "c"}
    assert checksum("windows", first, is_sealed=False) != checksum("windows", second, is_sealed=False)
    for name in ("name", "text"):
        none, empty = {**first, name: None}, {**first, name: ""}
        assert checksum("windows", none, is_sealed=False) != checksum("windows", empty, is_sealed=False)


def test_an_encrypted_text_is_left_to_its_cipher() -> None:
    crc = checksum("requests", ROW, is_sealed=True)
    assert is_sound("requests", {**ROW, "result": b"another"}, crc, is_sealed=True)
    assert not is_sound("requests", {**ROW, "attempts": 2}, crc, is_sealed=True)


def test_a_row_without_a_checksum_counts_as_sound() -> None:
    assert is_sound("requests", ROW, None, is_sealed=False)


def stored_row(database: Database, number: int) -> dict[str, Any]:
    names = COVERED["requests"]
    found = database.read(f"SELECT {', '.join(names)} FROM requests WHERE id = ?", number)
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("number", [1, (1 << 62) + 1])
def test_a_flipped_bit_in_the_number_of_a_row_ends_no_node(database: Database, number: int) -> None:
    database.insert("requests", {**ROW, "at": 1.0})
    flip(database, f"UPDATE requests SET id = {number}")
    assert database.is_sound("requests", number, stored_row(database, number))
    database.write("DELETE FROM requests")
    assert database.read("SELECT count(*) FROM requests") == (0,)


def test_no_checksum_outlives_its_row(database: Database) -> None:
    """Version 0.2.0 doesn't know of checksums, and uses the number of a deleted row again."""
    for statement in ("DELETE FROM requests", "UPDATE requests SET result = NULL"):
        database.insert("requests", {**ROW, "at": 1.0})
        assert database.read("SELECT count(*) FROM checksums") == (1,)
        database.write(statement)
        assert database.read("SELECT count(*) FROM checksums") == (0,)


def make_file_of_0_2_0(file: Path) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.executescript(TABLES)
        db.execute("PRAGMA user_version = 1")
        db.execute("INSERT INTO session VALUES (3)")
        db.execute("INSERT INTO requests (key, at, attempts, result) VALUES (x'01', 1.0, 0, x'02')")


def test_a_file_of_0_2_0_gets_checksums_and_its_rows_count_as_sound(tmp_path: Path) -> None:
    make_file_of_0_2_0(tmp_path / "journal.sqlite")
    for number in (2, 3):
        with closing(Database(tmp_path / "journal.sqlite")) as database:
            database.open()
            assert database.damage is None
            assert database.is_sound("requests", 1, stored_row(database, 1))
            assert database.insert("requests", {**ROW, "at": 1.0}) == number
            assert read_checksum(database.opened, "requests", number) is not None
            assert database.read("SELECT epoch FROM session") == (3,)


def test_a_file_of_0_2_0_on_a_full_disk_is_read_and_gets_checksums_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "journal.sqlite"
    make_file_of_0_2_0(file)
    connect: Any = sqlite3.connect

    def connect_to_full_disk(*arguments: Any, **options: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = connect(*arguments, **options)
        if arguments[0] == file:
            pages = db.execute("PRAGMA page_count").fetchone()[0]
            db.execute(f"PRAGMA max_page_count = {pages}")
        return db

    monkeypatch.setattr(sqlite3, "connect", connect_to_full_disk)
    with closing(Database(file)) as database:
        database.open()
        assert database.is_sound("requests", 1, stored_row(database, 1))
        with pytest.raises(JournalError, match="full"):
            database.insert("requests", {**ROW, "at": 1.0})
        database.opened.execute("PRAGMA max_page_count = 1000")
        number = database.insert("requests", {**ROW, "at": 1.0})
        assert read_checksum(database.opened, "requests", number) is not None
        assert database.problem is None and database.damage is None


def test_a_key_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    with closing(Database(file, seal=Seal(b"k" * 32))) as database:
        database.open()
        database.write("DROP TABLE checksums")
    before = file.read_bytes()
    for seal in (None, Seal(b"o" * 32)):
        with pytest.raises(JournalError, match="encrypted"):
            Database(file, seal=seal).open()
    assert file.read_bytes() == before


def test_a_trigger_that_the_disk_changed_is_damage(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    with closing(Database(file)) as database:
        database.open()
        database.insert("requests", {**ROW, "at": 1.0})
    content = file.read_bytes()
    assert content.count(b"DELETE FROM checksums") == 6
    file.write_bytes(content.replace(b"DELETE FROM checksums", b"DELETE FROM checksumz", 1))
    with closing(Database(file)) as database:
        database.open()
        assert database.damage is not None and "1 entries of answers" in database.damage
        assert database.is_sound("requests", 1, stored_row(database, 1))
        assert read_checksum(database.opened, "requests", 1) is not None
        database.write("DELETE FROM requests")


def test_encrypting_a_file_keeps_its_checksums_right_and_a_changed_row_unsound(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    with closing(Database(file)) as plain:
        plain.open()
        for result in (b"one", b"two"):
            plain.insert("requests", {**ROW, "result": result, "at": 1.0})
        flip(plain, "UPDATE requests SET result = x'00' WHERE result = x'74776f'")
    with closing(Database(file, seal=Seal(b"k" * 32))) as sealed:
        sealed.open()
        sound = [sealed.is_sound("requests", number, stored_row(sealed, number)) for number in (1, 2)]
        assert sound == [True, False]
        assert sealed.damage == "The disk changed 1 answer in the journal; look at this node's disk."
