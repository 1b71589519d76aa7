"""The file of a collection: found, made, opened, refused."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.index import database
from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.database import (
    APPLICATION_ID,
    find_collection,
    open_database,
    refusal,
    transaction,
)
from edgeslm.knowledge.index.search import search
from tests.support.knowledge.collection_samples import make_document, make_origin


def make_collection(file: Path) -> Path:
    document, passages = make_document("a.txt", "oil the press")
    with Collection(file, writes=True) as collection:
        collection.put(document, passages, make_origin())
    return file


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_suffix_may_be_left_out(tmp_path: Path) -> None:
    assert find_collection(tmp_path / "manuals") == tmp_path / "manuals.sqlite"
    assert find_collection(tmp_path / "v1.2") == tmp_path / "v1.2.sqlite"
    assert find_collection(tmp_path / "manuals.sqlite") == tmp_path / "manuals.sqlite"
    assert find_collection(tmp_path / "manuals.db") == tmp_path / "manuals.db"
    (tmp_path / "as-it-is").touch()
    assert find_collection(tmp_path / "as-it-is") == tmp_path / "as-it-is"


def test_a_collection_is_one_file_that_says_what_it_is(tmp_path: Path) -> None:
    file = make_collection(tmp_path / "sub/folder/manuals.sqlite")
    assert files(file.parent) == ["manuals.sqlite"]
    header = file.read_bytes()[:100]
    assert int.from_bytes(header[68:72], "big") == APPLICATION_ID
    assert int.from_bytes(header[60:64], "big") == database.FORMAT


def test_reading_leaves_nothing_beside_it(tmp_path: Path) -> None:
    file = make_collection(tmp_path / "manuals.sqlite")
    with Collection(file) as collection:
        assert search(collection, "oil")
    assert files(tmp_path) == ["manuals.sqlite"]


def test_reading_makes_no_collection(tmp_path: Path) -> None:
    with pytest.raises(KnowledgeError, match=r"no collection .*/manuals\.sqlite; edgeslm knowledge add"):
        Collection(tmp_path / "manuals").open()
    assert files(tmp_path) == []


def test_what_is_opened_for_reading_is_not_written(tmp_path: Path) -> None:
    file = make_collection(tmp_path / "manuals.sqlite")
    with Collection(file) as collection, pytest.raises(KnowledgeError, match="can't be written to"):
        collection.remove("a.txt")


def test_a_collection_in_a_bundle_is_read_as_it_is(tmp_path: Path) -> None:
    """Not even for a moment may there be a file that the manifest doesn't list."""
    file = make_collection(tmp_path / "manuals.sqlite")
    (tmp_path / "manifest.json").touch()
    with Collection(file) as collection:
        assert search(collection, "oil")
        assert files(tmp_path) == ["manifest.json", "manuals.sqlite"]
    with pytest.raises(KnowledgeError, match="part of a bundle, which never changes"):
        Collection(file, writes=True).open()


@pytest.fixture
def may_not_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)


def test_a_collection_in_a_folder_that_can_t_be_written_is_read(tmp_path: Path, may_not_write: None) -> None:
    file = make_collection(tmp_path / "manuals.sqlite")
    with Collection(file) as collection:
        assert search(collection, "oil")
        assert files(tmp_path) == ["manuals.sqlite"]


def test_one_that_is_written_to_is_read_as_it_is_now(tmp_path: Path, may_not_write: None) -> None:
    """By somebody who may not write: what is in the log belongs to it."""
    file = tmp_path / "manuals.sqlite"
    document, passages = make_document("a.txt", "oil the press")
    with Collection(file, writes=True) as writer:
        writer.put(document, passages, make_origin())
        with Collection(file) as reader:
            assert [found.text for found in search(reader, "oil")] == ["oil the press"]


@pytest.mark.parametrize("writes", [True, False])
def test_a_database_of_another_program_is_left_alone(tmp_path: Path, writes: bool) -> None:
    file = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE theirs (x)")
    before = file.read_bytes()
    with pytest.raises(KnowledgeError, match="of another program"):
        open_database(file, writes=writes)
    assert file.read_bytes() == before
    assert files(tmp_path) == ["other.sqlite"]


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    file = make_collection(tmp_path / "manuals.sqlite")
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(KnowledgeError, match="has format 99, this edgeslm reads up to 4"):
        open_database(file, writes=True)


@pytest.mark.parametrize("content", [b"no database, and longer than its header " * 100, b"SQLite"])
@pytest.mark.parametrize("writes", [True, False])
def test_what_is_no_database_is_said(tmp_path: Path, content: bytes, writes: bool) -> None:
    file = tmp_path / "manuals.sqlite"
    file.write_bytes(content)
    with pytest.raises(KnowledgeError, match="damaged or no collection"):
        open_database(file, writes=writes)
    assert file.read_bytes() == content


