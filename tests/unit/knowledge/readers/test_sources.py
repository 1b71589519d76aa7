"""Which files are documents, and how they are cited."""

from __future__ import annotations

import errno
import os
from collections import Counter
from pathlib import Path

import pytest

from edgeslm.knowledge.readers.sources import find_files
from tests.support.nodes import dug


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "manuals"
    for name in ("b.md", "a.txt", "sub/c.html.gz", "sub/.hidden.txt", ".git/d.txt", "photo.PNG", "README"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("text")
    return folder


def sources(*paths: Path) -> list[str]:
    return [source for _, source in find_files(paths)]


def test_files_of_folders_come_sorted_and_what_is_left_out_is_counted(folder: Path) -> None:
    skipped: Counter[str] = Counter()
    found = list(find_files([folder], skipped))
    assert found == [
        (folder / "a.txt", "a.txt"),
        (folder / "b.md", "b.md"),
        (folder / "sub/c.html.gz", "sub/c.html.gz"),
    ]
    assert skipped == {"hidden": 2, ".png": 1, "without a suffix": 1}


def test_named_files_always_come(folder: Path) -> None:
    assert sources(folder / "README", folder / "nothing.txt") == ["README", "nothing.txt"]


def test_each_file_comes_once(folder: Path) -> None:
    assert sources(folder / "sub", folder, folder / "a.txt") == ["c.html.gz", "a.txt", "b.md"]


def test_no_two_have_the_same_source(tmp_path: Path) -> None:
    for name in ("one/x", "two/x", "two/y/x"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.txt").write_text("text")
    found = sources(*(tmp_path / name / "a.txt" for name in ("one/x", "two/x", "two/y/x")))
    assert found == ["a.txt", "x/a.txt", "y/x/a.txt"]
    assert sources(tmp_path / "one", tmp_path / "two") == ["x/a.txt", "two/x/a.txt", "y/x/a.txt"]


def test_links_lead_nowhere_outside(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "secret.txt").write_text("text")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/d.txt").write_text("text")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "other").symlink_to(tmp_path / "other")
    (folder / "again.txt").symlink_to("a.txt")
    (folder / "gone.txt").symlink_to("nothing.txt")
    (folder / "loop").symlink_to(folder)
    skipped: Counter[str] = Counter()
    assert [source for _, source in find_files([folder], skipped)] == ["a.txt", "b.md", "sub/c.html.gz"]
    assert (skipped["link"], skipped["no file"]) == (3, 1)


def test_a_link_to_itself_is_left_out(tmp_path: Path, folder: Path) -> None:
    (folder / "circle.md").symlink_to("circle.md")
    (folder / "there.md").symlink_to("back.md")
    (folder / "back.md").symlink_to("there.md")
    skipped: Counter[str] = Counter()
    assert [source for _, source in find_files([folder], skipped)] == ["a.txt", "b.md", "sub/c.html.gz"]
    assert skipped["no file"] == 3


def test_a_named_link_to_itself_is_told_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "circle.md").symlink_to("circle.md")
    assert sources(tmp_path / "circle.md") == ["circle.md"]


def test_a_folder_that_nobody_may_look_into_stops_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_file = Path.is_file

    def refused(path: Path) -> bool:
        if path.name == "a.txt":
            raise PermissionError(errno.EACCES, "Permission denied")
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refused)
    skipped: Counter[str] = Counter()
    assert [source for _, source in find_files([folder], skipped)] == ["b.md", "sub/c.html.gz"]
    assert skipped["unreadable"] == 1


def test_a_named_link_is_followed(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert sources(tmp_path / "link") == ["a.txt", "b.md", "sub/c.html.gz"]


def test_what_is_not_read_is_counted_by_the_suffix_under_its_packing(tmp_path: Path) -> None:
    for name in ("a.1", "b.8.gz", "c.gz", "d.tar.gz"):
        (tmp_path / name).write_text(".TH A 1\n")
    skipped: Counter[str] = Counter()
    assert list(find_files([tmp_path], skipped)) == []
    assert skipped == {".1": 1, ".8": 1, ".gz": 1, ".tar": 1}


def test_what_cannot_be_opened_is_counted(tmp_path: Path, folder: Path) -> None:
    os.mkfifo(folder / "pipe.txt")
    skipped: Counter[str] = Counter()
    assert "pipe.txt" not in [source for _, source in find_files([folder], skipped)]
    assert skipped["no file"] == 1


def test_names_that_are_no_utf_8_can_be_kept(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt"))).write_text("text")
    assert sources(tmp_path) == ["?.txt"]


def test_what_lies_too_deep_is_left_out_and_the_rest_comes(folder: Path) -> None:
    skipped: Counter[str] = Counter()
    with dug(folder):
        assert len(list(find_files([folder], skipped))) == 3
    assert skipped["too deep"] == 1
