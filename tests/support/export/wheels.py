"""Wheels and source packages that pip can download from a folder (``PIP_NO_INDEX``, ``PIP_FIND_LINKS``)."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

Date = tuple[int, int, int, int, int, int]


def write_wheel(file: Path, content: Mapping[str, bytes], date: Date) -> Path:
    """A wheel with these files and a requirement that can't be met.

    :param file: its path; the name says project, version and tag.
    """
    name, version, tag = file.stem.split("-", 2)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: surely-not-there\n"
    about = {
        "METADATA": metadata,
        "WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(file, "w") as archive:
        for member, data in content.items():
            archive.writestr(zipfile.ZipInfo(member, date), data)
        for member, text in about.items():
            archive.writestr(zipfile.ZipInfo(f"{name}-{version}.dist-info/{member}", date), text)
    return file


def write_sdist(file: Path, code: str) -> None:
    """A source package that needs nothing else to be built, and runs ``code`` when pip looks into it.

    :param file: its path; the name says project and version.
    """
    folder = file.name.removesuffix(".tar.gz")
    name, version = folder.split("-")
    backend = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    texts = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "pyproject.toml": backend,
        "backend.py": code,
    }
    with tarfile.open(file, "w:gz") as archive:
        for member, text in texts.items():
            entry = tarfile.TarInfo(f"{folder}/{member}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
