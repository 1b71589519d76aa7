"""Which file is to blame for the end of a process that read it."""

from __future__ import annotations

from pathlib import Path

from edgeslm.knowledge.suspects import TIMES, Suspects

STATE = (100, 5, 5)
FILE, OTHER = (Path("/srv/a.pdf"), STATE), (Path("/srv/b.pdf"), STATE)


def test_a_file_that_ended_it_twice_is_left_out() -> None:
    suspects = Suspects()
    suspects.note("manuals", FILE)
    assert suspects.blame() == FILE[0]
    assert suspects.of("manuals") == {}
    suspects.note("manuals", OTHER)
    suspects.note("manuals", FILE)
    assert suspects.blame() == FILE[0]
    assert suspects.of("manuals") == dict([FILE])
    assert suspects.of("log") == {}


def test_what_was_read_to_its_end_is_not_to_blame() -> None:
    suspects = Suspects()
    suspects.note("manuals", FILE)
    suspects.note("manuals", None)
    assert suspects.blame() is None
    assert suspects.of("manuals") == {}


def test_what_comes_to_its_end_after_all_is_forgiven() -> None:
    suspects = Suspects()
    for _ in range(TIMES):
        suspects.note("manuals", FILE)
        suspects.note("manuals", None)
        suspects.note("manuals", FILE)
        suspects.blame()
    assert suspects.of("manuals") == {}


def test_a_file_that_was_mended_is_another_one() -> None:
    suspects = Suspects()
    suspects.note("manuals", FILE)
    suspects.blame()
    suspects.note("manuals", (FILE[0], (99, 6, 6)))
    suspects.blame()
    assert suspects.of("manuals") == {}


def test_one_end_is_blamed_once() -> None:
    suspects = Suspects()
    suspects.note("manuals", FILE)
    assert (suspects.blame(TIMES), suspects.blame()) == (FILE[0], None)
    assert suspects.of("manuals") == dict([FILE])
