"""The simulated disk: what a killed process and a power cut leave."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgeslm.storage import renewal
from edgeslm.storage.database import Database
from tests.simulation.disk import Disk, bit_of_a_row
from tests.simulation.loop import SimLoop
from tests.simulation.patches import simulated
from tests.simulation.synced_file import SyncedFile


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "state"
    folder.mkdir()
    with closing(SimLoop()) as loop, simulated(loop, 0):
        disk = Disk(folder)
        yield disk
        disk.remove()


def journal(disk: Disk) -> Database:
    database = Database(disk.folder / "journal.sqlite")
    database.open()
    return database


def epoch(database: Database) -> int:
    return int(database.read("SELECT epoch FROM session")[0])


def test_a_killed_process_leaves_what_it_wrote_and_writes_no_more(disk: Disk) -> None:
    database = journal(disk)
    database.write("UPDATE session SET epoch = 7")
    disk.turn_off()
    with pytest.raises(sqlite3.OperationalError):
        database.opened.execute("UPDATE session SET epoch = 8")
    disk.turn_on()
    assert epoch(journal(disk)) == 7
    with pytest.raises(sqlite3.OperationalError):  # the dead process, on a disk that is in use again
        database.opened.execute("UPDATE session SET epoch = 9")


def test_a_power_cut_takes_what_was_not_synced_and_damages_nothing(disk: Disk) -> None:
    found = set()
    database = journal(disk)
    for seed in range(60):
        with database.synced() as db:
            db.execute("UPDATE session SET epoch = 1")
        database.write("UPDATE session SET epoch = 2")
        disk.turn_off()
        disk.cut_power(random.Random(seed))
        disk.turn_on()
        database = journal(disk)
        assert database.damage is None
        found.add(epoch(database))
    assert found == {1, 2}


def test_a_page_in_which_a_bit_is_flipped_stays_bad(disk: Disk) -> None:
    database = journal(disk)
    database.write(
        "INSERT INTO spool (at, topic, payload, retain, size, identifiers) VALUES (0, 't', ?, 0, 1, '')",
        b"\0" * 400,
    )
    database.scrub()
    database.close()

    def spoil(page: bytes) -> int | None:
        return 8 * 300 if b"\0" * 400 in page else None

    disk.spoil = spoil
    for _ in range(2):
        database = journal(disk)
        (payload,) = database.read("SELECT payload FROM spool")
        assert sum(byte.bit_count() for byte in payload) == 1
        database.close()
        disk.spoil = lambda page: None


def test_bits_are_flipped_in_rows_only() -> None:
    leaf = bytes([13, 0, 0, 0, 1, 1, 144]) + bytes(505)  # the rows begin at 400
    assert all(8 * 400 <= (bit_of_a_row(leaf, random.Random(seed)) or 0) < 8 * 512 for seed in range(50))
    assert bit_of_a_row(bytes([5]) + leaf[1:], random.Random(0)) is None
    assert bit_of_a_row(bytes(512), random.Random(0)) is None


def test_a_disk_without_room_refuses_writes(disk: Disk) -> None:
    database = journal(disk)
    disk.fault = lambda operation: sqlite3.SQLITE_FULL if operation == "write" else 0
    with pytest.raises(sqlite3.OperationalError, match="full"):
        database.opened.execute("UPDATE session SET epoch = 3")
    disk.fault = lambda operation: 0
    assert epoch(database) == 0


def test_a_power_cut_undoes_a_truncation_as_a_whole(tmp_path: Path) -> None:
    content = bytes(range(1, 251)) * 20
    for seed in range(20):
        file = SyncedFile("", os.open(tmp_path / str(seed), os.O_RDWR | os.O_CREAT))
        file.write(content, 0)
        file.is_synced()
        file.truncate(0)
        file.write(b"later", 0)
        file.lose(random.Random(seed))
        left = os.pread(file.fd, 9999, 0)
        os.close(file.fd)
        assert left == content or len(left) <= len(b"later"), seed


def test_a_file_that_the_product_syncs_itself_outlives_a_power_cut(disk: Disk) -> None:
    file = disk.opened(str(disk.folder / "draft.sqlite"))
    disk.write(file, b"content", 0)
    vars(renewal)["sync"](Path(file.path))
    disk.turn_off()
    disk.cut_power(random.Random(1))
    assert Path(file.path).read_bytes() == b"content"
