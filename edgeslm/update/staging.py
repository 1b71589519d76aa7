"""A bundle is brought onto this device: from a folder, an archive, or a download that can break off.

Nothing of it is run. What comes is counted against a budget while it comes, since an archive may claim
anything, and is taken in by the store once every file has its digest.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import tarfile
import threading
import time
import zlib
from collections.abc import Sequence
from lzma import FORMAT_XZ, LZMADecompressor, LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, Final, Self, cast

from edgeslm.bundle import Bundle, load_bundle
from edgeslm.errors import BundleError
from edgeslm.update.allowance import PIECE, Allowance, Show, Stopped
from edgeslm.update.downloads import PAUSES_S, Download, Login, Promise, Unreachable
from edgeslm.update.sources import SCHEME
from edgeslm.update.store import Store

log = logging.getLogger("edgeslm.update")

MOST_FILES: Final = 10_000
MOST_KEPT: Final = 3
"""Of those beside the one that is brought."""
MOST_NAME_BYTES: Final = 65_536
"""Of a header that names the member behind it (POSIX ``pax``, GNU ``L``)."""
XZ_BYTES: Final = 70 << 20
"""Of memory, to unpack an ``.xz``: ``xz -9`` wants 65 MiB."""
_XZ_BEGINS: Final = b"\xfd7zXZ\0"
_XZ_PIECE: Final = 65_536
_CONTENT: Final = (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE)
KEPT_S: Final = 7 * 24 * 3600.0
"""For which a download that broke off is kept."""


class Staging:
    """Brings bundles into a store.

    :param budget_bytes: the most that one bundle may have, packed and unpacked.
    :param ca_file: certificates (PEM) that downloads trust; the system's if None. ``login`` has its own.
    :param within: addresses below which downloads must stay, where they are led elsewhere; any if empty.
    :param stop: set it, and what runs in another thread ends soon.
    :param allow_http: whether addresses without TLS are taken.
    """

    def __init__(
        self,
        store: Store,
        *,
        budget_bytes: int,
        ca_file: Path | None = None,
        stop: threading.Event | None = None,
        show: Show = lambda done, of: None,
        within: Sequence[str] = (),
        login: Login | None = None,
        allow_http: bool = False,
        pauses_s: tuple[float, ...] = PAUSES_S,
    ) -> None:
        self._store = store
        self._allowance = Allowance(store.folder, budget_bytes, stop or threading.Event(), show)
        self._schemes = (SCHEME, "http://") if allow_http else (SCHEME,)
        self._download = Download(
            self._allowance,
            login or Login(ca_file=ca_file),
            within=within,
            schemes=self._schemes,
            pauses_s=pauses_s,
        )

    def bring(self, source: str, promise: Promise | None = None) -> Bundle:
        """
        :param source: a folder, a ``.tar`` archive, packed or not, or such an archive's ``https://`` address.
        :param promise: what a download has to be.
        :raises BundleError: it can't be had, is more than the budget, or is no whole bundle.
        """
        try:
            if source.startswith(self._schemes):
                return self._bring_from(source, promise)
            if "://" in source:
                raise BundleError(f"{source}: only {SCHEME} addresses, folders and archives are taken")
            path = Path(source)
            if path.is_dir():
                return self._copy(path)
            with path.open("rb") as archive:
                return self._unpack(archive, path.name)
        except OSError as error:
            raise BundleError(f"{error.filename or source}: {error.strerror or error}") from None

    def take(self, archive: IO[bytes], name: str) -> Bundle:
        """An archive that is open already, since its file may be somebody else's.

        :raises BundleError: as :meth:`bring`.
        """
        try:
            return self._unpack(archive, name)
        except OSError as error:
            raise BundleError(f"{error.filename or name}: {error.strerror or error}") from None

    def _bring_from(self, url: str, promise: Promise | None) -> Bundle:
        self._store.folder.mkdir(parents=True, exist_ok=True)
        file = self._store.folder / f".part-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
        self._forget_old(file)
        with file.open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Unreachable(f"{url}: is being brought already") from None
            try:
                if promise is not None:
                    self._allowance.check_room(promise.size - file.stat().st_size, url)
                self._download.bring(url, file)
            except BundleError:
                if not file.stat().st_size:
                    file.unlink()
                raise
            try:
                if promise is not None:
                    promise.check(file, url)
                with file.open("rb") as archive:
                    bundle = self._unpack(archive, file.name)
            except Stopped:
                raise
            except BaseException:  # what is whole and wrong would be wrong again
                _remove(file)
                raise
            _remove(file)
            return bundle

    # Folders and archives

    def _copy(self, folder: Path) -> Bundle:
        bundle = load_bundle(folder)
        size = sum(entry.bytes for entry in bundle.manifest.files)
        self._allowance.check_room(size, str(folder))
        done = 0
        with self._store.draft() as draft:
            for file in sorted(folder.rglob("*")):
                if not file.is_file():
                    continue
                target = draft / file.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                with file.open("rb") as read, target.open("wb") as written:
                    done = self._allowance.pour(read, written, done, size, str(folder))
            return self._store.add(draft)

    def _unpack(self, archive: IO[bytes], name: str) -> Bundle:
        with self._store.draft() as draft:
            inside = draft / "inside"
            inside.mkdir()
            try:
                with _opened(archive) as tar:
                    self._extract(tar, name, inside)
            except (tarfile.TarError, EOFError, ValueError, RecursionError, zlib.error, LZMAError) as error:
                said = str(error).partition("\n")[0]
                raise BundleError(f"{name}: no archive that can be unpacked ({said})") from None
            except OSError as error:
                if isinstance(error, FileNotFoundError | PermissionError) or error.errno is not None:
                    raise
                raise BundleError(f"{name}: no archive that can be unpacked ({error})") from None
            folders = [inside, *(child for child in inside.iterdir() if child.is_dir())]
            found = next((folder for folder in folders if (folder / "manifest.json").is_file()), None)
            if found is None:
                raise BundleError(f"{name}: there is no manifest.json in it")
            return self._store.add(found)

    def _extract(self, tar: tarfile.TarFile, name: str, target: Path) -> None:
        total = files = 0
        free = self._allowance.free_bytes(target)
        for member in tar:
            self._allowance.look()
            files, total = files + 1, total + max(0, member.size)
            if files > MOST_FILES:
                raise BundleError(f"{name}: it has more than {MOST_FILES} files")
            self._allowance.check_budget(total, name)
            if total > free:
                raise BundleError(f"{name}: {free / 1e6:.0f} MB are free, and it has more")
            if not (member.isfile() or member.isdir()):
                raise BundleError(f"{name}: {member.name} is neither a file nor a folder")
            self._write_member(tar, member, name, target)

    def _write_member(self, tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, target: Path) -> None:
        """A file with its content alone: no owner, no mode, no time, and nowhere but below ``target``."""
        parts = PurePosixPath(member.name).parts
        if member.name.startswith("/") or ".." in parts:
            raise BundleError(f"{name}: {member.name} leads out of it")
        path = target.joinpath(*parts)
        if member.isdir():
            path.mkdir(parents=True, exist_ok=True)
            return
        read = tar.extractfile(member)
        if read is None:
            raise BundleError(f"{name}: {member.name} can't be read")
        path.parent.mkdir(parents=True, exist_ok=True)
        with read, path.open("xb") as written:
            while piece := read.read(PIECE):
                self._allowance.look()
                written.write(piece)

    def _forget_old(self, wanted: Path) -> None:
        """The newest of those that broke off are kept for a while: a server may offer ever more."""
        parts = [file for file in self._store.folder.glob(".part-*") if file.suffix != ".json"]
        with contextlib.suppress(OSError):
            parts.sort(key=lambda file: file.stat().st_mtime, reverse=True)
        others = [file for file in parts if file != wanted]
        for file in parts:
            with contextlib.suppress(OSError), file.open("rb") as lock:
                is_old = time.time() - file.stat().st_mtime > KEPT_S
                if is_old or file in others[MOST_KEPT:]:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody is at it
                    _remove(file)


class _Member(tarfile.TarInfo):
    """Whose name isn't longer than a path can be: ``tarfile`` reads long ones into memory whole."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.type not in _CONTENT and found.size > MOST_NAME_BYTES:
            raise BundleError(f"there is a name of {found.size} bytes in the archive")
        return found


