"""The record of a node's job: whole or not at all, and never believed when it can't be."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeslm.update.rollout.jobs import MOST_REPORTS, Book, Part, Record, Report, RolloutJob


def test_what_is_written_is_there_for_the_next_process(tmp_path: Path) -> None:
    book = Book(tmp_path, "hall", "hawkbit")
    job = RolloutJob(
        id="7", parts=(Part(model="small", url="https://h/a.tar", size=5, hashes={"sha1": "0" * 40}),)
    )
    reports = [Report(action="7", execution="scheduled"), Report(action="7", execution="download")]
    book.put(job, *reports)
    assert book.spend(2.5) is not None
    book.note_told("abc")
    again = Book(tmp_path, "hall", "hawkbit")
    assert again.job == job.model_copy(update={"spent_s": 2.5})
    assert again.record.told == "abc"
    again.drop_report(again.record.reports[0])
    assert [one.execution for one in Book(tmp_path, "hall", "hawkbit").record.reports] == ["download"]
    assert Book(tmp_path, "yard", "hawkbit").job is Book(tmp_path, "hall", "mender").job is None


def test_a_server_that_hears_nothing_for_ever_doesnt_fill_the_disk(tmp_path: Path) -> None:
    book = Book(tmp_path, "hall", "hawkbit")
    for number in range(2 * MOST_REPORTS):
        book.put(None, Report(action=str(number), execution="proceeding"))
    assert len(book.record.reports) == MOST_REPORTS
    assert book.record.reports[-1].action == str(2 * MOST_REPORTS - 1), "the newest are kept"


def test_a_write_that_fails_changes_nothing(tmp_path: Path) -> None:
    book = Book(tmp_path, "hall", "hawkbit")
    book.put(RolloutJob(id="1"))
    book.file = tmp_path / "hawkbit-hall.json" / "below-a-file"
    with pytest.raises(OSError):
        book.put(RolloutJob(id="2"))
    assert book.job == RolloutJob(id="1")


def test_a_file_that_others_can_write_is_not_believed(tmp_path: Path) -> None:
    book = Book(tmp_path, "hall", "hawkbit")
    book.put(RolloutJob(id="1"))
    book.file.chmod(0o666)
    assert Book(tmp_path, "hall", "hawkbit").record == Record()


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_begins_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "hawkbit-hall.json").write_bytes(content)
    (tmp_path / "hawkbit-hall.json").chmod(0o600)
    assert isinstance(Book(tmp_path, "hall", "hawkbit").record, Record)
