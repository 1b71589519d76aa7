from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edgeslm.errors import JournalError
from edgeslm.storage.database import Database
from edgeslm.storage.journal import LOST_NODE, Journal, JournalEntry
from edgeslm.storage.spool import Spool, Spooled
from tests.support.fakes import FakeClock, make_delivery, make_key

KEY, OTHER = b"k" * 16, b"o" * 16


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal-hall.sqlite"


def make(file: Path, clock: FakeClock | None = None) -> tuple[Database, Journal]:
    database = Database(file, clock=clock or FakeClock())
    database.open()
    journal = Journal(database, window_s=60.0, limit_bytes=1_000_000)
    journal.open()
    return database, journal


def test_one_file_is_for_one_daemon(file: Path) -> None:
    database, _ = make(file)
    with pytest.raises(JournalError, match="another daemon runs with this node's name"):
        make(file)
    database.close()


def test_a_folder_that_can_t_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no folder")
    with pytest.raises(JournalError, match="state_dir"):
        make(tmp_path / "state" / "journal.sqlite")


@pytest.mark.parametrize("content", [b"no database, and longer than its header " * 100, b"SQLite"])
def test_a_damaged_file_is_set_aside(file: Path, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    database, journal = make(file)
    journal.finish(KEY, 1, b"answer")
    assert journal.find(KEY) == JournalEntry(1, b"answer")
    database.close()
    assert file.with_suffix(".damaged-1").read_bytes() == content


def test_a_file_damaged_while_it_runs_is_set_aside(file: Path) -> None:
    clock = FakeClock()
    database, journal = make(file, clock)
    for number in range(3000):
        journal.finish(make_key(number), 1, b"a" * 200)
    size = file.stat().st_size
    with file.open("r+b") as damaged:
        damaged.seek(2048)
        damaged.write(os.urandom(size - 2048))
    database.opened.execute("PRAGMA cache_size = 0")
    found = [journal.find(make_key(number)) for number in range(3000)]
    assert None in found
    assert file.with_suffix(".damaged-1").exists()
    clock.now += 2
    journal.begin(KEY, 1)
    journal.finish(KEY, 1, b"answer")
    assert (journal.find(KEY), database.problem) == (JournalEntry(1, b"answer"), None)
    (number,) = Spool(database, limit_bytes=1_000_000).add([(make_delivery(), None)])
    assert number > 1_000_000, "a number of the old file is used again"
    database.close()


def test_what_was_written_outlives_kill_9(file: Path) -> None:
    script = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from tests.integration.storage.test_database import make\n_, journal = make(Path(sys.argv[1]))\n"
        "journal.begin(b'k' * 16, 1)\njournal.finish(b'o' * 16, 1, b'answer')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(file)], check=False)
    assert done.returncode == -signal.SIGKILL
    database, journal = make(file)
    assert journal.find(KEY) == JournalEntry(1 + LOST_NODE, None)
    assert journal.find(OTHER) == JournalEntry(1, b"answer")
    database.close()


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    database = Database(tmp_path / "state" / "journal.sqlite")
    database.open()
    try:
        database.write("UPDATE session SET epoch = 1")
        files = list((tmp_path / "state").iterdir())
        assert len(files) > 1, "the write-ahead log too"
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    finally:
        database.close()


@pytest.mark.parametrize("name", [b"(route, topic, batch)", b"payload BLOB NOT NULL", b"attempts INTEGER"])
@pytest.mark.parametrize("bit", [0, 7])
def test_a_schema_in_which_a_bit_is_flipped_is_damage(file: Path, name: bytes, bit: int) -> None:
    """With bit 7 it is no UTF-8 any more."""
    database, journal = make(file)
    journal.finish(b"k" * 16, 0, b"a result")
    database.close()
    content = bytearray(file.read_bytes())
    content[content.index(name) + len(name) - 3] ^= 1 << bit
    file.write_bytes(content)
    database, journal = make(file)
    assert database.damage is not None and "The journal was damaged" in database.damage
    assert journal.find(b"k" * 16) is not None
    database.close()


def test_a_schema_that_the_disk_changes_while_it_runs_is_damage(file: Path) -> None:
    clock = FakeClock()
    database, _journal = make(file, clock)
    spool = Spool(database, limit_bytes=1_000_000)
    spool.add([(make_delivery(b"first"), None)])
    database.opened.execute("PRAGMA writable_schema = ON")
    database.opened.execute(
        "UPDATE sqlite_schema SET sql = replace(sql, 'topic', 'uopic') WHERE name = 'spool'"
    )
    (version,) = database.opened.execute("PRAGMA schema_version").fetchone()
    database.opened.execute(f"PRAGMA schema_version = {version + 1}")
    with pytest.raises(JournalError):
        spool.add([(make_delivery(b"second"), None)])
    clock.now += 2
    spool.add([(make_delivery(b"third"), None)])
    assert database.problem is None
    first = spool.next(0)
    assert isinstance(first, Spooled) and first.delivery.payload == b"first"
    database.close()
