"""The simulated disk: what a killed process and a power cut leave."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgeslm.storage.database import Database
from tests.simulation.disk import Disk
from tests.simulation.loop import SimLoop
from tests.simulation.patches import simulated


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


def test_a_disk_without_room_refuses_writes(disk: Disk) -> None:
    database = journal(disk)
    disk.fault = lambda operation: sqlite3.SQLITE_FULL if operation == "write" else 0
    with pytest.raises(sqlite3.OperationalError, match="full"):
        database.opened.execute("UPDATE session SET epoch = 3")
    disk.fault = lambda operation: 0
    assert epoch(database) == 0
