"""provision/files.py: mode, no overwriting, nothing half-made."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from edgeslm.cli.provision.files import keep_private, write_private
from edgeslm.errors import ProvisionError


def test_a_file_is_private_and_not_written_over_unless_asked(tmp_path: Path) -> None:
    file = tmp_path / "new" / "key"
    write_private(file, b"one")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(ProvisionError, match="is there already; --force"):
        write_private(file, b"two")
    assert file.read_bytes() == b"one"
    write_private(file, b"two", replace=True)
    assert file.read_bytes() == b"two"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_a_folder_that_is_a_file_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with pytest.raises(ProvisionError, match="can't be written"):
        write_private(tmp_path / "plain" / "key", b"")


def test_what_has_not_changed_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "key"
    keep_private(file, b"one")
    written_at = file.stat().st_mtime_ns
    keep_private(file, b"one", replace=True)
    assert file.stat().st_mtime_ns == written_at
    with pytest.raises(ProvisionError, match="is there already; --force"):
        keep_private(file, b"two")
    keep_private(file, b"two", replace=True)
    assert file.read_bytes() == b"two"
