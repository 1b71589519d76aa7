"""Unpacking: reads an untrusted bundle from a folder or an archive into the store.

The module runs in a child process with limits (``python -m edgeslm.update.unpacking``), which ``staging``
starts. The sizes of an archive's files are added up, and a file is unpacked only if the sum so far is within
the budget. The store accepts a bundle only if the digest of each file is right. No content of a bundle is
executed.
"""

from __future__ import annotations

import os
import tarfile
import threading
from lzma import FORMAT_XZ, LZMADecompressor
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, NoReturn, Self, cast

from edgeslm.bundle.bounded_files import DEEPEST, MOST_FILES
from edgeslm.bundle.manifest import MANIFEST, SIGNATURE, Bundle, load_bundle
from edgeslm.errors import BundleError
from edgeslm.ipc.job import Progress, serve
from edgeslm.update.allowance import PIECE, Allowance
from edgeslm.update.store import Store

MOST_ENTRIES: Final = 2 * MOST_FILES
"""Maximum number of files and folders in an archive; an empty folder takes disk space too."""
MOST_NAME_BYTES: Final = 4096
"""Maximum length, in bytes, of a tar header that holds the next member's name (POSIX ``pax``, GNU ``L``),
which is also the maximum length of a path on Linux. With some longer headers, ``tarfile`` takes quadratic
time, such as 6 s for 64 kB."""
XZ_BYTES: Final = 70 << 20
"""Memory limit for decompressing ``.xz``; ``xz -9`` needs 65 MiB."""
_XZ_BEGINS: Final = b"\xfd7zXZ\0"
_XZ_PIECE: Final = 65_536
_CONTENT: Final = (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE)


def copy_folder(folder: Path, store: Store, allowance: Allowance) -> Bundle:
    """Copies a bundle into the store.

    :raises BundleError: the bundle isn't complete, or exceeds the budget. :raises OSError: a disk error.
    """
    bundle = load_bundle(folder)
    size = sum(entry.bytes for entry in bundle.manifest.files)
    allowance.check_room(size, str(folder))
    names = [entry.path for entry in bundle.manifest.files]
    names += [name for name in (MANIFEST, SIGNATURE) if (folder / name).is_file()]
    done = 0
    with store.draft() as draft:
        for name in names:
            target = draft / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("rb") as read, target.open("wb") as written:
                done = allowance.pour(read, written, done, size, str(folder))
        return store.add(draft)


def unpack(archive: IO[bytes], name: str, store: Store, allowance: Allowance) -> Bundle:
    """Unpacks a bundle into the store.

    :raises BundleError: the archive can't be unpacked, exceeds a limit, or has no complete bundle.
    :raises OSError: a disk error.
    """
    with store.draft() as draft:
        inside = draft / "inside"
        inside.mkdir()
        try:
            with _opened(archive) as tar:
                _extract(tar, name, inside, allowance)
        except (BundleError, MemoryError):
            raise
        except OSError as error:
            if error.errno is not None:
                raise
            raise _no_archive(name, error) from None
        except Exception as error:  # libraries raise anything on a damaged archive
            raise _no_archive(name, error) from None
        folders = [inside, *(child for child in inside.iterdir() if child.is_dir())]
        found = next((folder for folder in folders if (folder / MANIFEST).is_file()), None)
        if found is None:
            raise BundleError(f"{name}: there is no {MANIFEST} in it")
        return store.add(found)


def _no_archive(name: str, error: Exception) -> BundleError:
    said = str(error).partition("\n")[0] or type(error).__name__
    return BundleError(f"{name}: no archive that can be unpacked ({said})")


