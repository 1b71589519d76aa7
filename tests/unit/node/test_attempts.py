"""What a request costs the node, over its tries and over restarts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeslm.errors import Expired, ModelUnavailable, Poisoned
from edgeslm.messages import ErrorBody, Result
from edgeslm.node.attempts import LOST_ENGINE, MOST_LOST, AttemptLog
from edgeslm.storage.database import Database
from edgeslm.storage.journal import LOST_NODE, Journal, JournalEntry
from tests.support.fakes import make_key

KEY = make_key(1)
OK = Result("1", "triage", "ok", {})


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "journal.sqlite")
    database.open()
    yield database
    database.close()


def opened(database: Database) -> Journal:
    journal = Journal(database, window_s=3600, limit_bytes=1_000_000)
    journal.open()
    return journal


def after_an_end(database: Database) -> Journal:
    """The process ends without a word; the next one begins."""
    database.close()
    database.open()
    return opened(database)


def attempts(journal: Journal) -> AttemptLog:
    return AttemptLog(journal, KEY, journal.find(KEY))


def failed(error: ModelUnavailable | Expired) -> Result:
    return Result("1", "triage", "error", error=ErrorBody.of(error))


def test_the_node_that_ends_twice_is_enough(database: Database) -> None:
    journal = opened(database)
    for _ in range(2):
        attempts(journal).compute()
        journal = after_an_end(database)
    with pytest.raises(Poisoned):
        attempts(journal).compute()


def test_what_waits_is_not_blamed(database: Database) -> None:
    journal = opened(database)
    for _ in range(5):
        one = attempts(journal)
        one.compute()
        one.wait()
        journal = after_an_end(database)
    assert journal.find(KEY) is None


def test_an_engine_counts_half_and_is_counted_over_a_restart(database: Database) -> None:
    journal = opened(database)
    one = attempts(journal)
    one.compute()
    one.crash()
    one.compute()
    journal = after_an_end(database)
    assert journal.find(KEY) == JournalEntry(LOST_ENGINE + LOST_NODE, None)
    one = attempts(journal)
    one.compute()
    one.crash()
    with pytest.raises(Poisoned):
        one.compute()


def test_a_hang_that_is_ended_later_counts(database: Database) -> None:
    journal = opened(database)
    for number in range(1, 3):
        one = attempts(journal)
        one.compute()
        one.wait()
        one.compute()
        one.end(failed(Expired("too late")), b"expired")
        one.hang()
        assert journal.find(KEY) == JournalEntry(number * LOST_NODE, None)
    with pytest.raises(Poisoned):
        attempts(journal).compute()


def test_an_answer_is_kept_and_no_hang_takes_it_away(database: Database) -> None:
    journal = opened(database)
    one = attempts(journal)
    one.compute()
    one.wait()
    one.compute()
    one.end(OK, b"answer")
    one.hang()
    assert after_an_end(database).find(KEY) == JournalEntry(0, b"answer")


def test_a_transient_error_leaves_what_was_there_before(database: Database) -> None:
    journal = opened(database)
    journal.blame(KEY, LOST_NODE)
    one = attempts(journal)
    one.compute()
    one.wait()
    one.compute()
    one.crash()
    one.end(failed(ModelUnavailable("gone")), b"unavailable")
    assert after_an_end(database).find(KEY) == JournalEntry(LOST_NODE, None)


def test_what_is_refused_before_its_turn_is_not_remembered_but_poison_is(database: Database) -> None:
    journal = opened(database)
    one = attempts(journal)
    one.compute()
    one.wait()
    one.end(failed(Expired("too late")), b"expired")
    assert journal.find(KEY) is None
    journal.blame(KEY, MOST_LOST)
    one = attempts(journal)
    with pytest.raises(Poisoned) as caught:
        one.compute()
    one.wait()
    one.end(Result("1", "triage", "error", error=ErrorBody.of(caught.value)), b"poisoned")
    assert journal.find(KEY) == JournalEntry(MOST_LOST, b"poisoned")


def test_its_turn_comes_once(database: Database) -> None:
    turns: list[None] = []
    one = attempts(opened(database))
    one.on_turn = lambda: turns.append(None)
    one.compute()
    assert not turns, "that was its check"
    for _ in range(2):
        one.wait()
        one.compute()
    assert len(turns) == 1
