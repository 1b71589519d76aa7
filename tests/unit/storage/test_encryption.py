"""bus/seal.py and what it does to the journal's file: encrypted, with the wrong key, without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeslm.errors import JournalError
from edgeslm.storage.database import Database
from edgeslm.storage.encryption import Seal, load_seal
from edgeslm.storage.journal import Journal
from edgeslm.storage.spool import Spool, Spooled
from edgeslm.storage.window_store import Gathered, Windows
from tests.support.fakes import FakeClock, make_delivery

KEY, OTHER = b"k" * 32, b"o" * 32
REQUEST = b"r" * 16
SECRET = b"Anna in ward 7"


@contextmanager
def opened(file: Path, key: bytes | None) -> Iterator[Database]:
    database = Database(file, seal=Seal(key) if key else None, clock=FakeClock())
    database.open()
    try:
        yield database
    finally:
        database.close()


def journal_of(database: Database) -> Journal:
    journal = Journal(database, window_s=3600.0, limit_bytes=1_000_000)
    journal.open()
    return journal


def fill(database: Database) -> None:
    journal = journal_of(database)
    journal.finish(REQUEST, 1, b"a result about " + SECRET)
    journal.close()
    Spool(database, limit_bytes=1_000_000).add([(make_delivery(b"a message of " + SECRET), None)])
    Windows(database).add([Gathered(("route", "out"), "1", f"gathered {SECRET.decode()}", 1.0)])


def check(database: Database) -> None:
    entry = journal_of(database).find(REQUEST)
    assert entry is not None and entry.result == b"a result about " + SECRET
    spooled = Spool(database, limit_bytes=1_000_000).next(0)
    assert isinstance(spooled, Spooled) and spooled.delivery.payload == b"a message of " + SECRET
    windows = Windows(database)
    (gathered,) = windows.read(("route", "out"), windows.complete(("route", "out")))
    assert gathered.text == f"gathered {SECRET.decode()}"
    assert database.damage is None


def bytes_of(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_texts_are_encrypted_in_the_file_and_read_with_the_key(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    with opened(file, KEY) as database:
        fill(database)
        assert SECRET not in bytes_of(tmp_path), "the write-ahead log too"
    assert SECRET not in bytes_of(tmp_path)
    with opened(file, KEY) as database:
        check(database)


def test_a_plain_journal_is_encrypted_when_it_gets_a_key(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    with opened(file, None) as database:
        fill(database)
    assert SECRET in bytes_of(tmp_path)
    with opened(file, KEY) as database:
        assert SECRET not in bytes_of(tmp_path)
        check(database)


@pytest.mark.parametrize(
    ("key", "why"), [(OTHER, "was encrypted with another key"), (None, "is encrypted: name its key")]
)
def test_without_the_key_the_journal_is_left_alone(tmp_path: Path, key: bytes | None, why: str) -> None:
    file = tmp_path / "journal.sqlite"
    with opened(file, KEY) as database:
        fill(database)
    with pytest.raises(JournalError, match=why), opened(file, key):
        pass
    with opened(file, KEY) as database:
        check(database)


def test_a_mark_that_the_disk_changed_keeps_no_node_from_starting(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    with opened(file, KEY) as database:
        fill(database)
        database.write("UPDATE mark SET sealed = x'00' || substr(sealed, 2)")
    with opened(file, KEY) as database:
        check(database)
        for table in ("requests", "spool", "windows"):
            database.write(f"DELETE FROM {table}")
    with pytest.raises(JournalError, match="was encrypted with another key"), opened(file, OTHER):
        pass
    with opened(file, KEY):  # has no text left that shows that the key is right
        pass


def test_a_text_that_was_moved_to_another_place_is_not_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path / "journal.sqlite", KEY) as database:
        journal = journal_of(database)
        for key, result in ((REQUEST, b"normal"), (OTHER[:16], b"critical")):
            journal.finish(key, 1, result)
        (other,) = database.read("SELECT result FROM requests WHERE key = ?", OTHER[:16])
        database.write("UPDATE requests SET result = ? WHERE key = ?", other, REQUEST)
        assert journal.find(REQUEST) is None
        assert "the disk changed a stored answer" in caplog.text
        journal.close()


@pytest.mark.parametrize("content", [KEY, KEY.hex().encode(), KEY.hex().encode() + b"\n"])
def test_a_key_is_32_bytes_or_their_digits(tmp_path: Path, content: bytes) -> None:
    (file := tmp_path / "key").write_bytes(content)
    assert load_seal(file).open(Seal(KEY).close(b"text", b"here"), b"here") == b"text"


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 64, KEY + b"\n"])
def test_what_is_no_key_is_told(tmp_path: Path, content: bytes) -> None:
    (file := tmp_path / "key").write_bytes(content)
    with pytest.raises(JournalError, match="holds no key"):
        load_seal(file)
    with pytest.raises(JournalError, match="can't be read"):
        load_seal(tmp_path / "none")
