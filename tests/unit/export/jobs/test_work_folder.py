"""The work folder of a job, which an interrupted one leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgeslm_export.jobs.subprocess_job import ChildKilled
from edgeslm_export.jobs.work_folder import kept_work, work_path

from edgeslm.errors import ExportError


def _path(folder: Path, recipe: str = "int4") -> Path:
    return work_path(folder / "out", recipe.encode())


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ChildKilled])
def test_an_interrupted_export_leaves_its_work(tmp_path: Path, interruption: type[BaseException]) -> None:
    out = tmp_path / "out"
    with pytest.raises(interruption), kept_work(_path(tmp_path), out) as notes:
        notes.save("study", {"layers": 2})
        raise interruption
    assert _path(tmp_path, "int8") != notes.folder, "another recipe"
    with kept_work(_path(tmp_path), out) as again:
        assert again.load("study") == {"layers": 2}
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportError), kept_work(_path(tmp_path), tmp_path / "out"):
        raise ExportError("The divergence is too large.")
    assert list(tmp_path.iterdir()) == []


def test_a_successful_export_removes_the_work_of_other_recipes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for recipe in ("int8", "auto"):
        with pytest.raises(KeyboardInterrupt), kept_work(_path(tmp_path, recipe), out):
            raise KeyboardInterrupt
    with kept_work(_path(tmp_path), out):
        assert len(list(tmp_path.iterdir())) == 3
    assert list(tmp_path.iterdir()) == []


def test_one_process_at_a_time_makes_an_export(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with kept_work(_path(tmp_path), out) as notes:
        with pytest.raises(ExportError, match="Another process"), kept_work(_path(tmp_path), out):
            pass
        assert notes.folder.is_dir()