def _opened(archive: IO[bytes]) -> tarfile.TarFile:
    """By how it begins: ``tarfile`` would also take what says itself how much memory it wants."""
    begins = archive.read(len(_XZ_BEGINS))
    archive.seek(0)
    if begins == _XZ_BEGINS:
        return tarfile.open(fileobj=cast(IO[bytes], _Xz(archive)), mode="r|", tarinfo=_Member)
    if begins.startswith(b"\x1f\x8b"):
        return tarfile.open(fileobj=archive, mode="r:gz", tarinfo=_Member)
    if begins.startswith(b"BZh"):
        return tarfile.open(fileobj=archive, mode="r:bz2", tarinfo=_Member)
    return tarfile.open(fileobj=archive, mode="r:", tarinfo=_Member)


class _Xz:
    """What is in an ``.xz``, unpacked within a bound of memory, which its sender would choose else."""

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed = packed
        self._stream = _new_stream()

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; none at the end. :raises LZMAError: it is damaged, or wants too much."""
        while True:
            piece = b""
            if self._stream.eof:  # another may follow, behind zeros
                piece = self._stream.unused_data.lstrip(b"\0")
                while not piece and (more := self._packed.read(_XZ_PIECE)):
                    piece = more.lstrip(b"\0")
                if not piece:
                    return b""
                self._stream = _new_stream()
            elif self._stream.needs_input and not (piece := self._packed.read(_XZ_PIECE)):
                raise EOFError("it ends too early")
            if found := self._stream.decompress(piece, size):
                return found


def _new_stream() -> LZMADecompressor:
    return LZMADecompressor(FORMAT_XZ, memlimit=XZ_BYTES)


def _remove(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_suffix(".json").unlink(missing_ok=True)
