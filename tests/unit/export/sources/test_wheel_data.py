"""Wheels as containers of data: what is unpacked, how long a wheel stays, and what is refused.

The commands of pip are in ``test_starter``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from edgeslm_export.sources.wheel_data import Package, Packages, folder_bytes

from edgeslm.errors import ExportError
from tests.support.export.wheels import write_wheel

FILES = {"data/part/text.txt": b"some text", "data/part/more.txt": b"more", "data/never.py": b"exit()"}


def _unheard(sentence: str) -> None:
    """Takes what is said before a download."""


def _package(folder: Path) -> Package:
    """A wheel in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = write_wheel(folder / "data-1.0-py3-none-any.whl", FILES, (2024, 2, 29, 23, 59, 58))
    return Package(
        requirement="data==1.0",
        wheel=wheel.name,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        bytes=wheel.stat().st_size,
        folder="data/part/",
        member="data/part/text.txt",
        member_sha256=hashlib.sha256(FILES["data/part/text.txt"]).hexdigest(),
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgeslm"


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip finds nothing."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.mark.usefixtures("no_pip")
def test_only_the_folder_is_unpacked_and_only_while_it_is_used(cache: Path, tmp_path: Path) -> None:
    package = _package(tmp_path / "wheels")
    with Packages(_unheard, folder=tmp_path / "wheels").unpacked(package) as unpacked:
        assert unpacked.dated == "2024-02-29T23:59:58Z"
        assert (unpacked.path / package.member).read_bytes() == b"some text"
        found = {str(file.relative_to(unpacked.path)) for file in unpacked.path.rglob("*") if file.is_file()}
        assert found == {"data/part/text.txt", "data/part/more.txt"}
    assert not unpacked.path.exists()
    assert (tmp_path / "wheels" / package.wheel).is_file()  # the user's own folder is left alone
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("no_pip")
def test_a_downloaded_wheel_stays_until_it_was_used_well(cache: Path) -> None:
    package = _package(cache / "downloads")
    with pytest.raises(RuntimeError), Packages(_unheard).unpacked(package):
        raise RuntimeError
    assert (cache / "downloads" / package.wheel).is_file()
    with Packages(_unheard).unpacked(package):
        pass
    assert not (cache / "downloads" / package.wheel).exists()


@pytest.mark.usefixtures("no_pip")
def test_a_damaged_download_is_fetched_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = _package(tmp_path / "index")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    _package(cache / "downloads")
    wheel = cache / "downloads" / package.wheel
    wheel.write_bytes(wheel.read_bytes()[:-10])
    said: list[str] = []
    with Packages(said.append).unpacked(package) as unpacked:
        assert (unpacked.path / package.member).is_file()
    assert said == ["Downloading data==1.0: 0 MB."]


@pytest.mark.usefixtures("cache", "no_pip")
def test_a_folder_without_the_wheel_is_refused(tmp_path: Path) -> None:
    package = _package(tmp_path / "wheels")
    with pytest.raises(ExportError, match=r"has no data-1\.0-py3-none-any\.whl; put it there"):
        Packages(_unheard, folder=tmp_path).fetch(package)


@pytest.mark.usefixtures("no_pip")
def test_a_member_that_is_another_is_refused_and_nothing_is_left(cache: Path, tmp_path: Path) -> None:
    package = dataclasses.replace(_package(tmp_path / "wheels"), member_sha256="0" * 64)
    with (
        pytest.raises(ExportError, match=r"data/part/text\.txt of .* has another SHA-256"),
        Packages(_unheard, folder=tmp_path / "wheels").unpacked(package),
    ):
        raise AssertionError("what was not expected was handed out")
    assert list(cache.iterdir()) == []


def test_the_size_of_a_download_is_told_while_pip_removes_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    (work / "tracker/deep").mkdir(parents=True)
    (work / "wheel").write_bytes(b"12345")
    (work / "tracker/deep/entry").write_bytes(b"123")
    assert folder_bytes(work) == 8
    walk = os.walk

    def walk_and_remove(folder: Path) -> Iterator[Any]:
        for found in walk(folder):
            with contextlib.suppress(FileNotFoundError):
                (work / "tracker").rename(tmp_path / "removed")
            yield found

    monkeypatch.setattr(os, "walk", walk_and_remove)
    assert folder_bytes(work) == 5
