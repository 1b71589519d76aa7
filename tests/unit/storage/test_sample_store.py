"""The samples of messages: once each, bounded, encrypted, erased, and lost without harm."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from edgeslm.storage.encryption import Seal
from edgeslm.storage.erasure_filter import Choice
from edgeslm.storage.sample_store import LONGEST, Sample, SampleStore


def store(folder: Path, **options: object) -> SampleStore:
    made = SampleStore(folder / "samples-hall.sqlite", **options)  # type: ignore[arg-type]
    made.open()
    return made


def sample(text: str, task: str = "triage", id: str = "7") -> Sample:
    return Sample(task, text, id)


def all_bytes(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


def test_a_text_is_kept_once_for_each_task_and_survives_a_restart(tmp_path: Path) -> None:
    first = store(tmp_path)
    first.add([sample("one"), sample("one", id="8"), sample("two"), sample("one", "other")])
    first.close()
    again = store(tmp_path)
    assert again.knows("triage", "one") and not again.knows("other", "two")
    again.add([sample("one"), sample("three")])
    assert again.texts("triage") == {"three": "7", "two": "7", "one": "7"}
    assert again.texts("other") == {"one": "7"}
    assert (tmp_path / "samples-hall.sqlite").stat().st_mode & 0o777 == 0o600


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    made = store(tmp_path, most=3)
    made.add([sample(f"text {number}") for number in range(10)])
    assert list(made.texts("triage")) == ["text 9", "text 8", "text 7"]
    assert not made.knows("triage", "text 0")
    made.add([sample("text 0")])
    assert list(made.texts("triage")) == ["text 0", "text 9", "text 8"]
    assert b"text 6" not in (tmp_path / "samples-hall.sqlite").read_bytes()


def test_old_ones_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, now = store(tmp_path, keep_s=100), time.time()
    made.add([sample("old")])
    monkeypatch.setattr(time, "time", lambda: now + 101)
    made.add([sample("new")])
    assert list(made.texts("triage")) == ["new"]
    monkeypatch.setattr(time, "time", lambda: now + 300)
    made.add([])
    assert made.texts("triage") == {}


def test_a_long_message_is_not_kept(tmp_path: Path) -> None:
    made = store(tmp_path)
    made.add([sample("x" * (LONGEST + 1)), sample("half \ud800 a character")])
    assert list(made.texts("triage")) == ["half ? a character"]


def test_texts_are_encrypted_with_the_journals_key(tmp_path: Path) -> None:
    made = store(tmp_path, seal=Seal(b"k" * 32))
    made.add([sample("Spindle 3 smells", id="panel-7")])
    assert made.texts("triage") == {"Spindle 3 smells": "panel-7"}
    assert b"Spindle" not in all_bytes(tmp_path) and b"panel-7" not in all_bytes(tmp_path)
    made.close()
    other = store(tmp_path, seal=Seal(b"o" * 32))  # another key: nothing can be read, so it is made anew
    assert other.texts("triage") == {} and other.problem is None


def test_a_file_from_before_the_key_is_made_anew(tmp_path: Path) -> None:
    plain = store(tmp_path)
    plain.add([sample("Spindle 3 smells")])
    plain.close()
    sealed = store(tmp_path, seal=Seal(b"k" * 32))
    assert sealed.texts("triage") == {} and b"Spindle" not in all_bytes(tmp_path)


@pytest.mark.parametrize("content", [b"no database at all", b"SQLite format 3\0" + b"\xff" * 600])
def test_a_damaged_file_is_made_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "samples-hall.sqlite").write_bytes(content)
    made = store(tmp_path)
    made.add([sample("one")])
    assert made.texts("triage") == {"one": "7"} and made.problem is None


def test_a_full_disk_loses_samples_and_raises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = store(tmp_path)
    made.add([sample("one")])
    with closing(sqlite3.connect(tmp_path / "samples-hall.sqlite")) as other:
        other.execute("BEGIN EXCLUSIVE")
        made.add([sample("two")])
        assert "can't be kept for teaching" in str(made.problem)
    made.add([sample("three")])
    assert list(made.texts("triage")) == ["three", "one"]
    assert store(tmp_path).problem is None


def test_a_folder_that_cant_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made = SampleStore(tmp_path / "file/samples-hall.sqlite")
    made.open()
    made.add([sample("one")])
    assert made.problem is not None and made.texts("triage") == {}


def test_samples_are_erased_by_age_and_by_id(tmp_path: Path) -> None:
    made = store(tmp_path)
    made.add([sample("one", id="panel-7-1"), sample("two", id="other")])
    made.close()
    assert made.erase(Choice(id="panel-7-*"), dry_run=True) == 1
    assert made.erase(Choice(id="panel-7-*"), dry_run=False) == 1
    assert b'"one"' not in all_bytes(tmp_path)
    assert made.erase(Choice(older_than_s=3600), dry_run=False) == 0
    assert made.erase(Choice(older_than_s=-1), dry_run=False) == 1
    assert SampleStore(tmp_path / "nowhere.sqlite").erase(Choice(id="*"), dry_run=False) == 0