def _extract(tar: tarfile.TarFile, name: str, target: Path, allowance: Allowance) -> None:
    total = files = 0
    folders: set[tuple[str, ...]] = set()
    free = allowance.free_bytes(target)
    for member in tar:
        parts = PurePosixPath(member.name).parts
        if member.name.startswith("/") or ".." in parts:
            raise BundleError(f"{name}: {member.name} leads out of it")
        if len(parts) > DEEPEST:
            raise BundleError(f"{name}: {member.name[:100]}... lies more than {DEEPEST} folders deep")
        if not (member.isfile() or member.isdir()):
            raise BundleError(f"{name}: {member.name} is neither a file nor a folder")
        if member.issparse():
            _refuse_sparse()
        files += member.isfile()
        folders.update(parts[:depth] for depth in range(1, len(parts) + member.isdir()))
        if files + len(folders) > MOST_ENTRIES:
            raise BundleError(f"{name}: it has more than {MOST_ENTRIES} files and folders")
        total += max(0, member.size)
        allowance.check_budget(total, name)
        if total > free:
            raise BundleError(f"{name}: {free / 1e6:.0f} MB are free, and it has more")
        path = target.joinpath(*parts)
        if member.isdir():
            path.mkdir(parents=True, exist_ok=True)
        else:
            _write(tar, member, path, name)
            allowance.show(total, None)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, name: str) -> None:
    """Writes a file's content; owner, mode and times are ignored."""
    read = tar.extractfile(member)
    if read is None:
        raise BundleError(f"{name}: {member.name} can't be read")
    path.parent.mkdir(parents=True, exist_ok=True)
    with read, path.open("xb") as written:
        while piece := read.read(PIECE):
            written.write(piece)


def _refuse_sparse(*_: object) -> NoReturn:
    raise BundleError("there is a sparse file in the archive, which a bundle has no use for")


class _Member(tarfile.TarInfo):
    """Refuses sparse files, and names that are longer than a path can be.

    ``tarfile`` itself would read a sparse file's map or a long name into memory before it returns the member.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.type == tarfile.GNUTYPE_SPARSE:
            _refuse_sparse()
        if found.type not in _CONTENT and found.size > MOST_NAME_BYTES:
            raise BundleError(f"there is a name of {found.size} bytes in the archive")
        return found

    # Hooks of tarfile for sparse files in pax headers. If renamed, issparse() and the child's limits remain.
    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


def _opened(archive: IO[bytes]) -> tarfile.TarFile:
    """Opens an archive, whose first bytes tell how it is compressed. :class:`_Xz` decompresses ``.xz``, for
    which ``tarfile`` has no memory limit."""
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
    """Decompresses an ``.xz`` stream; refuses a stream whose header demands more memory than ``XZ_BYTES``."""

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed = packed
        self._stream = _new_stream()

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; empty at the end.

        :raises LZMAError: the stream is damaged, or needs more memory than the limit.
        """
        while True:
            piece = b""
            if self._stream.eof:  # another stream may follow, after zero padding
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


# --- in the child ----------------------------------------------------------------------------------


def take_in(order: dict[str, Any], progress: Progress) -> dict[str, str]:
    """
    :param order: a dict with ``state_dir``, ``budget_bytes``, ``name``, and either ``folder``, a path, or
        ``archive``, a file descriptor.
    :return: a dict with the stored bundle's ``path`` and ``digest``, or a dict with an error message,
        ``error``.
    """
    store = Store(Path(order["state_dir"]), "")
    allowance = Allowance(
        store.folder, order["budget_bytes"], threading.Event(), lambda done, of: progress([done, of])
    )
    try:
        if "folder" in order:
            bundle = copy_folder(Path(order["folder"]), store, allowance)
        else:
            with os.fdopen(order["archive"], "rb") as archive:
                archive.seek(0)
                bundle = unpack(archive, order["name"], store, allowance)
    except BundleError as error:
        return {"error": str(error)}
    except OSError as error:
        return {"error": f"{error.filename or order['name']}: {error.strerror or error}"}
    return {"path": str(bundle.path), "digest": bundle.digest}


if __name__ == "__main__":
    serve(take_in)
