from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.storage.database import Database
from edgeslm.storage.journal import LOST_NODE, Journal, JournalEntry, delivery_key, reader_key, request_key
from edgeslm.storage.spool import Spool
from tests.support.disks import flip
from tests.support.fakes import FakeClock, make_delivery, make_key

KEY, OTHER = b"k" * 16, b"o" * 16


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def database(tmp_path: Path, clock: FakeClock) -> Iterator[Database]:
    database = Database(tmp_path / "state" / "journal-hall.sqlite", clock=clock)
    database.open()
    yield database
    database.close()


def make(database: Database, **changes: Any) -> Journal:
    journal = Journal(database, **{"window_s": 60.0, "limit_bytes": 1_000_000, **changes})
    journal.open()
    return journal


@pytest.fixture
def journal(database: Database) -> Journal:
    return make(database)


def restart(database: Database) -> Journal:
    database.close()
    database.open()
    return make(database)


# Keys


def test_the_same_request_has_the_same_key() -> None:
    key = request_key("r", b"42", "t", b"x")
    assert key == request_key("r", b"42", "t", b"x")
    others = [request_key(*other) for other in (("q", b"42", "t", b"x"), ("r", b"43", "t", b"x"))]
    others += [request_key("r", b"42", "u", b"x"), request_key("r", b"42", "t", b"y")]
    others += [request_key("r4", b"2", "t", b"x")]
    assert len({key, *others}) == 6


def test_a_message_is_named_by_session_packet_identifier_and_content() -> None:
    key = delivery_key(1, make_delivery())
    assert key == delivery_key(1, make_delivery(dup=True, generation=9, received_at=6.0, expiry_s=3))
    others = [
        delivery_key(2, make_delivery()),
        delivery_key(1, make_delivery(mid=8)),
        delivery_key(1, make_delivery(b"y")),
    ]
    others += [delivery_key(1, make_delivery(topic="t")), delivery_key(1, make_delivery(response_topic="r"))]
    others += [reader_key(key, "a"), reader_key(key, "b")]
    assert len({key, *others}) == 8


# Requests


def test_a_request_is_remembered_over_a_restart(
    journal: Journal, database: Database, clock: FakeClock
) -> None:
    assert journal.find(KEY) is None
    journal.begin(KEY)
    journal.finish(KEY, 1, b"answer")
    journal.begin(OTHER)
    journal = restart(database)
    assert journal.find(KEY) == JournalEntry(1, b"answer")
    assert journal.find(OTHER) == JournalEntry(LOST_NODE, None), "it was being run"
    journal.begin(OTHER, LOST_NODE + 1)
    journal = restart(database)
    assert journal.find(OTHER) == JournalEntry(2 * LOST_NODE + 1, None)
    journal.finish(OTHER, 0, None)
    assert journal.find(OTHER) == JournalEntry(0, None)


def test_what_was_run_when_the_process_ended_has_a_try_more(journal: Journal, database: Database) -> None:
    keys = [make_key(number) for number in range(1, 101)]
    for key in keys[:50]:
        journal.begin(key)
    for key in keys[:48]:
        journal.finish(key, 1, b"answer")
    journal = restart(database)
    assert [key for key in keys if journal.find(key) == JournalEntry(LOST_NODE, None)] == keys[48:50]


@pytest.mark.parametrize(
    "damage",
    [
        "result = x'00'",
        "result = 'text'",
        "result = NULL",
        "attempts = 4",
        "attempts = x'ff'",
        "key = x'ff'",
        "key = CAST(x'ff' AS TEXT)",
    ],
)
def test_an_answer_that_the_disk_changed_is_not_sent(database: Database, damage: str) -> None:
    make(database).finish(KEY, 1, b"a result")
    flip(database, f"UPDATE requests SET {damage}")
    journal = restart(database)
    assert journal.find(KEY) is None
    journal.tidy()
    journal.finish(KEY, 0, b"a result of the second run")
    assert journal.find(KEY) == JournalEntry(0, b"a result of the second run")


def test_a_changed_time_ends_no_node(database: Database) -> None:
    make(database).finish(KEY, 1, b"a result")
    database.write("UPDATE requests SET at = CAST(x'ff' AS TEXT)")
    journal = restart(database)
    journal.finish(OTHER, 1, b"another")
    journal.tidy()
    assert journal.find(OTHER) == JournalEntry(1, b"another")


def test_an_answer_that_the_disk_changes_while_it_runs_is_told_once(
    journal: Journal, database: Database
) -> None:
    journal.finish(KEY, 1, b"a result")
    flip(database, "UPDATE requests SET result = x'00'")
    assert [journal.find(KEY) for _ in range(3)] == [None] * 3
    assert database.damage == "The disk changed 1 answer in the journal; look at this node's disk."


