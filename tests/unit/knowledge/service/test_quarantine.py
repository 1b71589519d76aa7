"""Which files are left out, by their content."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.database import write_copy
from edgeslm.knowledge.service.quarantine import Quarantine
from tests.support.knowledge.collection_samples import make_origin

FILE, BAD = Path("/srv/a.pdf"), make_origin("bad")


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    with Collection(tmp_path / "kb", writes=True) as collection:
        yield collection


def test_it_is_kept_in_the_collection_s_file(collection: Collection) -> None:
    quarantine = Quarantine(collection)
    assert (quarantine.left_out(), quarantine.tries(FILE, BAD)) == (set(), 0)
    assert (quarantine.note(FILE, BAD), quarantine.left_out()) == (1, set())
    assert quarantine.note(Path("/mnt/b.PDF.gz"), BAD) == 2
    with Collection(collection.file) as reader:
        assert Quarantine(reader).left_out() == {("bad", ".pdf")}
        assert Quarantine(reader).tries(FILE, BAD) == 2
        assert Quarantine(reader).tries(FILE.with_suffix(".txt"), BAD) == 0, "another reader reads that"
    quarantine.release(FILE, BAD)
    assert quarantine.left_out() == set()


def test_the_oldest_are_forgotten(collection: Collection) -> None:
    quarantine = Quarantine(collection, most=3)
    for number in range(5):
        quarantine.note(FILE, make_origin(str(number)))
    assert [quarantine.tries(FILE, make_origin(str(number))) for number in range(5)] == [0, 0, 1, 1, 1]


def test_a_copy_has_none(collection: Collection, tmp_path: Path) -> None:
    Quarantine(collection).note(FILE, BAD)
    write_copy(collection.file, tmp_path / "copy.sqlite")
    with closing(sqlite3.connect(tmp_path / "copy.sqlite")) as db:
        assert not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'quarantine'").fetchone()
