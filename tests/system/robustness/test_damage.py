"""A damaged journal: all acknowledged messages that can be read are in the new one, whatever was damaged."""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from edgeslm.errors import JournalError
from edgeslm.storage import database as database_module
from edgeslm.storage.checksum import COVERED, is_sound, read_checksum
from edgeslm.storage.database import Database
from edgeslm.storage.encryption import Seal
from edgeslm.storage.journal import Journal
from edgeslm.storage.renewal import damaged_file
from edgeslm.storage.schema import PAGE_BYTES
from edgeslm.storage.set_aside import MOST, copies
from edgeslm.storage.spool import Damaged, Spool, Spooled
from edgeslm.storage.window_store import Gathered, Windows
from tests.support.disks import flip
from tests.support.fakes import FakeClock, make_delivery, make_key

NAME = "journal-hall.sqlite"
HALL, YARD = ("digest", "hall/digest"), ("digest", "yard/digest")
KEY = b"k" * 32
ROWS = 60

Damage = Callable[[Path, random.Random], None]


def open_database(folder: Path, seal: Seal | None = None) -> Database:
    database = Database(folder / NAME, seal=seal, clock=FakeClock())
    database.open()
    return database


def text_of(number: int) -> str:
    """Some reach into overflow pages."""
    return f"text {number} " + "word " * (number % 7 * 60)


def fill(database: Database) -> None:
    journal = Journal(database, window_s=3600, limit_bytes=10_000_000)
    journal.open()
    journal.begin_session()
    spool, windows = Spool(database, limit_bytes=10_000_000), Windows(database)
    for number in range(ROWS):
        for copy in range(3):
            journal.finish(make_key(1000 + 3 * number + copy), 1, b"a" * (number * 20))
        (row,) = spool.add([(make_delivery(text_of(number).encode(), mid=number + 1), make_key(number))])
        window = HALL if number % 2 else YARD
        windows.add([Gathered(window, f"m{number}", text_of(number), 1.0, make_key(5000 + number))])
        if number % 5 == 0:
            spool.remove(row)
        if number == ROWS // 2:
            windows.complete(HALL)