def test_an_entry_of_an_earlier_version_has_no_checksum(database: Database) -> None:
    journal = make(database)
    journal.finish(KEY, 1, b"a result")
    journal.finish(OTHER, 2, None)
    database.write("DELETE FROM checksums")
    assert journal.find(KEY) == JournalEntry(1, b"a result")
    assert journal.find(OTHER) == JournalEntry(2, None)


def test_requests_are_forgotten_after_the_window(journal: Journal, clock: FakeClock) -> None:
    journal.finish(KEY, 1, b"answer")
    clock.now += 59
    assert journal.find(KEY) is not None
    clock.now += 2
    assert journal.find(KEY) is None


def test_the_window_does_not_run_while_the_node_is_down(
    journal: Journal, database: Database, clock: FakeClock
) -> None:
    """Nor does it follow the wall clock, which may jump."""
    journal.finish(KEY, 1, b"answer")
    clock.now += 10
    journal.finish(OTHER, 1, b"answer")
    database.close()
    clock.now = 5.0  # another boot of the machine
    journal = restart(database)
    clock.now += 49
    assert journal.find(KEY) is not None
    clock.now += 2
    assert (journal.find(KEY), journal.find(OTHER)) == (None, JournalEntry(1, b"answer"))


def test_old_requests_leave_the_file(journal: Journal, database: Database, clock: FakeClock) -> None:
    for number in range(1000):
        journal.finish(make_key(number), 1, b"answer")
    clock.now += 100
    for number in range(1000, 1300):
        journal.finish(make_key(number), 1, b"answer")
    assert database.read("SELECT count(*), max(at) - min(at) FROM requests") == (300, 0.0)


@pytest.mark.parametrize(("count", "size"), [(5000, 400), (100, 50_000), (5000, 0)])
def test_the_size_is_bounded_and_the_newest_are_kept(database: Database, count: int, size: int) -> None:
    journal = make(database, limit_bytes=200_000)
    for number in range(count):
        journal.finish(make_key(number), 1, b"a" * size)
    assert journal.find(make_key(count - 1)) is not None
    assert journal.find(make_key(0)) is None
    restart(database)
    database.close()
    assert database.file.stat().st_size < 500_000


def test_tries_are_remembered_without_a_window(database: Database) -> None:
    journal = make(database, window_s=0.0)
    journal.begin(KEY)
    journal.finish(OTHER, 1, b"answer")
    database.close()
    database.open()
    journal = make(database, window_s=0.0)
    assert (journal.find(KEY), journal.find(OTHER)) == (JournalEntry(LOST_NODE, None), None)


STEPS = ["begin", "pause", "crash", "blame", "finish", "forget", "restart"]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(STEPS))))
def test_it_remembers_what_a_dictionary_would(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str]]
) -> None:
    database = Database(tmp_path_factory.mktemp("model") / "journal.sqlite")
    database.open()
    journal, model = make(database), dict[bytes, JournalEntry]()
    running: set[bytes] = set()
    for number, (which, what) in enumerate(steps):
        key = make_key(which)
        tries = model[key].lost if key in model else 0
        if what == "begin":
            journal.begin(key, tries)
            running.add(key)
        elif what == "pause":
            journal.pause(key)
            running.discard(key)
        elif what == "crash":
            journal.begin(key, tries + 1)
            running.add(key)
            model[key] = JournalEntry(tries + 1, None)
        elif what == "blame":
            journal.blame(key, 2)
            if key not in model or model[key].result is None:
                model[key] = JournalEntry(tries + 2, None)
        elif what == "finish":
            journal.finish(key, tries, b"%d" % number)
            model[key] = JournalEntry(tries, b"%d" % number)
            running.discard(key)
        elif what == "forget":
            journal.finish(key, 0, None)
            if key in model:
                model[key] = JournalEntry(0, None)
            running.discard(key)
        else:
            journal = restart(database)
            for one in running:
                if one not in model:
                    model[one] = JournalEntry(LOST_NODE, None)
                elif model[one].result is None:
                    model[one] = JournalEntry(model[one].lost + LOST_NODE, None)
            running.clear()
        for each in range(4):
            assert journal.find(make_key(each)) == model.get(make_key(each))
    database.close()  # Python 3.13 warns of one that is left open


def test_an_answer_is_kept_when_the_process_ends_before_its_mark_is_cleared(
    journal: Journal, database: Database
) -> None:
    journal.begin(KEY)
    journal._write(KEY, JournalEntry(1, b"answer"))
    assert restart(database).find(KEY) == JournalEntry(1, b"answer")


