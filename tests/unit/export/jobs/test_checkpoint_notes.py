"""Notes of what was found: kept in one step, forgotten after a month."""

from __future__ import annotations

import os
import time
from pathlib import Path

from edgeslm_export.jobs.checkpoint_notes import FORGOTTEN_S, Notes


def test_what_was_saved_is_there_for_the_next_command(tmp_path: Path) -> None:
    Notes(tmp_path / "tune-1").save("head", {"right": 3})
    again = Notes(tmp_path / "tune-1")
    assert again.load("head") == {"right": 3}
    assert again.load("encoder") is None
    again.remove()
    assert not again.folder.exists()


def test_half_a_file_is_none(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "tune-1")
    (notes.folder / "head.json").write_text('{"right": ')
    assert notes.load("head") is None


def test_notes_that_nobody_came_back_for_are_removed(tmp_path: Path) -> None:
    """Of the same kind alone: what else is in the folder belongs to others."""
    long_ago = time.time() - FORGOTTEN_S - 60
    for name in ("tune-old", "tune-new", "downloads", "distill-old"):
        Notes(tmp_path / name).save("head", {})
        if name != "tune-new":
            os.utime(tmp_path / name, (long_ago, long_ago))
    Notes(tmp_path / "tune-now")
    assert sorted(folder.name for folder in tmp_path.iterdir()) == [
        "distill-old",
        "downloads",
        "tune-new",
        "tune-now",
    ]
