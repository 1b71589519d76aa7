"""observe/audit.py: lines, rotation, a disk that is full."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from edgeslm.config.sections import Audit
from edgeslm.telemetry.audit import AuditLog
from tests.support.disks import files_end_at


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_line_says_what_is_known_and_is_cut(tmp_path: Path) -> None:
    file = tmp_path / "log" / "audit.jsonl"
    audit = AuditLog(Audit(file=file))
    audit.note("request", task="triage", id="i" * 1000, code=None, ms=1.5)
    audit.note("cancel")
    audit.close()
    first, second = lines(file)
    assert first.pop("at").endswith("+00:00")
    assert first == {"what": "request", "task": "triage", "id": "i" * 256, "ms": 1.5}
    assert second["what"] == "cancel"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    audit.note("cancel")
    audit.close()
    assert len(lines(file)) == 3, "it is appended to"


def test_without_a_file_nothing_is_written(tmp_path: Path) -> None:
    AuditLog(Audit()).note("request")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("files", [1, 3])
def test_it_is_rotated_by_size_and_so_many_are_kept(tmp_path: Path, files: int) -> None:
    file = tmp_path / "audit.jsonl"
    audit = AuditLog(Audit(file=file, max_bytes=4096, files=files))
    for number in range(400):
        audit.note("request", id=str(number))
    audit.close()
    names = ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"][:files]
    assert sorted(one.name for one in tmp_path.iterdir()) == names
    assert all(one.stat().st_size <= 4096 for one in tmp_path.iterdir())
    kept = [int(row["id"]) for name in reversed(names) for row in lines(tmp_path / name)]
    assert kept == list(range(kept[0], 400)), "the newest, in their order"


def test_a_full_disk_costs_lines_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "audit.jsonl"
    audit = AuditLog(Audit(file=file))
    audit.note("request", id="1")
    size = file.stat().st_size
    for room in (10, 0):
        with files_end_at(size + room):
            audit.note("request", id="2")
    assert "2 lines lost so far" in str(audit.problem)
    audit.note("request", id="3")
    audit.close()
    assert audit.problem is None
    assert [row["id"] for row in lines(file)] == ["1", "3"], "no half line"
    assert caplog.text.count("can't be written") == 1


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    audit = AuditLog(Audit(file=tmp_path / "plain" / "audit.jsonl"))
    audit.note("request")
    assert audit.problem is not None
