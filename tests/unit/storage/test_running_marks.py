from __future__ import annotations

from pathlib import Path

from edgeslm.storage.running_marks import SLOTS, RunningMarks
from tests.support.fakes import make_key


def test_marks_are_found_after_the_end_and_then_gone(tmp_path: Path) -> None:
    marks = RunningMarks(tmp_path / "marks")
    assert marks.left == []
    for number in range(5):
        marks.set(make_key(number))
    marks.set(make_key(1))
    marks.clear(make_key(0))
    marks.clear(make_key(3))
    marks.clear(make_key(9))
    left = {make_key(number) for number in (1, 2, 4)}
    for _ in range(2):  # a process that is killed before it has read them doesn't lose them
        marks = RunningMarks(tmp_path / "marks")
        assert set(marks.left) == left
    for key in left:
        marks.clear(key)
    assert RunningMarks(tmp_path / "marks").left == []


def test_more_than_there_is_room_for_are_not_marked(tmp_path: Path) -> None:
    marks = RunningMarks(tmp_path / "marks")
    for number in range(SLOTS + 3):
        marks.set(make_key(number))
    for number in range(SLOTS + 3):
        marks.clear(make_key(number))
    for number in range(SLOTS):
        marks.set(make_key(number))
    marks.close()
    assert len(RunningMarks(tmp_path / "marks").left) == SLOTS
    assert (tmp_path / "marks").stat().st_size == 16 * SLOTS
