"""Which file is to blame for the end of a process that read it."""

from __future__ import annotations

from pathlib import Path

from edgeslm.knowledge.suspects import TIMES, Suspects

FILE, OTHER = Path("/srv/a.pdf"), Path("/srv/b.pdf")


def test_a_file_that_ended_it_twice_is_left_out() -> None:
    suspects = Suspects()
    suspects.note("manuals", FILE)
    assert suspects.blame() == FILE
    assert suspects.of("manuals") == ()
    suspects.note("manuals", OTHER)
    suspects.note("manuals", FILE)
    assert suspects.blame() == FILE
    assert suspects.of("manuals") == (FILE,)
    assert suspects.of("log") == ()


def test_what_was_read_to_its_end_is_not_to_blame() -> None:
    suspects = Suspects()
    suspects.note("manuals", FILE)
    suspects.note("manuals", None)
    assert suspects.blame() is None
    assert suspects.of("manuals") == ()


def test_one_end_is_blamed_once() -> None:
    suspects = Suspects()
    suspects.note("manuals", FILE)
    assert (suspects.blame(TIMES), suspects.blame()) == (FILE, None)
    assert suspects.of("manuals") == (FILE,)