# The broker's session


def test_sessions_are_numbered_over_restarts(journal: Journal, database: Database, clock: FakeClock) -> None:
    assert journal.epoch == 0
    journal.begin_session()
    journal.begin_session()
    journal = restart(database)
    assert journal.epoch == 2


def test_a_session_that_could_not_be_numbered_is_numbered_before_anything_of_it_is_kept(
    journal: Journal, database: Database, clock: FakeClock
) -> None:
    """Else a kill would have the next one take its number, and messages of that for repeats."""
    journal.begin_session()
    database.opened.execute("PRAGMA query_only = ON")
    journal.begin_session()
    database.opened.execute("PRAGMA query_only = OFF")
    clock.now += 2
    Spool(database, limit_bytes=1_000_000).add([(make_delivery(), None)])
    assert database.read("SELECT epoch FROM session") == (2,)


@pytest.mark.parametrize("value", ["'damaged'", "x'00'", "CAST(x'ff' AS TEXT)", "-1", "9223372036854775807"])
def test_a_session_number_that_the_disk_changed_is_replaced(database: Database, value: str) -> None:
    database.opened.execute(f"UPDATE session SET epoch = {value}")
    number = restart(database).epoch
    assert number > 1_000_000, "an earlier session has it"
    assert restart(database).epoch == number
    assert database.damage is None


def test_a_session_number_that_is_missing_is_replaced(database: Database) -> None:
    database.opened.execute("DELETE FROM session")
    journal = restart(database)
    number = journal.epoch
    assert number > 1_000_000
    journal.begin_session()
    assert restart(database).epoch == number + 1


# A full disk


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from edgeslm.storage.database import Database
from edgeslm.storage.journal import LOST_NODE, MOST_UNSAVED, Journal
from edgeslm.errors import JournalError

now = 0.0
database = Database(Path(sys.argv[1]), clock=lambda: now)
database.open()
journal = Journal(database, window_s=60, limit_bytes=10**8)
journal.open()
journal.begin(b"1" * 16)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))  # as a full disk: nothing grows
journal.finish(b"1" * 16, 1, b"a" * 10_000)
assert database.problem and "make room" in database.problem, database.problem
assert journal.find(b"1" * 16).result == b"a" * 10_000, "a result is lost"
try:
    journal.begin(b"2" * 16)
except JournalError as error:
    print(error)
else:
    raise AssertionError("a request was begun that can't be remembered")
for number in range(MOST_UNSAVED):
    journal.finish(b"%16d" % number, 1, b"b" * 10_000)
assert journal.find(b"1" * 16) is None, "what is kept in memory has no bound"
journal.finish(b"1" * 16, 1, b"a" * 10_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
now += 0.1
try:
    journal.begin(b"2" * 16)
except JournalError:
    now += 1.0  # the disk was left alone for a moment
journal.begin(b"2" * 16)
assert database.problem is None
database.close()
database.open()
assert journal.find(b"1" * 16).result == b"a" * 10_000, "what was kept in memory was not written"
journal = Journal(database, window_s=60, limit_bytes=10**8)
journal.open()
assert journal.find(b"2" * 16).lost == LOST_NODE, "it was being run"
"""


def test_a_full_disk_loses_nothing_and_is_recovered_from(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "journal.sqlite")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "make room for journal.sqlite" in done.stdout


# How long texts stay


def test_a_result_is_out_of_every_file_a_tenth_of_the_window_later(
    database: Database, clock: FakeClock, tmp_path: Path
) -> None:
    def is_there() -> bool:
        return any(b"a secret" in file.read_bytes() for file in (tmp_path / "state").iterdir())

    journal = make(database, window_s=1000.0)
    journal.finish(KEY, 1, b"a secret " * 200)
    clock.now += 900
    journal.tidy()
    assert is_there()
    clock.now += 201
    journal.tidy()
    assert not is_there()
    assert journal.find(KEY) is None


def test_without_results_only_tries_are_remembered(database: Database, tmp_path: Path) -> None:
    make(database).finish(KEY, 1, b"a secret")
    database.close()
    database.open()
    journal = make(database, keeps_results=False)
    assert journal.find(KEY) is None, "nor those of a time when they were kept"
    journal.finish(OTHER, 1, b"a secret")
    assert journal.find(OTHER) is None
    journal.finish(OTHER, 2, None)
    assert journal.find(OTHER) == JournalEntry(2, None)
    assert not any(b"a secret" in file.read_bytes() for file in (tmp_path / "state").iterdir())
