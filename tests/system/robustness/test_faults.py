"""A fault at every call by which journal, spool and windows read and write: nothing acknowledged is lost.

A process with a preloaded library (``tests/support/faults.cpp``) does some work, once for each call that it
makes: that call fails. What it said to be acknowledged is looked for afterwards, when the disk is well again.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from edgeslm.errors import JournalError
from edgeslm.storage import database as database_module
from edgeslm.storage.database import Database
from edgeslm.storage.journal import Journal
from edgeslm.storage.spool import Spool
from edgeslm.storage.window_store import Gathered, Windows
from tests.support.fakes import FakeClock, make_delivery, make_key
from tests.support.paths import ROOT

SOURCE = ROOT / "tests/support/faults.cpp"
KINDS = {"short write": 1, "no space": 2, "I/O error": 3, "bad page": 4, "disk that stays bad": 5}
HALL = ("digest", "hall/digest")
ROUNDS = 4
KEYS_OF_WINDOWS = 500
OFFSETS = {"spool": 0, "windows": KEYS_OF_WINDOWS}
Acknowledged = dict[str, set[int]]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++")
    assert compiler is not None, "g++ isn't installed; install it, or run scripts/setup test"
    made = tmp_path_factory.mktemp("faults") / "faults.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(made), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True, timeout=120)
    return made


def text_of(number: int, table: str = "spool") -> str:
    return f"{table} {number} " + "long " * (number % 4 * 100)


def work(folder: Path, kept: Acknowledged, blank: str = "") -> None:
    """Notes what was acknowledged and not answered; ends when the journal can't be opened, as a node does."""
    kept |= {"spool": set(), "windows": set()}
    clock = FakeClock()
    with closing(Database(folder / "journal-hall.sqlite", clock=clock)) as database:
        serve(database, clock, kept, blank)


def serve(database: Database, clock: FakeClock, kept: Acknowledged, blank: str) -> None:
    for part in range(2):  # the second opens what the first has left
        try:
            database.open()
            journal = Journal(database, window_s=3600, limit_bytes=1_000_000)
            journal.open()
        except JournalError:
            return
        journal.begin_session()
        spool, windows = Spool(database, limit_bytes=1_000_000), Windows(database)
        for number in range(part * ROUNDS, (part + 1) * ROUNDS):
            clock.now += 2
            with suppress(JournalError):
                (row,) = spool.add(
                    [(make_delivery((text_of(number) + blank).encode(), mid=number + 1), make_key(number))]
                )
                kept["spool"].add(number)
                if number % 3 == 0:
                    journal.begin(make_key(number), 1)
                    journal.finish(make_key(number), 1, b"answer")
                    spool.remove(row)
                    kept["spool"].discard(number)
            with suppress(JournalError):
                windows.add(
                    [Gathered(HALL, f"m{number}", text_of(number), 1.0, make_key(KEYS_OF_WINDOWS + number))]
                )
                kept["windows"].add(number)
            if number % 5 == 4:
                with suppress(JournalError):
                    windows.complete(HALL)
        journal.close()
        database.close()


def there(folder: Path) -> Acknowledged:
    with closing(Database(folder / "journal-hall.sqlite", clock=FakeClock())) as database:
        database.open()
        found: Acknowledged = {}
        for table, offset in OFFSETS.items():
            rows = database.all_rows(f"SELECT key FROM {table}")
            numbers = {make_key(offset + number): number for number in range(2 * ROUNDS)}
            found[table] = {numbers[key] for (key,) in rows if key in numbers}
        return found


def plainly_readable(folder: Path, table: str) -> set[int]:
    """Rows that plain SQLite reads of the journal and of copies that were set aside."""
    numbers = {make_key(OFFSETS[table] + number): number for number in range(2 * ROUNDS)}
    found = set()
    shutil.copytree(folder, copy := folder.with_name("copy"))
    for file in [copy / "journal-hall.sqlite", *copy.glob("*.damaged-?")]:
        with closing(sqlite3.connect(file)) as db:
            query = f"SELECT key, * FROM {table}"
            single = [(f"{query} WHERE id = ?", (number,)) for number in range(1, 4 * ROUNDS)]
            for statement, values in [(query, ()), (f"{query} ORDER BY id DESC", ()), *single]:
                with suppress(sqlite3.Error):
                    found |= {numbers[row[0]] for row in db.execute(statement, values) if row[0] in numbers}
    shutil.rmtree(copy)
    return found


def main() -> None:
    """The preloaded process: a kind of fault at each call, in a folder. Prints how many calls were tried."""
    folder, kind = Path(sys.argv[1]), int(sys.argv[2])
    database_module.WAL_PAGES = 20  # so that pages move to the main file too
    fault = ctypes.CDLL(None).edgeslm_fault
    fault.restype = ctypes.c_long
    lost: list[str] = []
    fault(0, kind)
    work(folder / "counted", {})
    calls = int(fault(0, 0))
    for call in range(1, calls + 1):
        place = folder / str(call)
        fault(call, kind)
        kept: Acknowledged = {}
        work(place, kept)
        fault(0, 0)
        left = {table: plainly_readable(place, table) for table in OFFSETS}
        found = there(place)
        for table in ("spool", "windows"):
            missing = kept[table] - found[table]
            if kind == KINDS["bad page"]:
                # SQLite moves a page from its log to the file without a look at it: what a bad read destroyed
                # there is nowhere any more.
                missing &= left[table]
            if missing:
                lost.append(f"call {call}: {table} {sorted(missing)}")
        shutil.rmtree(place)
    print(json.dumps({"calls": calls, "lost": lost}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_at_any_call_loses_nothing_acknowledged(kind: str, library: Path, tmp_path: Path) -> None:
    code = "from tests.system.robustness import test_faults; test_faults.main()"
    command = [sys.executable, "-c", code, str(tmp_path), str(KINDS[kind])]
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["calls"] > 300, "the library was not preloaded"
    assert told["lost"] == []


def main_without_memory() -> None:
    """The same work with less and less memory. Prints how often there was too little."""
    folder, refused, lost = Path(sys.argv[1]), 0, []
    blank = " " * 900_000
    work(folder / "tried", {}, blank)
    (pages, *_) = Path("/proc/self/statm").read_text().split()
    for extra in range(0, 16 << 20, 256 << 10):
        place = folder / str(extra)
        kept: Acknowledged = {}
        resource.setrlimit(resource.RLIMIT_AS, (int(pages) * resource.getpagesize() + extra, -1))
        try:
            work(place, kept, blank)
        except MemoryError:
            refused += 1
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        refused += any(len(numbers) < ROUNDS for numbers in kept.values())
        found = there(place)
        lost += [f"{extra}: {table}" for table in OFFSETS if kept.get(table, set()) - found[table]]
        shutil.rmtree(place)
    print(json.dumps({"refused": refused, "lost": lost}))


def test_too_little_memory_loses_nothing_acknowledged(tmp_path: Path) -> None:
    code = "from tests.system.robustness import test_faults; test_faults.main_without_memory()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["refused"] > 0, "there was enough"
    assert told["lost"] == []
