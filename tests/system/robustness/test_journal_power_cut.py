"""A power cut takes what was never synced: what journal, spool and windows have then. A kill takes nothing.

A process writes entries and says after each that it is done; strace records it. Then the power is cut at many
points of the record: with all that wasn't synced gone, and with a part of it there, as a disk may have it.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgeslm.storage import database as database_module
from edgeslm.storage.database import Database
from edgeslm.storage.journal import Journal
from edgeslm.storage.spool import Spool
from edgeslm.storage.window_store import Gathered, Windows
from tests.support.fakes import make_delivery, make_key
from tests.support.unsynced import Call, CannotTrace, Disk, record, write_files

ENTRIES = 60
HALL = ("digest", "hall/digest")
WAL_PAGES = 40
"""Few, so that the pages move to the main file several times."""

Files = dict[Path, bytes]


def open_database(folder: Path) -> Database:
    database = Database(folder / "journal-hall.sqlite")
    database.open()
    return database


def open_journal(database: Database) -> Journal:
    journal = Journal(database, window_s=3600, limit_bytes=1_000_000)
    journal.open()
    return journal


def write_journal(folder: Path, done: Callable[[], None]) -> None:
    journal = open_journal(open_database(folder))
    for number in range(ENTRIES):
        journal.begin(make_key(number), 1)
        journal.finish(make_key(number), 1, b"result %d" % number)
        done()


def write_spool(folder: Path, done: Callable[[], None]) -> None:
    """Every second message is answered: what is removed is not synced, so it may come back."""
    database = open_database(folder)
    journal = open_journal(database)
    spool = Spool(database, limit_bytes=1_000_000)
    for number in range(ENTRIES):
        (spooled,) = spool.add([(make_delivery(b"text %d" % number, mid=number + 1), make_key(number))])
        done()
        if number % 2:
            journal.begin(make_key(number), 1)
            journal.finish(make_key(number), 1, b"result %d" % number)
            spool.remove(spooled)


def write_windows(folder: Path, done: Callable[[], None]) -> None:
    """Every tenth message completes a window."""
    windows = Windows(open_database(folder))
    for number in range(ENTRIES):
        windows.add([Gathered(HALL, str(number), f"text {number}", 0.0, make_key(number))])
        if number % 10 == 9:
            windows.complete(HALL)
        done()


def main() -> None:
    """The recorded process: one of the functions above in a folder."""
    database_module.WAL_PAGES = WAL_PAGES
    with (Path(sys.argv[2]).parent / "done").open("wb", buffering=0) as done:
        globals()[sys.argv[1]](Path(sys.argv[2]), lambda: done.write(b"."))


def moments(write: Callable[..., None], place: Path, chance: random.Random) -> Iterator[tuple[int, Disk]]:
    """The disk at about every third call of the process, with the number of entries that were done."""
    folder = place / "disk"
    folder.mkdir()
    code = "from tests.system.robustness import test_journal_power_cut; test_journal_power_cut.main()"
    try:
        calls = record([sys.executable, "-c", code, write.__name__, str(folder)], place)
    except CannotTrace as error:
        pytest.skip(str(error))
    disk = Disk(folder)
    done = 0
    for call in calls:
        disk.apply(call)
        done += is_done(call)
        if chance.random() < 0.3:
            yield done, disk
    assert done == ENTRIES
    yield done, disk


def cuts(disk: Disk, chance: random.Random) -> list[Files]:
    """All that wasn't synced is gone, or a part of it."""
    share = chance.random()
    return [disk.after_cut(), disk.after_cut(lambda: chance.random() < share)]


def is_done(call: Call) -> bool:
    return call.name == "write" and call.paths[0].name == "done"


def reopened(files: Files, place: Path) -> Database:
    """The database as the daemon opens it afterwards; it must not be a damaged one."""
    after = place / "after"
    write_files(files, place / "disk", after)
    database = open_database(after)
    assert not list(after.glob("*.damaged"))
    assert database.opened.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return database


def results(database: Database) -> list[bytes | None]:
    """What the journal has, in order; None for a request that is begun or unknown."""
    with closing(open_journal(database)) as journal:
        entries = [journal.find(make_key(number)) for number in range(ENTRIES)]
    return [entry.result if entry else None for entry in entries]


def test_a_power_cut_takes_the_last_entries_of_the_journal_and_damages_nothing(tmp_path: Path) -> None:
    chance = random.Random(1)
    lost = set()
    for done, disk in moments(write_journal, tmp_path, chance):
        for files in cuts(disk, chance):
            with closing(reopened(files, tmp_path)) as database:
                found = results(database)
            there = found.index(None) if None in found else ENTRIES
            assert found == [b"result %d" % number for number in range(there)] + [None] * (ENTRIES - there)
            lost.add(done - there)
    assert max(lost) > 0  # or nothing was tried
    assert max(lost) <= WAL_PAGES


def test_a_power_cut_takes_nothing_of_the_spool(tmp_path: Path) -> None:
    chance = random.Random(2)
    for done, disk in moments(write_spool, tmp_path, chance):
        for files in cuts(disk, chance):
            with closing(reopened(files, tmp_path)) as database:
                rows = database.opened.execute("SELECT payload FROM spool").fetchall()
                found = results(database)
            there = {payload for (payload,) in rows}
            assert there >= {b"text %d" % number for number in range(0, done, 2)}
            for number in range(1, done, 2):  # it may be back, and is answered again
                assert b"text %d" % number in there or found[number] is not None


def test_a_power_cut_takes_nothing_of_windows(tmp_path: Path) -> None:
    chance = random.Random(4)
    for done, disk in moments(write_windows, tmp_path, chance):
        for files in cuts(disk, chance):
            with closing(reopened(files, tmp_path)) as database:
                rows = dict(database.opened.execute("SELECT name, batch FROM windows").fetchall())
            assert rows.keys() >= {str(number) for number in range(done)}
            assert all(rows[str(number)] for number in range(done // 10 * 10)), "they are complete"


def test_a_kill_takes_nothing(tmp_path: Path) -> None:
    for done, disk in moments(write_journal, tmp_path, random.Random(3)):
        with closing(reopened(disk.after_kill(), tmp_path)) as database:
            assert None not in results(database)[:done]
