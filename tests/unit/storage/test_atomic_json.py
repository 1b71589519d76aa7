"""Small files that are replaced in one step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeslm.storage.atomic_json import write_record


def test_it_is_replaced_whole_and_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "record.json"
    for value in ({"a": "ü"}, [1, 2]):
        write_record(file, value)
        assert json.loads(file.read_text("utf-8")) == value
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["record.json"]


def test_what_cannot_be_written_leaves_what_was(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    write_record(file, {"a": 1})
    with pytest.raises(TypeError):
        write_record(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]