@pytest.fixture(scope="module", params=["closed", "killed", "closed and sealed", "killed and sealed"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Seal | None]:
    """A folder with a journal; of one that was killed, most is in the write-ahead log."""
    folder = tmp_path_factory.mktemp("made")
    seal = Seal(KEY) if "sealed" in request.param else None
    before = database_module.WAL_PAGES
    database_module.WAL_PAGES = 300  # so that both files have a part
    try:
        database = open_database(folder / "live", seal)
        fill(database)
    finally:
        database_module.WAL_PAGES = before
    if "killed" in request.param:
        shutil.copytree(folder / "live", folder / "there")
        assert (folder / "there" / f"{NAME}-wal").stat().st_size > 50_000
    database.close()
    if "closed" in request.param:
        shutil.copytree(folder / "live", folder / "there")
    return folder / "there", seal


def random_page(file: Path, chance: random.Random) -> None:
    with file.open("r+b") as stream:
        for _ in range(chance.choice((1, 1, 1, 4))):
            stream.seek(chance.randrange(max(1, file.stat().st_size // PAGE_BYTES)) * PAGE_BYTES)
            stream.write(chance.choice((chance.randbytes(PAGE_BYTES), bytes(PAGE_BYTES))))


def random_bytes(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(chance.choice((1, 1, 3, 20))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def another_page(file: Path, chance: random.Random) -> None:
    """What a card does that loses the table of its blocks."""
    content = file.read_bytes()
    pages = len(content) // PAGE_BYTES
    with file.open("r+b") as stream:
        one = chance.randrange(pages) * PAGE_BYTES
        stream.seek(chance.randrange(pages) * PAGE_BYTES)
        stream.write(content[one : one + PAGE_BYTES])


def cut_short(file: Path, chance: random.Random) -> None:
    os.truncate(file, chance.randrange(file.stat().st_size))


def first_page(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[chance.randrange(60 if chance.random() < 0.5 else PAGE_BYTES)] ^= 1 + chance.randrange(255)
    file.write_bytes(content)


DAMAGES: tuple[Damage, ...] = (random_page, random_page, random_bytes, another_page, cut_short, first_page)


def readable(folder: Path, seal: Seal | None) -> set[tuple[str, str]]:
    """What plain SQLite reads of the messages: all of a table from both ends, by number, by key. Rows that
    the damage changed are left out."""
    found: set[tuple[str, str]] = set()
    with closing(sqlite3.connect(folder / NAME)) as db:
        for table, text in (("spool", "payload"), ("windows", "text")):
            names = COVERED[table]
            query = f"SELECT {', '.join(names)}, id FROM {table}"
            single: list[tuple[str, tuple[int | bytes, ...]]]
            single = [(f"{query} WHERE id = ?", (number,)) for number in range(1, ROWS + 1)]
            keys = [make_key((5000 if table == "windows" else 0) + number) for number in range(ROWS)]
            single += [(f"{query} WHERE key = ?", (key,)) for key in keys]
            for statement, values in [(query, ()), (f"{query} ORDER BY id DESC", ()), *single]:
                with suppress(sqlite3.Error, UnicodeDecodeError):
                    for one in db.execute(statement, values):
                        row = dict(zip(names, one[:-1], strict=True))
                        with suppress(ValueError, AttributeError, TypeError, sqlite3.Error):
                            crc = read_checksum(db, table, one[-1])
                            if crc is not None and is_sound(table, row, crc, is_sealed=seal is not None):
                                found.add((table, text_in(table, row[text], row["topic"], seal)))
    wanted = {(table, text_of(number)) for table in ("spool", "windows") for number in range(ROWS)}
    return found & wanted


def text_in(table: str, content: str | bytes, topic: str, seal: Seal | None) -> str:
    raw = content.encode() if isinstance(content, str) else content
    return (raw if seal is None else seal.open(raw, f"{table} {topic}".encode())).decode()


def there(database: Database) -> set[tuple[str, str]]:
    """What the node will answer."""
    found: set[tuple[str, str]] = set()
    spool, windows, last = Spool(database, limit_bytes=10_000_000), Windows(database), 0
    while (spooled := spool.next(last)) is not None:
        last = spooled.id
        if isinstance(spooled, Spooled):
            found.add(("spool", spooled.delivery.payload.decode()))
    names = {(window.window, window.batch) for window in windows.stored()}
    for window, batch in names:
        found |= {("windows", message.text) for message in windows.read(window, batch)}
    return found


def use(database: Database) -> None:
    """It takes messages and answers; damage that is found only now may cost a try."""
    spool, windows = Spool(database, limit_bytes=10_000_000), Windows(database)
    assert isinstance(database.clock, FakeClock)
    for _ in range(4):
        with suppress(JournalError):
            spool.add([(make_delivery(b"after"), None)])
            windows.add([Gathered(HALL, "after", "after", 1.0)])
            break
        database.clock.now += 100
    assert {("spool", "after"), ("windows", "after")} <= there(database)


@pytest.mark.parametrize("seed", range(25))
def test_random_damage_loses_no_message_that_can_be_read(
    made: tuple[Path, Seal | None], seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Four kinds of journals, 25 seeds, ten damages: a thousand."""
    caplog.set_level(logging.CRITICAL)
    source, seal = made
    for case in range(10):
        chance = random.Random(seed * 100 + case)
        damaged, oracle = tmp_path / f"{case}", tmp_path / f"{case}-oracle"
        shutil.copytree(source, damaged)
        files = sorted(damaged.glob(f"{NAME}*"))
        chance.choice(DAMAGES)(chance.choice(files), chance)
        before = {file.name: file.read_bytes() for file in files}
        shutil.copytree(damaged, oracle)
        expected = readable(oracle, seal)
        try:
            database = open_database(damaged, seal)
        except JournalError as error:  # a bit of the number of the format
            assert "later version" in str(error)
            assert {file.name: file.read_bytes() for file in files} == before
            continue
        with closing(database):
            assert expected - there(database) == set()
            use(database)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A folder with a filled journal that was closed."""
    with closing(open_database(tmp_path / "state")) as database:
        fill(database)
    return tmp_path / "state"


def spoil(folder: Path, text: bytes) -> None:
    """Overwrites the page of the main file on which a text begins."""
    content = bytearray((folder / NAME).read_bytes())
    page = content.index(text) // PAGE_BYTES * PAGE_BYTES
    content[page : page + PAGE_BYTES] = b"\xff" * PAGE_BYTES
    (folder / NAME).write_bytes(content)


def test_a_bad_page_among_the_answers_costs_no_message(plain: Path) -> None:
    spoil(plain, b"a" * 100)
    expected = readable(plain, None)
    assert len(expected) == 2 * ROWS - ROWS // 5
    with closing(open_database(plain)) as database:
        assert there(database) == expected
        assert database.damage is not None
        assert "48 waiting messages, 60 of windows" in database.damage
        assert "journal-hall.damaged-1" in database.damage


def test_damage_found_while_it_runs_costs_no_message_that_can_be_read(plain: Path) -> None:
    with closing(open_database(plain)) as database:
        database.opened.execute("PRAGMA cache_size = 0")
        spoil(plain, b"text 33 ")
        expected = {("spool", text_of(33)), *there(database)}
        assert len(expected) >= ROWS - ROWS // 5
        assert database.damage is not None
        assert len(copies(plain / NAME)) == 1
        use(database)
        assert database.read("SELECT epoch FROM session") == (1,)


def _header_of(content: bytearray, key: int) -> int:
    """The place of the record header of a row, whose key is at ``key``."""
    return key - next(size for size in range(8, 24) if content[key - size] == size)


def _renumber(file: Path, row: int, number: int) -> None:
    """Writes another number over that of row ``row`` of the spool. Rows are counted from 0, have the key
    ``make_key(row)`` and the number ``row + 1``."""
    content = bytearray(file.read_bytes())
    header = _header_of(content, content.index(make_key(row)))
    assert content[header - 1] == row + 1
    content[header - 1] = number
    file.write_bytes(content)


@pytest.mark.parametrize("is_text_changed", [False, True])
def test_a_row_whose_number_is_damaged_is_checked_by_any_checksum(
    is_text_changed: bool, tmp_path: Path
) -> None:
    with closing(open_database(tmp_path)) as database:
        spool = Spool(database, limit_bytes=10_000_000)
        for number in range(3):
            spool.add([(make_delivery(f"text {number}".encode()), make_key(number))])
    _renumber(tmp_path / NAME, 1, 1)
    if is_text_changed:
        content = (tmp_path / NAME).read_bytes()
        (tmp_path / NAME).write_bytes(content.replace(b"text 1", b"text 9"))
    with closing(open_database(tmp_path)) as database:
        spool = Spool(database, limit_bytes=10_000_000)
        first, second, moved = (spool.next(after) for after in (0, 2, 3))
    assert isinstance(first, Spooled) and first.delivery.payload == b"text 0"
    assert isinstance(second, Spooled) and second.delivery.payload == b"text 2"
    if is_text_changed:
        assert isinstance(moved, Damaged)
    else:
        assert isinstance(moved, Spooled) and moved.delivery.payload == b"text 1"


def test_two_messages_of_the_same_text_stay_two_if_a_row_number_is_damaged(tmp_path: Path) -> None:
    with closing(open_database(tmp_path)) as database:
        spool = Spool(database, limit_bytes=10_000_000)
        for number in range(2):
            spool.add([(make_delivery(b"18.5"), make_key(number))])
    _renumber(tmp_path / NAME, 1, 1)
    with closing(open_database(tmp_path)) as database:
        spool = Spool(database, limit_bytes=10_000_000)
        found = [spool.next(after) for after in (0, 1)]
    assert [isinstance(row, Spooled) and row.key for row in found] == [make_key(0), make_key(1)]


def test_a_row_that_took_the_number_of_the_next_one_costs_no_message(tmp_path: Path) -> None:
    with closing(open_database(tmp_path)) as database:
        spool = Spool(database, limit_bytes=10_000_000)
        for number in range(3):
            spool.add([(make_delivery(f"text {number}".encode()), make_key(number))])
    _renumber(tmp_path / NAME, 0, 2)
    with closing(open_database(tmp_path)) as database:
        spool = Spool(database, limit_bytes=10_000_000)
        last = 0
        found: list[bytes] = []
        while (row := spool.next(last)) is not None:
            assert isinstance(row, Spooled)
            assert not found or row.id == 3 or row.id > 1_000_000, "a running node would miss it"
            last = row.id
            found.append(row.delivery.payload)
    assert sorted(found) == [b"text 0", b"text 1", b"text 2"]


def test_a_row_that_is_twice_in_the_file_stays_one_though_the_key_of_one_is_damaged(tmp_path: Path) -> None:
    with closing(open_database(tmp_path)) as database:
        Spool(database, limit_bytes=10_000_000).add([(make_delivery(b"text"), make_key(0))])
        query = "SELECT name, rootpage FROM sqlite_master WHERE type = 'table'"
        start = {name: (page - 1) * PAGE_BYTES for name, page in database.all_rows(query)}
    content = bytearray((tmp_path / NAME).read_bytes())
    spool, requests = (slice(start[name], start[name] + PAGE_BYTES) for name in ("spool", "requests"))
    content[requests] = content[spool]
    header = _header_of(content, content.index(make_key(0), start["spool"]))
    assert content[header + 2] == 44, "a blob of 16 bytes"
    content[header + 2] = 45  # a text as long
    (tmp_path / NAME).write_bytes(content)
    with closing(open_database(tmp_path)) as database:
        assert database.damage is not None
        assert database.all_rows("SELECT count(*) FROM spool") == [(1,)]


def test_a_journal_of_a_later_format_is_refused_and_not_touched(plain: Path) -> None:
    with closing(sqlite3.connect(plain / NAME)) as db:
        db.execute("PRAGMA user_version = 3")
        db.execute("PRAGMA journal_mode = DELETE")
    before = {file.name: file.read_bytes() for file in plain.iterdir()}
    with pytest.raises(JournalError, match="format 3, of a later version of edgeslm"):
        open_database(plain)
    assert {file.name: file.read_bytes() for file in plain.iterdir()} == before


def test_damaged_copies_are_numbered_and_not_overwritten(plain: Path) -> None:
    (first := plain / "journal-hall.damaged").write_text("of version 0.1.0")
    for number in range(1, MOST + 2):
        with (plain / NAME).open("r+b") as stream:
            stream.write(b"damage %d" % number)
        open_database(plain).close()
        copy = plain / f"journal-hall.damaged-{number}"
        assert copy.read_bytes().startswith(b"damage %d" % number)
        assert first.exists() == (number < MOST)
    assert len(copies(plain / NAME)) == MOST
    with closing(open_database(plain)) as database:
        assert len(there(database)) == 2 * ROWS - ROWS // 5, "through nine damages"


def test_a_damaged_file_keeps_its_log(plain: Path) -> None:
    database = open_database(plain)
    Spool(database, limit_bytes=10_000_000).add([(make_delivery(b"in the log"), None)])
    shutil.copytree(plain, killed := plain.parent / "killed")
    database.close()
    spoil(killed, b"a" * 100)
    with closing(open_database(killed)) as database:
        assert ("spool", "in the log") in there(database)
    kept = [file.read_bytes() for file in killed.glob("journal-hall.damaged-1*")]
    assert b"in the log" in b"".join(kept)


@pytest.mark.parametrize("done", range(4))
def test_a_power_cut_between_the_steps_of_setting_aside_loses_nothing(
    plain: Path, done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first so many renames are done."""
    spoil(plain, b"a" * 100)
    expected = readable(plain, None)
    rename, count = Path.replace, 0

    def cut(old: Path, new: Path) -> Path:
        nonlocal count
        count += old.suffix in (".sqlite", ".sqlite-wal", ".salvaged")
        if count > done:
            raise OSError(errno.EIO, "the power is cut")
        return rename(old, new)

    monkeypatch.setattr(Path, "replace", cut)
    with suppress(JournalError):
        open_database(plain).close()
    monkeypatch.undo()
    with closing(open_database(plain)) as database:
        assert there(database) >= expected


def test_a_text_that_is_no_utf_8_any_more_is_left_out_and_costs_no_other_one(plain: Path) -> None:
    with closing(open_database(plain)) as database:
        flip(database, "UPDATE windows SET text = CAST(x'ff61' AS TEXT) WHERE id = 5")
        found = {text for table, text in there(database) if table == "windows"}
        assert len(found) == ROWS - 1
        assert (
            database.damage == "The disk changed 1 window message in the journal; look at this node's disk."
        )


def test_a_full_disk_leaves_the_damaged_file_in_place(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(plain, b"a" * 100)
    before = (plain / NAME).read_bytes()

    def full(file: Path) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(database_module, "write_draft", full)
    with pytest.raises(JournalError, match=r"is damaged and can't be rebuilt .*disk is full.*make room"):
        open_database(plain)
    assert (plain / NAME).read_bytes() == before
    assert copies(plain / NAME) == []


def test_a_lost_mark_of_the_encryption_encrypts_nothing_twice(tmp_path: Path) -> None:
    seal = Seal(KEY)
    with closing(open_database(tmp_path, seal)) as database:
        fill(database)
        expected = there(database)
        assert len(expected) == 2 * ROWS - ROWS // 5
        database.write("DELETE FROM mark")
    with closing(sqlite3.connect(tmp_path / NAME)) as db:
        db.execute("PRAGMA user_version = 1")
    with closing(open_database(tmp_path, seal)) as database:
        assert there(database) == expected


def test_without_mark_and_key_an_encrypted_file_is_known_by_its_format(tmp_path: Path) -> None:
    with closing(open_database(tmp_path, Seal(KEY))) as database:
        fill(database)
        database.write("DELETE FROM mark")
    with pytest.raises(JournalError, match="is encrypted: name its key"):
        open_database(tmp_path)
    with pytest.raises(JournalError, match="was encrypted with another key"):
        open_database(tmp_path, Seal(b"o" * 32))


def test_a_journal_that_another_daemon_makes_anew_is_in_use(plain: Path) -> None:
    with damaged_file(plain / NAME):
        script = (
            "import sys\nfrom pathlib import Path\n"
            "from tests.system.robustness.test_damage import open_database\n"
            "open_database(Path(sys.argv[1]))\n"
        )
        command = [sys.executable, "-c", script, str(plain)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "is in use" in done.stderr
