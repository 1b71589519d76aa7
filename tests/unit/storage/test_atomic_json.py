"""Small files that are replaced in one step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeslm.storage.atomic_json import read_record, rewrite_text, write_record


def test_it_is_replaced_whole_and_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "record.json"
    for value in ({"a": "ü"}, [1, 2]):
        write_record(file, value)
        assert json.loads(file.read_text("utf-8")) == value
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["record.json"]


def test_a_record_is_read_and_anything_else_is_empty(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    assert read_record(file) == {} == read_record(tmp_path)
    write_record(file, {"a": "ü"})
    assert read_record(file) == {"a": "ü"}
    for content in (b"", b"[1]", b'{"a": ', b"\xff", b"[" * 100_000):
        file.write_bytes(content)
        assert read_record(file) == {}


def test_what_cannot_be_written_leaves_what_was(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    write_record(file, {"a": 1})
    with pytest.raises(TypeError):
        write_record(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_a_rewritten_text_keeps_its_permissions_and_owner(tmp_path: Path) -> None:
    file = tmp_path / "edgeslm.yaml"
    file.write_text("node: hall\n")
    file.chmod(0o640)
    before = file.stat()
    rewrite_text(file, "node: häll\n")
    after = file.stat()
    assert file.read_text("utf-8") == "node: häll\n"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert [path.name for path in tmp_path.iterdir()] == ["edgeslm.yaml"]
    with pytest.raises(FileNotFoundError):
        rewrite_text(tmp_path / "other", "a")
