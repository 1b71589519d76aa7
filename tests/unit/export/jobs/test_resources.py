"""Too little disk or memory is told with the numbers before the work."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from edgeslm_export.jobs import resources

from edgeslm.errors import ExportError


def test_what_fits_is_let_through(tmp_path: Path) -> None:
    resources.check_resources(1000, 1000, tmp_path, 6)


def test_too_little_disk(tmp_path: Path) -> None:
    need = shutil.disk_usage(tmp_path).free * 2
    with pytest.raises(ExportError, match=r"free and the export needs about .* GB"):
        resources.check_resources(1000, need, tmp_path, 6)


def test_too_little_memory(tmp_path: Path, memory: Callable[[int], None]) -> None:
    memory(2_000_000_000)
    resources.check_resources(135_000_000, 0, tmp_path, 6)
    with pytest.raises(
        ExportError, match=r"has 2.0 GB of memory available and exporting 7.00 billion weights"
    ):
        resources.check_resources(7_000_000_000, 0, tmp_path, 6)


def test_memory_is_a_plausible_number() -> None:
    assert 10_000_000 < resources.available_memory() < 10**14


def test_a_folder_needs_less_than_a_gguf() -> None:
    assert resources.bytes_a_weight(gguf=False) < resources.bytes_a_weight(gguf=True)