def test_a_damaged_collection_is_said_when_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "manuals.sqlite"
    document, passages = make_document("a.txt", *(f"oil {number}" for number in range(500)))
    with Collection(file, writes=True) as collection:
        collection.put(document, passages, make_origin())
    content = bytearray(file.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    file.write_bytes(content)
    with Collection(file) as collection, pytest.raises(KnowledgeError, match="is damaged"):
        search(collection, "oil")


def test_a_folder_that_can_t_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(KnowledgeError, match="can't be used: "):
        open_database(tmp_path / "file/manuals.sqlite", writes=True)


def test_an_empty_file_is_no_collection_yet(tmp_path: Path) -> None:
    """That is what a kill may leave of the first moment."""
    file = tmp_path / "manuals.sqlite"
    file.touch()
    with pytest.raises(KnowledgeError, match="there is no collection"):
        open_database(file, writes=False)
    make_collection(file)


def test_who_waits_too_long_for_another_writer_is_told(tmp_path: Path) -> None:
    file = make_collection(tmp_path / "manuals.sqlite")
    with Collection(file, writes=True) as collection, closing(sqlite3.connect(file)) as other:
        with collection.reading() as db:
            db.execute("PRAGMA busy_timeout = 0")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(KnowledgeError, match="being written to by another process"):
            collection.remove("a.txt")


def test_a_full_disk_is_said_and_leaves_what_was_there(tmp_path: Path) -> None:
    file = make_collection(tmp_path / "manuals.sqlite")
    document, passages = make_document("b.txt", *(f"{number} " * 400 for number in range(200)))
    with Collection(file, writes=True) as collection:
        with collection.reading() as db:
            db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0] + 20}")
        with pytest.raises(KnowledgeError, match=r"no space left on the disk; what was added before is kept"):
            collection.put(document, passages, make_origin())
        assert [entry.source for entry in collection.documents()] == ["a.txt"]


def test_an_sqlite_that_is_too_old_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 31, 1))
    with pytest.raises(KnowledgeError, match=r"collections need 3\.34 or newer"):
        open_database(tmp_path / "manuals.sqlite", writes=True)


def test_an_sqlite_without_its_search_for_words_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Without(sqlite3.Connection):
        def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
            if "fts5" in sql:
                raise sqlite3.OperationalError("no such module: fts5")
            return super().execute(sql, *values)  # type: ignore[arg-type]

    connect: Callable[..., sqlite3.Connection] = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kw: connect(*args, **kw, factory=Without))
    with pytest.raises(KnowledgeError, match="is built without FTS5"):
        open_database(tmp_path / "manuals.sqlite", writes=True)


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    file = make_collection(tmp_path / "manuals.sqlite")
    with closing(open_database(file, writes=True)) as db:
        with pytest.raises(ValueError), transaction(db, file, writes=True):
            db.execute("DELETE FROM documents")
            raise ValueError
        assert db.execute("SELECT count(*) FROM documents").fetchone() == (1,)


def test_an_error_of_no_kind_that_is_known_is_told_as_it_is() -> None:
    sentence = str(refusal(Path("manuals.sqlite"), sqlite3.OperationalError("disk I/O error")))
    assert sentence == "manuals.sqlite can't be used: disk I/O error"


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def test_only_its_owner_may_read_a_collection(tmp_path: Path) -> None:
    with Collection(tmp_path / "kb" / "notes", writes=True) as collection:
        collection.put(*make_document("# A note\nof somebody\n"), make_origin())
        found = modes(tmp_path / "kb")
        assert len(found) > 1, "the write-ahead log too"
        assert set(found.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "kb").stat().st_mode) == 0o700


def test_a_collection_that_others_could_read_by_default_is_taken_back(tmp_path: Path) -> None:
    file = tmp_path / "notes.sqlite"
    open_database(file, writes=True).close()
    file.chmod(0o644)
    open_database(file, writes=False).close()
    assert modes(tmp_path)["notes.sqlite"] == 0o644, "who reads changes nothing"
    open_database(file, writes=True).close()
    assert modes(tmp_path)["notes.sqlite"] == 0o600
    file.chmod(0o640)  # somebody's wish
    open_database(file, writes=True).close()
    assert modes(tmp_path)["notes.sqlite"] == 0o640


def test_an_open_collection_stays_locked_when_it_is_opened_again(tmp_path: Path) -> None:
    """A file of SQLite's must not be opened and closed beside it: its locks would be gone."""
    file = tmp_path / "notes.sqlite"
    with closing(open_database(file, writes=True)) as first:
        first.execute("BEGIN IMMEDIATE")
        file.chmod(0o644)
        open_database(file, writes=True).close()
        code = f"import sqlite3; sqlite3.connect({str(file)!r}, timeout=0).execute('BEGIN IMMEDIATE')"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "database is locked" in done.stderr
